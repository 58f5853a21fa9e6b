"""Helpers for all packages: writing files, timing, and dataclasses that check their values."""
