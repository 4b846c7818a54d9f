"""VanillaNet."""
