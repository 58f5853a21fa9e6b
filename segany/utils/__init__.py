"""Boxes, masks, run-length encodings, points, crops, images and transforms to the model frame."""
