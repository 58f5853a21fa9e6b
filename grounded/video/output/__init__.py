"""Tracks as files: annotated clips, MOT and MOTS text, YouTube-VIS JSON, folders of masks, cut-outs.

Each output is a context manager that yields `write(frame, image)`, to be called for one frame after the other. Its
files take their places at the end of the `with` statement; where the body fails, none does. No images or masks of
earlier frames are held.
"""
