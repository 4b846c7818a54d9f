"""Distilling classifiers without their images: images made from noise, and how well these resemble real ones."""

from .generators import GENERATORS, DataFreeGenerator, generator_from_official
from .statistics import batch_norm_gap, batch_norms_of, statistics_gap, watched_gaps

__all__ = [
    "GENERATORS",
    "DataFreeGenerator",
    "batch_norm_gap",
    "batch_norms_of",
    "generator_from_official",
    "statistics_gap",
    "watched_gaps",
]
