"""Pipelines where a stock one of transformers or diffusers does not fit."""
