"""The tiny world: drawn scenes, the three small networks trained on them, and their evaluation."""
