"""The task object-detection: detectors of transformers and of this package."""

EXTRAS = ("train", "detection")
