#: What `pip install hf_effmodels[...]` must have brought.
EXTRAS = ("train", "diffusion")
#: Argument -> None: a folder that it names holds a pipeline of diffusers.
HEADS = {"model": None, "encoder": None}
#: `--dataset` is no single file: its format would have to be named.
TAKES_FILES = False
