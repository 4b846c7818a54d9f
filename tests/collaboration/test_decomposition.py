"""One vision transformer becomes several smaller ones, each for some classes, and these become one."""

import inspect
import itertools
import json
import random
import shlex
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from transformers import ResNetConfig, ViTConfig, ViTForImageClassification, ViTModel

from hf_effmodels import cli
from hf_effmodels.benchmarking.counting import count
from hf_effmodels.collaboration import parts, shrinking
from hf_effmodels.collaboration.assignment import Device, Need, assign
from hf_effmodels.collaboration.decomposition import (
    assemble,
    check_class_groups,
    from_transformers,
    keep_classes,
    merge_fusion,
    split_classes,
    take_part,
)
from hf_effmodels.collaboration.parts import DecomposeArguments, decompose
from hf_effmodels.collaboration.shrinking import shrink
from hf_effmodels.compression.pruning.class_importance import class_divergences
from hf_effmodels.compression.pruning.hsic import head_scores, highest, kept_of, score_part
from hf_effmodels.compression.pruning.vision_widths import part_macs, prune_part, search_widths
from hf_effmodels.modeling.devit.configuration_devit import DeViTConfig, part_sizes
from hf_effmodels.modeling.devit.modeling_devit import DeViTForImageClassification
from hf_effmodels.models import create_image_processor
from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.tasks.image_classification.data import DataArguments, load_data

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}


def whole() -> DeViTForImageClassification:
    torch.manual_seed(4)
    config = DeViTConfig(
        image_size=16,
        patch_size=8,
        parts=[part_sizes(16, 2, 4)],
        initializer_range=0.3,
        id2label={number: str(number) for number in range(10)},
        label2id={},
    )
    return DeViTForImageClassification(config).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    whole().save_pretrained(folder)
    create_image_processor("devit-s", image_size=16).save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"part_type": "vit", "image_size": 40, "patch_size": 8, "num_channels": 1},
        {"part_type": "deit", "image_size": 32, "patch_size": 16},
        {
            "part_type": "cct",
            "image_size": 30,
            "num_tokenizer_layers": 2,
            "tokenizer_kernel_size": 5,
            "qkv_bias": False,
        },
    ],
)
def test_multiply_adds_of_a_part_are_those_that_are_counted(options):
    parts = [{"hidden_size": 16, "head_dim": 4, "num_heads": [4, 1], "intermediate_sizes": [10, 32]}]
    config = DeViTConfig(**options, parts=parts, num_labels=3)
    with torch.device("meta"):
        model = DeViTForImageClassification(config).requires_grad_(False).eval()
    model.set_attn_implementation("eager")  # its products of matrices are seen by the counter
    size = config.image_size
    counted = count(model, torch.empty(1, config.num_channels, size, size, device="meta")).macs
    classifiers = 16 * 3 * config.num_tokens
    assert part_macs(config) == counted - classifiers
    fewer = part_macs(config, neurons=[10, 30], heads=[3, 1])
    tokens = model.devit.parts[0].embeddings.position_embeddings.shape[1]
    assert part_macs(config) - fewer == 4 * tokens * 16 * 4 + 2 * tokens**2 * 4 + 2 * tokens * 16 * 2


@torch.no_grad()
def test_logits_of_the_classes_that_are_kept_are_what_they_were():
    model, pixels = whole(), torch.randn(3, 3, 16, 16)
    some = keep_classes(model, [7, 2, 9])
    torch.testing.assert_close(some(pixels).logits, model(pixels).logits[:, [7, 2, 9]])
    assert some.config.id2label == {0: "7", 1: "2", 2: "9"} and some.config.label2id["9"] == 2
    for wrong in ([3], [3, 3], [3, 10], [-1, 3]):
        with pytest.raises(ValueError, match="classes: got"):
            keep_classes(model, wrong)


@torch.no_grad()
def test_pictures_are_taken_in_the_precision_of_the_network_and_probabilities_in_single():
    torch.manual_seed(0)
    model, pixels, labels = whole().bfloat16(), torch.randn(16, 3, 16, 16), torch.arange(16) % 10
    found = shrink(model, pixels, labels, macs=0.7, score_images=6, samples=2, tolerance=0.1)
    rounded = pixels.bfloat16()
    assert found.model.dtype == torch.bfloat16 and found.macs[1] < found.macs[0]
    right = (found.model(rounded[6:]).logits.argmax(-1) == labels[6:]).double().mean()
    assert found.accuracy[1] == pytest.approx(float(right))
    projection, said = model.devit.parts[0].layers[0].attention, []
    projection.proj.register_forward_pre_hook(lambda _, args: said.append(args[0]))
    heads, _ = score_part(model, rounded[:6])
    outputs = said[0].unflatten(-1, (projection.num_heads, projection.head_dim))
    expected = head_scores(outputs, model(rounded[:6]).logits.double().softmax(-1))
    assert heads[0].tolist() == pytest.approx(expected.tolist(), rel=1e-4, abs=0)


@torch.no_grad()
def test_the_best_choice_within_the_budget_is_taken(monkeypatch):
    torch.manual_seed(0)
    model, pixels = whole(), torch.randn(60, 3, 16, 16)
    labels = model(pixels).logits.argmax(-1)
    found = shrink(model, pixels, labels, macs=0.7, score_images=20, samples=30, tolerance=0.05, seed=1)
    assert found.accuracy[0] == 1.0 and found.accuracy[1] < 1.0
    assert found.macs == (part_macs(model.config), part_macs(found.model.config))
    assert not model.training and not found.model.training
    assert abs(found.macs[1] / found.macs[0] / 0.7 - 1) <= 0.05
    right = (found.model(pixels[20:]).logits.argmax(-1) == labels[20:]).double().mean()
    assert found.accuracy[1] == pytest.approx(float(right))
    # The heads and neurons that are left are those of the highest scores.
    sizes = found.model.config.parts[0]
    heads, neurons = score_part(model, pixels[:20])
    kept = [
        [kept_of(scores, 1 - count / len(scores)) for scores, count in zip(of, counts, strict=True)]
        for of, counts in ((heads, sizes["num_heads"]), (neurons, sizes["intermediate_sizes"]))
    ]
    torch.testing.assert_close(prune_part(model, *kept)(pixels).logits, found.model(pixels).logits)
    one = shrink(model, pixels, labels, macs=0.7, score_images=20, samples=1, tolerance=0.05, seed=1)
    assert one.accuracy[1] < found.accuracy[1]
    by_class = shrink(model, pixels, labels, macs=0.7, score_images=6, samples=2, tolerance=0.05, importance="kl")
    sizes, labels_of = by_class.model.config.parts[0], (pixels[:6], labels[:6])
    kept = [
        [highest(lost.nanmean(0), count) for lost, count in zip(of, counts, strict=True)]
        for of, counts in (
            (class_divergences(model, *labels_of, units="heads"), sizes["num_heads"]),
            (class_divergences(model, *labels_of, units="neurons"), sizes["intermediate_sizes"]),
        )
    ]
    torch.testing.assert_close(prune_part(model, *kept)(pixels).logits, by_class.model(pixels).logits)
    monkeypatch.setattr(shrinking, "score_part", lambda *args: pytest.fail("it scored before it looked at the budget"))
    same = shrink(model, pixels, labels, macs=1.0, score_images=20)
    assert same.model is model and same.macs[0] == same.macs[1]
    for options, message in (
        ({"macs": 0.0}, "macs: got 0.0"),
        ({"importance": "l1", "score_images": 20}, "importance: got 'l1'"),
        ({"score_images": 60}, "score_images: got 60 of 60"),
        ({"macs": 0.1, "score_images": 20}, "target: got"),
    ):
        with pytest.raises(ValueError, match=message):
            shrink(model, pixels, labels, **options)


def test_a_part_is_shrunk_by_default_as_the_command_shrinks_it():
    """The defaults of `decompose` are those of its function; 0.6 is what the release's target comes out as."""
    told = {f.name: f.default for f in fields(DecomposeArguments)}
    own = {n: p.default for n, p in inspect.signature(shrink).parameters.items() if p.default is not p.empty}
    assert own == {name: told[name] for name in own}
    assert (own["macs"], own["importance"], own["score_images"], own["samples"]) == (0.6, "hsic", 256, 100)
    assert (own["bound"], own["tolerance"], own["seed"]) == (0.5, 0.02, 0)
    assert (told["parts"], told["class_seed"], told["search_images"]) == (4, 42, 512)
    assert inspect.signature(split_classes).parameters["seed"].default == 42


def test_parts_are_of_one_part_and_of_one_kind():
    one, two = whole(), assemble([whole(), whole()], 10)
    for call, message in (
        (lambda: assemble([], 10), "parts: accepted are models of one part each, one and more of them"),
        (lambda: assemble([one, two], 10), "parts: accepted are models of one part each"),
        (lambda: assemble([one], 0), "num_labels: got 0"),
        (lambda: assemble([one], 10, fusion_hidden_size=0), "fusion_hidden_size: got 0"),
        (lambda: shrink(two, torch.zeros(4, 3, 16, 16), torch.zeros(4)), "model: it has 2 parts, accepted is one of"),
        (lambda: take_part(two, 2), "part: got 2"),
        (lambda: take_part(two, -1), "part: got -1"),
        (lambda: split_classes(0), "num_classes: got 0"),
        (lambda: split_classes(3, 4), "parts: got 4, accepted are 1 to the number of classes, 3"),
        (lambda: split_classes(3, 0), "parts: got 0"),
        (lambda: check_class_groups([[0, 1], [1]], 3), r"missing are \[2\], unknown or given twice \[1\]"),
        (lambda: check_class_groups([[0, 1], [2, 3]], 3), r"missing are \[\], unknown or given twice \[3\]"),
        (lambda: check_class_groups(["01", [2]], 3), "class_groups: got .*, accepted is for each part a list of numb"),
        (lambda: check_class_groups([[0, 1.5], [2]], 3), "class_groups: got .*, accepted is for each part a list"),
        (lambda: from_transformers(ViTModel(ViTConfig(**TINY))), "model: got ViTModel, accepted are ViTForImageClass"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert merge_fusion(one) is one, "there is nothing to merge"


@pytest.mark.parametrize(
    "name, value",
    [
        *(("part_type", "deit"), ("image_size", 32), ("num_channels", 1), ("patch_size", 4)),
        *(("qkv_bias", False), ("layer_norm_eps", 1e-5), ("hidden_act", "relu")),
    ],
)
def test_parts_that_differ_in_more_than_their_sizes_are_no_whole(name, value):
    one, other = whole(), whole()
    assert getattr(one.config, name) != value
    setattr(other.config, name, value)
    with pytest.raises(ValueError, match=f"^parts: they have the {name} .*, accepted is one"):
        assemble([one, other], 10)


@torch.no_grad()
@pytest.mark.parametrize("part_type", ["vit", "deit"])
def test_a_part_by_itself_has_the_columns_of_its_tokens_and_the_whole_bias(part_type):
    torch.manual_seed(0)
    sizes = [part_sizes(16, 1, 4), {**part_sizes(8, 1, 2)}, part_sizes(12, 1, 3)]
    config = DeViTConfig(
        part_type=part_type, image_size=16, patch_size=8, parts=sizes, num_labels=6, initializer_range=0.3,
        class_groups=[[0, 1], [2, 3], [4, 5]],
    )  # fmt: skip
    model, pixels = DeViTForImageClassification(config).eval(), torch.randn(2, 3, 16, 16)
    for classifier in model.fusion.classifiers.values():
        classifier.bias.normal_()
    taken = [take_part(model, number) for number in range(3)]
    assert [part.config.parts for part in taken] == [[size] for size in model.config.parts]
    assert all(part.config.class_groups is None and not part.training for part in taken)
    biases = torch.stack([classifier.bias for classifier in model.fusion.classifiers.values()]).mean(0)
    logits = sum(part(pixels).logits for part in taken) - 2 * biases
    torch.testing.assert_close(logits, model(pixels).logits)
    assert take_part(model.train(), 0).training


@torch.no_grad()
def test_a_fusion_of_two_layers_is_merged_to_the_same_logits():
    model, pixels = assemble([whole(), whole()], 10, fusion_hidden_size=6).eval(), torch.randn(2, 3, 16, 16)
    merged = merge_fusion(model)
    assert merged.config.fusion_hidden_size is None and model.config.fusion_hidden_size == 6
    torch.testing.assert_close(merged(pixels).logits, model(pixels).logits)


def test_widths_are_drawn_from_the_seed_and_the_first_of_the_best_is_kept():
    draw = random.Random(5)
    drawn = [[draw.uniform(0, 0.3) for _ in range(4)] for _ in range(4)]
    quality = {drawn[0][0]: 0.5, drawn[1][0]: 0.7, drawn[2][0]: 0.7, drawn[3][0]: 0.9}
    options = {"depth": 2, "bound": 0.3, "samples": 3, "seed": 5}
    found = search_widths(lambda neurons, heads: quality[neurons[0]], lambda neurons, heads: 1.0, 1.0, **options)
    assert found == (drawn[1][:2], drawn[1][2:])


def test_shares_of_heads_and_neurons_are_rounded_down(monkeypatch):
    def search(evaluate, *_, depth, **options):
        ratios = [0.145] * depth, [0.2, 0.6]
        evaluate(*ratios)
        return ratios

    monkeypatch.setattr(shrinking, "search_widths", search)
    monkeypatch.setattr(shrinking, "check_target", lambda *_: None)
    model, pixels = whole(), torch.randn(8, 3, 16, 16)
    sizes = shrink(model, pixels, torch.arange(8), macs=0.7, score_images=4).model.config.parts[0]
    assert sizes["intermediate_sizes"] == [54, 54] and sizes["num_heads"] == [3, 1]  # of 64 and 4: 54.7, 3.2 and 1.6


@pytest.mark.parametrize("dataset", ["digits", "imagefolder"])
def test_the_command_that_decompose_names_trains_a_part_of_a_stock_vit(dataset, tmp_path, capsys, monkeypatch):
    """As it is printed, by a shell's rules, and on the same pictures: the recipe names those of CIFAR-100."""
    names = {number: str(number) for number in range(10)}
    sizes = {"hidden_size": 16, "num_hidden_layers": 5, "num_attention_heads": 2, "intermediate_size": 16}
    vit = ViTConfig(image_size=16, patch_size=8, id2label=names, label2id={v: k for k, v in names.items()}, **sizes)
    ViTForImageClassification(vit).save_pretrained(tmp_path / "the vit")
    create_image_processor("devit-s", image_size=16).save_pretrained(tmp_path / "the vit")
    data, here = ["--dataset", dataset], str(tmp_path)
    if dataset == "imagefolder":
        for number in range(120):
            place = tmp_path / f"my pictures/{number % 10}"
            place.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (16, 16), (number, 2 * number, 0)).save(place / f"{number}.png")
        data += ["--data_dir", f"{here}/my pictures", "--max_train_samples", "100"]
    few = ["--samples", "5", "--tolerance", "0.3", "--score_images", "20", "--search_images", "10", "--parts", "2"]
    assert cli.main(["decompose", f"{here}/the vit", f"{here}/the parts", *data, "--macs", "0.7", *few]) == 0
    words = shlex.split(next(line for line in capsys.readouterr().out.splitlines() if "parts/part1'" in line))
    dekd = yaml.safe_load(words[words.index("--losses") + 1])["dekd"]
    # Of five blocks the second, L/2 - 1, and heads of 16 / 2 channels; the part's are as wide.
    assert dekd == {
        **{"weight": 2, "blocks": 5, "student_head_width": 8, "teacher_head_width": 8},
        **{"student_block": "devit.parts.0.layers.1.attention", "teacher_block": "vit.layers.1.attention"},
        "teacher_layers": ["q_proj", "k_proj", "v_proj"],
    }
    at = words.index("--dataset")
    recipes = {"digits": "devit/digits_part0", "imagefolder": "devit/cifar100_part"}
    columns = ["--image_column", "image", "--label_column", "label"]
    of_data = {*zip(data[::2], data[1::2], strict=True), *(zip(columns[::2], columns[1::2], strict=True))}
    told = words[at : words.index("--classes")]
    assert words[:4] == ["hf-effmodels", "train", "--config", recipes[dataset]]
    assert {*zip(told[::2], told[1::2], strict=True)} - of_data == set()
    short = ["--max_steps", "1", "--max_eval_samples", "5", "--dataloader_num_workers", "0", "--warmup_steps", "0"]
    assert cli.main([*words[1:], *short, "--per_device_train_batch_size", "8"]) == 0
    assert (tmp_path / "the parts/part1-trained/model.safetensors").is_file()


def test_commands_take_a_network_apart_and_put_it_together(folder, tmp_path, capsys):
    parts, out = tmp_path / "parts", tmp_path / "assembled"
    options = ["--dataset", "digits", "--parts", "2", "--samples", "5", "--tolerance", "0.1", "--score_images", "40"]
    more = ["--search_images", "30", "--macs", "0.7"]
    assert cli.main(["decompose", str(folder), str(parts), *options, *more]) == 0
    said = capsys.readouterr().out
    report = json.loads((parts / "parts.json").read_text())["parts"]
    assert [part["classes"] for part in report] == [["7", "3", "2", "8", "5"], ["6", "9", "4", "0", "1"]]
    assert "--classes 7 3 2 8 5" in said and str(parts / "part1") in said
    assert '"teacher_block": "devit.parts.0.layers.0.attention", "teacher_layers": ["qkv"]' in said
    # Measured on the second half of 70 pictures of its classes, drawn from the seed.
    pictures, prepare = load_data(DataArguments(dataset="digits"))[0], create_image_processor("devit-s", image_size=16)
    for part in report:
        group = np.array(part["classes"], dtype=int)
        drawn = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(pictures.labels, group)))[35:70]
        seen = prepare([pictures.read(number, 3) for number in drawn], return_tensors="pt")["pixel_values"]
        with torch.no_grad():
            answers = group[whole()(seen).logits[:, group].argmax(-1)]
        assert part["accuracy_before"] == pytest.approx((answers == pictures.labels[drawn]).mean())
    pixels = torch.randn(2, 3, 16, 16)
    sent = []
    for number, part in enumerate(report):
        model = DeViTForImageClassification.from_pretrained(parts / f"part{number}").eval()
        assert model.num_parameters() == part["parameters"] < whole().num_parameters()
        assert part["macs"] == part_macs(model.config) < 0.8 * part["macs_before"]
        assert part["pictures"] == {"scores": 35, "search": 35}  # half, where there are not enough for both
        sent.append(model.encode(0, pixels))
    names = [str(parts / f"part{number}") for number in range(2)]
    assert cli.main(["assemble", str(out), *names, "--teacher", str(folder)]) == 0
    model = DeViTForImageClassification.from_pretrained(out).eval()
    assert model.config.fusion_hidden_size == 16 and model.config.class_groups == [[7, 3, 2, 8, 5], [6, 9, 4, 0, 1]]
    assert [model.config.id2label[n] for n in range(10)] == [str(n) for n in range(10)]
    for number, tokens in enumerate(sent):
        torch.testing.assert_close(model.encode(number, pixels), tokens)
    wide = ["assemble", str(tmp_path / "wide"), *names, "--teacher", str(folder), "--fusion-hidden-size", "6"]
    assert cli.main(wide) == 0
    assert DeViTConfig.from_pretrained(tmp_path / "wide").fusion_hidden_size == 6
    assert cli.main(["assemble", str(tmp_path / "alone"), *names[::-1]]) == 0
    alone = DeViTForImageClassification.from_pretrained(tmp_path / "alone")
    assert alone.config.fusion_hidden_size is None
    assert [alone.config.id2label[n] for n in range(10)] == ["6", "9", "4", "0", "1", "7", "3", "2", "8", "5"]
    capsys.readouterr()
    devices = ["--device", "board", "1M", "60k", "--device", "phone", "2M", "1M"]
    assert cli.main(["assign", *names, *devices, "--bytes", "2", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["part"], row["device"]) for row in rows] == [(name, "phone") for name in names]
    assert [row["memory"] for row in rows] == [2 * part["parameters"] for part in report]
    assert cli.main(["assign", *names, *devices]) == 0
    lines = capsys.readouterr().out.splitlines()
    memory, macs = 4 * sum(part["parameters"] for part in report), sum(part["macs"] for part in report)
    assert lines[1].split() == [
        f"{4 * report[0]['parameters'] / 1e6:.3f}",
        f"{rows[0]['macs'] / 1e6:.1f}",
        "phone",
        names[0],
    ]
    assert lines[3:] == [
        "board: 0% of its memory, 0% of its multiply-adds",
        f"phone: {memory / 2e6:.0%} of its memory, {macs / 1e6:.0%} of its multiply-adds",
    ]
    whole().save_pretrained(tmp_path / "bare")
    labels = {number: str(number) for number in range(10)}
    ResNetConfig(id2label=labels).save_pretrained(tmp_path / "teacher")
    device = ["--device", "board", "1M", "1M"]
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "parts.json").write_text("mine")
    for argv, message in (
        (["assign", *names], "--device is missing"),
        (["assign", *names, *device, *device], "--device: board stands there twice"),
        (["assign", names[0], names[0], *device], f"PART: {names[0]} stands there twice"),
        (
            ["assign", *names, "--device", "board", "1M", "10"],
            "multiply-adds, which no device has left (board 1000000",
        ),
        (["assign", *names, "--device", "board", "1M", "x"], "--device: board: got x, accepted are numbers"),
        (["assign", *names, *device, "--bytes", "0"], "--bytes: got 0"),
        (["assign", str(out), *device], "has 2 parts"),
        (["assemble", str(tmp_path / "x"), names[0], "--teacher", str(folder)], "the parts lack 0, 1, 4, 6, 9"),
        (
            ["assemble", str(tmp_path / "x"), *names, "--teacher", str(tmp_path / "teacher")],
            "does not tell how wide its tokens are; --fusion-hidden-size does",
        ),
        (
            ["decompose", str(tmp_path / "bare"), str(tmp_path / "x"), "--dataset", "digits"],
            "has no image processor, which",
        ),
        (["assemble", str(tmp_path / "x"), names[0], names[0]], "PART: several have the classes 2, 3, 5, 7, 8"),
        (["assemble", str(tmp_path / "x"), str(out)], "has 2 parts, accepted is a DeViT of one"),
        (["assemble", str(tmp_path / "x"), names[0], "--fusion-hidden-size", "0"], "--fusion-hidden-size: got 0"),
        (["decompose", str(folder), str(tmp_path / "x"), "--dataset", "digits", "--parts", "6"], "--parts: got 6"),
        (["decompose", str(folder), str(tmp_path / "x"), "--dataset", "digits", "--macs", "1.5"], "--macs: got 1.5"),
        (["decompose", str(folder), str(tmp_path / "x"), *options, "--macs", "0.1"], "--macs: got 0.1, and no draw"),
        (["decompose", str(tmp_path), str(tmp_path / "x"), "--dataset", "digits"], "--model: "),
        (["decompose", "--dataset", "digits"], "--model is missing"),
        (
            ["decompose", str(folder), str(tmp_path / "x"), *options, "--label_mapping", "{3: three}"],
            "has the classes three, which the model has not by these names",
        ),
        (["decompose", str(folder), str(folder), "more", "--dataset", "digits"], "one value too many: 'more'"),
        (["decompose", str(folder), str(folder / "config.json"), *options], "--output: "),
        (
            ["decompose", str(folder), str(tmp_path / "theirs"), *options],
            "parts.json is there, and no file of decompose",
        ),
        (["decompose", str(folder), str(parts), *options, *more], "part0 is not empty; choose another folder, or"),
        (["decompose", str(folder), str(tmp_path / "x"), *options, "--seed", "-1"], "--seed: got -1"),
        (["assemble", str(folder / "config.json"), names[0]], "OUTPUT: "),
        (["decompose", str(folder), str(tmp_path / "x"), *options, "--classes", "1", "2"], "no picture of 0, 3"),
    ):
        assert cli.main(argv) == 2
        assert message in capsys.readouterr().err, argv
    assert not (tmp_path / "x").exists() and (tmp_path / "theirs" / "parts.json").read_text() == "mine"
    assert json.loads((parts / "parts.json").read_text())["parts"] == report
    said = ["decompose", str(folder), str(parts), *options, *more, "--overwrite", "--macs", "0.95", "--json"]
    assert cli.main(said) == 0
    again = json.loads(capsys.readouterr().out)["parts"]
    for number, (before, part) in enumerate(zip(report, again, strict=True)):
        model = DeViTForImageClassification.from_pretrained(parts / f"part{number}")
        assert model.num_parameters() == part["parameters"] > before["parameters"]


def test_a_folder_of_others_is_refused_before_the_model_is_read(tmp_path):
    """Whoever calls, the command or a program that has read the arguments."""
    (tmp_path / "parts.json").write_text("mine")
    argv = ["--model", str(tmp_path / "none"), "--output", str(tmp_path), "--dataset", "digits"]
    with pytest.raises(FileExistsError, match=r"parts\.json is there, and no file of decompose"):
        decompose(ArgumentReader(argv))
    assert (tmp_path / "parts.json").read_text() == "mine"


def test_networks_of_transformers_are_decomposed_as_they_are(tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    names = {number: str(number) for number in range(10)}
    vit = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8, id2label=names)).eval()
    vit.save_pretrained(tmp_path / "vit")
    create_image_processor("devit-s", image_size=16).save_pretrained(tmp_path / "vit")
    options = ["--dataset", "digits", "--parts", "5", "--macs", "1", "--score_images", "4", "--search_images", "4"]
    options += ["--class_seed", "1"]
    assert cli.main(["decompose", str(tmp_path / "vit"), str(tmp_path / "parts"), *options, "--json"]) == 0
    part = DeViTForImageClassification.from_pretrained(tmp_path / "parts" / "part4").eval()
    pixels, group = torch.randn(2, 3, 16, 16), [int(part.config.id2label[n]) for n in range(2)]
    assert group == split_classes(10, 5, seed=1)[4] != split_classes(10, 5)[4]
    torch.testing.assert_close(part(pixels).logits, vit(pixels).logits[:, group])
    assert isinstance(from_transformers(vit), DeViTForImageClassification)


@pytest.mark.parametrize(
    "setting",
    [{"num_channels": 1}, {"qkv_bias": False}, {"hidden_act": "relu"}, {"layer_norm_eps": 0.5}],
    ids=[*"cbae"],
)
@torch.no_grad()
def test_what_is_taken_apart_has_every_setting_of_the_network_of_transformers(setting):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 20}
    config = ViTConfig(**sizes, image_size=16, patch_size=8, num_labels=3, initializer_range=0.5, **setting)
    vit, pixels = ViTForImageClassification(config).eval(), torch.randn(2, config.num_channels, 16, 16)
    torch.testing.assert_close(from_transformers(vit)(pixels).logits, vit(pixels).logits)


@pytest.mark.parametrize("training", [True, False])
def test_parts_that_are_put_together_stay_in_their_mode(training):
    parts = [whole().train(training), whole().train(training)]
    assert assemble(parts, 10).training is take_part(parts[0], 0).training is training
    assert from_transformers(ViTForImageClassification(ViTConfig(**TINY)).train(training)).training is training


def test_parts_go_to_the_device_that_has_most_left():
    devices = {"small": Device(memory=10, macs=50), "large": Device(memory=30, macs=80)}
    parts = {"a": Need(9, 20), "b": Need(12, 40), "c": Need(8, 35), "d": Need(9, 15)}
    # b: large (80 left); c: small (50 against 40); a: large (40), as small has no memory; d: large.
    assert assign(parts, devices) == {"a": "large", "b": "large", "c": "small", "d": "large"}
    with pytest.raises(
        ValueError, match="parts: b needs 12 bytes and 40 multiply-adds.*small 10 bytes and 50; large 10 b"
    ):
        assign(parts | {"e": Need(20, 60)}, devices)
    with pytest.raises(ValueError, match="devices: got none"):
        assign(parts, {})
    with pytest.raises(ValueError, match="macs: got 0"):
        Device(memory=1, macs=0)


def test_on_equal_devices_the_busiest_is_within_four_thirds_of_the_best_there_is():
    """Graham's bound for what takes the longest job first, against all assignments."""
    draw = random.Random(0)
    for _ in range(20):
        parts = {str(n): Need(1, draw.randint(1, 30)) for n in range(6)}
        devices = {name: Device(memory=6, macs=1000) for name in "xyz"}

        def busiest(chosen, parts=parts):
            return max(sum(parts[p].macs for p, d in chosen.items() if d == name) for name in "xyz")

        found = busiest(assign(parts, devices))
        best = min(busiest(dict(zip(parts, choice, strict=True))) for choice in itertools.product("xyz", repeat=6))
        assert best <= found <= (4 / 3 - 1 / 9) * best


def test_a_part_that_needs_just_what_a_device_has_fits_and_equal_devices_are_taken_in_order():
    devices = {"second": Device(memory=10, macs=50), "first": Device(memory=10, macs=50)}
    assert assign({"a": Need(10, 50)}, devices) == {"a": "second"}
    assert assign({"a": Need(10, 50), "b": Need(10, 50)}, devices) == {"a": "second", "b": "first"}
    for need in (Need(11, 50), Need(10, 51)):
        with pytest.raises(ValueError, match=f"parts: a needs {need.memory} bytes and {need.macs} multiply-adds"):
            assign({"a": need}, devices)
    # Of equal costs what needs more memory comes first, and finds the device that has more of both.
    large = {"x": Device(memory=9, macs=60), "y": Device(memory=5, macs=50)}
    assert assign({"light": Need(1, 30), "heavy": Need(9, 30)}, large) == {"heavy": "x", "light": "y"}


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("options", [{"macs": 0.7}, {"macs": 1.0}, {"macs": 0.1}])
def test_a_network_that_is_shrunk_stays_in_its_mode_as_does_what_is_left_of_it(training, options):
    model, pixels = whole().train(training), torch.randn(8, 3, 16, 16)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    try:
        found = shrink(model, pixels, torch.arange(8), score_images=4, samples=2, tolerance=0.1, **options).model
    except ValueError:
        assert options["macs"] == 0.1, "a budget that no choice meets"
        found = model
    assert {module.training for module in (*model.modules(), *found.modules())} == {training}
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())


@pytest.mark.parametrize("seed, score_images, search_images", [(0, 3, 4), (3, 3, 4), (3, 5, 40)])
def test_the_pictures_of_a_part_are_drawn_by_the_seed(monkeypatch, seed, score_images, search_images):
    labels, group = np.arange(60) % 5, [3, 1]
    sources = SimpleNamespace(labels=labels, select=lambda rows: rows)
    monkeypatch.setattr(
        parts,
        "ImageClassificationDataset",
        lambda rows, *_: [{"pixel_values": torch.tensor([float(row)]), "labels": int(labels[row])} for row in rows],
    )
    monkeypatch.setattr(parts, "EvaluationTransform", lambda processor: None)
    model = SimpleNamespace(config=SimpleNamespace(num_channels=3))
    args = SimpleNamespace(seed=seed, score_images=score_images, search_images=search_images)
    pixels, places = parts._pictures_of(group, sources, model, None, args)
    rows = pixels[:, 0].int().tolist()
    own = [row for row in range(60) if row % 5 in group]
    assert rows == np.random.default_rng(seed).permutation(own)[: score_images + search_images].tolist()
    assert len(rows) == min(24, score_images + search_images) and places.tolist() == [group.index(r % 5) for r in rows]


def test_parts_are_told_in_the_order_they_were_given_and_each_device_by_what_it_is_given(monkeypatch, capsys):
    needs = {"c": Need(500_000, 10_000_000), "a": Need(2_000_000, 40_000_000), "b": Need(1_000_000, 20_000_000)}
    asked = []
    monkeypatch.setattr(parts, "needs_of", lambda names, size: asked.append((names, size)) or needs)
    assert list(assign(needs, {"x": Device(9**9, 9**9)})) == ["c", "a", "b"]
    devices = ["--device", "board", "4M", "50M", "--device", "phone", "2M", "40M", "--device", "spare", "1", "1"]
    for size in (1, 4, 8):
        assert cli.main(["assign", "c", "a", "b", *devices, *([] if size == 4 else ["--bytes", str(size)])]) == 0
        assert asked.pop() == (["c", "a", "b"], size)
        lines = capsys.readouterr().out.splitlines()
        # The most first: a to the board, which has 10 M left then; b to the phone, of 20 M then; c there, too.
        assert [line.split() for line in lines[1:4]] == [
            ["0.500", "10.0", "phone", "c"],
            ["2.000", "40.0", "board", "a"],
            ["1.000", "20.0", "phone", "b"],
        ]
        assert lines[4:] == [
            "board: 50% of its memory, 80% of its multiply-adds",
            "phone: 75% of its memory, 75% of its multiply-adds",
            "spare: 0% of its memory, 0% of its multiply-adds",
        ]
    assert cli.main(["assign", "c", "a", "b", *devices, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [
        {"part": "c", "device": "phone", "memory": 500_000, "macs": 10_000_000},
        {"part": "a", "device": "board", "memory": 2_000_000, "macs": 40_000_000},
        {"part": "b", "device": "phone", "memory": 1_000_000, "macs": 20_000_000},
    ]
    for size in ("0", "9"):
        assert cli.main(["assign", "a", *devices, "--bytes", size]) == 2
        assert f"--bytes: got {size}, accepted are 1 to 8." in capsys.readouterr().err
    assert not asked[1:]


@pytest.mark.parametrize("teacher", [None, "org/large"])
def test_after_parts_are_put_together_it_is_told_what_there_is_and_how_to_train_it(
    teacher, monkeypatch, tmp_path, capsys
):
    given = []
    model = SimpleNamespace(num_parameters=lambda: 1_234_567, config=SimpleNamespace(num_labels=7))
    monkeypatch.setattr(parts, "assemble_parts", lambda arguments: given.append(arguments) or model)
    words = [] if teacher is None else ["--teacher", teacher, "--fusion-hidden-size", "12"]
    out = str(tmp_path / "out")
    assert cli.main(["assemble", out, "org/a", "org/b", "org/c", *words]) == 0
    (arguments,) = given
    assert (arguments.output, arguments.parts) == (out, ["org/a", "org/b", "org/c"])
    assert (arguments.teacher, arguments.fusion_hidden_size) == ((teacher, 12) if teacher else (None, None))
    assert capsys.readouterr().out.splitlines() == [
        f"{out}: 3 parts, 1.235 M parameters, 7 classes; the fusion's weights are random",
        f"next, such as for digits: hf-effmodels train --config devit/digits_fusion --model {out} "
        f"--teacher {teacher or 'TEACHER'}",
    ]
