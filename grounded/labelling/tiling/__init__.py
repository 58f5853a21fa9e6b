"""Large images: cut into overlapping tiles, and their instances merged."""
