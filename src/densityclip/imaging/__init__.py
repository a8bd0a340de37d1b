"""Pixels to what the model sees."""
