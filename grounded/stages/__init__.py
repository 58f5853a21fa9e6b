"""The chain, one file a step: detect, prompt, segment, refine, zoom, verify, fall back. For the pipeline."""
