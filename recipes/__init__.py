"""Recipes that make the bundled weights. Nothing in `segany` or `grounded` imports them."""
