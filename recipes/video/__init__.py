"""Drawn clips, and the training and the measurements of the video memory of `tiny`."""
