"""A client on whose machine hf_effmodels cannot be imported: it loads with trust_remote_code. Run by the tests."""

import importlib.abc
import json
import os
import sys
from pathlib import Path


class Blocked(importlib.abc.MetaPathFinder):
    """However it is installed here, hf_effmodels is not there for this process."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_effmodels":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, Blocked())
sys.path.insert(0, str(Path(__file__).parent))

if os.environ["HF_HUB_OFFLINE"] == "1":  # a cache must do: no connection can be opened
    import socket

    def refuse(*_):
        raise AssertionError("the network was used")

    socket.socket.connect = socket.create_connection = refuse

import client  # noqa: E402
import transformers  # noqa: E402
from transformers import (  # noqa: E402
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    pipeline,
)

asked = json.load(sys.stdin)
client.no_questions()
report = {}
for name, (model_id, options) in asked["load"].items():
    # AutoBackbone asks the Hub whether the repository exists: it reads no folders and works only online.
    online = not os.path.isdir(model_id) and os.environ["HF_HUB_OFFLINE"] == "0"
    report[name] = client.load_everything(model_id, backbone=online, trust_remote_code=True, **options)
if "untrusted" in asked:
    try:
        AutoConfig.from_pretrained(asked["untrusted"], trust_remote_code=False)
    except ValueError as error:
        report["untrusted"] = str(error)
if "copy" in asked:  # what a fine-tuned model is saved as must carry the code along
    model_id, folder = asked["copy"]
    AutoModelForImageClassification.from_pretrained(model_id, trust_remote_code=True).save_pretrained(folder)
    again = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
    report["copy"] = again(client.torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)).logits[0].tolist()
if "others" in asked:
    report["others"] = {}
    for model_type, folder in asked["others"].items():
        model = AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=True)
        with client.torch.no_grad():
            report["others"][model_type] = model(client.torch.full((1, 3, 64, 64), 0.5)).logits[0].tolist()
if "halves" in asked:  # of split classifiers
    report["halves"] = {}
    for name, (head, tail, side) in asked["halves"].items():
        head, tail = (transformers.AutoModel.from_pretrained(f, trust_remote_code=True) for f in (head, tail))
        pixels = client.torch.linspace(-1, 1, 3 * side**2).reshape(1, 3, side, side)
        report["halves"][name] = tail(head(pixels), (1, 3, side, side))[0].tolist()
if "dense" in asked:
    report["dense"] = {}
    for model_type, (auto, folder, side, given, name) in asked["dense"].items():
        model = getattr(transformers, auto).from_pretrained(folder, trust_remote_code=True)
        pixels = client.torch.linspace(-1, 1, 3 * side**2).reshape(1, 3, side, side)
        given = {key: client.torch.tensor(value) for key, value in given.items()}
        with client.torch.no_grad():
            report["dense"][model_type] = model(pixel_values=pixels, **given)[name].flatten().tolist()
if "detector" in asked:  # its image processor is no stock one
    processor = AutoImageProcessor.from_pretrained(asked["detector"], trust_remote_code=True)
    model = AutoModelForObjectDetection.from_pretrained(asked["detector"], trust_remote_code=True)
    report["detector"] = [client.detect(model, processor), type(processor).__module__.partition(".")[0]]
if "two_towers" in asked:  # image processor and tokenizer are stock ones, the towers transformers'
    pipe = pipeline("zero-shot-image-classification", model=asked["two_towers"], trust_remote_code=True)
    scores = pipe(client.Image.linear_gradient("L").convert("RGB"), candidate_labels=["cat", "dog"])
    report["two_towers"] = [{entry["label"]: entry["score"] for entry in scores}, type(pipe.model).__module__]
    os.chdir(asked["two_towers"])
    report["two_towers"].append(client.run_snippets(Path("README.md").read_text(), package=False))
if "readme" in asked:
    report["snippets"] = client.run_snippets(asked["readme"], package=False)
    os.chdir(asked["load"]["folder"][0])
    report["local_snippets"] = client.run_snippets(Path("README.md").read_text(), package=False)
report["package"] = [name for name in sys.modules if name.startswith("hf_effmodels")]
print(json.dumps(report))
