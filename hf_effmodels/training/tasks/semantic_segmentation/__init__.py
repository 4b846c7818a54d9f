"""The task semantic-segmentation: segmenters of transformers and of this package."""

EXTRAS = ("train",)
