"""The app: one user's pictures, texts and corrections in a browser, and named endpoints for programs."""
