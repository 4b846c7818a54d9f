"""TinyNet."""
