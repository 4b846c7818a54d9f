"""Fewer tokens while a model runs: what it no longer needs to look at leaves the sequence."""
