"""What both clients do: load a repository by every Auto class and report what came of it. Run by the tests only."""

import builtins
import re

import torch
from PIL import Image
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    pipeline,
)

torch.set_num_threads(1)


def no_questions() -> None:
    """transformers asks on the terminal whether code may be run; nobody is there to answer."""

    def answer(*_):
        raise AssertionError("a question was asked")

    builtins.input = answer


def load_everything(model_id: str, *, backbone: bool = True, **options) -> dict:
    """Every Auto class and the pipeline on one repository or folder; numbers and names as JSON can hold them."""
    config = AutoConfig.from_pretrained(model_id, **options)
    processor = AutoImageProcessor.from_pretrained(model_id, **options)
    classifier = AutoModelForImageClassification.from_pretrained(model_id, **options)
    base = AutoModel.from_pretrained(model_id, **options)
    pixels = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
    with torch.no_grad():
        logits = classifier(pixels).logits
        pooled = base(pixels).pooler_output
    classify = pipeline("image-classification", model=model_id, **options)
    picture = Image.linear_gradient("L").convert("RGB")
    report = {
        "classes": [type(part).__name__ for part in (config, processor, classifier, base)],
        "modules": sorted({type(part).__module__.split(".")[0] for part in (config, classifier, base)}),
        "logits": logits[0].tolist(),
        "same_base": torch.equal(classifier.base_model(pixels).pooler_output, pooled),
        "labels": sorted(answer["label"] for answer in classify(picture)),
        "reparameterized": config.reparameterized,
    }
    if backbone:
        features = AutoBackbone.from_pretrained(model_id, out_features=["stage1", "stage3"], **options)
        with torch.no_grad():
            report["feature_maps"] = [list(maps.shape) for maps in features(pixels).feature_maps]
    return report


def run_snippets(readme: str, *, package: bool) -> int:
    """Run the card's code blocks (those that import the package, or the others) as they stand; how many there were."""
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    chosen = [block for block in blocks if ("import hf_effmodels" in block) == package]
    for block in chosen:
        exec(compile(block, "README.md", "exec"), {"print": lambda *_: None})
    return len(chosen)


def detect(model, processor) -> list[list[float]]:
    """The best three boxes in a picture of one colour, each with its score."""
    picture = Image.new("RGB", (40, 30), (200, 30, 90))
    with torch.no_grad():
        outputs = model(**processor(picture, return_tensors="pt"))
    (found,) = processor.post_process_object_detection(outputs, 0.0, [(30, 40)])
    return torch.cat([found["boxes"], found["scores"][:, None]], dim=1)[:3].tolist()
