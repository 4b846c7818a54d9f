"""Adapting a trained classifier to unlabelled images of another domain, without the images it was trained on."""

from .source_estimate import SourceEstimate, estimate_source, keep_confident
from .spherical_clusters import SphericalClusters, spherical_clusters

__all__ = [
    "SourceEstimate",
    "SphericalClusters",
    "estimate_source",
    "keep_confident",
    "spherical_clusters",
]
