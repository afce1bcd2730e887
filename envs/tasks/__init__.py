"""Tasks of our own that need memory."""
