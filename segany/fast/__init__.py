"""Faster, algebraically equal forms of the mask decoder and of mask upsampling."""
