"""What a user changes by hand: clicks, strokes, candidates, names. Needs a segmenter, and no detector."""
