"""What a user changes by hand: clicks, strokes, candidates, names. Needs a segmenter, never a detector."""
