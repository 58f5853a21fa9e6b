"""The report of an evaluation: JSON, a page of Markdown, and the images beside it."""
