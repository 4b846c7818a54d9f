"""Distillation losses, a file each."""
