"""The road from pixels to probabilities."""
