"""Adapters to checkpoints: detectors, segmenters, trackers, CLIP, and how a configuration becomes models.

None imports a stage.
"""
