"""One vector for each picture, of models that we did not write."""

import copy
import json
import logging
import logging.handlers
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    CLIPImageProcessorPil,
    Dinov2WithRegistersConfig,
    PvtV2Config,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    ViTConfig,
    ViTImageProcessorPil,
)

from hf_effmodels import SimMimConfig, SimMimForPreTraining
from hf_effmodels.training.data.pictures import Pictures
from hf_effmodels.training.probing import features
from hf_effmodels.training.probing.features import _prefix, features_of, load_encoder, pooled

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16}
MODELS = {
    "vit": (ViTConfig(**TINY, intermediate_size=16, patch_size=4), 1),
    "dinov2-registers": (Dinov2WithRegistersConfig(**TINY, patch_size=8, num_register_tokens=3), 4),
    "swin": (SwinConfig(image_size=16, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4), 0),
    "pvt-v2": (
        PvtV2Config(
            hidden_sizes=[8, 8, 16, 16], depths=[1] * 4, num_attention_heads=[1] * 4, sr_ratios=[1] * 4, image_size=16
        ),
        0,
    ),
    "resnet": (ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"), 0),
}


def processor(height=16, width=16):
    return ViTImageProcessorPil(size={"height": height, "width": width})


@pytest.fixture
def pictures():
    drawn = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3), dtype=np.uint8)
    return Pictures([Image.fromarray(image) for image in drawn], "train", np.arange(3))


@pytest.mark.parametrize("name", MODELS)
def test_the_mean_is_over_what_stands_for_a_place(name, pictures):
    config, prefix = MODELS[name]
    model = AutoModel.from_config(config).eval()
    found = features_of(model, processor(), pictures, 2, "mean")
    pixels = processor()(pictures.images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        hidden = model(pixel_values=pixels).last_hidden_state
    places = hidden.flatten(2).transpose(1, 2) if hidden.ndim == 4 else hidden[:, prefix:]
    torch.testing.assert_close(torch.from_numpy(found), places.mean(1), rtol=1e-4, atol=1e-5)


def test_the_class_token_and_the_models_own_pooling_are_to_be_had(pictures):
    model = AutoModel.from_config(MODELS["vit"][0]).eval()
    pixels = processor()(pictures.images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(pixel_values=pixels)
    for pooling, expected in (("class", output.last_hidden_state[:, 0]), ("model", output.pooler_output)):
        found = features_of(model, processor(), pictures, 3, pooling)
        torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_pictures_whose_shapes_the_processor_keeps_have_the_vectors_that_they_have_alone(pictures):
    model, keeping = (
        AutoModel.from_config(MODELS["resnet"][0]).eval(),
        CLIPImageProcessorPil(size={"shortest_edge": 16}, do_center_crop=False),
    )
    mixed = Pictures([*pictures.images[:2], pictures.images[2].resize((32, 16))], "train", np.arange(3))
    found = torch.from_numpy(features_of(model, keeping, mixed, 3, "mean"))
    with torch.no_grad():
        alone = [model(keeping(image, return_tensors="pt").pixel_values).last_hidden_state for image in mixed.images]
    assert [one.shape[-2:] for one in alone] == [(2, 2), (2, 2), (2, 4)]
    torch.testing.assert_close(found, torch.cat([one.mean((2, 3)) for one in alone]), rtol=1e-4, atol=1e-5)


def test_wide_pictures_and_merged_patches_keep_all_their_places():
    assert _prefix(7 * 14, 4, (224, 448)) == 0  # a Swin's last stage
    assert _prefix(14 * 28 + 5, 16, (224, 448)) == 5
    assert _prefix(3 * 16 * 12 + 1, (16, 16), (16 * 16, 36 * 16)) == 1
    assert _prefix(15 * 15 + 1, 16, (225, 225)) == 1  # the last patch of each side is filled up
    assert _prefix(14 * 14 + 16, 16, (224, 224)) == 16  # more would not be class tokens and registers
    assert _prefix(7 * 9, None, (28, 36)) == 0  # a grid of any stride, of a model that does not tell its patches
    for tokens, patch in ((100, 16), (14 * 14 + 17, 16), (7 * 9 + 1, None)):
        size = (224, 224) if patch else (28, 36)
        with pytest.raises(ValueError, match=f"--pooling: got mean, but which of this model's {tokens} tokens"):
            _prefix(tokens, patch, size)


def test_grey_pictures_reach_a_network_of_one_channel_as_their_only_one():
    """The average mean and deviation of the processor's three are its."""
    drawn = np.random.default_rng(0).integers(0, 255, (3, 16, 16), dtype=np.uint8)
    grey = Pictures([Image.fromarray(image) for image in drawn], "train", np.arange(3))
    config = ViTConfig(**TINY, intermediate_size=16, patch_size=4, num_channels=1)
    model, own = AutoModel.from_config(config).eval(), processor()
    own.image_mean, own.image_std = [0.25], [0.5]
    with torch.no_grad():
        pixels = (torch.from_numpy(drawn)[:, None] / 255 - 0.25) / 0.5
        expected = model(pixel_values=pixels).last_hidden_state[:, 1:].mean(1)
    found = features_of(model, own, grey, 2, "mean")
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=1e-4, atol=1e-5)


def test_a_processor_has_as_many_means_as_the_network_has_channels(tmp_path):
    AutoModel.from_config(ViTConfig(**TINY, intermediate_size=16, patch_size=4, num_channels=1)).save_pretrained(
        tmp_path
    )
    processor().save_pretrained(tmp_path)
    own = load_encoder(str(tmp_path), "class")[1]
    assert len(own.image_mean) == len(own.image_std) == 1


@pytest.mark.parametrize("kind", ["an encoder", "of pre-training"])
def test_weights_in_half_precision_give_features_in_float32(kind, tmp_path, pictures):
    """Those of the same weights in float32."""
    torch.manual_seed(0)
    config = copy.deepcopy(MODELS["vit"][0])
    model = AutoModel.from_config(config, add_pooling_layer=False).bfloat16()
    whole = SimMimForPreTraining(SimMimConfig(backbone_config=config, mask_block_size=4)).bfloat16()
    (model if kind == "an encoder" else whole).save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    found = features_of(*load_encoder(str(tmp_path)), pictures, 2, "mean")
    expected = (model if kind == "an encoder" else whole.encoder).float().eval()
    np.testing.assert_array_equal(found, features_of(expected, processor(), pictures, 2, "mean"))


def test_what_a_model_pools_itself_is_a_vector_for_each_picture():
    output = SimpleNamespace(pooler_output=torch.arange(6.0).view(2, 3, 1, 1))
    assert pooled(output, None, (4, 4), "model").tolist() == [[0, 1, 2], [3, 4, 5]]


def test_a_pooling_that_a_model_has_not_is_refused():
    model = AutoModel.from_config(MODELS["resnet"][0]).eval()
    with torch.no_grad():
        output = model(pixel_values=torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="got class, but the output of this model is a map; accepted is mean"):
        pooled(output, model.config, (32, 32), "class")
    output.pooler_output = None
    with pytest.raises(ValueError, match="got model, but this model pools nothing; accepted are mean and class"):
        pooled(output, model.config, (32, 32), "model")


def test_a_pooler_without_weights_is_not_asked(tmp_path):
    AutoModel.from_config(MODELS["vit"][0], add_pooling_layer=False).save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    assert load_encoder(str(tmp_path))[0].pooler is None
    with pytest.raises(ValueError, match=r"lacks weights of ViTModel: pooler\.dense\.bias"):
        load_encoder(str(tmp_path), "model")


def test_of_a_model_for_pre_training_the_encoder_gives_the_features(tmp_path, pictures):
    torch.manual_seed(0)
    model = SimMimForPreTraining(SimMimConfig(backbone_config=MODELS["vit"][0], mask_block_size=4)).eval()
    model.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    loaded, own = load_encoder(str(tmp_path))
    assert type(loaded) is type(model.encoder) and not loaded.training
    expected = features_of(model.encoder, processor(), pictures, 2, "mean")
    np.testing.assert_array_equal(features_of(loaded, own, pictures, 2, "mean"), expected)
    file = tmp_path / "model.safetensors"
    state = load_file(file)
    save_file({n: v for n, v in state.items() if not n.startswith("decoder.")}, file, {"format": "pt"})
    load_encoder(str(tmp_path))  # what reconstructs is not asked
    save_file({n: v for n, v in state.items() if n != "encoder.layernorm.bias"}, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks weights of ViTModel: encoder\.layernorm\.bias"):
        load_encoder(str(tmp_path))


def test_a_model_that_takes_no_pictures_is_refused(tmp_path, monkeypatch):
    for kind, takes in (("text", "input_ids"), ("pixels", "pixel_values")):
        model = SimpleNamespace(main_input_name=takes)
        monkeypatch.setattr(features.AutoConfig, "from_pretrained", lambda *_, **__: ViTConfig())
        monkeypatch.setattr(features.AutoModel, "from_pretrained", lambda *_, model=model, **__: (model, {}))
        own = SimpleNamespace() if kind == "pixels" else processor()
        monkeypatch.setattr(features.AutoImageProcessor, "from_pretrained", lambda *_, own=own, **__: own)
        with pytest.raises(ValueError, match="^--models: folder is a SimpleNamespace, which takes no pictures.$"):
            load_encoder("folder")


def test_pictures_that_would_be_read_otherwise_by_a_pipeline_are_refused(tmp_path):
    network = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    AutoModel.from_config(network).save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    settings = tmp_path / "preprocessor_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"do_flip_channel_order": True}))
    with pytest.raises(ValueError, match="^--models: its image processor swaps red and blue"):
        load_encoder(str(tmp_path))


def test_of_a_classifier_no_report_is_printed_that_its_head_is_not_used(tmp_path):
    network = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    ResNetForImageClassification(network).save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    log, said = logging.getLogger("transformers.modeling_utils"), logging.handlers.BufferingHandler(99)
    log.addHandler(said)
    try:
        load_encoder(str(tmp_path))
        assert not said.buffer
        AutoModel.from_pretrained(tmp_path)
    finally:
        log.removeHandler(said)
    (report,) = said.buffer
    assert "LOAD REPORT" in report.getMessage(), "elsewhere transformers tells what it always does"
