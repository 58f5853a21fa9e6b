"""Instances as overlays, cut-outs, polygons and files."""
