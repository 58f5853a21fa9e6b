"""Losses and interactive training rounds for `SegAny`."""
