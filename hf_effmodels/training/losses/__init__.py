"""Losses as pure functions, a file each."""
