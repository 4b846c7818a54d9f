"""The task mask-generation: promptable segmentation, from ground truth and a teacher (TinySAM, arXiv:2312.13789)."""

#: What `pip install hf_effmodels[...]` must have brought.
EXTRAS = ("train",)
#: Argument -> the Auto class that has a head for the model in a folder that it names.
HEADS = {"model": "AutoModelForMaskGeneration", "teacher": "AutoModelForMaskGeneration"}
