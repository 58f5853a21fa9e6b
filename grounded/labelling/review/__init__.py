"""Labelled pictures before a person: a local page for corrections, and a sheet to look at."""
