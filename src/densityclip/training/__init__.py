"""Weighted contrastive adaptation over modalities."""
