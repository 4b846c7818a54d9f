#: What `pip install hf_effmodels[...]` must have brought.
EXTRAS = ("train",)
#: Argument -> the Auto class that has a head for the model in a folder that it names.
HEADS = {"model": "AutoModelForImageClassification"}
#: `--dataset` is no single file: its format would have to be named.
TAKES_FILES = False
