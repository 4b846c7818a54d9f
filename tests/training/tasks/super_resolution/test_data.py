"""Which images a super-resolution is trained and measured on, and what cannot be."""

import importlib.util
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image

from hf_effmodels.pipelines import RRDBModel
from hf_effmodels.pipelines.sam_diffsr.scheduling_sam_diffsr import SamDiffSRScheduler
from hf_effmodels.training.tasks.super_resolution import models
from hf_effmodels.training.tasks.super_resolution.arguments import (
    SuperResolutionArguments,
    SuperResolutionEvaluationArguments,
    SuperResolutionModelArguments,
)
from hf_effmodels.training.tasks.super_resolution.data import (
    HighResolutionImages,
    SuperResolutionDataArguments,
    _files,
    _hold_out,
    fit_structure,
    load_data,
    load_evaluation_data,
    read_regions,
    read_rgb,
)
from hf_effmodels.training.tasks.super_resolution.evaluation import by_encoder
from hf_effmodels.training.tasks.super_resolution.models import (
    load_encoder_to_train,
    load_pipeline,
    load_pipeline_to_train,
    trained_encoder,
)

from .conftest import picture


@pytest.fixture
def saved(tmp_path):
    """A table of two pictures with their reductions, and one of none."""
    rows = {"photo": [picture(16, 12, n) for n in range(2)], "small": [picture(4, 3, n) for n in range(2)]}
    features = Features({"photo": ImageFeature(), "small": ImageFeature()})
    DatasetDict(train=Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "table")
    return tmp_path / "table"


def test_pictures_of_a_table_have_the_reductions_of_the_column_that_is_named(saved):
    args = SuperResolutionDataArguments(
        dataset=str(saved), image_column="photo", low_column="small", eval_split="train"
    )
    source = load_evaluation_data(args)
    assert torch.equal(source.image(1), read_rgb(picture(16, 12, 1)))
    assert torch.equal(source.low_image(1, 4), read_rgb(picture(4, 3, 1))) and source.name(1) == "1"
    with pytest.raises(ValueError, match="row 0 .* of .*/train: "):
        source.low_image(0, 2)  # of another scale


@pytest.mark.parametrize(
    "place, given, message",
    [
        ("pictures", {"image_column": "a"}, "--image_column: .*pictures.*/train is a folder, not a table"),
        ("pictures", {"low_column": "a"}, "--low_column: .*pictures.*/train is a folder, not a table"),
        (
            "saved",
            {"image_column": "photo", "low_folder": "x"},
            "--low_folder goes with a folder of images; of a",
        ),
        (
            "saved",
            {"image_column": "photo", "low_column": "a"},
            "--low_column: there is no 'a', the columns are",
        ),
        ("saved", {}, "--image_column"),
        ("pictures", {"low_folder": "saved"}, "--low_folder: .*table has no image for 0.png"),
    ],
)
def test_what_does_not_go_with_a_folder_or_a_table_is_named(place, given, message, pictures, saved):
    places = {"pictures": pictures, "saved": saved}
    given = {name: str(places.get(value, value)) for name, value in given.items()}
    with pytest.raises((ValueError, OSError), match=message):
        load_data(SuperResolutionDataArguments(dataset=str(places[place]), eval_fraction=0.5, **given))


def test_other_arguments_that_exclude_each_other_are_named(tmp_path):
    for make, message in (
        (
            lambda: SuperResolutionDataArguments(dataset="x", low_column="a", low_folder="b"),
            "--low_column and --low_folder exclude each other",
        ),
        (
            lambda: SuperResolutionArguments(output_dir=str(tmp_path), lr_decay_steps=2, lr_scheduler_type="cosine"),
            "--lr_decay_steps goes with --lr_scheduler_type constant, not cosine",
        ),
        (
            lambda: SuperResolutionModelArguments(model="x", model_config={"vae": {}}),
            "--model_config: got vae: {}, accepted are mappings for encoder, unet, scheduler",
        ),
        (lambda: SuperResolutionModelArguments(model="x", model_config={"unet": 3}), "--model_config: got unet: 3"),
        (lambda: SuperResolutionEvaluationArguments(metrics=["lips"]), "--metrics: got 'lips', accepted are"),
        (lambda: SuperResolutionEvaluationArguments(metrics=["lpips", "ssim"]), "--metrics: got 'ssim', accepted are"),
    ):
        with pytest.raises(ValueError, match=message):
            make()


def test_samdiffsrs_training_is_the_default(tmp_path):
    """Adam without clipping on L1 of the noise, patches of 160, the rate halved; the paper has no augmentation."""
    args = SuperResolutionArguments(output_dir=str(tmp_path))
    published = {"patch_size": 160, "patches_per_image": 1, "augment": False, "loss": "l1", "lr_decay_rate": 0.5}
    published |= {"lr_decay_steps": None, "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "scheduler": "own"}
    published |= {"structure_maps": False, "structure_normalization": "none", "structure_constant_to_zero": False}
    published |= {"legacy_mask_crop": False, "crop_border": 0, "num_inference_steps": None}
    assert {name: getattr(args, name) for name in published} == published
    alone = {f.name: getattr(SuperResolutionEvaluationArguments(), f.name) for f in fields(args) if hasattr(
        SuperResolutionEvaluationArguments(), f.name
    )}  # fmt: skip
    assert (alone["scheduler"], alone["crop_border"], alone["seed"], alone["eval_size"]) == ("own", 0, 0, None)


def test_photographs_of_scikit_image_are_asked_for_where_they_are_missing(monkeypatch, tmp_path):
    args = SuperResolutionDataArguments(dataset="skimage_photos")
    real = importlib.util.find_spec
    for spec, error, message in (
        (None, ImportError, "--dataset skimage_photos needs the library scikit-image: pip install scikit-image"),
        (
            SimpleNamespace(submodule_search_locations=[str(tmp_path)]),
            OSError,
            "--dataset skimage_photos: this scikit-image comes without .*data",
        ),
    ):
        found = lambda name, *more, spec=spec: spec if name == "skimage" else real(name, *more)  # noqa: E731
        monkeypatch.setattr(importlib.util, "find_spec", found)
        with pytest.raises(error, match=message):
            load_data(args)


def test_pictures_and_maps_that_cannot_be_read_say_why():
    transparent = Image.new("RGBA", (4, 4), (1, 2, 3, 254))
    with pytest.raises(ValueError, match="the image is transparent in places; paste it onto a background first"):
        read_rgb(transparent)
    transparent.putalpha(255)
    assert read_rgb(transparent)[:, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match=r"the region map is uint8 of shape \(4, 4, 4\), expected whole numbers, one"):
        read_regions(transparent)
    for kind in (bool, np.float32):
        with pytest.raises(ValueError, match=rf"the region map is {kind.__name__} of shape \(4, 4\), expected whole"):
            read_regions(Image.fromarray(np.ones((4, 4), kind)))
    with pytest.raises((ValueError, OSError), match="^the region map: "):
        read_regions({"bytes": b"no picture", "path": None})
    assert np.array_equal(read_regions(Image.fromarray(np.array([[1, 300]], np.uint16))), [[1, 300]])


def test_structure_maps_are_fitted_to_pictures_of_their_form_alone():
    structure = torch.arange(12.0).view(1, 3, 4)
    assert fit_structure(structure, (3, 4)) is structure
    assert fit_structure(structure, (6, 8)).shape == (1, 6, 8)
    assert fit_structure(structure, (5, 7)).shape == (1, 5, 7)  # within a pixel
    with pytest.raises(ValueError, match="the structure map is 4×3, the image 4×6: not one picture's"):
        fit_structure(structure, (6, 4))


def test_a_twentieth_is_held_out_and_a_hundred_at_most(tmp_path):
    """Evenly spread, the first and the last among them; the same alone as beside a training."""
    (tmp_path / "pictures").mkdir()
    for number in range(40):
        picture(8, 8, number).save(tmp_path / "pictures" / f"{number:02}.png")
    args = SuperResolutionDataArguments(dataset=str(tmp_path / "pictures"))
    train, evaluation = load_data(args)
    assert evaluation.rows.tolist() == [0, 39] and train.rows.tolist() == [*range(1, 39)]
    assert evaluation.split == f"{train.split} (held out)"
    args.eval_holdout = 3
    assert load_evaluation_data(args).rows.tolist() == load_data(args)[1].rows.tolist() == [0, 20, 39]


def test_pictures_that_are_kept_make_no_difference_to_what_is_shown_and_compared():
    source = HighResolutionImages([Image.new("RGB", (10, 10))], "mine", 0, ["a"])
    source._cache["high", 0] = np.zeros((10, 10, 3))
    assert "array" not in repr(source) and "OrderedDict" not in repr(source) and "split='mine'" in repr(source)
    assert source == HighResolutionImages(source.images, "mine", 0, ["a"])


def test_what_was_read_last_is_kept_and_no_more_than_there_is_room_for(monkeypatch):
    """Two pictures of 300 bytes where 700 are room enough: a third takes the place of the one read longest ago."""
    monkeypatch.setattr("hf_effmodels.training.tasks.super_resolution.data._CACHE_BYTES", 700)
    read, pixels = [], [Image.new("RGB", (10, 10), (n, 0, 0)) for n in range(3)]

    class Watched(list):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    source = HighResolutionImages(Watched(pixels), "mine", np.arange(3), ["a", "b", "c"])
    for number in (0, 1, 1, 0, 2, 2, 1, 0):
        assert source.image(number)[0, 0, 0] == number
    assert read == [0, 1, 2, 1, 0]


def test_networks_that_a_stage_cannot_train_are_named(encoder, tmp_path):
    torch.manual_seed(0)
    RRDBModel(hidden_size=8, num_blocks=3, growth=4, scale=2).save_pretrained(tmp_path / "two")

    def args(**given):
        return SuperResolutionModelArguments(**{"model": "sam-diffsr-x4", **given})

    for load, given, message in (
        (
            load_pipeline_to_train,
            args(),
            "--encoder is missing: the denoiser is trained on a trained",
        ),
        (
            load_pipeline_to_train,
            args(encoder=str(encoder), model_config={"encoder": {"growth": 4}}),
            "--model_config encoder: --encoder is a trained one with its configuration",
        ),
        (
            load_encoder_to_train,
            args(model=str(encoder), model_config={"encoder": {"growth": 4}}),
            "--model_config goes with presets; a trained encoder has its configuration",
        ),
        (load_encoder_to_train, args(model=str(tmp_path / "two")), "--stage rrdb: at scale 2 the network's image is"),
    ):
        with pytest.raises(ValueError, match=message):
            load(given)
    loaded = load_encoder_to_train(args(model=str(encoder)))
    expected = RRDBModel.from_pretrained(encoder).state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in loaded.state_dict().items())
    file = tmp_path / "file.pt"
    torch.save({"state_dict": {"a": torch.zeros(1)}}, file)
    with pytest.raises(ValueError):  # read as an official file, which it is not
        trained_encoder("--encoder", str(file), args())


@pytest.mark.parametrize(
    ("given", "residual_scale", "legacy_256"),
    [({}, 2.0, False), ({"residual_scale": 3.5}, 3.5, False), ({"legacy_256": True}, 2.0, True)],
)
def test_a_pipeline_to_train_is_made_with_what_is_given_around_the_trained_encoder(
    given, residual_scale, legacy_256, encoder
):
    parts = {"unet": {"hidden_size": 8, "dim_mults": [1, 2]}, "scheduler": {"num_train_timesteps": 10}}
    args = SuperResolutionModelArguments(model="sam-diffsr-x4", encoder=str(encoder), model_config=parts, **given)
    pipe = load_pipeline_to_train(args)
    assert (pipe.config.residual_scale, pipe.config.legacy_256) == (residual_scale, legacy_256)
    assert pipe.unet.config.hidden_size == 8 and pipe.scheduler.config.num_train_timesteps == 10
    expected = RRDBModel.from_pretrained(encoder).state_dict()
    found = pipe.condition_encoder.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    assert (pipe.unet.config.condition_channels, pipe.unet.config.num_conditions) == (8, 1)
    assert not pipe.condition_encoder.training


@pytest.mark.parametrize("ending", ["", "x2", "x4", "x8"])
def test_a_reduction_is_found_by_its_images_name_with_or_without_the_scale(ending, tmp_path):
    for folder, size in (("high", (16, 12)), ("low", (4, 3))):
        (tmp_path / folder).mkdir()
        for number in range(2):
            picture(*size, number).save(tmp_path / folder / f"{number}{ending * (folder == 'low')}.png")
    args = SuperResolutionDataArguments(
        dataset=str(tmp_path / "high"), low_folder=str(tmp_path / "low"), eval_split="train"
    )
    source = load_evaluation_data(args)
    for number in range(2):
        assert torch.equal(source.low_image(number, 4), read_rgb(picture(4, 3, number)))


def test_an_encoder_that_overflows_is_told():
    encoder = RRDBModel(hidden_size=8, num_blocks=3, growth=4)
    enlarge = by_encoder(encoder)
    assert enlarge(torch.zeros(3, 4, 5, dtype=torch.uint8), 0).size == (20, 16)
    with torch.no_grad():
        next(encoder.parameters()).fill_(float("nan"))
    with pytest.raises(ValueError, match="--model: what the encoder predicts is not finite, in torch.float32"):
        enlarge(torch.zeros(3, 4, 5, dtype=torch.uint8), 0)


def test_an_encoder_that_overflows_at_one_place_is_told():
    class Encoder:
        device, dtype = "cpu", torch.float32

        def __call__(self, low):
            image = torch.zeros(1, 3, 8, 8)
            image[0, 1, 2, 3] = float("inf")
            return SimpleNamespace(sample=image)

    with pytest.raises(ValueError, match="--model: what the encoder predicts is not finite"):
        by_encoder(Encoder())(torch.zeros(3, 2, 2, dtype=torch.uint8), 0)


def test_a_training_takes_so_many_of_the_images_evenly_spread(tmp_path):
    for index in range(9):
        picture(8, 8, index).save(tmp_path / f"{index}.png")
    args = SuperResolutionDataArguments(dataset=str(tmp_path), eval_holdout=4, max_train_samples=3, max_eval_samples=2)
    train, evaluation = load_data(args)
    # 0, 3, 5 and 8 are held out.
    assert train.rows.tolist() == [1, 4, 7] and evaluation.rows.tolist() == [0, 8]


@pytest.mark.parametrize("option", ["dataset_config", "dataset_revision"])
def test_what_belongs_to_data_sets_of_the_hub_does_not_go_with_a_folder_of_images(option, tmp_path):
    picture(8, 8, 0).save(tmp_path / "0.png")
    for place in (str(tmp_path), "skimage_photos"):
        with pytest.raises(ValueError, match=f"--{option}: goes with what the library datasets reads"):
            _files(SuperResolutionDataArguments(dataset=place, **{option: "x"}))


def test_whatever_changes_of_the_images_they_are_others():
    """By which a run that goes on knows that it is on the same ones."""

    def source(**changed):
        parts = {
            "images": [picture(8, 8, 0), picture(8, 8, 1)],
            "low": [picture(2, 2, 0), picture(2, 2, 1)],
            "regions": [np.zeros((8, 8), int), np.ones((8, 8), int)],
            "values": [[0.5], [0.25]],
        }
        parts |= changed
        return HighResolutionImages(parts.pop("images"), "mine", np.arange(2), ["a", "b"], **parts)

    known = source().facts()
    names = ["pictures", "low-resolution pictures", "regions", "values of the regions"]
    assert known == source().facts() and list(known) == ["samples", *names] and known["samples"] == 2
    changes = (
        {"images": [picture(8, 8, 0), picture(8, 8, 2)]},
        {"low": [picture(2, 2, 0), picture(2, 2, 2)]},
        {"regions": [np.zeros((8, 8), int), np.zeros((8, 8), int)]},
        {"values": [[0.5], [0.75]]},
    )
    for name, changed in zip(names, changes, strict=True):
        found = source(**changed).facts()
        assert [key for key in known if found[key] != known[key]] == [name]
    plain = source(low=None, regions=None, values=None)
    assert list(plain.facts()) == ["samples", "pictures"]


def test_strings_are_no_pictures(tmp_path):
    rows = Dataset.from_dict({"text": ["a"]}, features=Features({"text": Value("string")}))
    DatasetDict(train=rows).save_to_disk(tmp_path / "table")
    with pytest.raises(ValueError, match="--image_column"):
        load_data(SuperResolutionDataArguments(dataset=str(tmp_path / "table"), eval_fraction=0.5))


def test_images_of_a_folder_are_read_as_they_lie_there_unless_other_files_are_named(tmp_path):
    """In the order of their names, whatever their ending is written like; folders and other files are none."""
    for name in ("b.png", "a.JPG", "notes.txt", "c.png"):
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    named = SuperResolutionDataArguments(dataset=str(tmp_path))
    assert _files(named) == {"train": [tmp_path / name for name in ("a.JPG", "b.png", "c.png")]}
    for other in ({"data_files": "b.png"}, {"data_dir": "x"}):
        assert _files(SuperResolutionDataArguments(dataset=str(tmp_path), **other)) is None
    for other in (tmp_path / "folder.png", tmp_path / "nowhere", "imagefolder"):
        assert _files(SuperResolutionDataArguments(dataset=str(other))) is None


def test_a_folder_has_no_revision(tmp_path):
    """Neither that of a pipeline nor that of an encoder: what lies there would be another one's."""
    args = SimpleNamespace(revision="x", token=None)
    with pytest.raises((ValueError, OSError), match="--revision: got 'x', but --model .* lies here"):
        load_pipeline(str(tmp_path), args)
    with pytest.raises((ValueError, OSError), match="--revision: got 'x', but --encoder .* lies here"):
        trained_encoder("--encoder", str(tmp_path), args)


def test_networks_are_read_where_it_is_said_and_have_to_be_whole(encoder, monkeypatch, tmp_path):
    """From the branch of the Hub that is named, with the token; weights that are lacking are told."""
    asked, filled = [], []

    def read(kind):
        return lambda name, **options: asked.append((kind, name, options)) or SimpleNamespace(components={"a": kind})

    monkeypatch.setattr(models.SamDiffSRPipeline, "from_pretrained", read("pipeline"))
    monkeypatch.setattr(models.RRDBModel, "from_pretrained", read("encoder"))
    monkeypatch.setattr(models, "check_filled", lambda *given: filled.append(given))
    args, place = SimpleNamespace(revision="v1", token="mine"), {"revision": "v1", "token": "mine"}
    pipe = load_pipeline("some/pipeline", args)
    assert asked == [("pipeline", "some/pipeline", place)] and filled == [("--model", "some/pipeline", "pipeline")]
    assert pipe.components == {"a": "pipeline"}
    found = trained_encoder("--encoder", "some/encoder", args)
    assert asked[1:] == [("encoder", "some/encoder", {"subfolder": "condition_encoder", **place})]
    assert filled[1:] == [("--encoder", "some/encoder", found)]
    args.revision = None
    found = trained_encoder("--encoder", str(encoder), args)
    assert asked[2:] == [("encoder", str(encoder), {"revision": None, "token": "mine"})]
    assert filled[2:] == [("--encoder", str(encoder), found)]


def test_with_a_preset_the_revision_is_the_encoders(monkeypatch):
    asked = []

    def read(*given):
        asked.append(given)
        raise KeyError("enough")

    monkeypatch.setattr(models, "trained_encoder", read)
    args = SuperResolutionModelArguments(model="sam-diffsr-x4", encoder="some/encoder", revision="v1")
    with pytest.raises(KeyError, match="enough"):
        load_pipeline_to_train(args)
    assert asked == [("--encoder", "some/encoder", args)]
    args.encoder = None
    with pytest.raises(ValueError, match="--revision"):
        load_pipeline_to_train(args)


@pytest.mark.parametrize("name", ["model_config", "legacy_256", "residual_scale", "encoder"])
def test_a_trained_pipeline_is_trained_on_as_it_is(name, tmp_path):
    value = {"model_config": {"unet": {"hidden_size": 8}}, "legacy_256": True, "residual_scale": 3.0, "encoder": "x"}
    args = SuperResolutionModelArguments(model=str(tmp_path), **{name: value[name]})
    with pytest.raises(ValueError, match=f"--{name} goes with presets; a trained pipeline has its"):
        load_pipeline_to_train(args)


def test_an_encoder_of_a_preset_has_the_fields_that_are_changed():
    args = SuperResolutionModelArguments(
        model="sam-diffsr-x4", model_config={"encoder": {"hidden_size": 8, "num_blocks": 3, "growth": 4}}
    )
    config = load_encoder_to_train(args).config
    assert (config.hidden_size, config.num_blocks, config.growth, config.scale) == (8, 3, 4, 4)


@pytest.mark.parametrize(
    "name, kind",
    [
        ("ddpm", "DDPMScheduler"), ("ddim", "DDIMScheduler"), ("dpmsolver++", "DPMSolverMultistepScheduler"),
        ("unipc", "UniPCMultistepScheduler"), ("deis", "DEISMultistepScheduler"), ("euler", "EulerDiscreteScheduler"),
        ("heun", "HeunDiscreteScheduler"),
    ],
)  # fmt: skip
def test_a_sampler_is_the_one_of_its_name_on_the_schedule_that_was_trained(name, kind):
    own = SamDiffSRScheduler(num_train_timesteps=20)
    assert models.sampler("own", own) is own
    found = models.sampler(name, own)
    assert type(found).__name__ == kind and found.config.num_train_timesteps == 20
    torch.testing.assert_close(found.alphas_cumprod, own.alphas_cumprod)


@pytest.mark.parametrize(
    ("number", "limit", "chosen"),
    [
        (9, 3, [0, 4, 8]),
        (7, 4, [0, 2, 4, 6]),
        (6, 1, [0]),
        (5, 5, [*range(5)]),
        (5, 9, [*range(5)]),
        (3, None, [0, 1, 2]),
    ],
)
def test_so_many_of_the_images_are_evenly_spread(number, limit, chosen, tmp_path):
    for index in range(number):
        picture(8, 8, index).save(tmp_path / f"{index}.png")
    args = SuperResolutionDataArguments(dataset=str(tmp_path), eval_split="train", max_eval_samples=limit)
    source = load_evaluation_data(args)
    assert [source.name(index) for index in range(len(source))] == [str(index) for index in chosen]
    assert torch.equal(source.image(len(chosen) - 1), read_rgb(picture(8, 8, chosen[-1])))


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_reductions_of_the_training_are_none_of_another_data_set_to_evaluate_on(kind, saved, tmp_path):
    for number in range(2):
        for folder, size in (("train", (16, 12)), ("low", (4, 3)), ("other", (16, 12))):
            (tmp_path / folder).mkdir(exist_ok=True)
            picture(*size, number).save(tmp_path / folder / f"{folder * (folder == 'other')}{number}.png")
    given = {"dataset": str(tmp_path / "train"), "low_folder": str(tmp_path / "low")}
    if kind == "table":
        given = {"dataset": str(saved), "image_column": "photo", "low_column": "small"}
    args = SuperResolutionDataArguments(**given, eval_dataset=str(tmp_path / "other"))
    train, evaluation = load_data(args)
    assert torch.equal(train.low_image(1, 4), read_rgb(picture(4, 3, 1))) and len(train) == 2
    for source in (evaluation, load_evaluation_data(args)):
        assert source.low is None and source.low_image(0, 4) is None
        assert [source.name(index) for index in range(len(source))] == ["other0", "other1"]


@pytest.mark.parametrize(
    "count, held_out", [(10, 1), (11, 1), (29, 1), (100, 5), (1999, 100), (2001, 100), (5000, 100)]
)
def test_a_twentieth_is_no_more_than_a_hundred(count, held_out):
    """And one at least."""
    source = HighResolutionImages([None] * count, "mine", np.arange(count), ["a"] * count)
    args = SuperResolutionDataArguments(dataset="x")
    rest, evaluation = _hold_out(source, args)
    places = np.linspace(0, count - 1, held_out).round().astype(int)
    assert evaluation.rows.tolist() == places.tolist() and len(rest) == count - held_out
    assert not {*rest.rows.tolist()} & {*evaluation.rows.tolist()}


@pytest.mark.parametrize(
    "names, taken",
    [
        (["a.png", "ax2.png", "ax4.png", "ax8.png"], "a.png"),
        (["ax8.png", "ax4.png", "ax2.png"], "ax2.png"),
        (["ax8.png", "ax4.png"], "ax4.png"),
        (["ax8.jpg", "x4a.png"], "ax8.jpg"),
    ],
)
def test_prepared_reductions_are_called_as_their_pictures_or_with_their_scale_behind(tmp_path, names, taken):
    for place, files in (("high", ["a.png"]), ("low", names)):
        (tmp_path / place).mkdir()
        for number, name in enumerate(files):
            picture(8, 8, number).save(tmp_path / place / name)
    args = SuperResolutionDataArguments(
        dataset=str(tmp_path / "high"), low_folder=str(tmp_path / "low"), eval_split="train"
    )
    assert load_evaluation_data(args).low == [tmp_path / "low" / taken]


@pytest.mark.parametrize("ending", ["", "x4"])
def test_pictures_of_one_name_have_each_the_reduction_of_the_same_kind_of_file(ending, tmp_path):
    for place, end in (("high", ""), ("low", ending)):
        (tmp_path / place).mkdir()
        for name in ("a.jpg", "a.png", "b.jpg"):
            stem, kind = name.split(".")
            picture(8, 8, 0).save(tmp_path / place / f"{stem}{end}.{'png' if end and stem == 'b' else kind}")
    args = SuperResolutionDataArguments(
        dataset=str(tmp_path / "high"), low_folder=str(tmp_path / "low"), eval_split="train"
    )
    found = [path.name for path in load_evaluation_data(args).low]
    assert found == [f"a{ending}.jpg", f"a{ending}.png", "bx4.png" if ending else "b.jpg"]


@pytest.mark.parametrize("given", [["regions"], ["values"], ["regions", "values"], ["name"], ["low"], []])
def test_what_a_table_has_beside_its_pictures_is_found_by_its_names(tmp_path, given):
    """Maps take both of their columns; the picture is found though `low` and `regions` hold pictures, too."""
    columns = {
        "regions": ([Image.fromarray(np.full((12, 16), n, np.uint16)) for n in range(2)], ImageFeature()),
        "values": ([[0.5, 0.25], [0.75, 0.125]], [Value("float32")]),
        "name": (["first", "second"], Value("string")),
        "low": ([picture(4, 3, n) for n in range(2)], ImageFeature()),
    }
    columns = {"picture": ([picture(16, 12, n) for n in range(2)], ImageFeature())} | {n: columns[n] for n in given}
    features = Features({name: feature for name, (_, feature) in columns.items()})
    table = Dataset.from_dict({name: rows for name, (rows, _) in columns.items()}, features=features)
    DatasetDict(train=table).save_to_disk(tmp_path / "table")
    source = load_evaluation_data(SuperResolutionDataArguments(dataset=str(tmp_path / "table"), eval_split="train"))
    assert torch.equal(source.image(1), read_rgb(picture(16, 12, 1)))
    assert [source.name(n) for n in range(2)] == (["first", "second"] if "name" in given else ["0", "1"])
    assert source.has_structure == (given == ["regions", "values"])
    low = source.low_image(1, 4)
    assert (low is None) == ("low" not in given) and (low is None or torch.equal(low, read_rgb(picture(4, 3, 1))))
    if source.has_structure:
        assert source.structure(1).shape == (1, 12, 16) and source.structure(1).unique().tolist() == [0.75]


@pytest.mark.parametrize("places", [[(3, 2)], [(0, 0), (3, 2)], [(x, y) for x in range(4) for y in range(3)]])
@pytest.mark.parametrize("alpha", [0, 254])
def test_a_picture_that_is_transparent_at_one_place_alone_is_refused(places, alpha):
    image = Image.new("RGBA", (4, 3), (1, 2, 3, 255))
    for place in places:
        image.putpixel(place, (1, 2, 3, alpha))
    with pytest.raises(ValueError, match="the image is transparent in places"):
        read_rgb(image)


@pytest.mark.parametrize(
    "size, fits",
    [
        ((300, 400), True),
        ((300, 405), True),
        ((300, 399), True),
        ((300, 700), False),
        ((400, 300), False),
        ((2, 3), True),
    ],
)
def test_a_small_map_of_a_large_picture_may_be_rounded_to_its_own_pixels(size, fits):
    structure = torch.zeros(1, 3, 4)
    if fits:
        assert fit_structure(structure, size).shape == (1, *size)
        return
    with pytest.raises(
        ValueError, match=f"the structure map is 4×3, the image {size[1]}×{size[0]}: not one picture's"
    ):
        fit_structure(structure, size)


def test_a_picture_that_fills_all_the_room_is_kept_until_the_next_one(monkeypatch):
    monkeypatch.setattr("hf_effmodels.training.tasks.super_resolution.data._CACHE_BYTES", 100)
    read = []

    class Watched(list):
        def __getitem__(self, number):
            read.append(number)
            return super().__getitem__(number)

    pictures = Watched(Image.new("RGB", (10, 10), (n, 0, 0)) for n in range(2))
    source = HighResolutionImages(pictures, "mine", np.arange(2), ["a", "b"])
    for number in (0, 0, 1, 1, 0):
        assert source.image(number)[0, 0, 0] == number
    assert read == [0, 1, 0]


def test_reductions_of_one_scale_are_none_of_another():
    """Though they have been read already; sides of pictures are rounded down, or up where that is what is there."""
    for low, scale, shape in ((picture(5, 4, 1), 4, (3, 3, 4)), (picture(4, 3, 1), 4, (3, 3, 4))):
        source = HighResolutionImages([picture(17, 13, 0)], "mine", np.arange(1), ["a"], [low])
        found = source.low_image(0, scale)
        assert found.shape == shape and torch.equal(found, read_rgb(low)[:, :3, :4])
        with pytest.raises(ValueError, match=r"row 0 \(a\) of mine: .*: that is not the scale 2"):
            source.low_image(0, 2)
