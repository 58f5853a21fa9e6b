"""Following objects through a video with the memory of SAM 2, on the embeddings and masks of a `SegAny`."""
