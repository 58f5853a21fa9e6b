"""Adapters to checkpoints: detectors, CLIP, and how a configuration becomes models. None knows the chain."""
