"""Commands of `grounded`, each in a file of its own."""
