"""A user's process: pushes a pipeline, loads it, enlarges an image; with hf_effmodels or without. Run by the tests."""

import importlib.abc
import json
import sys
from pathlib import Path


class Blocked(importlib.abc.MetaPathFinder):
    """However it is installed here, hf_effmodels is not there for this process."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_effmodels":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


asked = json.load(sys.stdin)
if not asked["package"]:
    sys.meta_path.insert(0, Blocked())

import numpy as np  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
report = {}
if asked["package"]:
    import hf_effmodels
    import hf_effmodels.pipelines

    report["light"] = "diffusers" not in sys.modules
    Pipeline, trust = hf_effmodels.pipelines.SamDiffSRPipeline, {}
else:
    from diffusers import DiffusionPipeline as Pipeline

    trust = {"trust_remote_code": True}
image = np.array(asked["image"], dtype=np.uint8)


def enlarge(name: str):
    pipe = Pipeline.from_pretrained(name, **trust)
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    result = pipe(image, num_inference_steps=3, generator=generator, output_type="np", tile_size=8, tile_overlap=4)
    report[name] = [type(pipe).__name__, pipe.config.legacy_256, result.images.tolist()]
    return pipe


if "push" in asked:
    folder, repository = asked["push"]
    Pipeline.from_pretrained(folder).push_to_hub(repository, token="maker")
for name in asked["load"]:
    try:
        if trust:
            Pipeline.from_pretrained(name)
            report["untrusted"] = "loaded"
    except ValueError as error:
        report["untrusted"] = str(error)
    pipe = enlarge(name)
    if "copy" in asked:
        pipe.save_pretrained(asked["copy"])
        enlarge(asked["copy"])
from huggingface_hub.constants import HF_HUB_CACHE  # noqa: E402

report["fetched code"] = sorted({path.name for path in Path(HF_HUB_CACHE).rglob("*.py")})
report["package"] = [name for name in sys.modules if name.startswith("hf_effmodels")]
print(json.dumps(report))
