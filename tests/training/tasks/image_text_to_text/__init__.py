"""The task image-text-to-text."""
