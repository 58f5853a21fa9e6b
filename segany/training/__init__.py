"""Losses and interactive rounds for training the segmenter."""
