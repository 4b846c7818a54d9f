"""Quantisation of trained models (cbq) and training of ternary ones (bitnet158)."""
