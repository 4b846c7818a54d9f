"""The task object-detection: detectors of transformers and of this package."""

EXTRAS = ("train", "detection")
#: Argument -> the Auto class that has a head for the model in a folder that it names.
HEADS = {"model": "AutoModelForObjectDetection", "teacher": "AutoModelForObjectDetection"}
#: `--dataset` is no single file: its format would have to be named.
TAKES_FILES = False
