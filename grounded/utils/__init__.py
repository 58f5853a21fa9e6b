"""Small helpers without a subject of their own: files and timing."""
