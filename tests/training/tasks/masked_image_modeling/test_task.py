"""What the task promises beyond the contract: any encoder, sizes that grow, pictures without labels, clear errors."""

import math
import shutil
import types

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForObjectDetection,
    ConvNextConfig,
    ConvNextModel,
    SwinConfig,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from hf_effmodels import (
    FastMimConfig,
    FastMimForPreTraining,
    GoldYoloImageProcessorPil,
    LocalMimConfig,
    LocalMimForPreTraining,
    get_config,
)
from hf_effmodels.modeling.layers.hog import histograms_of_gradients
from hf_effmodels.modeling.layers.positions import (
    resize_positions,
    resize_relative_bias,
    sine_cosine_positions,
)
from hf_effmodels.training import main, prepare
from hf_effmodels.training.data.normalization import Normalization
from hf_effmodels.training.data.pictures import Pictures
from hf_effmodels.training.tasks.masked_image_modeling.arguments import CropArguments, MaskedModelArguments
from hf_effmodels.training.tasks.masked_image_modeling.data import MaskedImages
from hf_effmodels.training.tasks.masked_image_modeling.models import load_masked_model
from hf_effmodels.training.tasks.masked_image_modeling.reports import (
    _as_map,
    _image,
    _scales,
    _stretched,
    _unfolded,
    draw_histograms,
)
from hf_effmodels.training.tasks.masked_image_modeling.stages import Epochs, Stages

from ..contract import history, run_until_killed, same, weights
from .conftest import VIT

ONCE = ["--max_steps", "1", "--shown_images", "1", "--eval_strategy", "no"]


def only_images(run: list[str], *names: str) -> list[str]:
    """The run without the model's arguments, or others of these names."""
    named = {"--model", "--model_config", "--method", "--method_config", "--image_size", "--num_channels", *names}
    pairs = zip(run[::2], run[1::2], strict=True)
    return [word for pair in pairs if pair[0] not in named for word in pair]


# Encoders

ENCODERS = {
    "swin": "{embed_dim: 8, depths: [1, 1], num_heads: [1, 2], window_size: 2, patch_size: 4}",
    "convnext": "{hidden_sizes: [8, 16], depths: [1, 1], num_stages: 2, patch_size: 4}",
    "resnet": "{embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1], layer_type: basic}",
    "deit": "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 1, num_attention_heads: 2, patch_size: 8}",
    "ghostnetv3-1.0x": "{width_multiplier: 0.2}",
}
STRIDES = {"ghostnetv3-1.0x": 32}
STRIDE = {"vit": 4, "swin": 8}


@pytest.mark.parametrize(
    "encoder",
    [pytest.param(name, marks=pytest.mark.thorough if name == "ghostnetv3-1.0x" else ()) for name in ENCODERS],
)
def test_any_encoder_goes_its_own_way_afterwards(encoder, masked_run, tmp_path):
    method = f"{{encoder_stride: {STRIDES.get(encoder, 8)}, decoder_hidden_size: 16}}"
    words = ["--model", encoder, "--model_config", ENCODERS[encoder], "--method", "fastmim", "--method_config", method]
    size = ["--image_size", "64" if encoder in STRIDES else "32"]
    main([*only_images(masked_run), *words, *size, *ONCE, "--output_dir", str(tmp_path)])
    trained = FastMimForPreTraining.from_pretrained(tmp_path).eval()
    alone, info = AutoModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not info["missing_keys"] - {"pooler.dense.weight", "pooler.dense.bias"} and not info["unexpected_keys"]
    assert trained.config.block_size == STRIDES.get(encoder, 8)
    pixels = torch.randn(2, 3, int(size[1]), int(size[1]))
    with torch.no_grad():
        expected = trained.encoder(pixel_values=pixels).last_hidden_state
        torch.testing.assert_close(alone.eval()(pixel_values=pixels).last_hidden_state, expected)
    _, info = AutoModelForImageClassification.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not info["unexpected_keys"]
    assert all(key.startswith(("classifier", "head", "fc", "cls_classifier")) for key in info["missing_keys"]), info


def test_the_weights_of_a_folder_are_where_its_training_begins(masked_run, tmp_path, caplog):
    config = ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4, image_size=32)
    encoder = ConvNextModel(config)
    encoder.save_pretrained(tmp_path / "convnext")
    ViTImageProcessorPil(image_mean=[0.1] * 3, image_std=[0.2] * 3, size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "convnext"
    )
    words = ["--model", str(tmp_path / "convnext"), "--method", "fastmim", "--method_config", "{encoder_stride: 8}"]
    run = prepare("prepare_training", [*only_images(masked_run), *words, "--output_dir", str(tmp_path / "run")])
    assert same(dict(run.trainer.model.encoder.state_dict()), dict(encoder.state_dict()))
    assert run.trainer.processing_class.image_mean == (0.1, 0.1, 0.1)
    # Of colour 0.1 · 255 the pixels are zero.
    image = Image.new("RGB", (40, 40), (51, 51, 51))
    assert run.trainer.train_dataset.normalization(image).unique().item() == pytest.approx((0.2 - 0.1) / 0.2)


def test_every_scale_of_localmim_is_logged_and_weighs_what_it_should(masked_run, tmp_path):
    fields = "{scale_weights: [1.0, 0.5, 2.0, 0.0], decoder_hidden_size: 16, decoder_num_attention_heads: 2}"
    vit = "{hidden_size: 16, intermediate_size: 32, num_hidden_layers: 7, num_attention_heads: 2}"
    words = ["--model", "vit", "--model_config", vit, "--method", "localmim", "--method_config", fields]
    run = [*only_images(masked_run, "--num_train_epochs"), *words, "--image_size", "32", "--num_channels", "1"]
    run += ["--max_steps", "3", "--gradient_accumulation_steps", "2", "--per_device_train_batch_size", "4"]
    results = main([*run, "--output_dir", str(tmp_path)])
    names = [f"loss_scale_{number}" for number in (1, 2, 3, 4)]
    logged = history(tmp_path, "loss", *names)
    assert len(logged) == 3 and (logged[:, 1:] > 0).all()
    np.testing.assert_allclose(logged[:, 0], logged[:, 1:] @ [1.0, 0.5, 2.0, 0.0], rtol=1e-3)  # logged as rounded
    measured = [results[f"eval_{name}"] for name in names]
    assert results["eval_loss"] == pytest.approx(measured[0] + 0.5 * measured[1] + 2 * measured[2])


@pytest.mark.parametrize(
    "method, target", [("simmim", None), ("localmim", "pixels"), ("fastmim", "pixels"), ("spark", None)]
)
@pytest.mark.draws
def test_what_is_predicted_is_drawn_for_every_kind(method, target, masked_run, tmp_path):
    swin = "{embed_dim: 8, depths: [1, 1, 1, 1], num_heads: [1, 1, 2, 2], window_size: 2, patch_size: 4}"
    own = {
        "simmim": "{mask_block_size: 32}",
        "localmim": "{target: pixels, decoder_hidden_size: 16, decoder_num_attention_heads: 2, mask_ratio: 0.5}",
        "fastmim": "{target: pixels, decoder_hidden_size: 16}",
        "spark": "{decoder_hidden_size: 32, mask_ratio: 0.5}",
    }
    model = ["gold-yolo-n"] if method == "spark" else ["swin", "--model_config", swin]
    words = ["--model", *model, "--method", method, "--method_config", own[method]]
    main([*only_images(masked_run), *words, "--image_size", "64", *ONCE, "--output_dir", str(tmp_path)])
    with Image.open(tmp_path / "masked.png") as picture:
        assert picture.size[0] > 3 * picture.size[1]  # one row of four
    if method == "spark":  # what the detector goes on with is what it was trained on: pixels from 0 to 1
        assert not AutoImageProcessor.from_pretrained(tmp_path).do_normalize
        assert isinstance(AutoImageProcessor.from_pretrained(tmp_path / "encoder"), GoldYoloImageProcessorPil)
        detector, info = AutoModelForObjectDetection.from_pretrained(tmp_path / "encoder", output_loading_info=True)
        assert not info["unexpected_keys"]
        learnt = load_file(tmp_path / "encoder" / "model.safetensors")
        for name in ("stem", "stages.3"):
            parts = {key: value for key, value in learnt.items() if key.startswith(name)}
            own = {f"gold_yolo.{key}": value for key, value in parts.items()}
            assert parts and all(torch.equal(detector.state_dict()[key], value) for key, value in own.items())


@pytest.mark.parametrize("encoder", ["vit", "swin"])
def test_the_encoder_is_written_for_the_images_it_is_going_to_see(encoder, masked_run, tmp_path):
    fields = {"vit": VIT, "swin": "{embed_dim: 8, depths: [1, 1], num_heads: [1, 2], window_size: 2, patch_size: 4}"}
    words = ["--model", encoder, "--model_config", fields[encoder], "--method", "fastmim"]
    words += ["--method_config", f"{{encoder_stride: {STRIDE[encoder]}, decoder_hidden_size: 16, hog_cell: 4}}"]
    sizes = ["--image_size", "16", "--encoder_image_size", "24"]
    sizes += ["--encoder_window_size", "3"] if encoder == "swin" else []
    main([*only_images(masked_run), *words, *sizes, *ONCE, "--output_dir", str(tmp_path)])
    trained = FastMimForPreTraining.from_pretrained(tmp_path).encoder
    alone, info = AutoModel.from_pretrained(tmp_path / "encoder", output_loading_info=True)
    assert not info["mismatched_keys"] and not info["unexpected_keys"] and alone.config.image_size == 24
    assert AutoImageProcessor.from_pretrained(tmp_path / "encoder").size["height"] == 24
    assert trained.config.image_size == 16
    if encoder == "vit":
        name = "embeddings.position_embeddings"
        expected = resize_positions(trained.state_dict()[name], 6, 6)
    else:
        name = "encoder.layers.1.blocks.0.attention.relative_position_bias.relative_position_bias_table"
        expected = resize_relative_bias(trained.state_dict()[name], 3)
    torch.testing.assert_close(alone.state_dict()[name], expected)
    convnext = ["--model", "convnext", "--model_config", ENCODERS["convnext"], "--method", "fastmim"]
    convnext += ["--method_config", "{encoder_stride: 8}", "--encoder_window_size", "7"]
    with pytest.raises(ValueError, match="--encoder_window_size: got 7, but ConvNextConfig has none"):
        prepare("prepare_training", [*only_images(masked_run), *convnext, "--output_dir", str(tmp_path / "no")])


# Sizes that grow

GROWING = ["--progressive_sizes", "16", "24", "--progressive_epochs", "0", "2", "--num_train_epochs", "3"]
BATCHES = ["--progressive_batch_sizes", "8", "5"]


def test_epochs_have_the_steps_that_their_batches_make():
    stages = Stages((0, 2, 3), (16, 24, 32), (8, 5, 2))
    assert [stages.size(epoch) for epoch in range(5)] == [16, 16, 24, 32, 32]
    epochs = Epochs(stages, samples=40, processes=2, accumulation=2, count=4, max_steps=-1)
    assert epochs.batches == [3, 3, 4, 10]  # of 16, 16, 10 and 4 samples in all processes
    assert epochs.steps == [2, 2, 2, 5]
    assert [epochs.place(step) for step in (0, 1, 2, 5, 6, 10, 11)] == [
        *((0, 0), (0, 1), (1, 0), (2, 1), (3, 0), (3, 4), (4, 0))
    ]
    assert Epochs(stages, 40, 2, 2, None, max_steps=5).steps == [2, 2, 2]


def test_images_and_batches_grow_when_they_should(masked_run, tmp_path):
    seen = []
    run = prepare("prepare_training", [*masked_run, *GROWING, *BATCHES, "--output_dir", str(tmp_path / "run")])
    forward = type(run.trainer.model).forward

    def watched(self, pixel_values, noise=None, **kwargs):
        if self.training:
            seen.append(tuple(pixel_values.shape[:1] + pixel_values.shape[2:]) + (noise.shape[1],))
        return forward(self, pixel_values, noise, **kwargs)

    type(run.trainer.model).forward = watched
    try:
        run()
    finally:
        type(run.trainer.model).forward = forward
    assert seen == [(8, 16, 16, 16)] * 10 + [(5, 24, 24, 36)] * 8
    logged = history(tmp_path / "run", "loss", "epoch")
    assert logged[-1, 1] == 3 and logged[10, 1] == pytest.approx(2 + 1 / 8)
    rate = [0.02 * (1 - step / 18) * (5 / 8 if step >= 10 else 1) for step in range(18)]  # linear decay
    linear = [
        *masked_run,
        *GROWING,
        *BATCHES,
        "--lr_scheduler_type",
        "linear",
        "--output_dir",
        str(tmp_path / "linear"),
    ]
    main(linear)
    np.testing.assert_allclose(history(tmp_path / "linear", "loss", "learning_rate")[:, 1], rate, rtol=1e-4)


@pytest.mark.thorough
def test_a_killed_run_with_growing_batches_goes_on_to_the_same_weights(masked_run, tmp_path):
    run = [*masked_run, *GROWING, *BATCHES, "--gradient_accumulation_steps", "2", "--ema_decay", "0.8"]
    run += ["--save_strategy", "steps", "--save_steps", "2"]  # steps of the epochs: 3, 3, 4
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    main([*run, "--output_dir", str(whole)])
    run_until_killed([*run, "--output_dir", str(killed)], 10)
    main([*run, "--output_dir", str(killed), "--resume_from_checkpoint", "true"])
    keys = ("loss", "grad_norm", "learning_rate", "epoch")
    assert len(history(whole, *keys)) == 10 and np.array_equal(history(whole, *keys), history(killed, *keys))
    assert same(weights(whole), weights(killed))


def test_fixed_positions_are_computed_anew_at_another_size():
    torch.manual_seed(0)
    fields = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    backbone = ViTConfig(**fields, patch_size=4, image_size=16)
    config = FastMimConfig(backbone_config=backbone, block_size=4, hog_cell=4, image_size=16, decoder_hidden_size=16)
    model = FastMimForPreTraining(config).eval()
    large = ViTModel(ViTConfig(**fields, patch_size=4, image_size=24), add_pooling_layer=False).eval()
    state = model.encoder.state_dict()
    state["embeddings.position_embeddings"] = sine_cosine_positions(16, 6, 6, extra_tokens=1).float()[None]
    large.load_state_dict(state)
    output = model(torch.randn(2, 3, 24, 24))
    torch.testing.assert_close(output.last_hidden_state, large(output.masked_pixels).last_hidden_state)


# Images


class OneImage(Pictures):
    def read(self, index, num_channels):
        return self.images[index]


def dataset(image, seed=None, **options):
    source = OneImage([image], "split", np.arange(1))
    plain = Normalization((1.0,), (0.0,))
    stages = Stages((0,), (16,), (1,))
    return MaskedImages(source, plain, CropArguments(**options), 1, stages, lambda h, w: h * w // 16, seed)


def test_parts_are_drawn_and_mirrored_as_asked_for():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 40), dtype=np.uint8))
    whole = {"crop_scale": [1.0, 1.0], "crop_ratio": [40 / 24, 40 / 24]}
    for name, kind in (("bicubic", Image.Resampling.BICUBIC), ("nearest", Image.Resampling.NEAREST)):
        expected = np.asarray(image.resize((16, 16), kind), dtype=np.float32)
        for flip in (0.0, 1.0):
            got = dataset(image, 3, interpolation=name, horizontal_flip=flip, **whole)[0]["pixel_values"][0].numpy()
            np.testing.assert_array_equal(got, expected[:, ::-1] if flip else expected)
    middle = image.resize((16, 16), Image.Resampling.BICUBIC, box=(8, 0, 32, 24))
    evaluated = dataset(image)[0]
    np.testing.assert_array_equal(evaluated["pixel_values"][0].numpy(), np.asarray(middle, dtype=np.float32))
    always = dataset(image, horizontal_flip=1.0, crop_scale=[0.3, 0.4])[0]  # which are of the training alone
    assert all(torch.equal(always[name], evaluated[name]) for name in evaluated)
    assert torch.equal(evaluated["noise"], dataset(image)[0]["noise"]) and evaluated["noise"].shape == (16,)
    first, again, next_epoch, other = (
        dataset(image, seed)[number] for seed, number in ((3, 0), (3, 0), (3, 1), (4, 0))
    )
    assert torch.equal(first["noise"], again["noise"]) and torch.equal(first["pixel_values"], again["pixel_values"])
    assert not torch.equal(first["noise"], next_epoch["noise"]) and not torch.equal(first["noise"], other["noise"])


def test_a_folder_of_pictures_without_labels_is_enough(masked_run, tmp_path):
    folder = tmp_path / "photographs"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(12):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(folder / f"{number}.png")
    run = [*only_images(masked_run, "--dataset", "--max_train_samples"), *masked_run[2:12], "--dataset", str(folder)]
    run += ["--cache_dir", str(tmp_path / "cache"), *ONCE, "--output_dir", str(tmp_path / "run")]
    results = main(run)
    assert results["eval_loss"] > 0 and results["eval_samples_per_second"] > 0
    assert load_file(tmp_path / "run" / "encoder" / "model.safetensors")
    shutil.rmtree(tmp_path / "cache")


def test_histograms_are_drawn_as_edges():
    # A dark left half beside a bright right one: the edge stands upright.
    pixels = torch.zeros(1, 1, 16, 16)
    pixels[..., 8:] = 1
    drawn = draw_histograms(histograms_of_gradients(pixels, 9, 8)[0], 9)
    assert drawn.shape == (32, 32) and drawn.max() == 1
    upright, lying = drawn[1:15, 7:9].mean(), drawn[7:9, 1:15].mean()
    assert upright > 3 * lying
    across = draw_histograms(histograms_of_gradients(pixels.transpose(2, 3), 9, 8)[0], 9)
    assert across[7:9, 1:15].mean() > 3 * across[1:15, 7:9].mean()
    # Whichever way it goes an edge is as long as the cell is wide: one from corner to corner leaves these free.
    slanting = draw_histograms(torch.tensor([1.0, 0.0]).reshape(2, 1, 1), 2)
    assert slanting[4, 11] > 0.9 and slanting[0, 15] == slanting[15, 0] == slanting[4, 4] == 0
    # Of several colours the mean, each with its own bins.
    two = draw_histograms(torch.tensor([2.0, 0.0, 0.0, 0.0]).reshape(4, 1, 1), 2)
    np.testing.assert_allclose(two, slanting, atol=1e-6)
    turned = draw_histograms(torch.tensor([0.0, 1.0, 0.0, 1.0]).reshape(4, 1, 1), 2)
    np.testing.assert_allclose(turned, draw_histograms(torch.tensor([0.0, 1.0]).reshape(2, 1, 1), 2), atol=1e-6)


# Wrong input

#: SparK over four blocks, one of which is visible.
ONE_BLOCK = [
    *("--model", "resnet", "--method", "spark", "--image_size", "64"),
    *("--model_config", "{embedding_size: 8, hidden_sizes: [8, 8, 8, 8], depths: [1, 1, 1, 1], layer_type: basic}"),
    *("--method_config", "{decoder_hidden_size: 32, mask_ratio: 0.75}"),
]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--method", "mae"], "--method: got 'mae', accepted are "),
        (["--model", "vitt"], "--model: unknown preset 'vitt'.*nearest: vit"),
        (["--method", "spark", "--image_size", "64", "--method_config", "{decoder_hidden_size: 32}"],
         "vit has maps at the strides"),
        (["--model", "resnet", "--model_config", "{}", "--method", "localmim", "--method_config", "{}"],
         "got model_type 'resnet', accepted are vit and swin"),
        ([*ONE_BLOCK, "--per_device_train_batch_size", "1"], "--per_device_train_batch_size: got 1, with which a"),
        ([*ONE_BLOCK, "--image_size", "32"], "--image_size: pixel_values: got 32×32 pixels, accepted are two or more"),
        ([*ONE_BLOCK, "--method_config", "{block_size: 24}"], r"64 \(block_size: got 24, accepted are powers of two"),
        (["--method_config", "{mask_ratio: 1.0}"], "mask_ratio: got 1.0"),
        (["--method_config", "{mask_ratoi: 0.5}"], "--method_config: FastMimConfig has no field 'mask_ratoi'"),
        (["--model_config", "{hiden_size: 8}"], "--model_config: ViTConfig has no field 'hiden_size'"),
        (["--method_config", "{backbone_config: {}}"], "backbone_config is what --model"),
        (["--image_size", "18"], "18"),
        (["--progressive_sizes", "16", "18", "--progressive_epochs", "0", "1"], "18×18 pixels, which block_size 4"),
        (["--progressive_sizes", "16", "24"], "--progressive_epochs: got None"),
        (["--progressive_sizes", "16", "24", "--progressive_epochs", "1", "2"], "numbers that grow from 0"),
        (["--progressive_epochs", "0"], "--progressive_epochs goes with --progressive_sizes"),
        ([*GROWING, "--progressive_batch_sizes", "8"], "--progressive_batch_sizes: got"),
        ([*GROWING, *BATCHES, "--num_train_epochs", "2.5"], "--num_train_epochs: got 2.5"),
        (["--crop_scale", "0.9", "0.2"], "--crop_scale: got"),
        (["--image_column", "picture"], "--image_column: there is no 'picture'"),
        (["--ignore_mismatched_sizes", "true"], "--ignore_mismatched_sizes: there is no head"),
        (["--num_channels", "5"], "--num_channels: got 5"),
        (["--crop_scale", "0", "1"], "--crop_scale: got"),
        (["--crop_ratio", "0", "1"], "--crop_ratio: got"),
        (["--encoder_window_size", "0"], "--encoder_window_size: got 0"),
        (["--encoder_image_size", "0"], "--encoder_image_size: got 0"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_before_anything_is_written(words, message, masked_run, tmp_path):
    with pytest.raises(ValueError, match=message):
        prepare("prepare_training", [*masked_run, *words, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_model_that_masks_nothing_says_what_to_do(masked_run, tmp_path):
    ConvNextModel(ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)).save_pretrained(tmp_path / "net")
    run = [*only_images(masked_run), "--model", str(tmp_path / "net"), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="is a convnext, no masked image model.*--method fastmim"):
        prepare("prepare_training", run)
    words = ["--task", "masked-image-modeling", "--model", "vit", "--method", "fastmim", "--dataset", "digits"]
    with pytest.raises(ValueError, match="--method: a new model has learnt nothing"):
        prepare("prepare_evaluation", [*words, "--output", str(tmp_path / "e.json")])


def test_a_preset_is_made_of_the_size_and_channels_that_are_asked_for():
    """Its own, where it has some, and its encoder's; and the processor's."""
    for preset, own in (("spark-resnet-50", True), ("simmim-vit-base", False)):
        published = get_config(preset).backbone_config
        with torch.device("meta"):
            args = MaskedModelArguments(model=preset, image_size=64, num_channels=1)
            model, processor = load_masked_model(args)
        backbone = model.config.backbone_config
        assert (backbone.image_size, backbone.num_channels) == (64, 1)
        assert not own or (model.config.image_size, model.config.num_channels) == (64, 1)
        assert backbone.hidden_act == published.hidden_act and type(backbone) is type(published)
        assert 64 in dict(processor.size).values() and len(processor.image_mean) == 1
        fields = {"backbone_config": {}}
        with pytest.raises(ValueError, match="--image_size: --model_config has a backbone_config, which says it"):
            load_masked_model(MaskedModelArguments(model=preset, image_size=64, model_config=fields))


def test_a_trained_masked_model_keeps_its_size_and_an_encoder_is_whole(masked_run, tmp_path, caplog):
    sizes = {"image_size": 64, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2], "window_size": 2}
    config = LocalMimConfig(
        backbone_config=SwinConfig(**sizes), decoder_hidden_size=16, decoder_num_attention_heads=2, mask_ratio=0.5
    )
    LocalMimForPreTraining(config).save_pretrained(tmp_path / "trained")
    ViTImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "trained")
    for name, value in (("image_size", 32), ("num_channels", 1)):
        with pytest.raises(ValueError, match=f"--{name}: that of .*trained is set; --progressive_sizes trains at"):
            load_masked_model(MaskedModelArguments(model=str(tmp_path / "trained"), **{name: value}))
    model, processor = load_masked_model(MaskedModelArguments(model=str(tmp_path / "trained")))
    assert type(model) is LocalMimForPreTraining and dict(processor.size) == {"height": 64, "width": 64}
    run = [*only_images(masked_run), "--model", str(tmp_path / "trained"), "--output_dir", str(tmp_path / "run")]
    for value, said in ((float("nan"), "has 1 broken weights: enc"), (3e38, "is nan for the first image")):
        with torch.no_grad():
            model.encoder.embeddings.patch_embeddings.projection.bias.fill_(value)
        model.save_pretrained(tmp_path / "trained")
        with pytest.raises(ValueError, match=f"--model: .*trained {said}"):
            prepare("prepare_training", run)
    # Of a network that has more than its encoder the rest is said to be of no use.
    with caplog.at_level("INFO", "hf_effmodels"):
        vit = ViTConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16
        )
        vit.patch_size = 8
        ViTModel(vit).save_pretrained(tmp_path / "vit")
        ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path / "vit")
        config = {"block_size": 8, "hog_cell": 8, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
        args = MaskedModelArguments(model=str(tmp_path / "vit"), method="fastmim", method_config=config)
        load_masked_model(args)
    assert "not of use for the encoder: pooler.dense" in caplog.text


@pytest.mark.parametrize(
    "encoder, fields, block",
    [
        ("vit", {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "patch_size": 8}, 8),
        ("vit", {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "patch_size": 32}, 32),
        ("swin", {"embed_dim": 8, "num_heads": [1, 1, 2, 2], "depths": [1, 1, 1, 1], "window_size": 2}, 32),
    ],
)
def test_fastmim_hides_a_token_of_a_vit_and_32_pixels_of_what_has_stages_where_nobody_says_otherwise(
    encoder, fields, block
):
    fields = {"num_hidden_layers": 1, **fields} if encoder == "vit" else fields
    said = {"decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
    args = MaskedModelArguments(model=encoder, method="fastmim", model_config=fields, method_config=said)
    args.image_size = 64
    config = load_masked_model(args)[0].config
    assert config.block_size == config.encoder_stride == block and config.image_size == 64


def test_losses_of_images_are_those_of_batches_of_one():
    torch.manual_seed(0)
    backbone = SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2)
    config = LocalMimConfig(
        backbone_config=backbone, decoder_hidden_size=16, decoder_num_attention_heads=2, mask_ratio=0.5
    )
    model, pixels = LocalMimForPreTraining(config).eval(), torch.randn(3, 3, 64, 64)
    noise = torch.rand(4)
    each = model.image_losses(pixels, model(pixels, noise=noise))
    alone = [torch.stack(model(pixels[n : n + 1], noise=noise).losses) for n in range(3)]
    torch.testing.assert_close(each, torch.stack(alone))
    assert math.isclose(float(each.mean(0).sum()), float(model(pixels, noise=noise).loss), rel_tol=1e-5)


@pytest.mark.parametrize("channels", [1, 3])
def test_patches_become_an_image_again(channels):
    """Of an image of 2 × 3 patches, each 4 pixels high and wide: rows, columns, colours of a patch in this order."""
    image = np.random.default_rng(0).random((2, channels, 8, 12)).astype(np.float32)
    patches = np.zeros((2, 16 * channels, 2, 3), np.float32)
    for row, column in np.ndindex(2, 3):
        patch = image[:, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        patches[:, :, row, column] = patch.transpose(0, 2, 3, 1).reshape(2, -1)
    assert np.array_equal(_unfolded(torch.from_numpy(patches), channels).numpy(), image)
    cells = torch.from_numpy(np.arange(2 * 9 * 5.0).reshape(2, 9, 5))
    squares = _as_map(cells)
    assert squares.shape == (2, 5, 3, 3)
    for row, column in np.ndindex(3, 3):
        assert torch.equal(squares[:, :, row, column], cells[:, 3 * row + column])


@pytest.mark.parametrize("channels", [1, 3])
def test_normalised_patches_are_drawn_from_two_deviations_below_to_two_above(channels):
    values = torch.tensor([[-3.0, -2.0, -1.0], [0.0, 1.0, 2.5]]).expand(1, channels, 2, 3)
    drawn = _stretched(values, None)
    expected = np.array([[0.0, 0.0, 0.25], [0.5, 0.75, 1.0]], np.float32)
    np.testing.assert_allclose(drawn, expected if channels == 1 else np.stack([expected] * 3, axis=-1))


def test_what_was_hidden_is_grey_and_the_rest_as_it_was():
    said = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.1, 0.4], "do_normalize": True, "do_rescale": True}
    processor = types.SimpleNamespace(**said, rescale_factor=1 / 255)
    data = types.SimpleNamespace(normalization=Normalization.of(processor, 3))
    image = np.random.default_rng(1).random((2, 3, 3))
    pixels = torch.from_numpy(((image - [0.5, 0.4, 0.3]) / [0.2, 0.1, 0.4]).transpose(2, 0, 1)[None])
    np.testing.assert_allclose(_image(pixels, data), image, atol=1e-5)
    hidden = torch.tensor([[[[1, 0, 0], [0, 0, 1]]]])
    shown = _image(pixels, data, hidden)
    assert (shown[0, 0] == 0.5).all() and (shown[1, 2] == 0.5).all()
    np.testing.assert_allclose(shown[0, 1:], image[0, 1:], atol=1e-5)
    np.testing.assert_allclose(shown[1, :2], image[1, :2], atol=1e-5)


def test_scales_are_logged_in_their_order():
    history = [{"loss": 1.0, "loss_scale_7": 1.0, "loss_scale_2": 1.0}, {"eval_loss_scale_4": 1.0}, {"epoch": 1}]
    history += [{f"loss_scale_{number}": 0.5} for number in (5, 1, 8, 3, 6, 4)]
    assert _scales(history) == [f"loss_scale_{number}" for number in range(1, 9)]


@pytest.mark.parametrize(
    "options, message",
    [
        (
            {"progressive_sizes": [], "progressive_epochs": []},
            r"--progressive_epochs: got \[\], accepted is a number for",
        ),
        ({"progressive_sizes": [8, 16]}, "--progressive_epochs: got None, accepted is a number for each of"),
        (
            {"progressive_sizes": [8, 16], "progressive_epochs": [0]},
            r"--progressive_epochs: got \[0\], accepted is a n",
        ),
        ({"progressive_sizes": [8], "progressive_epochs": [1]}, "numbers that grow from 0"),
        ({"progressive_sizes": [8, 9], "progressive_epochs": [0, 0]}, "numbers that grow from 0"),
        ({"progressive_epochs": [0]}, "--progressive_epochs goes with --progressive_sizes"),
        ({"progressive_batch_sizes": [4]}, "--progressive_batch_sizes goes with --progressive_sizes"),
        ({"crop_scale": [0.5, 0.4]}, "--crop_scale: got .*, accepted are two positive numbers in order"),
        ({"crop_ratio": [0.5]}, "--crop_ratio: got .*, accepted are two positive numbers in order"),
        (
            {"progressive_sizes": [8, 9], "progressive_epochs": [0, 2], "progressive_batch_sizes": [4]},
            r"--progressive_batch_sizes: got \[4\], accepted is a number for each of \[8, 9\]",
        ),
    ],
)
def test_stages_that_are_none_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        CropArguments(**options)


def test_stages_are_those_that_are_said_or_one_of_the_size_of_the_run():
    said = {"progressive_sizes": [8, 16], "progressive_epochs": [0, 3]}
    assert CropArguments(**said).stages(99, 5) == Stages((0, 3), (8, 16), (5, 5))
    assert CropArguments(**said, progressive_batch_sizes=[7, 6]).stages(99, 5) == Stages((0, 3), (8, 16), (7, 6))
    assert CropArguments(crop_scale=[0.5, 0.5]).stages(99, 5) == Stages((0,), (99,), (5,))
