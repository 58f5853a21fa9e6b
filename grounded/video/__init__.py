"""Clips: from a text, masks or clicks to a track of every object, through all frames."""
