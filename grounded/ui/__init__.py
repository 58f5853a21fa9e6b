"""The app: segmenting, correcting and downloading in a browser, and named endpoints for programs."""
