"""Distilling classifiers without their images: images made from noise, and how well these resemble real ones."""

from .aggregation import fit_aggregation
from .generators import GENERATORS, DataFreeGenerator, generator_from_official, load_generator, save_generator
from .guard import DataReadError, closed_to_data, refuse_reading
from .statistics import (
    batch_norm_gap,
    batch_norms_of,
    statistics_gap,
    watched_gaps,
    watched_statistics,
    whole_gap,
)

__all__ = [
    "GENERATORS",
    "DataFreeGenerator",
    "DataReadError",
    "batch_norm_gap",
    "batch_norms_of",
    "closed_to_data",
    "fit_aggregation",
    "generator_from_official",
    "load_generator",
    "refuse_reading",
    "save_generator",
    "statistics_gap",
    "watched_gaps",
    "watched_statistics",
    "whole_gap",
]
