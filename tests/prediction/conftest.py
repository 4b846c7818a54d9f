"""Small models, and pictures for them."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForCausalLM

import hf_effmodels
from hf_effmodels.cli import main
from hf_effmodels.edge import export
from hf_effmodels.images import read_image
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.data.text.tokenization import train_tokenizer

from ..modeling.tiny import tiny_config

NAMES = {0: "tabby, tabby cat", 1: "dog", 2: "bird"}


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Two pictures, one of them in 16 bits and in a folder of its own, and what is no picture."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(folder / "a.png")
    (folder / "scans").mkdir()
    Image.fromarray(rng.integers(0, 65536, (50, 50), dtype=np.uint16)).save(folder / "scans" / "b.png")
    (folder / "notes.txt").write_text("no picture")
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory):
    torch.manual_seed(1)
    architecture, folder = ARCHITECTURES["ghostnetv3"], tmp_path_factory.mktemp("classifier")
    model = architecture.model_class("AutoModelForImageClassification")(tiny_config(architecture, id2label=NAMES))
    processor = hf_effmodels.create_image_processor("ghostnetv3-1.0x", image_size=48)
    model.eval().save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    return folder, model, processor


@pytest.fixture(scope="session")
def program(classifier):
    """The classifier as an ONNX program."""
    folder, model, processor = classifier
    export(model, folder / "onnx", "onnx", processor=processor)
    return folder / "onnx"


@pytest.fixture
def predict(capsys):
    def call(*argv, code=0):
        assert main(["predict", *map(str, argv)]) == code
        return capsys.readouterr().out

    return call


@pytest.fixture(scope="session")
def expected(classifier, photos):
    """Probabilities of the two pictures by hand."""
    _, model, processor = classifier
    pictures = [read_image(file) for file in (photos / "a.png", photos / "scans" / "b.png")]
    with torch.no_grad():
        logits = model(processor(pictures, return_tensors="pt").pixel_values).logits.double().numpy()
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


@pytest.fixture(scope="session")
def language(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("language")
    tokenizer = train_tokenizer(["The cat sat on the mat and the dog on the log."], 300, at_most=True)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=len(tokenizer), **sizes)
    model = AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, model, tokenizer
