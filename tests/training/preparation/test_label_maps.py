"""Label maps are what a classifier says of each place, and crops are labelled by their part of them."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels import create_model
from hf_effmodels.training import main, prepare
from hf_effmodels.training.data.augment import random_resized_box
from hf_effmodels.training.data.label_maps import LabelMaps
from hf_effmodels.training.data.pictures import Pictures
from hf_effmodels.training.losses import label_maps
from hf_effmodels.training.losses.label_maps import pooled_targets
from hf_effmodels.training.preparation.label_maps import main as annotate
from hf_effmodels.training.preparation.label_maps import places, table
from hf_effmodels.training.preparation.label_maps.official import official_files, read_official
from hf_effmodels.training.preparation.label_maps.places import PlaceClassifier

from ..tasks.contract import history
from ..tasks.distillation.conftest import teacher  # noqa: F401

SHORT = ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "false"]


def transformer(kind, **options):
    common = {"num_labels": 7, "image_size": 32, "patch_size": 8}
    return kind(**{**common, **options})


@pytest.fixture(scope="module")
def networks():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    swin = {"embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2, "patch_size": 4}
    convnext = {"patch_size": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_labels": 7}
    found = {
        "vit": ViTForImageClassification(transformer(ViTConfig, **sizes)),
        "swin": SwinForImageClassification(transformer(SwinConfig, **swin)),
        "convnext": ConvNextForImageClassification(ConvNextConfig(**convnext)),
        "mobilenetv2": MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.25, num_labels=7)),
        "ours": create_model("vanillanet-5", num_labels=7),
    }
    return {name: model.eval() for name, model in found.items()}


@pytest.mark.parametrize("name", ["swin", "mobilenetv2"])
@torch.no_grad()
def test_the_mean_over_the_places_is_what_an_average_and_a_linear_layer_say(networks, name):
    pixels = torch.randn(2, 3, 32 if name == "swin" else 96, 32 if name == "swin" else 96)
    model = networks[name]
    for module in model.modules():  # of a network at its beginning next to nothing arrives
        if isinstance(module, torch.nn.Linear) and module.out_features == 7:
            torch.nn.init.normal_(module.weight)
    maps = PlaceClassifier(model, pixels)(pixels)
    assert maps.shape[2] > 1
    torch.testing.assert_close(maps.mean((2, 3)), model(pixel_values=pixels).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_what_stands_before_the_classifier_is_done_to_each_place(networks):
    pixels = torch.randn(3, 3, 32, 32)
    model = networks["vit"]
    tokens = model.vit(pixels).last_hidden_state[:, 1:]
    expected = model.classifier(tokens).transpose(1, 2).unflatten(2, (4, 4))
    torch.testing.assert_close(PlaceClassifier(model, pixels[:2])(pixels), expected)
    model = networks["convnext"]
    features = model.convnext(pixels).last_hidden_state
    expected = model.classifier(model.convnext.layernorm(features.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    torch.testing.assert_close(PlaceClassifier(model, pixels[:2])(pixels), expected)
    assert PlaceClassifier(networks["ours"], torch.randn(2, 3, 96, 96)).grid == (3, 3)


class Pooled(torch.nn.Module):
    """A network that pools features of any layout, which a module of it returns in any container."""

    def __init__(self, shape: tuple[int, ...], places: tuple[int, ...], wrap):
        super().__init__()
        self.places, self.wrap = places, wrap
        self.body, self.head = torch.nn.Unflatten(1, shape), torch.nn.Linear(6, 5)
        self.body.register_forward_hook(lambda module, args, output: wrap(output))

    def forward(self, pixel_values):
        features = self.body(pixel_values.flatten(1))
        while not isinstance(features, torch.Tensor):
            features = next(iter(features.values())) if isinstance(features, dict) else features[0]
        return {"logits": self.head(features.mean(self.places))}


@pytest.mark.parametrize(
    "shape, places", [((6, 3, 4), (2, 3)), ((4, 4, 6), (1, 2)), ((16, 6), (1,))], ids=["maps", "maps_last", "tokens"]
)
@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: (x, "more"), lambda x: [x], lambda x: {"features": x, "more": 1}]
)
@torch.no_grad()
def test_features_of_any_layout_are_taken_apart_wherever_a_module_has_them(shape, places, wrap):
    torch.manual_seed(0)
    count = int(np.prod(shape))
    network, pixels = Pooled(shape, places, wrap), torch.randn(3, count, 1, 1)
    apart = PlaceClassifier(network, pixels[:2])
    features = pixels.view(3, *shape)
    features = features.permute(0, 2, 3, 1) if shape[0] == 6 else features
    expected = network.head(features.reshape(3, -1, 6)).transpose(1, 2)
    torch.testing.assert_close(apart(pixels).flatten(2), expected)
    assert apart.grid == ((3, 4) if shape[0] == 6 else (4, 4))


def test_a_network_is_looked_at_with_two_pictures():
    with pytest.raises(ValueError, match="pixel_values: got 3 pictures, accepted are two"):
        PlaceClassifier(Pooled((16, 6), (1,), lambda x: x), torch.randn(3, 96, 1, 1))


def test_published_maps_that_are_none_are_named(tmp_path):
    pictures = Pictures([{"bytes": b"", "path": "n01/a.png"}, {"bytes": b"", "path": None}], "mine", np.arange(2))
    with pytest.raises(ValueError, match="--official_maps: there is no folder 'nowhere'"):
        official_files("nowhere", pictures)
    with pytest.raises(ValueError, match="--official_maps: row 1 of mine has no file name to find its map by"):
        official_files(str(tmp_path), pictures)
    (tmp_path / "n01").mkdir()
    for values, said in (
        (torch.zeros(3, 1, 2, 2), r"\(3, 1, 2, 2\)"), (torch.zeros(2, 2, 2), r"\(2, 2, 2\)"), ({}, "dict"),
    ):  # fmt: skip
        torch.save(values, tmp_path / "n01" / "a.pt")
        with pytest.raises(ValueError, match=rf"a.pt holds {said}, accepted is \(2, top_k, height, width\)"):
            read_official(*official_files(str(tmp_path), pictures.select([0])))


def test_a_network_without_places_is_refused():
    class Blind(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 5)

        def forward(self, pixel_values):
            return {"logits": self.layer(pixel_values.mean((2, 3)))}

    with pytest.raises(ValueError, match="its head is not made of features with places"):
        PlaceClassifier(Blind(), torch.randn(2, 3, 8, 8))


def test_a_teacher_of_maps_is_read_as_is_said_and_sees_pictures_of_its_own_channels(monkeypatch):
    torch.manual_seed(0)
    sizes = {"patch_size": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "num_labels": 7}
    model, asked = ConvNextForImageClassification(ConvNextConfig(**sizes, num_channels=1)), []
    torch.nn.init.normal_(model.classifier.weight)
    processor = ConvNextImageProcessorPil(image_mean=[0.5, 0.2, 0.2], image_std=[0.5, 0.2, 0.2])

    def read(*names, **options):
        asked.append((names[1:], options))
        return model if names[1] == "--teacher" else processor

    monkeypatch.setattr(table, "load_whole", read)
    monkeypatch.setattr(table, "load_image_processor", lambda name, config, **options: read(0, name, **options))
    given = (
        SimpleNamespace(teacher_image_size=16, top_k=2, batch_size=2),
        SimpleNamespace(teacher="org/net", teacher_revision="v1", teacher_dtype="bfloat16"),
        SimpleNamespace(token="hf_mine", trust_remote_code=True),
        SimpleNamespace(device=torch.device("cpu"), dataloader_num_workers=0),
    )
    settings, make, channels = table._annotated(*given)
    hub = {"token": "hf_mine", "trust_remote_code": True}
    assert asked == [
        (("--teacher", "org/net"), {"revision": ("--teacher_revision", "v1"), "dtype": "bfloat16", **hub}),
        (("org/net",), {"revision": "v1", **hub}),
    ]
    assert channels == 1 and settings["map_size"] == [4, 4] and settings["revision"] == "v1"
    pictures = [Image.effect_noise((16, 16), 80) for _ in range(3)]
    told = []
    made = [*make(Pictures(pictures, "mine", np.arange(3)), range(3), told.append)]
    pixels = torch.stack([torch.from_numpy(np.array(picture)) for picture in pictures])[:, None].float() / 255
    with torch.no_grad():
        features = model.convnext((pixels - 0.3) / 0.3).last_hidden_state
        dense = model.classifier(model.convnext.layernorm(features.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
    kept = dense.topk(2, dim=1)
    torch.testing.assert_close(torch.cat([values for values, _ in made]), kept.values, rtol=1e-4, atol=1e-4)
    assert told == [2, 1] and torch.equal(torch.cat([classes for _, classes in made]), kept.indices)
    processor.do_flip_channel_order = True
    with pytest.raises(ValueError, match="^--teacher: its image processor swaps red and blue"):
        table._annotated(*given)


@pytest.fixture
def run(digits_run):
    return [*digits_run, "--train_crop", "random_resized", "--crop_scale", "0.3", "0.6", *SHORT]


def test_the_maps_are_made_resumed_and_label_the_crops_of_a_training(run, teacher, tmp_path, monkeypatch):  # noqa: F811
    folder = tmp_path / "maps"
    make = [*run, "--output_dir", str(tmp_path / "unused"), "--output", str(folder), "--teacher", str(teacher)]
    make += ["--label_precision", "float32", "--shard_size", "16", "--top_k", "3", "--teacher_image_size", "32"]
    write, written = table.TableWriter.write, []

    def killed(self, name, columns):
        if len(written) == 1:
            raise KeyboardInterrupt
        written.append(name)
        write(self, name, columns)

    monkeypatch.setattr(table.TableWriter, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        annotate(make)
    train = [*run, "--label_maps", str(folder), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(ValueError, match="holds no finished table of hf-effmodels prepare label-maps"):
        main(train)
    with pytest.raises(ValueError, match="holds a table begun with another top_k"):
        annotate([*make, "--top_k", "5"])
    written.clear()
    monkeypatch.setattr(table.TableWriter, "write", lambda *args: (written.append(args[1]), write(*args)))
    annotate([*make, "--task", "distillation"])  # a recipe with a teacher is as good
    assert [name[:11] for name in written] == ["train-00001", "train-00002"], "the first file was there already"

    options = ["--label_map_weight", "0.75", "--label_map_missing", "excluded", "--label_map_temperature", "2"]
    trainer = prepare("prepare_training", [*train, *options]).trainer
    dataset, model = trainer.train_dataset, AutoModelForImageClassification.from_pretrained(teacher).eval()
    processor = AutoImageProcessor.from_pretrained(teacher)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    for number in (5, 40 + 31):  # of both epochs
        index = number % 40
        image = dataset.source.read(index, 3)
        pixels = torch.from_numpy(np.asarray(image.resize((32, 32), processor.resample)) / 255).permute(2, 0, 1)
        with torch.no_grad():
            features = model.resnet(((pixels - mean) / std)[None].float()).last_hidden_state
            dense = torch.nn.functional.conv2d(
                features, model.classifier[1].weight[:, :, None, None], model.classifier[1].bias
            )
        kept = dense.topk(3, dim=1)
        rng = np.random.default_rng((dataset.seed, number // 40, index))
        rng.integers(2**32)
        left, top, right, bottom = random_resized_box(*image.size, [0.3, 0.6], [3 / 4, 4 / 3], rng)
        box = [top / image.height, left / image.width, bottom / image.height, right / image.width]
        expected = pooled_targets(kept.values, kept.indices, [box], 10, missing="excluded", temperature=2.0)[0]
        own = torch.nn.functional.one_hot(torch.tensor(dataset.source.labels[index]), 10)
        torch.testing.assert_close(dataset[number]["labels"], 0.75 * expected + 0.25 * own, rtol=1e-4, atol=1e-5)
    # A model that numbers its classes in another order is told the same.
    names = dataset.source.names
    maps, turned = (LabelMaps(folder, dataset.source, order) for order in (names, names[3:] + names[:3]))
    target = maps.target(index, box)
    assert not torch.equal(target, target.roll(3))
    torch.testing.assert_close(turned.target(index, box), target.roll(-3))
    assert "labels" in trainer.eval_dataset[0] and isinstance(trainer.eval_dataset[0]["labels"], int)

    main([*train, "--cutmix", "1", "--mix_off_epochs", "1", "--label_smoothing_factor", "0.1"])
    losses = history(tmp_path / "out", "loss")
    assert len(losses) == 10 and np.isfinite(losses).all()

    other = ["--output_dir", str(tmp_path / "refused")]
    for changed, message in (
        (["--max_train_samples", "50"], "has none of row .* nor of .* others: it was made of other samples"),
        (["--dataset", "digits-inverted"], "was made of another picture than row 0 of digits-inverted/train"),
        (
            ["--train_crop", "random_padded", "--crop_scale", "0.08", "1"],
            "--train_crop random_padded makes none; use random_resized",
        ),
        (["--cutmix", "1", "--mix_off_epochs", "1", "--max_steps", "4"], "--mix_off_epochs: it counts from the last"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*train, *changed, *other])
    settings = json.loads((folder / "label_maps.json").read_text())
    (folder / "label_maps.json").write_text(json.dumps({**settings, "classes": settings["classes"][:9]}))
    with pytest.raises(ValueError, match="--label_maps: their classes .* are not the model's"):
        main([*train, *other])
    with pytest.raises(OSError, match="--label_maps: there is no folder"):
        main([*train[:-4], "--label_maps", str(tmp_path / "nowhere"), *other])
    assert not (tmp_path / "refused" / "training_config.yaml").exists()


def test_published_maps_are_read_by_the_names_of_the_files(tmp_path, run):
    from PIL import Image
    from sklearn.datasets import load_digits

    scores, classes = torch.randn(2, 3, 4), torch.randint(0, 2, (2, 3, 4))
    for label in ("n01", "n02"):
        for name in ("a", "b.c"):
            for split in ("train", "test"):
                file = tmp_path / "pictures" / split / label / f"{name}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray((load_digits().images[len(name)] * 15).astype(np.uint8)).save(file)
            stored = tmp_path / "official" / label / f"{name.partition('.')[0]}.pt"
            stored.parent.mkdir(parents=True, exist_ok=True)
            torch.save(torch.stack([scores, classes.float()]), stored)
    at = run.index("--dataset")
    data = [*run[:at], "--dataset", str(tmp_path / "pictures"), *run[at + 2 :], "--output", str(tmp_path / "maps")]
    data += ["--top_k", "2", "--output_dir", str(tmp_path / "unused"), "--cache_dir", str(tmp_path / "cache")]
    annotate([*data, "--official_maps", str(tmp_path / "official")])
    settings = json.loads((tmp_path / "maps" / "label_maps.json").read_text())
    assert settings["axis_order"] == "published" and settings["map_size"] == [3, 4] and settings["samples"] == 4
    shutil.rmtree(tmp_path / "maps")
    for part in (classes + 1, classes[:, :2]):  # of a class that there is not, of another size
        torch.save(torch.stack([scores[:, : part.shape[1]], part.float()]), tmp_path / "official" / "n02" / "b.pt")
        with pytest.raises(ValueError, match=r"b.pt has a map of shape .*, accepted are \(2, 3, 4\) and 2 classes"):
            annotate([*data, "--official_maps", str(tmp_path / "official")])
        shutil.rmtree(tmp_path / "maps")
    (tmp_path / "official" / "n02" / "b.pt").unlink()
    with pytest.raises(ValueError, match="--official_maps: 1 of 4 files are missing, such as row 3 .*b.pt"):
        annotate([*data, "--official_maps", str(tmp_path / "official")])


def test_wrong_input_is_named(run, teacher, tmp_path):  # noqa: F811
    shutil.copytree(teacher, tmp_path / "named")
    config = json.loads((tmp_path / "named" / "config.json").read_text())
    config["id2label"] = {number: f"letter {number}" for number in range(10)}
    (tmp_path / "named" / "config.json").write_text(json.dumps(config))
    mapping = json.dumps({number: f"digit {number}" for number in range(10)})
    shutil.copytree(teacher, tmp_path / "wide")
    for file in (tmp_path / "wide").glob("p*processor*.json"):
        settings = json.loads(file.read_text())
        part = settings.get("image_processor", settings)
        part |= {"size": {"height": 24, "width": 32}, "image_processor_type": "ViTImageProcessor"}
        file.write_text(json.dumps(settings))
    out = ["--output_dir", str(tmp_path / "unused"), "--output", str(tmp_path / "maps")]
    for options, message in (
        ([], "--teacher is missing: name an image classifier"),
        (["--teacher", str(teacher), "--top_k", "11"], "--top_k: got 11, accepted are numbers up to .* classes, 10"),
        (["--teacher", str(teacher), "--teacher_image_size", "2"], "with pictures of 2×2: .* features with places"),
        (["--teacher", str(tmp_path / "wide")], "--teacher: it takes pictures of 24×32; --teacher_image_size gives a"),
        (
            ["--task", "distillation", "--teacher", f"{{{teacher}: 1, {tmp_path / 'named'}: 1}}"],
            "--teacher: got 2 of them, accepted is one that makes the maps",
        ),
        (["--task", "distillation", "--losses", "{kd: {}}"], "--teacher is missing: name an image classifier"),
        (["--teacher", str(teacher), "--official_maps", "x"], "--official_maps and --teacher exclude each other"),
        (
            ["--teacher", str(tmp_path / "named"), "--label_mapping", mapping],
            r"classes \(10: digit 0, .*\) are not the model's \(10: letter 0, letter 1",
        ),
        (["--task", "causal-lm"], "--task: got causal-lm, accepted are image-classification and distillation"),
    ):
        with pytest.raises(ValueError, match=message):
            annotate([*run, *out, *options])
    shutil.copytree(teacher, tmp_path / "broken")
    file = tmp_path / "broken" / "model.safetensors"
    save_file({name: value / 0 for name, value in load_file(file).items()}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="--teacher: .* has .* broken weights"):
        annotate([*run, *out, "--teacher", str(tmp_path / "broken")])
    with pytest.raises(ValueError, match="--output is missing"):
        annotate([*run, "--output_dir", str(tmp_path / "unused"), "--teacher", str(teacher)])
    assert not (tmp_path / "maps").exists()


def test_features_without_places_have_no_layout():
    for shape, layout in (((6,), None), ((2, 3, 4, 4), None), ((6, 3, 4), "maps"), ((4, 4, 6), "maps_last")):
        assert places._Features(torch.nn.Identity(), shape).layout == layout
    # Tokens: with none, one, two or five that stand for no place, the others fill a square.
    for tokens, layout in ((16, "tokens"), (17, "tokens"), (18, "tokens"), (21, "tokens"), (22, None)):
        assert places._Features(torch.nn.Identity(), (tokens, 8)).layout == layout


def test_what_lies_outside_of_a_map_counts_as_nothing():
    """Six points a cell apart, at -4 to 1: two of them are in reach, that of -1 at the first cell."""
    assert label_maps._axis_weights(-1.0, 0.5, 4, 4).tolist() == [pytest.approx(w / 6) for w in (2, 1, 0, 0)]
    # At 2 to 7 of 4 cells: those at 3 and 4 are the last cell.
    assert label_maps._axis_weights(0.5, 2.0, 4, 4).tolist() == [pytest.approx(w / 6) for w in (0, 0, 1, 2)]
    assert not label_maps._axis_weights(3.0, 4.0, 4, 4).any()


@pytest.mark.parametrize("classes, kind", [(2**15 - 1, "int16"), (2**15, "int32")])
def test_numbers_of_classes_take_two_bytes_where_that_is_enough(classes, kind, tmp_path):
    images = [np.full((2, 2, 3), number, np.uint8) for number in range(5)]
    source = Pictures([Image.fromarray(image) for image in images], "mine", np.array([3, 1, 4]))
    settings = {"shard_size": 2, "classes": ["x"] * classes, "precision": "float16"}

    def make(source, numbers, advance):
        for number in numbers:
            advance(1)
            yield torch.full((1, 2, 1, 1), number + 0.5), torch.tensor([[[[classes - 1]], [[number]]]])

    table._write(tmp_path / "table", source, settings, make)
    found = pq.read_table(tmp_path / "table" / "data")
    assert found.column("row").to_pylist() == [3, 1, 4]
    assert found.column("classes").to_pylist() == [[classes - 1, number] for number in range(3)]
    assert found.column("scores").to_pylist() == [[number + 0.5] * 2 for number in range(3)]
    assert str(found.schema.field("classes").type.value_type) == kind
    assert str(found.schema.field("scores").type.value_type) == "halffloat"
