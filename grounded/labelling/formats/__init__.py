"""Annotation formats: one file each, reading and writing."""
