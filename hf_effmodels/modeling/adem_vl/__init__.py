"""ADEM-VL."""
