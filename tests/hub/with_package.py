"""A client that has imported hf_effmodels: reads from the Hub without remote code, writes back. Run by the tests."""

import json
import os
import sys
from pathlib import Path

import hf_effmodels

sys.path.insert(0, str(Path(__file__).parent))
import client  # noqa: E402
from huggingface_hub import HfApi, hf_hub_download  # noqa: E402
from transformers import AutoImageProcessor, AutoModelForImageClassification  # noqa: E402

from hf_effmodels.hub import build_card, export  # noqa: E402

asked = json.load(sys.stdin)
client.no_questions()
report = client.load_everything(asked["repo_id"])
report["revision_class"] = type(
    AutoModelForImageClassification.from_pretrained(
        asked["repo_id"], revision=asked["revision"], trust_remote_code=True
    )
).__module__

model = AutoModelForImageClassification.from_pretrained(asked["repo_id"])
processor = AutoImageProcessor.from_pretrained(asked["repo_id"])
export(model, processor, asked["again"], **asked["card"])

model.push_to_hub("org/pushed", token="maker")
processor.push_to_hub("org/pushed", token="maker")
pushed = client.load_everything("org/pushed")
report["pushed"] = {"logits": pushed["logits"], "labels": pushed["labels"]}

readme = Path(hf_hub_download(asked["repo_id"], "README.md")).read_text()
report["snippets"] = client.run_snippets(readme, package=True)
os.chdir(asked["again"])
report["local_snippets"] = client.run_snippets(str(build_card(model)), package=True)
report["remote_code"] = [name for name in sys.modules if name.startswith("transformers_modules")]
report["private"] = HfApi().repo_exists("org/private")
report["version"] = hf_effmodels.__version__
print(json.dumps(report))
