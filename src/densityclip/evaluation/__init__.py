"""Figures with intervals; knows no torch."""
