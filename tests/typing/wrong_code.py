"""Mistakes that a type checker is to find: one in each line that says so."""

import hf_effmodels
from hf_effmodels import edge
from hf_effmodels.hub import publish
from hf_effmodels.prediction import load_predictor

hf_effmodels.list_models(3)  # wrong
hf_effmodels.list_models("*").items()  # wrong
print(hf_effmodels.model_info("ghostnetv3-1.0x").parameter)  # wrong
hf_effmodels.model_info("ghostnetv3-1.0x").top1 + 1  # wrong
edge.export("out", "edge")  # wrong
edge.export("out", "edge", "onnx", precision=16)  # wrong
publish("folder", 7)  # wrong
load_predictor("out").answers([])  # wrong
load_predictor("out", tasks="x")  # wrong
