#: What `pip install hf_effmodels[...]` must have brought.
EXTRAS = ("train", "diffusion")
#: Argument -> None: a folder that it names holds a pipeline of diffusers.
HEADS = {"model": None, "teacher": None, "image_tokenizer": None}
