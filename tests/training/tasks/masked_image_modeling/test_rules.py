"""Single rules: how images are evaluated, how long epochs are, what is drawn, which sizes a model is built in."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    ConvNextConfig,
    ConvNextModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTImageProcessorPil,
    ViTModel,
)

from hf_effmodels.training.data.normalization import Normalization
from hf_effmodels.training.data.pictures import Pictures
from hf_effmodels.training.run.trainer import RecipeTrainer
from hf_effmodels.training.tasks.masked_image_modeling import reports
from hf_effmodels.training.tasks.masked_image_modeling import task as masked_images
from hf_effmodels.training.tasks.masked_image_modeling.arguments import CropArguments, MaskedModelArguments
from hf_effmodels.training.tasks.masked_image_modeling.data import Collator, MaskedImages
from hf_effmodels.training.tasks.masked_image_modeling.models import load_masked_model
from hf_effmodels.training.tasks.masked_image_modeling.stages import Stages
from hf_effmodels.training.tasks.masked_image_modeling.trainer import MaskedImageTrainer

from ..test_rare_steps import bare

# Images


def test_each_image_is_evaluated_with_a_mask_of_its_own_that_is_always_the_same():
    source = Pictures([Image.new("L", (20, 16), 50)] * 3, "split", np.arange(3))
    stages = Stages((0,), (16,), (1,))
    data = MaskedImages(source, Normalization((1.0,), (0.0,)), CropArguments(), 1, stages, lambda h, w: h * w // 16)
    for number in range(3):
        expected = np.random.default_rng((7, number)).random(16, dtype=np.float32)
        assert np.array_equal(data[number]["noise"].numpy(), expected)


@pytest.mark.parametrize("one_mask", [True, False])
def test_the_mask_of_a_batch_is_that_of_its_first_image_or_each_has_its_own(one_mask):
    samples = [{"pixel_values": torch.full((1, 2, 2), n), "noise": torch.tensor([n, n + 0.5])} for n in (3.0, 4.0)]
    found = Collator(one_mask)(samples)
    assert found["pixel_values"][:, 0, 0, 0].tolist() == [3.0, 4.0]
    assert found["noise"].tolist() == ([3.0, 3.5] if one_mask else [[3.0, 3.5], [4.0, 4.5]])


def test_images_are_evaluated_in_the_last_size_of_a_run_and_sizes_that_do_not_fit_are_told_by_their_option(
    monkeypatch,
):
    monkeypatch.setattr(masked_images.Normalization, "of", lambda processor, channels: (processor, channels))

    def count(height, width):
        if height == 18:
            raise ValueError("18 pixels are none")
        return height

    model = SimpleNamespace(config=SimpleNamespace(num_channels=1), count_blocks=count)
    stages = Stages((0, 2), (16, 24), (8, 5))
    trained = masked_images._dataset("source", model, "processor", CropArguments(), stages, 3)
    assert trained.stages is stages and trained.seed == 3 and trained.blocks == {16: 16, 24: 24}
    evaluated = masked_images._dataset("source", model, "processor", CropArguments(), stages)
    assert evaluated.stages == Stages((0,), (24,), (5,)) and evaluated.seed is None
    for sizes, option in (((18,), "--image_size"), ((16, 18), "--progressive_sizes")):
        given = Stages((0, 2)[: len(sizes)], sizes, (8, 5)[: len(sizes)])
        with pytest.raises(ValueError, match=f"^{option}: 18 pixels are none$"):
            masked_images._dataset("source", model, "processor", CropArguments(), given, 3)
    for size, side in ((24, 24), ((20, 32), 20)):
        assert masked_images._side(SimpleNamespace(config=SimpleNamespace(image_size=size))) == side


def test_the_first_image_to_evaluate_on_is_read_before_anything_is_written():
    class Model(torch.nn.Module):
        def forward(self, pixel_values):
            return SimpleNamespace(loss=torch.zeros(()))

    args = SimpleNamespace(device="cpu", encoder_image_size=None, encoder_window_size=None)
    trainer = SimpleNamespace(
        model=Model(),
        train_dataset=[{"pixel_values": torch.zeros(1)}],
        eval_dataset=[],
        data_collator=lambda samples: samples[0],
        args=args,
    )
    options = {"num_channels": None, "image_size": None, "method": None, "method_config": {}}
    settings = SimpleNamespace(model="folder", model_config={}, **options)
    with pytest.raises(IndexError):
        masked_images._try_out(trainer, settings, SimpleNamespace(sizes=[16], starts=[0]))


@pytest.mark.parametrize(
    "fields, own, said",
    [
        ({}, {"b": 2}, "--method, --method_config: no model works with fastmim, {'b': 2} (KeyError: 'x')."),
        ({"a": 1}, {}, "--model_config, --method: no model works with {'a': 1}, fastmim (KeyError: 'x')."),
    ],
)
def test_what_does_not_work_is_blamed_on_the_option_that_says_it(fields, own, said):
    args = SimpleNamespace(
        model="vit", model_config=fields, method="fastmim", method_config=own, num_channels=None, image_size=None
    )
    with pytest.raises(ValueError) as error, masked_images._blaming(args):
        raise KeyError("x")
    assert str(error.value) == said


# Steps


@pytest.mark.parametrize("max_steps, epochs, steps", [(-1, 3, 18), (7, 2, 7), (11, 3, 11)])
def test_a_run_has_as_many_epochs_as_its_growing_batches_make(max_steps, epochs, steps, monkeypatch):
    """Of 40 images two epochs in batches of eight, then batches of five."""
    told = []
    monkeypatch.setattr(RecipeTrainer, "set_initial_training_values", lambda *_: (9, 5, 40, 360, 8, 5, 45))
    monkeypatch.setattr(RecipeTrainer, "_run_epoch", lambda self, **given: told.append(given))
    monkeypatch.setattr(RecipeTrainer, "begin_epoch", lambda self, epoch: told.append(epoch))
    args = SimpleNamespace(max_steps=max_steps, num_train_epochs=3.0, world_size=1, gradient_accumulation_steps=1)
    trainer = bare(MaskedImageTrainer, stages=Stages((0, 2), (16, 24), (8, 8)), args=args, epochs=None)
    trainer.use_batch_size = lambda size: told.append(("size", size))
    assert trainer.set_initial_training_values(args, None) == (9, 5, 40, 360, 8, 5, 45) and trainer.epochs is None
    trainer._run_epoch(epoch=2, steps_in_epoch=5)
    trainer.begin_epoch(2)
    assert told == [{"epoch": 2, "steps_in_epoch": 5}, 2]
    trainer.stages = Stages((0, 2), (16, 24), (8, 5))
    found = trainer.set_initial_training_values(args, None)
    assert found == (epochs, 5, 40, 40 * epochs, 8, 5, steps)
    last = epochs - 1
    length = 8 if last == 2 else 5
    trainer._run_epoch(epoch=last, steps_in_epoch=5, num_update_steps_per_epoch=5)
    trainer.begin_epoch(last)
    given = {"epoch": last, "steps_in_epoch": length, "num_update_steps_per_epoch": length}
    assert told[2:] == [given, ("size", 5 if last == 2 else 8), last]
    assert trainer.place(6) == (1, 1, 5) and trainer.place(99)[2] == length


def test_losses_are_means_of_batches_and_measured_in_float32(monkeypatch):
    monkeypatch.setattr(RecipeTrainer, "__init__", lambda self, **_: vars(self).update(model_accepts_loss_kwargs=True))
    trainer = MaskedImageTrainer(stages="stages")
    assert trainer.model_accepts_loss_kwargs is False and trainer.epochs is None

    class Network:
        def __call__(self, **inputs):
            return "outputs"

        def image_losses(self, pixels, outputs):
            return torch.ones(len(pixels), 1, dtype=torch.bfloat16)

    monkeypatch.setattr(MaskedImageTrainer, "network", Network())
    trainer._prepare_inputs, trainer.compute_loss_context_manager = (lambda inputs: inputs), nullcontext
    loss, losses, labels = trainer.prediction_step(None, {"pixel_values": torch.zeros(3, 1, 2, 2)}, False)
    assert loss is None and losses.dtype == torch.float32 and losses.shape == (3, 1) and len(labels) == 3


# Drawn


@pytest.mark.parametrize("normalized", [True, False])
@pytest.mark.parametrize("kind", ["simmim", "spark", "localmim"])
def test_what_was_hidden_is_grey_beside_what_was_asked_for_and_what_was_predicted(kind, normalized):
    """Of four blocks of 4 x 4 pixels the second of the first row is hidden."""
    rng = torch.Generator().manual_seed(0)
    pixels, target, predicted = (torch.rand(1, 3, 8, 8, generator=rng) for _ in range(3))
    mask = torch.tensor([[[0.0, 1.0], [0.0, 0.0]]])

    def patches(image):  # rows, columns and colours of a patch, in this order
        return image.unflatten(2, (2, 4)).unflatten(4, (2, 4)).permute(0, 2, 4, 3, 5, 1).reshape(1, 4, 48)

    outputs = {"mask": mask.flatten(1) if kind == "localmim" else mask, "reconstruction": predicted}
    outputs |= {"targets": [patches(target)], "logits": [patches(predicted)]}

    class Model:
        config = SimpleNamespace(
            model_type=kind, backbone_config=SimpleNamespace(patch_size=4), block_size=4, num_channels=3,
            target="pixels", normalize_target=normalized,
        )  # fmt: skip

        def __call__(self, pixel_values):
            return SimpleNamespace(**outputs)

        def target_of(self, pixels):
            return target

    if kind == "simmim":  # which has no such choice
        del Model.config.normalize_target
    data = SimpleNamespace(normalization=Normalization((1 / 255,) * 3, (0.0,) * 3))
    shown = reports.views(Model(), {"pixel_values": pixels}, data)

    def picture(image):
        return image[0].permute(1, 2, 0).numpy()

    seen = picture(pixels).copy()
    seen[:4, 4:] = 0.5
    asked, answered = picture(pixels if kind == "simmim" else target), picture(predicted)
    if normalized and kind != "simmim":
        asked, answered = (values / 4 + 0.5 for values in (asked, answered))
    expected = {"image": picture(pixels), "seen": seen, "target": asked, "prediction": answered}
    assert [*shown] == [*expected]
    for name, values in expected.items():
        np.testing.assert_allclose(shown[name], values, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("one_mask", [True, False])
def test_no_more_images_are_drawn_than_there_are_each_with_its_mask(one_mask, monkeypatch, tmp_path):
    asked, drawn = [], []

    def views(model, sample, data):
        asked.append((sample["pixel_values"].shape, sample["noise"].tolist()))
        return {name: np.zeros((2, 2)) for name in ("image", "seen", "target", "prediction")}

    monkeypatch.setattr(reports, "views", views)
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append((len(figure.axes), file)))
    model = SimpleNamespace(device="cpu", eval=lambda: None, one_mask_per_batch=one_mask)
    data = [{"pixel_values": torch.zeros(1, 2, 2), "noise": torch.tensor([float(n), 0.5])} for n in range(2)]
    reports.draw_predictions(model, data, 5, tmp_path / "masked.png")
    noises = [[float(n), 0.5] for n in range(2)]
    assert asked == [((1, 1, 2, 2), noise if one_mask else [noise]) for noise in noises]
    assert drawn == [(8, tmp_path / "masked.png")]


# Models


@pytest.mark.parametrize(
    "method, model, fields",
    [
        ("fastmim", "tinyvit-5m", {}),
        ("fastmim", "resnet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}),
        ("fastmim", "CONVNEXT", {}),
        ("fastmim", "RESNET", {}),  # whose configuration knows no size: it takes any
        ("spark", "gold-yolo-n", {}),
        ("simmim", "vit", {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "patch_size": 32}),
    ],
)
def test_a_model_its_encoder_and_its_image_processor_are_of_the_size_that_is_asked_for(
    method, model, fields, tmp_path
):
    folder = model.isupper()
    if folder:
        sizes = {"hidden_sizes": [8, 16], "depths": [1, 1]}
        kinds = {
            "CONVNEXT": lambda: ConvNextModel(ConvNextConfig(**sizes, num_stages=2)),
            "RESNET": lambda: ResNetModel(ResNetConfig(**sizes, embedding_size=8, layer_type="basic")),
        }
        kinds[model]().save_pretrained(tmp_path)
        ViTImageProcessorPil(size={"height": 224, "width": 224}).save_pretrained(tmp_path)
        model = str(tmp_path)
    own = {"encoder_stride": 8} if method == "fastmim" and not model.startswith("tinyvit") else {}
    args = {"model": model, "method": method, "model_config": fields, "method_config": own}
    with nullcontext() if folder else torch.device("meta"):
        built, processor = load_masked_model(MaskedModelArguments(**args, image_size=64))
    assert built.config.image_size == 64
    assert getattr(built.config.backbone_config, "image_size", 64) == 64
    assert {*dict(processor.size).values()} - {None} == {64}


def test_without_a_size_a_method_takes_its_encoders():
    with torch.device("meta"):
        model, processor = load_masked_model(MaskedModelArguments(model="gold-yolo-n", method="spark"))
    assert model.config.image_size == model.config.backbone_config.image_size == 640
    assert 640 in dict(processor.size).values() and model.config.num_channels == 3


def test_an_encoder_needs_no_pooler(tmp_path):
    fields = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = ViTModel(ViTConfig(**fields, patch_size=8, image_size=16), add_pooling_layer=False)
    encoder.save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    said = {"block_size": 8, "hog_cell": 8, "decoder_hidden_size": 16, "decoder_num_hidden_layers": 1}
    model, _ = load_masked_model(MaskedModelArguments(model=str(tmp_path), method="fastmim", method_config=said))
    found = model.encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in encoder.state_dict().items())
