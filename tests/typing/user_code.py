"""What users write with the public names; a type checker reads it, nobody runs it."""

from pathlib import Path

import torch
from PIL import Image

import hf_effmodels
from hf_effmodels import edge
from hf_effmodels.demo.command import open_app
from hf_effmodels.hub import build_card, convert, export, pretrained, publish
from hf_effmodels.hub.space import publish_space, write_space
from hf_effmodels.models import ModelInfo
from hf_effmodels.prediction import Predictor, load_predictor


def look() -> list[ModelInfo]:
    names: list[str] = hf_effmodels.list_models("ghostnet*", task="image-classification")
    infos = [hf_effmodels.model_info(name) for name in names]
    best = max(infos, key=lambda info: info.top1 or 0.0)
    print(best.parameters + 1, best.weights_license, best.published[0].value)
    return infos


def build() -> torch.Tensor:
    config = hf_effmodels.get_config("ghostnetv3-1.0x", num_labels=10)
    model = hf_effmodels.create_model("ghostnetv3-1.0x", num_labels=10, pretrained=True)
    processor = hf_effmodels.create_image_processor("ghostnetv3-1.0x", image_size=96)
    model.reparameterize()
    inputs = processor(Image.new("RGB", (96, 96)), return_tensors="pt")
    print(config.num_labels, hf_effmodels.__version__.split("."))
    return model(**inputs).logits


def share(model: torch.nn.Module, processor: object) -> str:
    folder: Path = export(model, processor, "my-model", license="mit", overwrite=True)
    card = build_card(model, processor=processor, license="mit")
    card.save(folder / "README.md")
    commit = publish(folder, "my-name/my-model", private=True)
    url: str = publish_space("my-name/my-model", examples=["photo.jpg", Path("other.jpg")]).commit_url
    written: Path = write_space("my-name/my-model", "space")
    convert("ghostnetv3-1.0x", "official.pth", "converted")
    cached: Path = pretrained("ghostnetv3-1.0x")
    return f"{commit.oid} {url} {written} {cached}"


def run() -> None:
    report = edge.export("out", "edge", "onnx", precision="fp16", calibration=[Image.new("RGB", (8, 8))])
    size: tuple[int, int] = report.image_size
    share_of_classes: float | None = report.agreement
    print(size[0] * 2, share_of_classes, edge.load("edge", revision=None))
    predictor: Predictor = load_predictor("out", device="cpu")
    [answer] = predictor.answer([Image.open("photo.jpg")])
    print(predictor.line(answer), answer["classes"])
    open_app("out", task=predictor.task)
