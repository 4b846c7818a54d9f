"""A stranger's process, in which hf_effmodels is not there: loads a pipeline and answers by it. Run by the tests."""

import importlib.abc
import json
import sys


class Blocked(importlib.abc.MetaPathFinder):
    """However it is installed here, hf_effmodels is not there for this process."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_effmodels":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocked())
asked = json.load(sys.stdin)

import numpy as np  # noqa: E402
import torch  # noqa: E402
from diffusers import DiffusionPipeline  # noqa: E402

torch.set_num_threads(1)
report = {}
try:
    DiffusionPipeline.from_pretrained(asked["name"])
except ValueError as error:
    report["untrusted"] = str(error)
pipe = DiffusionPipeline.from_pretrained(asked["name"], trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
image, answer, query = (np.array(picture, dtype=np.uint8) for picture in asked["images"])
report["ids"] = pipe(prompt_images=[(image, answer)], image=query).token_ids.tolist()
report["class"] = type(pipe).__name__
report["package"] = [name for name in sys.modules if name.startswith("hf_effmodels")]
print(json.dumps(report))
