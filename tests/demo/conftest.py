"""A tiny model for each task, its app served on the loopback interface, and a client for it."""

from contextlib import ExitStack

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    SamProcessor,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    YolosConfig,
    YolosForObjectDetection,
    YolosImageProcessorPil,
)

import hf_effmodels
from hf_effmodels.registry import ARCHITECTURES

from ..hub.conftest import tiny  # noqa: F401
from ..modeling.tiny import tiny_config
from ..pipelines.sam_diffsr.tiny import tiny_pipeline
from ..prediction.conftest import language  # noqa: F401


@pytest.fixture(scope="session")
def picture(tmp_path_factory):
    file = tmp_path_factory.mktemp("picture") / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(file)
    return file


@pytest.fixture(scope="session")
def models(tmp_path_factory, tiny, language):  # noqa: F811
    """Task -> folder of a model for it."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models")

    def save(task, *parts):
        for part in parts:
            part.save_pretrained(folder / task)

    save("image-classification", tiny.model, tiny.processor)
    config = AutoConfig.from_pretrained(language[0], id2label={0: "good", 1: "bad"}, label2id={"good": 0, "bad": 1})
    save("text-classification", AutoModelForSequenceClassification.from_config(config).eval(), language[2])
    save("text-generation", *language[1:])
    detector = YolosConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=[32, 32],
        patch_size=16, num_detection_tokens=4, num_labels=2, id2label={0: "cat", 1: "dog"},
        use_mid_position_embeddings=False,
    )  # fmt: skip
    processor = YolosImageProcessorPil(size={"height": 32, "width": 32})
    model = YolosForObjectDetection(detector)
    torch.nn.init.normal_(model.vit.embeddings.detection_tokens)  # they begin equal
    save("object-detection", model, processor)
    segments = SegformerConfig(
        num_encoder_blocks=2, depths=[1, 1], sr_ratios=[2, 1], hidden_sizes=[8, 8], patch_sizes=[7, 3],
        strides=[4, 2], num_attention_heads=[1, 1], mlp_ratios=[1, 1], decoder_hidden_size=8,
        id2label={0: "sky", 1: "sea", 2: "sea"}, label2id={"sky": 0, "sea": 1},
    )  # fmt: skip
    processor = SegformerImageProcessorPil(size={"height": 32, "width": 32})
    save("image-segmentation", SegformerForSemanticSegmentation(segments), processor)
    masks = ARCHITECTURES["tinysam"]
    model = masks.model_class("AutoModelForMaskGeneration")(tiny_config(masks))
    processor = SamProcessor(hf_effmodels.create_image_processor("tinysam", image_size=64))
    save("mask-generation", model, processor, processor.image_processor)
    save("super-resolution", tiny_pipeline())
    return {path.name: path for path in folder.iterdir()}


@pytest.fixture(scope="session")
def served():
    """Serves the app of a model's folder, once each; returns the address."""
    from hf_effmodels.demo.app import launch
    from hf_effmodels.demo.command import open_app

    with ExitStack() as at_the_end:
        addresses = {}

        def serve(folder) -> str:
            if folder not in addresses:
                app = open_app(str(folder))
                where = {"server_name": "127.0.0.1", "prevent_thread_lock": True, "quiet": True}
                addresses[folder] = launch(app, **where)[1]
                at_the_end.callback(app.close, verbose=False)
            return addresses[folder]

        yield serve


@pytest.fixture
def client(served):
    from gradio_client import Client

    return lambda folder: Client(served(folder), verbose=False)
