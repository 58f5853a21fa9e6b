"""Timings, each printed beside its budget or its peer by one command."""
