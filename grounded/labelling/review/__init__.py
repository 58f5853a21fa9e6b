"""Review of labelled images by a person: a local page for corrections, and a contact sheet."""
