"""Layers with the same maths in several architectures."""
