"""What the task promises beyond the contract."""

import json
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoBackbone,
    AutoImageProcessor,
    AutoModelForSemanticSegmentation,
    BeitConfig,
    BeitForSemanticSegmentation,
    ConvNextConfig,
    MobileViTConfig,
    MobileViTForSemanticSegmentation,
    SegformerConfig,
    SegformerForSemanticSegmentation,
    SegformerImageProcessorPil,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTModel,
    pipeline,
)

from hf_effmodels import get_config
from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.data.classes import numbered_as
from hf_effmodels.training.data.digit_canvases import digit_canvas
from hf_effmodels.training.data.errors import SampleError
from hf_effmodels.training.optim.layer_decay import layer_decay_scales
from hf_effmodels.training.tasks.semantic_segmentation import data as segmentation_data
from hf_effmodels.training.tasks.semantic_segmentation import evaluation, models, reports, task, transforms
from hf_effmodels.training.tasks.semantic_segmentation.arguments import (
    MeasuringArguments,
    SegmentationArguments,
    SegmentationAugmentationArguments,
    SegmenterArguments,
)
from hf_effmodels.training.tasks.semantic_segmentation.data import (
    SegmentationDataArguments,
    SegmentationImages,
    load_data,
    load_evaluation_data,
)
from hf_effmodels.training.tasks.semantic_segmentation.evaluation import measure, window_scores, window_starts
from hf_effmodels.training.tasks.semantic_segmentation.models import load_segmenter
from hf_effmodels.training.tasks.semantic_segmentation.reports import palette
from hf_effmodels.training.tasks.semantic_segmentation.trainer import SegmentationTrainer
from hf_effmodels.training.tasks.semantic_segmentation.transforms import (
    SegmentationDataset,
    cropped,
    normalised,
    recoloured,
    rescaled,
)

from .test_contract import WITHOUT_DROPOUT

SHORT = [
    *("--dataset", "digits", "--max_train_samples", "4", "--max_eval_samples", "2", "--max_steps", "1"),
    *("--per_device_train_batch_size", "2", "--eval_strategy", "no", "--save_strategy", "no", "--logging_steps", "1"),
    *("--load_best_model_at_end", "false"),
]
_BACKBONE = ConvNextConfig(
    hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, out_features=["stage1", "stage2", "stage3", "stage4"]
)


def _stock(name: str):
    """Four segmenters that this project did not write."""
    torch.manual_seed(0)
    if name == "upernet":
        config = UperNetConfig(
            backbone_config=_BACKBONE, hidden_size=8, pool_scales=[1, 2], auxiliary_in_channels=8, num_labels=11
        )
        return UperNetForSemanticSegmentation(config)
    if name == "segformer":
        config = SegformerConfig(
            hidden_sizes=[8, 8, 8, 8],
            depths=[1] * 4,
            num_attention_heads=[1, 1, 2, 2],
            decoder_hidden_size=8,
            num_labels=11,
        )
        return SegformerForSemanticSegmentation(config)
    if name == "beit":
        config = BeitConfig(
            hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=16, image_size=64,
            patch_size=16, out_indices=[1, 2, 3, 4], pool_scales=[1, 2], num_labels=11, use_auxiliary_head=False,
        )  # fmt: skip
        return BeitForSemanticSegmentation(config)
    config = MobileViTConfig(
        hidden_sizes=[8, 12, 16], neck_hidden_sizes=[4, 4, 8, 8, 12, 16, 16], num_attention_heads=2, num_labels=11,
        aspp_out_channels=8, atrous_rates=[2, 3, 4], image_size=64,
    )  # fmt: skip
    return MobileViTForSemanticSegmentation(config)


class _One:
    """One image and its map."""

    def __init__(self, *sample):
        self.sample = sample

    def __len__(self):
        return 1

    def read(self, number):
        return self.sample


@pytest.mark.parametrize("name", ["upernet", "segformer", "beit", "mobilevit"])
def test_any_segmenter_of_transformers_trains_and_runs_in_its_pipeline(name, tmp_path):
    _stock(name).save_pretrained(tmp_path / "given")
    SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / "given")
    output = tmp_path / "run"
    options = ["--ignore_mismatched_sizes", "true", "--seed", "3"]
    results = main(
        [
            "--task",
            "semantic-segmentation",
            "--model",
            str(tmp_path / "given"),
            *SHORT,
            *options,
            "--output_dir",
            str(output),
        ]
    )
    assert 0 <= results["eval_miou"] <= 1 and np.isfinite(results["train_loss"])
    assert (output / "predictions.png").is_file() and (output / "iou_per_class.png").is_file()
    picture = Image.fromarray(digit_canvas("test", 0)[0])
    found = pipeline("image-segmentation", model=str(output))(picture)
    names = ["ground", *map(str, range(10))]
    assert found and {part["label"] for part in found} <= set(names)
    # The run measured what the pipeline gives.
    truth, label_map = digit_canvas("test", 0)[2], np.zeros(picture.size[::-1], int)
    for part in found:
        label_map[np.asarray(part["mask"]) > 0] = names.index(part["label"])
    model, processor = (
        AutoModelForSemanticSegmentation.from_pretrained(output),
        AutoImageProcessor.from_pretrained(output),
    )
    counts = measure(
        model.eval(), processor, SegmentationDataset(_One(np.asarray(picture), truth)), batch_size=1
    ).counts
    assert np.trace(counts) == (label_map == truth).sum()


def test_upernet_over_a_backbone_of_this_package_and_its_trained_weights(tmp_path):
    backbone = ["--segmenter", "upernet", "--backbone", "ghostnet-0.5x", "--image_size", "64"]
    head = ["--model_config", "{hidden_size: 8, pool_scales: [1, 2], auxiliary_channels: 8}"]
    main(["--task", "semantic-segmentation", *backbone, *head, *SHORT, "--output_dir", str(tmp_path / "run")])
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "run")
    # The last four maps, and the auxiliary head on the third of them.
    assert model.config.backbone_config.out_features == ["stage2", "stage3", "stage4", "stage5"]
    assert model.config.auxiliary_in_channels == model.backbone.channels[2] and model.auxiliary_head is not None
    assert model.config.loss_ignore_index == 255


def test_upernet_over_a_plain_vit_sees_what_the_vit_computes_in_a_pyramid(tmp_path):
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    vit = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8, hidden_act="relu", layer_norm_eps=1e-3)).eval()
    for name, parameter in vit.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    vit.save_pretrained(tmp_path / "vit")
    backbone = ["--segmenter", "upernet", "--backbone", str(tmp_path / "vit"), "--image_size", "64"]
    backbone += ["--backbone_config", "{out_features: [stage1, stage2, stage3, stage4], drop_path_rate: 0.25}"]
    head = ["--model_config", "{hidden_size: 8, pool_scales: [1, 2], auxiliary_channels: 8}", "--learning_rate", "0"]
    head += ["--layer_decay", "0.5"]
    main(["--task", "semantic-segmentation", *backbone, *head, *SHORT, "--output_dir", str(tmp_path / "run")])
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "run").eval()
    assert model.config.backbone_config.drop_path_rate == 0.25 and model.auxiliary_head is not None
    scales = layer_decay_scales([name for name, _ in model.named_parameters()], 0.5)
    assert scales["backbone.beit.embeddings.cls_token"] == 0.5**5
    assert scales["backbone.beit.layers.3.mlp.fc1.weight"] == 0.5
    assert scales["backbone.fpn.fpn2.weight"] == scales["decode_head.classifier.weight"] == 1
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        maps = model.backbone(pixels).feature_maps
        hidden = vit(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states
    assert [tuple(each.shape[-2:]) for each in maps] == [(32, 32), (16, 16), (8, 8), (4, 4)]
    third, fourth = (each[:, 1:].transpose(1, 2).unflatten(2, (8, 8)) for each in hidden[3:5])
    assert torch.allclose(maps[2], third, atol=1e-5)
    assert torch.allclose(maps[3], F.max_pool2d(fourth, 2), atol=1e-5)


def test_a_vit_without_biases_of_its_attention_computes_the_same_in_a_pyramid(tmp_path):
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 2}
    vit = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8, qkv_bias=False), add_pooling_layer=False).eval()
    vit.save_pretrained(tmp_path)
    args = SegmenterArguments(segmenter="upernet", backbone=str(tmp_path))
    config = models._pyramid_over(vit.config, args)
    backbone = AutoBackbone.from_config(config).eval()
    for name, parameter in backbone.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    model = types.SimpleNamespace(backbone=backbone, config=types.SimpleNamespace(backbone_config=config))
    models._load_under_pyramid(model, args)
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found = backbone(pixels).feature_maps[2]
        expected = vit(pixels, output_hidden_states=True).hidden_states[3]
    torch.testing.assert_close(found, expected[:, 1:].transpose(1, 2).unflatten(2, (4, 4)), atol=1e-5, rtol=1e-5)


def test_dtop_starts_from_a_vit_of_transformers(tmp_path):
    torch.manual_seed(1)
    config = ViTConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=48, patch_size=8,
        hidden_dropout_prob=0.0,
    )  # fmt: skip
    vit = ViTModel(config)
    vit.save_pretrained(tmp_path / "vit")
    options = "{out_indices: [0, 1], thresholds: [0.9], head_num_layers: 1, head_num_attention_heads: 2}"
    arguments = ["--task", "semantic-segmentation", "--segmenter", "dtop", "--backbone", str(tmp_path / "vit")]
    arguments += ["--backbone_config", "{image_size: 96, hidden_dropout_prob: 0.0}", "--model_config", options, *SHORT]
    run = prepare("prepare_training", [*arguments, "--output_dir", str(tmp_path / "run")])
    for (name, a), b in zip(run.trainer.model.vit.layers.named_parameters(), vit.layers.parameters(), strict=True):
        assert torch.equal(a.cpu(), b), name
    places = vit.embeddings.position_embeddings[:, 1:].reshape(1, 6, 6, 16).permute(0, 3, 1, 2)
    places = F.interpolate(places, (12, 12), mode="bicubic", align_corners=False).flatten(2).transpose(1, 2)
    torch.testing.assert_close(run.trainer.model.vit.embeddings.position_embeddings[:, 1:].cpu(), places)


def test_heads_learn_at_a_rate_of_their_own(tmp_path):
    arguments = ["--task", "semantic-segmentation", *WITHOUT_DROPOUT, *SHORT, "--learning_rate", "0.01"]
    arguments += ["--head_learning_rate_factor", "10", "--output_dir", str(tmp_path)]
    trainer = prepare("prepare_training", arguments).trainer
    rates = {id(p): group["lr"] for group in trainer.create_optimizer().param_groups for p in group["params"]}
    assert {rates[id(p)] for n, p in trainer.model.named_parameters() if n.startswith("vit.")} == {0.01}
    assert {rates[id(p)] for n, p in trainer.model.named_parameters() if n.startswith("heads.")} == {0.1}
    decays = {id(p): group["weight_decay"] for group in trainer.optimizer.param_groups for p in group["params"]}
    assert len(decays) == len(list(trainer.model.parameters()))
    trainer.create_optimizer()
    assert max(group["lr"] for group in trainer.optimizer.param_groups) == 0.1, "asked again it multiplies again"


@pytest.mark.parametrize("prefix", ["", "model"])
def test_a_network_around_a_backbone_has_its_heads_beside_it_whatever_it_calls_its_base(prefix):
    """UperNet calls nothing its base; a network of somebody's own may."""
    network = _stock("upernet")
    network.base_model_prefix = prefix
    off = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    off |= {"learning_rate": 0.01, "head_learning_rate_factor": 10}
    args = SegmentationArguments(output_dir="none", report_to=[], use_cpu=True, **off)
    optimizer = SegmentationTrainer(model=network, args=args, evaluation=lambda model: None).create_optimizer()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    found = {}
    for name, parameter in network.named_parameters():
        found.setdefault(name.split(".")[0], set()).add(rates[id(parameter)])
    assert found == {"backbone": {0.01}, "decode_head": {0.1}, "auxiliary_head": {0.1}}


def test_a_batch_without_a_class_teaches_nothing():
    off = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}
    args = SegmentationArguments(output_dir="none", report_to=[], use_cpu=True, **off)
    trainer = SegmentationTrainer(model=_stock("segformer").train(), args=args, evaluation=lambda model: None)
    batch = {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.full((2, 64, 64), 255)}
    loss, _ = trainer.task_loss(trainer.model, batch)
    loss.backward()
    assert loss == 0 and not any(p.grad is None or p.grad.any() for p in trainer.model.parameters())
    batch["labels"][0, 0, 0] = 3
    assert trainer.task_loss(trainer.model, batch)[0] > 1


# Data


def _maps(count: int = 4, classes: int = 3) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [
        (
            rng.integers(0, 256, (20 + n, 30, 3), dtype=np.uint8),
            rng.integers(0, classes + 1, (20 + n, 30), dtype=np.uint8),
        )
        for n in range(count)
    ]


def test_paired_folders_and_tables_are_read_alike(tmp_path):
    """ADE20K's layout, in which 0 is no class; and the same as a data set with two columns."""
    rows = {"train": [], "validation": []}
    for number, (image, labels) in enumerate(_maps()):
        split = "training" if number < 3 else "validation"
        for folder, content in (("images", image), ("annotations", labels)):
            place = tmp_path / "ade" / folder / split
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(content).save(place / f"{number}.png")
        rows["train" if number < 3 else "validation"].append(
            {
                "image": str(tmp_path / f"ade/images/{split}/{number}.png"),
                "annotation": str(tmp_path / f"ade/annotations/{split}/{number}.png"),
            }
        )
    names = tmp_path / "names.txt"
    names.write_text("wall\nfloor\nsky\n")
    features = Features({"image": ImageFeature(), "annotation": ImageFeature()})
    DatasetDict({k: Dataset.from_list(v, features=features) for k, v in rows.items()}).save_to_disk(tmp_path / "table")
    for split, table in rows.items():
        Dataset.from_list(table, features=features).to_parquet(tmp_path / "parquet" / f"{split}.parquet")
    for place in ("ade", "parquet"):
        args = SegmentationDataArguments(dataset=str(tmp_path / place), class_names=[str(names)], reduce_labels=True)
        train, evaluation = load_data(args, None)
        assert (len(train), len(evaluation)) == (3, 1) and train.names == ["wall", "floor", "sky"]
        for number, (image, labels) in enumerate(_maps()[:3]):
            read, reduced = train.read(number)
            assert np.array_equal(read, image)
            assert np.array_equal(reduced, np.where(labels == 0, 255, labels - 1))
    args = SegmentationDataArguments(dataset=str(tmp_path / "ade"), class_names=["no", "a", "b", "c"])
    assert np.array_equal(load_data(args, None)[0].read(0)[1], _maps()[0][1])


def test_a_picture_or_a_map_of_a_table_that_is_none_is_named_with_its_row(tmp_path):
    Image.new("L", (9, 9)).save(tmp_path / "whole.png")
    whole, broken = ({"bytes": content, "path": None} for content in ((tmp_path / "whole.png").read_bytes(), b"none"))
    rows = {"image": [whole, broken, whole], "mask": [whole, whole, broken]}
    table = Dataset.from_dict(rows, features=Features(dict.fromkeys(rows, ImageFeature())))
    DatasetDict(train=table, validation=table).save_to_disk(tmp_path / "table")
    args = SegmentationDataArguments(dataset=str(tmp_path / "table"), class_names=["a", "b"])
    rows = {"left": [whole], "right": [whole], "mask": [whole]}
    table = Dataset.from_dict(rows, features=Features(dict.fromkeys(rows, ImageFeature())))
    DatasetDict(train=table, validation=table).save_to_disk(tmp_path / "two")
    with pytest.raises(ValueError, match="--image_column"):  # of two none is guessed
        load_data(SegmentationDataArguments(dataset=str(tmp_path / "two"), class_names=["a", "b"]), None)
    train, _ = load_data(args, None)
    assert train.read(0)[1].shape == (9, 9)
    for row in (1, 2):
        with pytest.raises((ValueError, OSError), match=f"row {row} of .*table/train: the file is not an image"):
            train.read(row)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (lambda folder: None, "accepted are 0 to 2 and 255"),
        (
            lambda folder: Image.new("L", (9, 9)).save(folder / "annotations/0.png"),
            "the map has 9×9 pixels, the image 20×30",
        ),
        (
            lambda folder: Image.new("L", (20, 30)).save(folder / "annotations/0.png"),
            "the map has 30×20 pixels, the image 20×30",
        ),
        (lambda folder: Image.new("RGB", (30, 20)).save(folder / "annotations/0.png"), "a map of the mode RGB"),
        (lambda folder: (folder / "annotations/0.png").write_bytes(b"no"), "row 0 of .*annotations/0.png"),
        (lambda folder: (folder / "annotations/0.png").unlink(), r"1 images have no map \(0.png\)"),
        (lambda folder: (folder / "images/0.png").unlink(), "images: there are no images; maps are PNG files"),
        (
            lambda folder: Image.fromarray(np.full((20, 30), 300, np.uint16)).save(folder / "annotations/0.png"),
            "row 0 of .*annotations/0.png.*: a map with values from 300 to 300, accepted are 0 to 255",
        ),
    ],
)
def test_maps_that_cannot_be_are_named(wrong, message, tmp_path):
    (image, labels), *_ = _maps()
    for folder, content in (("images", image), ("annotations", labels)):
        (tmp_path / folder).mkdir()
        Image.fromarray(content).save(tmp_path / folder / "0.png")
    wrong(tmp_path)
    args = SegmentationDataArguments(dataset=str(tmp_path), class_names=["a", "b", "c"], eval_split="train")
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_evaluation_data(args, None).read(0)
    # A run that meets it in its midst ends with this line.
    assert isinstance(error.value, SampleError | OSError) or "row 0" not in str(error.value)


@pytest.mark.parametrize(
    "images, maps",
    [("images", "annotations"), ("images", "masks"), ("images", "labels"), ("leftImg8bit", "gtFine")],
)
@pytest.mark.parametrize(
    "folder, split",
    [("training", "train"), ("val", "validation"), ("valid", "validation"), ("test", "test"), ("night", "night")],
)
def test_maps_are_those_of_the_same_split_and_of_the_same_name_however_deep(images, maps, folder, split, tmp_path):
    """Cities and other folders lie in a split's; another split's map of the same name is another one."""
    for number, place in enumerate((folder, "other")):
        for kind, ending, value in ((images, "JPG", 90), (maps, "png", number)):
            (tmp_path / kind / place / "city").mkdir(parents=True)
            Image.new("L", (6, 4), value).save(tmp_path / kind / place / "city" / f"a.{ending}", format="PNG")
    args = SegmentationDataArguments(dataset=str(tmp_path), class_names=["a", "b"])
    for name, expected in ((split, 0), ("other", 1)):
        args.eval_split = name
        source = load_evaluation_data(args, None)
        assert (source.split, len(source)) == (f"{tmp_path}/{name}", 1)
        assert (source.read(0)[1] == expected).all() and source.read(0)[0].shape == (4, 6, 3)


def test_pictures_of_one_name_in_several_folders_have_each_its_own_map(tmp_path):
    """The one in the same folder; a map that lies elsewhere is a picture's where no other of either has its name."""

    def put(place, value):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (6, 4), value).save(tmp_path / place, format="PNG")

    for number, city in enumerate(("aachen", "bonn", "celle")):
        put(f"images/train/{city}/1.jpg", number)
        put(f"masks/train/{city}/1.{'PNG' if city == 'celle' else 'png'}", number)
    put("images/train/bonn/2.jpg", 3)
    put("masks/train/2.png", 3)
    args = SegmentationDataArguments(dataset=str(tmp_path), class_names=[*"abcd"], eval_split="train")
    source = load_evaluation_data(args, None)
    assert [int(source.read(number)[0][0, 0, 0]) for number in range(4)] == [0, 1, 3, 2]
    assert all((labels == image[..., 0]).all() for image, labels in map(source.read, range(4)))
    put("images/train/celle/2.jpg", 2)  # whose the one map is nobody knows
    with pytest.raises(ValueError, match=r"train: 2 images have no map \(bonn/2\.jpg\)"):
        load_evaluation_data(args, None)
    (tmp_path / "images/train/celle/2.jpg").unlink()
    (tmp_path / "masks/train/bonn/1.png").unlink()
    with pytest.raises(ValueError, match=r"train: 1 images have no map \(bonn/1\.jpg\)"):
        load_evaluation_data(args, None)


def test_pictures_of_every_usual_ending_are_found(tmp_path):
    endings = ("jpg", "jpeg", "png", "bmp", "webp", "tif", "tiff")
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
    for number, ending in enumerate(endings):
        Image.new("RGB", (6, 4)).save(tmp_path / "images" / f"{number}.{ending}")
        Image.new("L", (6, 4), number).save(tmp_path / "masks" / f"{number}.png")
    args = SegmentationDataArguments(dataset=str(tmp_path), class_names=[*"abcdefg"], eval_split="train")
    source = load_evaluation_data(args, None)
    assert [int(source.read(number)[1].max()) for number in range(len(source))] == [*range(7)]


@pytest.mark.parametrize(
    "name", ["annotation", "mask", "label", "segmentation_mask", "labels", "semantic_mask", "masks"]
)
def test_the_maps_of_a_table_are_found_by_their_usual_names(name):
    """Beside other pictures, before and after them."""
    rows = {"depth": 5, "image": 200, name: 1, "view": 7}
    pictures = {column: [Image.new("L", (3, 2), value)] for column, value in rows.items()}
    table = Dataset.from_dict(pictures, features=Features(dict.fromkeys(rows, ImageFeature())))
    args = SegmentationDataArguments(dataset="d", class_names=["a", "b"])
    image, labels = segmentation_data._table(table, "d/train", args).read(0)
    assert (image == 200).all() and (labels == 1).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "I", "I;16"])
def test_a_map_is_what_is_stored_in_it_whatever_its_depth(mode):
    values = np.array([[0, 1, 1], [1, 0, 1]], np.uint8)
    kept = {"1": bool, "I": np.int32, "I;16": np.uint16}.get(mode, np.uint8)
    stored = Image.fromarray(values.astype(kept))
    if mode == "P":
        stored.putpalette([200, 10, 30, 1, 2, 3])
    assert stored.mode == mode
    source = SegmentationImages([0], lambda row: Image.new("RGB", (3, 2)), lambda row: stored, ["a", "b"], "x")
    assert source.read(0)[1].tolist() == values.tolist()


def test_of_several_columns_of_pictures_the_map_is_the_one_that_is_usually_called_so(tmp_path):
    columns = {"labels": 0, "image": 200, "annotation": 1, "text": "a"}
    rows = {name: [Image.new("L", (3, 2), value)] if name != "text" else [value] for name, value in columns.items()}
    features = Features({name: Value("string") if name == "text" else ImageFeature() for name in columns})
    DatasetDict(train=Dataset.from_dict(rows, features=features)).save_to_disk(tmp_path / "table")
    args = SegmentationDataArguments(dataset=str(tmp_path / "table"), class_names=["a", "b"], eval_split="train")
    image, labels = load_evaluation_data(args, None).read(0)
    assert (image == 200).all() and (labels == 1).all()
    # The only other pictures are the images, whatever they are called.
    table = Dataset.from_dict(rows, features=features).select_columns(["image", "labels"])
    DatasetDict(train=table.rename_column("image", "photo")).save_to_disk(tmp_path / "two")
    image, labels = load_evaluation_data(replace(args, dataset=str(tmp_path / "two")), None).read(0)
    assert (image == 200).all() and (labels == 0).all()
    args.mask_column = "text"
    with pytest.raises(ValueError, match="--mask_column: 'text' holds no pictures; of .* 'annotation' do"):
        load_evaluation_data(args, None)


def test_what_is_held_out_is_the_same_in_every_run(tmp_path):
    """Pictures 2, 4 and 6 of ten, whatever the seed: other ones would have been trained on by an earlier run."""
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
        for number in range(10):
            Image.new("L", (4, 4)).save(tmp_path / folder / f"{number}.png")
    args = SegmentationDataArguments(dataset=str(tmp_path), class_names=["a", "b"], eval_holdout=3)
    train, evaluation = load_data(args, None)
    assert evaluation.rows == [2, 4, 6] and train.rows == [0, 1, 3, 5, 7, 8, 9]


def test_another_data_set_is_what_is_evaluated_on(tmp_path):
    """In a training, and in an evaluation by itself, with its own splits."""
    for name, count in (("one", 3), ("two", 2)):
        for number, (image, labels) in enumerate(_maps(count)):
            for folder, content in (("images", image), ("annotations", labels)):
                place = tmp_path / name / folder / ("train" if name == "one" else "val")
                place.mkdir(parents=True, exist_ok=True)
                Image.fromarray(content).save(place / f"{number}.png")
    names = ["a", "b", "c", "d"]
    args = SegmentationDataArguments(
        dataset=str(tmp_path / "one"), eval_dataset=str(tmp_path / "two"), class_names=names, max_train_samples=2
    )
    train, evaluation = load_data(args, None)
    assert (train.split, len(train)) == (f"{tmp_path / 'one'}/train", 2)
    assert (evaluation.split, len(evaluation)) == (f"{tmp_path / 'two'}/validation", 2)
    alone = load_evaluation_data(args, None)
    assert (alone.split, len(alone)) == (evaluation.split, 2)


@pytest.mark.parametrize(
    "names, message",
    [
        (None, "--class_names: the data set does not name its classes; give the names or a text file"),
        (["nowhere.txt"], "--class_names: got 'nowhere.txt', accepted are names, or a text file of them"),
        (["NAMES"], "--class_names: got 1 names, accepted are 2 to 255, all different"),
        (["FOLDER"], "--class_names: got '.*images', accepted are names, or a text file of them"),
        ([f"n{n}" for n in range(256)], "--class_names: got 256 names, accepted are 2 to 255, all different"),
    ],
)
def test_classes_of_maps_have_names(names, message, tmp_path):
    (tmp_path / "names.txt").write_text("one\n\n")
    for folder in ("images", "annotations"):
        (tmp_path / folder).mkdir()
        Image.new("L", (4, 4)).save(tmp_path / folder / "0.png")
    names = [str(tmp_path / "names.txt")] if names == ["NAMES"] else names
    names = [str(tmp_path / "images")] if names == ["FOLDER"] else names
    with pytest.raises(ValueError, match=message):
        load_data(SegmentationDataArguments(dataset=str(tmp_path), class_names=names), None)


def test_a_preset_is_made_of_any_size(tmp_path):
    """Its backbone's and its processor's; the classes are those asked for."""
    sizes = (
        "{backbone_config: {num_hidden_layers: 2, hidden_size: 16, num_attention_heads: 2, intermediate_size: 16}, "
    )
    sizes += "out_indices: [0, 1], thresholds: [0.9], head_num_layers: 1, head_num_attention_heads: 2}"
    args = SegmenterArguments(model="dtop-base-ade20k", image_size=32, model_config=sizes)
    model, processor = load_segmenter(args, ["ground", "ink"])
    assert model.config.backbone_config.image_size == 32 and model.config.num_labels == 2
    assert dict(processor.size) == {"height": 32, "width": 32} and model.config.semantic_loss_ignore_index == 255
    assert model.config.backbone_config.patch_size == get_config("dtop-base-ade20k").backbone_config.patch_size


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "dtop-base-ade20k", "--segmenter", "dtop"], "--model, --segmenter: one of them"),
        (["--model", "ghostnet-1.0x"], "--model: ghostnet-1.0x is no segmenter, presets that are: dtop-base"),
        (["--segmenter", "llama"], "--segmenter: got 'llama', accepted are .*upernet"),
        (["--model", "dtop-base-ade20k", "--backbone", "ghostnet-1.0x"], "--backbone goes with --segmenter"),
        (["--model", "dtop-base-ade20k", "--backbone_config", "{depth: 1}"], "--backbone goes with --segmenter"),
        (["--segmenter", "segformer", "--backbone_config", "[1]"], "--backbone_config: "),
        (["--segmenter", "segformer", "--scale_range", "1"], r"--scale_range: got \[1.0\], accepted are two numbers"),
        (["--segmenter", "segformer", "--model_config", "{zzz: 1}"], "--model_config: .*zzz"),
        (["--segmenter", "segformer", "--eval_stride", "9"], "--eval_stride goes with --eval_mode slide"),
        (
            ["--segmenter", "segformer", "--image_size", "64", "--eval_mode", "slide", "--eval_stride", "65"],
            "--eval_stride: got 65, accepted are numbers up to the side, 64",
        ),
        (["--segmenter", "segformer", "--scale_range", "2", "1"], r"--scale_range: got \[2.0, 1.0\]"),
        (["--segmenter", "segformer", "--class_names", "a", "a"], "--class_names: got 2 names, 'a' twice"),
        (["--segmenter", "segformer", "--class_names", "a", "b", "c"], "digits have 11 classes, or 2"),
        (["--segmenter", "segformer", "--label_smoothing_factor", "0.1"], "--label_smoothing_factor: got 0.1"),
        (["--segmenter", "segformer", "--metric_for_best_model", "map"], "--metric_for_best_model: got 'map'"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(["--task", "semantic-segmentation", *arguments, *SHORT, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_classes_from_one_on_leave_no_class_and_the_ignored_label_alone():
    values = np.array([[0, 1, 2], [255, 2, 0]], dtype=np.uint8)
    picture = Image.new("RGB", (3, 2))
    source = SegmentationImages([0], lambda row: picture, lambda row: Image.fromarray(values), ["a", "b"], "x", True)
    assert source.read(0)[1].tolist() == [[255, 0, 1], [255, 1, 255]]
    assert numbered_as(source, ["b", "a"], "").read(0)[1].tolist() == [[255, 1, 0], [255, 0, 255]]


def test_a_column_of_numbers_is_no_column_of_maps(tmp_path):
    picture = Image.new("RGB", (8, 8))
    features = Features({"image": ImageFeature(), "label": ClassLabel(names=["cat", "dog"])})
    DatasetDict(train=Dataset.from_dict({"image": [picture] * 2, "label": [0, 1]}, features)).save_to_disk(tmp_path)
    args = SegmentationDataArguments(dataset=str(tmp_path), class_names=["cat", "dog"])
    with pytest.raises(ValueError, match="--mask_column: 'label' holds no pictures; of .* 'image' do"):
        load_data(args, None)


def test_a_model_of_other_classes_is_not_measured(tmp_path):
    _stock("segformer").save_pretrained(tmp_path)
    SegformerImageProcessorPil().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="has 11 classes, the data set has 2"):
        evaluate(
            [
                "--task",
                "semantic-segmentation",
                "--model",
                str(tmp_path),
                "--dataset",
                "digits",
                "--class_names",
                "a",
                "b",
            ]
        )


def test_classes_are_told_by_their_names_wherever_they_stand(tmp_path):
    """A segmenter of (ink, ground) on maps of (ground, ink): the same numbers as with its rows exchanged."""
    torch.manual_seed(0)
    model = _stock("segformer").eval()
    head = model.decode_head.classifier = torch.nn.Conv2d(8, 2, 1)
    torch.nn.init.normal_(head.weight, std=30)
    for folder, names in (("same", ["ground", "ink"]), ("turned", ["ink", "ground"]), ("other", ["a", "b"])):
        model.config.id2label, model.config.label2id = dict(enumerate(names)), {n: i for i, n in enumerate(names)}
        if folder == "turned":
            with torch.no_grad():
                head.weight.copy_(head.weight.flip(0))
                head.bias.copy_(head.bias.flip(0))
        model.save_pretrained(tmp_path / folder)
        SegformerImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(tmp_path / folder)
    words = ["--task", "semantic-segmentation", "--dataset", "digits", "--class_names", "ground", "ink"]
    words += ["--max_eval_samples", "2", "--output"]
    same, turned = (
        evaluate([*words, str(tmp_path / f"{name}.json"), "--model", str(tmp_path / name)])
        for name in ("same", "turned")
    )
    assert same["miou"] == pytest.approx(turned["miou"]) and abs(same["pixel_accuracy"] - 0.5) > 0.1
    assert same["pixel_accuracy"] == pytest.approx(turned["pixel_accuracy"])
    with pytest.raises(ValueError, match=r"classes \(ground, ink\) are not the model's \(a, b\).* --class_names"):
        evaluate([*words, str(tmp_path / "other.json"), "--model", str(tmp_path / "other")])
    slide = ["--eval_mode", "slide", "--eval_stride", "65"]
    with pytest.raises(ValueError, match="--eval_stride: got 65, accepted are numbers up to the side, 64"):
        evaluate([*words, str(tmp_path / "other.json"), "--model", str(tmp_path / "same"), *slide])
    # In training the head's numbers stay.
    more = ["--model", str(tmp_path / "turned"), "--output_dir", str(tmp_path / "run")]
    run = prepare("prepare_training", [*words[:7], *SHORT[2:], *more])
    assert run.trainer.model.config.id2label == {0: "ink", 1: "ground"}
    source = run.trainer.eval_dataset.source
    assert source.names == ["ink", "ground"]
    assert np.array_equal(source.read(0)[1] == 0, digit_canvas("test", source.rows[0])[2] > 0)


# Augmentation


def test_image_and_map_stay_together():
    """A picture whose colour is its class: whatever becomes of it, each pixel still says its class."""
    labels = np.repeat(np.arange(4, dtype=np.uint8).reshape(2, 2), 60, 0).repeat(90, 1)
    image = np.repeat(labels[..., None] * 60, 3, axis=2)
    rng = np.random.default_rng(0)
    for side in (48, 210):
        for factor in (0.5, 1.0, 1.7):
            part, of_part = cropped(*rescaled(image, labels, side * factor), side, 1.0, rng)
            assert part.shape == (side, side, 3) and of_part.shape == (side, side)
            known = of_part != 255
            # Bilinear pixels at the borders of two classes are of neither.
            assert (part[known][:, 0] == of_part[known] * 60).mean() > 0.8
            assert (part[~known] == 124).all() and known.any()
            assert known.all() == (factor >= 1)


def test_every_option_changes_what_it_says():
    """A grey picture beside its map: of one colour there is no saturation, of one brightness no contrast."""
    labels = np.arange(64, dtype=np.uint8).reshape(8, 8) % 3
    grey = np.repeat(labels[..., None] * 40 + 60, 3, axis=2)
    maps = lambda row: Image.fromarray(labels)  # noqa: E731
    plain = {"scale_range": [1.0, 1.0], "horizontal_flip": 0.0}

    def sample(picture=grey, **options):
        source = SegmentationImages([0], lambda row: Image.fromarray(picture), maps, ["a", "b", "c"], "x")
        augmentation = SegmentationAugmentationArguments(**{**plain, **options})
        found = SegmentationDataset(source, augmentation, 8, seed=3)[0]
        return found["image"].astype(int), found["labels"].astype(int)

    image, found = sample()
    assert np.array_equal(image, grey) and np.array_equal(found, labels)
    image, found = sample(horizontal_flip=1.0)
    assert np.array_equal(image, grey[:, ::-1]) and np.array_equal(found, labels[:, ::-1])
    image, found = sample(scale_range=[0.5, 0.5])
    assert (found[4:] == 255).all() and (found[:, 4:] == 255).all() and (found[:4, :4] < 3).all()
    assert np.array_equal(sample(saturation=0.9)[0], grey)
    brighter = sample(brightness=0.2)[0] - grey
    assert np.ptp(brighter) == 0 != brighter[0, 0, 0] and abs(sample(contrast=0.9)[0].std() - grey.std()) > 1
    # Classes have no values in between: of 0 and 9 none is made.
    assert set(rescaled(grey, labels.clip(0, 1) * 9, 13)[1].ravel()) == {0, 9}


def test_each_option_is_drawn_from_one_end_of_its_range_to_the_other(monkeypatch):
    """Of 300 samples: sides between both factors, colours to both sides by their own shares, flips as often as is
    asked for."""
    ramp = np.arange(8, dtype=np.uint8).repeat(8).reshape(8, 8).T
    source = SegmentationImages(
        [0], lambda row: Image.fromarray(ramp), lambda row: Image.fromarray(ramp), [*"abcdefgh"], "x"
    )
    sides, changes, real = [], [], transforms.recoloured
    monkeypatch.setattr(transforms, "rescaled", lambda image, labels, side: sides.append(side) or (image, labels))
    monkeypatch.setattr(transforms, "recoloured", lambda image, *by: changes.append(by) or real(image, *by))
    shares = {"brightness": 0.1, "contrast": 0.6, "saturation": 0.3}
    options = SegmentationAugmentationArguments(scale_range=[0.5, 2.0], horizontal_flip=0.25, **shares)
    samples = SegmentationDataset(source, options, 8, seed=3)
    flipped = [samples[number]["labels"][0, 0] == 7 for number in range(300)]
    assert np.mean(flipped) == pytest.approx(0.25, abs=0.08)
    assert 8 * 0.5 <= min(sides) < 8 * 0.6 and 8 * 1.9 < max(sides) <= 8 * 2
    assert np.mean(sides) == pytest.approx(8 * 1.25, rel=0.05)
    found, most = np.array(changes), np.array([*shares.values()])
    assert (np.abs(found) <= most).all() and (found.min(0) < -0.9 * most).all() and (found.max(0) > 0.9 * most).all()


def test_what_is_held_out_is_not_trained_on(tmp_path):
    for number, (image, labels) in enumerate(_maps(6)):
        for folder, content in (("images", image), ("annotations", labels)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(content).save(tmp_path / folder / f"{number}.png")
    args = SegmentationDataArguments(dataset=str(tmp_path), class_names=["a", "b", "c", "d"], eval_holdout=2)
    train, evaluation = load_data(args, None)
    assert sorted([*train.rows, *evaluation.rows]) == [*range(6)] and len(evaluation) == 2
    assert load_evaluation_data(args, None).rows == evaluation.rows
    names = [one.split for one in (train, evaluation, load_evaluation_data(args, None))]
    assert names[1:] == [f"{names[0]} (held out)"] * 2
    args.max_train_samples, args.max_eval_samples = 2, 1
    fewer, one = load_data(args, None)
    assert fewer.rows == [train.rows[0], train.rows[-1]] and one.rows == evaluation.rows[:1]
    assert load_evaluation_data(args, None).rows == one.rows


def test_pixels_without_a_class_are_none_that_fills_a_crop():
    labels = np.full((8, 80), 255, dtype=np.uint8)
    labels[0, ::2], labels[0, 1::2] = 0, 1
    image = np.repeat(np.arange(80, dtype=np.uint8)[None, :, None], 8, 0).repeat(3, 2)
    first, kept = (cropped(image, labels, 8, most, np.random.default_rng(5))[0] for most in (1.0, 0.75))
    assert np.array_equal(first, kept)
    # Nor do they hide one: on the left all that is labelled is of one class.
    labels[0, :40] = 0
    image, drawn = np.zeros((8, 80, 3), dtype=np.uint8), [np.random.default_rng(seed) for seed in range(20)]
    parts = [cropped(image, labels, 8, 0.75, rng)[1] for rng in drawn]
    assert all((part == 1).any() for part in parts)


def test_crops_avoid_what_one_class_fills():
    labels = np.zeros((40, 400), dtype=np.uint8)
    labels[:, 360:] = np.arange(40, dtype=np.uint8) % 4
    image = np.zeros((40, 400, 3), dtype=np.uint8)
    rng = np.random.default_rng(0)
    shares = {most: [] for most in (1.0, 0.75)}
    for most, found in shares.items():
        for _ in range(60):
            part = cropped(image, labels, 40, most, rng)[1]
            found.append(np.bincount(part.ravel()).max() / part.size)
    assert np.mean(np.array(shares[0.75]) <= 0.75) > 2 * np.mean(np.array(shares[1.0]) <= 0.75)


def test_crops_lie_everywhere():
    """Of 12 by 10 pixels, a square of 8 begins at each of five rows and three columns."""
    labels = np.zeros((12, 10), np.uint8)
    image = np.stack([*np.indices((12, 10)), labels], axis=-1).astype(np.uint8)
    rng = np.random.default_rng(0)
    corners = {tuple(cropped(image, labels, 8, 1.0, rng)[0][0, 0, :2].tolist()) for _ in range(300)}
    assert corners == {(top, left) for top in range(5) for left in range(3)}


@pytest.mark.parametrize("rescales", [True, False])
@pytest.mark.parametrize("normalises", [True, False])
def test_pixels_are_scaled_and_normalised_where_the_image_processor_does(rescales, normalises):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    mean, deviation = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.25, 2.0])
    processor = types.SimpleNamespace(
        do_rescale=rescales, rescale_factor=1 / 128, do_normalize=normalises, image_mean=mean.tolist(),
        image_std=deviation.tolist(),
    )  # fmt: skip
    expected = images / 128 if rescales else images.astype(float)
    expected = (expected - mean) / deviation if normalises else expected
    np.testing.assert_allclose(normalised(images, processor), expected.transpose(0, 3, 1, 2), rtol=1e-5, atol=1e-5)


def test_colours_change_by_what_is_asked_for():
    image = np.random.default_rng(0).integers(80, 160, (6, 6, 3), dtype=np.uint8)
    values = image.astype(float)
    np.testing.assert_allclose(recoloured(image, 0.1, 0, 0), values + 25.5, atol=0.51)
    grey = values.mean(2, keepdims=True)
    np.testing.assert_allclose(recoloured(image, 0, 0, -0.5), grey + 0.5 * (values - grey), atol=0.51)
    np.testing.assert_allclose(recoloured(image, 0, 0.4, 0), values.mean() + 1.4 * (values - values.mean()), atol=0.51)
    assert recoloured(image, 0, 0, 0) is image


# Evaluation


class _Local(torch.nn.Module):
    """A segmenter that looks at single pixels: windows change nothing."""

    def forward(self, pixels):
        return types.SimpleNamespace(logits=torch.cat([pixels[:, :1] * n for n in (1, -2, 3)], dim=1))


def test_windows_cover_an_image_and_are_averaged():
    assert window_starts(50, 20, 13) == [0, 13, 26, 30] and window_starts(20, 20, 5) == [0]
    assert window_starts(60, 20, 20) == [0, 20, 40]
    pixels = torch.randn(1, 3, 50, 33)
    torch.testing.assert_close(window_scores(_Local(), pixels, 20, 13), _Local()(pixels).logits)

    class Numbered(torch.nn.Module):
        count = 0

        def forward(self, window):
            self.count += 1
            return types.SimpleNamespace(logits=window.new_full((1, 1, 5, 5), float(self.count)))

    scores = window_scores(Numbered(), torch.zeros(1, 3, 20, 30), 20, 10)[0, 0]
    assert scores[0].unique_consecutive().tolist() == [1.0, 1.5, 2.0]


@pytest.mark.parametrize("stride, expected", [(None, 14), (5, 5)])
def test_windows_have_the_networks_side_and_overlap_by_a_third_where_nobody_says_otherwise(
    stride, expected, monkeypatch
):
    """The image is made as large as a window on its shorter side, and the map as large as the image."""
    steps, real = [], evaluation.window_scores

    def seen(model, pixels, side, step):
        steps.append((tuple(pixels.shape), side, step))
        return real(model, pixels, side, step)

    monkeypatch.setattr(evaluation, "window_scores", seen)
    processor = types.SimpleNamespace(
        size={"height": 20, "width": 20}, do_rescale=True, rescale_factor=1 / 255, do_normalize=True,
        image_mean=[0.5] * 3, image_std=[0.25] * 3,
    )  # fmt: skip
    model = _Local()
    model.device = torch.device("cpu")
    dark, light = np.zeros((40, 80, 3), np.uint8), np.full((30, 20, 3), 255, np.uint8)
    dark[:, 40:] = 255
    found = evaluation._sliding(stride)(model, processor, [dark, light])
    assert [tuple(labels.shape) for labels in found] == [(40, 80), (30, 20)]
    # Scores are -2, 4 and -6 times half a pixel's: of dark ones the second is highest, of light ones the third.
    assert (found[0][:, :36] == 1).all() and (found[0][:, 44:] == 2).all() and (found[1] == 2).all()
    assert steps == [((1, 3, 20, 40), 20, expected), ((1, 3, 30, 20), 20, expected)]


def test_scores_of_windows_are_made_as_large_as_the_image_by_interpolation(monkeypatch):
    """1 and 0 of the first class become 1, 3/4, 1/4, 0; the second one has 0.8 everywhere."""
    scores = torch.tensor([[1.0, 0.0], [0.8, 0.8]]).reshape(1, 2, 1, 2)
    monkeypatch.setattr(evaluation, "window_scores", lambda *_: scores)
    monkeypatch.setattr(evaluation, "normalised", lambda images, processor: torch.zeros(1))
    processor = types.SimpleNamespace(size={"height": 1, "width": 1})
    model = types.SimpleNamespace(device="cpu")
    (found,) = evaluation._sliding(1)(model, processor, [np.zeros((2, 4, 3), np.uint8)])
    assert found.tolist() == [[0, 1, 1, 1]] * 2


def test_images_are_measured_as_the_arguments_say(monkeypatch):
    told = {}
    monkeypatch.setattr(task, "measure", lambda *given, **options: told.update(given=given, options=options) or "is")
    args = types.SimpleNamespace(
        per_device_eval_batch_size=3, dataloader_num_workers=2, eval_mode="slide", eval_stride=5, eval_pictures=7
    )
    assert task._measured("model", processor="processor", dataset="images", args=args) == "is"
    assert told["given"] == ("model", "processor", "images")
    assert told["options"] == {"batch_size": 3, "workers": 2, "mode": "slide", "stride": 5, "pictures": 7}


@pytest.mark.parametrize("count", [3, 60])
def test_the_overlap_of_each_class_that_is_anywhere_is_drawn_the_best_first(count, monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append(figure))
    per_class = {f"c{n}": (n * 7 % count) / count for n in range(count)} | {"nowhere": float("nan")}
    reports.plot_iou(per_class, tmp_path / "x.png")
    (axes,) = drawn[0].axes
    heights = [bar.get_height() for bar in axes.patches]
    assert heights == sorted((n / count for n in range(count)), reverse=True)
    assert axes.lines[0].get_ydata()[0] == pytest.approx(np.mean(heights))
    assert (axes.get_ylabel(), axes.get_ylim()) == ("IoU", (0, 1))
    shown = [text.get_text() for text in axes.get_xticklabels()]
    best = sorted(per_class, key=lambda name: -per_class[name] if name != "nowhere" else 9)[:count]
    assert (shown == best) == (count == 3)


@pytest.mark.parametrize(
    "mode, stride, message",
    [
        ("whole", None, None),
        ("slide", None, None),
        ("slide", 1, None),
        ("slide", 32, None),
        ("slide", 33, "--eval_stride: got 33, accepted are numbers up to the side, 32"),
        ("whole", 8, "--eval_stride goes with --eval_mode slide"),
    ],
)
def test_windows_leave_nothing_out(mode, stride, message):
    args = MeasuringArguments(eval_mode=mode, eval_stride=stride)
    if message is None:
        assert args.check_stride(32) is None
        return
    with pytest.raises(ValueError, match=message):
        args.check_stride(32)


def test_a_run_may_measure_by_windows(tmp_path):
    output, names = tmp_path / "run", ["--class_names", "ground", "ink"]
    slide = ["--eval_mode", "slide", "--eval_stride", "16"]
    arguments = ["--task", "semantic-segmentation", *WITHOUT_DROPOUT, *SHORT, *names, *slide, "--max_steps", "6"]
    results = main([*arguments, "--learning_rate", "0.01", "--output_dir", str(output)])
    found = {}
    for name, options in {"slide": slide, "whole": []}.items():
        file = tmp_path / f"{name}.json"
        data = ["--dataset", "digits", *names, "--max_eval_samples", "2", "--output", str(file)]
        found[name] = evaluate(["--task", "semantic-segmentation", "--model", str(output), *data, *options])
        per_class = json.loads(file.read_text())["per_class"]
        known = [value for value in per_class.values() if value is not None]
        assert np.mean(known) == pytest.approx(found[name]["miou"])
    assert found["slide"]["miou"] == pytest.approx(results["eval_miou"])
    assert found["slide"]["pixel_accuracy"] != found["whole"]["pixel_accuracy"]


def test_the_share_of_tokens_that_dtop_works_on_is_measured(tmp_path):
    names = ["--class_names", "ground", "ink"]
    arguments = [
        "--task",
        "semantic-segmentation",
        *WITHOUT_DROPOUT,
        *SHORT,
        *names,
        "--output_dir",
        str(tmp_path / "run"),
    ]
    results = main(arguments)
    assert 0 < results["eval_token_share"] <= 1
    model = AutoModelForSemanticSegmentation.from_pretrained(tmp_path / "run")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    pixels = processor([digit_canvas("test", n)[0] for n in (0, 119)], return_tensors="pt").pixel_values
    for threshold, is_whole in ((0.2, False), (1.0, True)):
        model.config.thresholds = [threshold]
        data = [
            "--dataset",
            "digits",
            *names,
            "--max_eval_samples",
            "2",
        ]
        found = evaluate(
            ["--task", "semantic-segmentation", "--model", str(tmp_path / "run"), *data]
            + ["--model_config", f"{{thresholds: [{threshold}]}}"]
        )
        with torch.no_grad():
            expected = float((model(pixels).num_tokens / 36).mean())
        assert found["token_share"] == pytest.approx(expected)
        assert (found["token_share"] == 1) == is_whole


def test_classes_have_colours_of_their_own():
    colours = palette()
    assert len({tuple(c) for c in colours[:150].tolist()}) == 150
    assert colours[1].tolist() == [128, 0, 0] and colours[255].tolist() == [255] * 3


class FirstColour(torch.nn.Module):
    """Of two classes a pixel is of the second where its first colour is bright."""

    config, device = types.SimpleNamespace(id2label={0: "dark", 1: "bright"}, num_labels=2), torch.device("cpu")

    def forward(self, pixels):
        bright = pixels[:, :1] / 255
        return types.SimpleNamespace(logits=torch.cat([1 - bright, bright], 1))


class AsTheyAre:
    """A processor that changes nothing."""

    def __call__(self, images, **options):
        return {"pixel_values": torch.stack([torch.from_numpy(image).permute(2, 0, 1).float() for image in images])}

    def post_process_semantic_segmentation(self, outputs, sizes):
        return [logits.argmax(0) for logits in outputs.logits]


@pytest.mark.parametrize("pictures, batch_size", [(0, 2), (1, 1), (2, 2), (3, 2), (9, 3)])
def test_as_many_pictures_are_shown_as_are_asked_for_and_every_pixel_counts(pictures, batch_size):
    rng = np.random.default_rng(0)
    images = [rng.choice(np.array([0, 255], np.uint8), (4, 6, 3)) for _ in range(5)]
    truths = [rng.choice(np.array([0, 1, 255], np.uint8), (4, 6)) for _ in range(5)]
    samples = [{"image": i, "labels": t, "index": n} for n, (i, t) in enumerate(zip(images, truths, strict=True))]
    model = FirstColour()
    found = measure(model, AsTheyAre(), samples, batch_size=batch_size, pictures=pictures)
    assert len(found.shown) == min(pictures, 5) and not model._forward_hooks
    for (image, truth, said), sample in zip(found.shown, samples, strict=False):
        assert image is sample["image"] and truth is sample["labels"]
        assert np.array_equal(said, sample["image"][..., 0] > 0)
    said, true = np.stack(images)[..., 0] > 0, np.stack(truths)
    counts = [[int(((true == row) & (said == column)).sum()) for column in (0, 1)] for row in (0, 1)]
    assert found.counts.tolist() == counts and found.metrics["samples"] == 5 and "token_share" not in found.metrics
    shares = [counts[n][n] / (sum(counts[n]) + counts[0][n] + counts[1][n] - counts[n][n]) for n in (0, 1)]
    assert found.per_class == {"dark": pytest.approx(shares[0]), "bright": pytest.approx(shares[1])}
    assert set(found.metrics) == set(SegmentationTrainer.metric_names(None)), "what the best model may be best at"


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_processes_take_turns_and_count_together_in_the_precision_asked_for(dtype, monkeypatch):
    rng = np.random.default_rng(0)
    samples = [
        {"image": rng.choice(np.array([0, 255], np.uint8), (4, 6, 3)), "labels": np.full((4, 6), n % 2, np.uint8)}
        | {"index": n}
        for n in range(5)
    ]
    seen = []

    class Model(FirstColour):
        def forward(self, pixels):
            seen.append((len(pixels), torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None))
            return super().forward(pixels)

    alone = measure(Model(), AsTheyAre(), samples, batch_size=2, pictures=3, dtype=dtype)
    assert {kind for _, kind in seen} == {dtype}
    sums, shown = [], []

    def reduce(values, how):
        assert how == "sum"
        sums.append(values.clone())
        return values + sums[len(sums) - 3] if len(sums) > 2 else values

    monkeypatch.setattr(evaluation, "reduce", reduce)
    monkeypatch.setattr(evaluation, "gather_object", lambda own: shown.extend(own) or list(shown))
    for number in (1, 0):
        state = types.SimpleNamespace(process_index=number, num_processes=2, device="cpu")
        monkeypatch.setattr(evaluation, "PartialState", lambda state=state: state)
        together = measure(Model(), AsTheyAre(), samples, batch_size=2, pictures=3, dtype=dtype)
    assert sum(count for count, _ in seen) == 10
    assert np.array_equal(together.counts, alone.counts) and together.metrics == alone.metrics
    assert len(together.shown) == 3
    assert all(mine[0] is sample["image"] for mine, sample in zip(together.shown, samples, strict=False))


@pytest.mark.parametrize("prefix", ["", "night_"])
def test_figures_of_an_evaluation_are_called_after_its_results(prefix, tmp_path, monkeypatch):
    written = []
    for name in ("plot_iou", "draw_predictions"):
        monkeypatch.setattr(reports, name, lambda what, file: written.append((what, file)))
    reports.write_figures(types.SimpleNamespace(per_class={"a": 1.0}, shown=["one"]), tmp_path / "new", prefix)
    files = [tmp_path / "new" / f"{prefix}{name}.png" for name in ("iou_per_class", "predictions")]
    assert written == [({"a": 1.0}, files[0]), (["one"], files[1])]


def test_without_pictures_to_show_none_are_drawn(tmp_path):
    reports.write_figures(types.SimpleNamespace(per_class={"a": 1.0}, shown=[]), tmp_path)
    assert not (tmp_path / "predictions.png").exists()


@pytest.mark.parametrize("count, across", [(1, 3), (4, 3), (5, 6)])
def test_a_picture_stands_beside_its_true_map_and_the_one_that_was_found(count, across, tmp_path):
    """Of 60 × 40 pixels, three times as large; two such rows beside each other where there are many."""
    image, truth, found = np.full((40, 60, 3), 100, np.uint8), np.ones((40, 60), int), np.full((40, 60), 2)
    truth[:, 30:] = 255
    reports.draw_predictions([(image, truth, found)] * count, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as sheet:
        assert sheet.size == (across * 184, -(-3 * count // across) * 124)
        for number in range(3 * count):
            left, top = number % across * 184, number // across * 124
            first, last = sheet.getpixel((left, top)), sheet.getpixel((left + 179, top + 119))
            # A map is 0.65 of its colours over 0.35 of the picture: dark red, white and dark green.
            assert (first, last) == [
                ((100,) * 3, (100,) * 3), ((118, 35, 35), (200,) * 3), ((35, 118, 35), (35, 118, 35)),
            ][number % 3]  # fmt: skip
            if left + 184 < across * 184:
                assert sheet.getpixel((left + 181, top)) == (255, 255, 255)


@pytest.mark.parametrize(
    "size, side",
    [({"height": 96, "width": 64}, 96), ({"shortest_edge": 80, "longest_edge": 99}, 80), ({"longest_edge": 99}, 512)],
)
def test_the_side_of_a_segmenters_inputs_is_its_image_processors(size, side):
    assert models.side_of(types.SimpleNamespace(size=size)) == side


@pytest.mark.parametrize(
    "asked, own, side", [(None, None, 512), (None, 48, 48), (None, (96, 64), 64), (32, 48, 32), (32, None, 32)]
)
def test_the_image_processor_of_a_new_segmenter_is_as_large_as_its_inputs(asked, own, side, monkeypatch):
    config = types.SimpleNamespace(**({} if own is None else {"image_size": own}))
    monkeypatch.setattr(models, "build_anew", lambda *_: types.SimpleNamespace(config=config))
    _, processor = models._from_type(SegmenterArguments(segmenter="segformer", image_size=asked), {})
    assert dict(processor.size) == {"height": side, "width": side} and not processor.do_reduce_labels
    np.testing.assert_allclose(processor.image_mean, [0.485, 0.456, 0.406])
    np.testing.assert_allclose(processor.image_std, [0.229, 0.224, 0.225])


@pytest.mark.parametrize("kind", ["convnext", "beit"])
@pytest.mark.parametrize("named", [{}, {"out_features": ["stage2"]}, {"out_indices": [2]}])
@pytest.mark.parametrize("width", [None, 5])
def test_upernet_takes_the_last_four_maps_unless_others_are_named(kind, named, width, monkeypatch):
    """A BEiT has its own; the auxiliary head is as wide as the third of them, unless a width is given."""
    backbone = types.SimpleNamespace(
        model_type=kind, stage_names=["stem", *(f"stage{n}" for n in range(1, 6))], out_features="its own"
    )
    fields = {"backbone_config": backbone} | ({} if width is None else {"auxiliary_in_channels": width})

    def build(args, argument, known, auto, labels, adjust):
        adjust(fields)
        return types.SimpleNamespace(config=types.SimpleNamespace(image_size=32))

    made = types.SimpleNamespace(channels=[1, 2, 3, 4])
    monkeypatch.setattr(models, "build_anew", build)
    monkeypatch.setattr(models, "has_trained_backbone", lambda args: False)
    monkeypatch.setattr(models, "AutoBackbone", types.SimpleNamespace(from_config=lambda config: made))
    args = types.SimpleNamespace(segmenter="upernet", backbone="some", backbone_config=named, image_size=None)
    models._from_type(args, {})
    last = ["stage2", "stage3", "stage4", "stage5"]
    assert fields["backbone_config"].out_features == (last if kind == "convnext" and not named else "its own")
    assert fields["auxiliary_in_channels"] == (width or 3)


@pytest.mark.parametrize("names", [[], ["semantic_loss_ignore_index"], ["loss_ignore_index"]], ids=str)
def test_the_label_of_no_class_is_the_maps_whatever_the_model_says(names, monkeypatch):
    config = types.SimpleNamespace(**dict.fromkeys(names, 0))
    monkeypatch.setattr(models, "_from_type", lambda *_: (types.SimpleNamespace(config=config), "processor"))
    load_segmenter(SegmenterArguments(segmenter="a-type"), ["a", "b"])
    assert vars(config) == dict.fromkeys(names, 255)
