"""The task semantic-segmentation: segmenters of transformers and of this package."""

EXTRAS = ("train",)
#: Argument -> the Auto class that has a head for the model in a folder that it names.
HEADS = {"model": "AutoModelForSemanticSegmentation"}
#: `--dataset` is no single file: its format would have to be named.
TAKES_FILES = False
