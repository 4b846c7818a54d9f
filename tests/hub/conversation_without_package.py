"""A client on whose machine hf_effmodels cannot be imported loads a vision-language model. Run by the tests."""

import importlib.abc
import json
import os
import socket
import sys
from pathlib import Path


class Blocked(importlib.abc.MetaPathFinder):
    """However it is installed here, hf_effmodels is not there for this process."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hf_effmodels":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def refuse(*_):
    raise AssertionError("the network was used")


sys.meta_path.insert(0, Blocked())
sys.path.insert(0, str(Path(__file__).parent))
socket.socket.connect = socket.create_connection = refuse

import client  # noqa: E402
from PIL import Image  # noqa: E402
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline  # noqa: E402

client.no_questions()
report = {}
for name, folder in json.load(sys.stdin).items():
    os.chdir(folder)
    report[name] = {"snippets": client.run_snippets(Path("README.md").read_text(), package=False)}
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    content = [{"type": "image", "image": Image.linear_gradient("L")}, {"type": "text", "text": "Which colour is it?"}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    with client.torch.no_grad():
        report[name]["logits"] = model(**inputs).logits[0, -1].tolist()
    pipe = pipeline("image-text-to-text", model=folder, trust_remote_code=True)
    messages = [{"role": "user", "content": content}]
    answer = pipe(text=messages, max_new_tokens=4, return_full_text=False)[0]["generated_text"]
    report[name] |= {"answer": answer, "classes": [type(model).__module__, type(processor).__module__]}
report["package"] = [name for name in sys.modules if name.startswith("hf_effmodels")]
print(json.dumps(report))
