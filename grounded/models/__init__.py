"""Adapters to checkpoints: detectors, CLIP, and how a configuration becomes models. None imports a stage."""
