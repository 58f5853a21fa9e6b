"""Boxes, masks, run-length encodings, points, crops, images and their transforms."""
