#: What `pip install hf_effmodels[...]` must have brought.
EXTRAS = ("train",)
