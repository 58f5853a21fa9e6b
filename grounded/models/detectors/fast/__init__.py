"""Exact faster replacements for modules of transformers' Grounding DINO."""
