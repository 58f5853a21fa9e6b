"""Checkpoints of the original Grounding DINO package: read, converted, or run by that package."""
