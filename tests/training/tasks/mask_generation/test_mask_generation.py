"""Pictures, prompts and losses of the task mask-generation, each against its definition."""

import importlib.util
import json
import shutil
import types

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import AutoModelForMaskGeneration

from hf_effmodels.modeling.tinysam.modeling_tinysam import TinySamModel
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training import main, prepare
from hf_effmodels.training.losses.mask_distillation import dice_loss, focal_loss, mask_iou
from hf_effmodels.training.run.arguments import ModelArguments
from hf_effmodels.training.tasks.mask_generation import data as mask_data
from hf_effmodels.training.tasks.mask_generation import reports as mask_reports
from hf_effmodels.training.tasks.mask_generation import trainer as mask_training
from hf_effmodels.training.tasks.mask_generation.arguments import (
    MaskGenerationEvaluationArguments,
    ShapesArguments,
    TeacherArguments,
)
from hf_effmodels.training.tasks.mask_generation.data import Shapes
from hf_effmodels.training.tasks.mask_generation.models import load_sam
from hf_effmodels.training.tasks.mask_generation.outputs import Outputs, segment
from hf_effmodels.training.tasks.mask_generation.prompts import best_masks, boxes_around, points_in
from hf_effmodels.training.tasks.mask_generation.teacher import Teacher, check_is_sam, open_cache
from hf_effmodels.training.tasks.mask_generation.trainer import (
    distillation_loss,
    hard_points,
    measure,
    small,
    supervised_loss,
)

from ....modeling.tiny import tiny_config
from ....pipelines.hierarchical_mask_generation.models import build, picture
from ...run.test_contents import begun, change_weights
from ..recorders import Calls
from .conftest import VISION


def shapes(**options) -> Shapes:
    settings = {"prompts": 3, "shapes": 4, "rounds": 2, "mean": [0.5, 0.4, 0.3], "deviation": [0.2, 0.3, 0.4]}
    return Shapes([picture(), picture(60, 200)], 6, 64, **{**settings, **options})


@pytest.mark.parametrize("name", ["sam", "tinysam"])
def test_random_networks_tell_near_places_from_far_ones(name):
    """A place's code is much like its neighbour's, and unlike one half a picture away (segment-anything's deviation of
    1; transformers' SAM begins with half of the encoder's width)."""
    vision = {"image_size": 64, "output_channels": 128, "num_pos_feats": 64}
    if name == "sam":
        vision |= {"hidden_size": 96, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8}
    patch = vision.get("patch_size", 16)
    sizes = {"prompt_encoder_config": {"image_size": 64, "patch_size": patch, "hidden_size": 128}}
    sizes["mask_decoder_config"] = {"hidden_size": 128, "mlp_dim": 16, "num_attention_heads": 2}
    torch.manual_seed(0)
    model, _ = load_sam(ModelArguments(model=name, model_config={"vision_config": vision, **sizes}))
    codes = [model.shared_image_embedding(torch.tensor([[[[x, 0.5]]]])).flatten() for x in (0.5, 0.52, 0.99)]
    assert F.cosine_similarity(codes[0], codes[1], dim=0) > 0.95
    assert F.cosine_similarity(codes[0], codes[2], dim=0) < 0.5
    assert model.prompt_encoder.shared_embedding.positional_embedding.std().item() == pytest.approx(1, abs=0.2)


def test_a_misspelt_name_of_a_model_is_told_the_nearest():
    with pytest.raises(ValueError, match="tinysan.*tinysam"):
        load_sam(ModelArguments(model="tinysan"))


def test_pictures_follow_from_the_seed_the_epoch_and_their_number():
    first, again, other = shapes(seed=1), shapes(seed=1), shapes(seed=2)
    for number in (0, 5, 7):
        assert all(torch.equal(first[number][name], again[number][name]) for name in first[number])
    assert not torch.equal(first[0]["pixel_values"], first[6]["pixel_values"])
    assert not torch.equal(first[0]["pixel_values"], other[0]["pixel_values"])
    fixed = shapes(seed=1, fixed=True)
    assert torch.equal(fixed[0]["pixel_values"], fixed[6]["pixel_values"])
    assert not torch.equal(fixed[0]["draws"], fixed[6]["draws"])


def test_masks_are_what_is_seen_of_the_shapes():
    data = shapes(shapes=9)
    for number in range(6):
        drawn, masks = data.draw(np.random.default_rng(number))
        assert drawn.size == (64, 64) and masks
        assert np.stack(masks).sum(0).max() == 1, "what lies below is not in a mask"
        assert min(mask.sum() for mask in masks) >= 0.004 * 64 * 64
    sample = data[0]
    assert sample["masks"].shape == (3, 64, 64) and sample["draws"].shape == (3, 3)
    pixels = sample["pixel_values"].numpy() * data.deviation + data.mean
    assert 0 <= pixels.min() and pixels.max() <= 1.0001


def test_what_is_drawn_last_lies_above(monkeypatch):
    boxes = iter([(0, 0, 40, 40), (20, 20, 50, 50)])

    def outline(rng, size):
        mask = Image.new("L", (size, size))
        mask.paste(255, next(boxes))
        return mask

    monkeypatch.setattr(mask_data, "_outline", outline)
    _, masks = shapes(shapes=2).draw(np.random.default_rng(0))
    assert [int(mask.sum()) for mask in masks] == [30 * 30, 40 * 40 - 20 * 20]
    assert masks[0][20:50, 20:50].all() and not masks[1][20:40, 20:40].any()


def test_prompts_are_of_different_masks_and_rounds_of_every_number():
    data = shapes(shapes=6, rounds=2, seed=1)
    samples = [data[number] for number in range(24)]
    assert {int(sample["rounds"]) for sample in samples} == {0, 1, 2}
    distinct = [len({mask.numpy().tobytes() for mask in sample["masks"]}) for sample in samples]
    assert max(distinct) == 3 and min(distinct) > 1
    evaluated = shapes()
    assert not torch.equal(evaluated[0]["pixel_values"], evaluated[1]["pixel_values"])
    assert not torch.equal(evaluated[0]["draws"], evaluated[1]["draws"])


def test_more_prompts_than_shapes_are_shared_out_among_them():
    """Of five prompts for two shapes one has three, the other two."""
    data = shapes(shapes=2, prompts=5, seed=1)
    shared = []
    for number in range(12):
        told = [mask.numpy().tobytes() for mask in data[number]["masks"]]
        shared.append(sorted(told.count(mask) for mask in set(told)))
    assert shared.count([2, 3]) > 6 and all(one in ([2, 3], [5]) for one in shared), "of one a shape hides the other"


def test_half_of_the_shapes_are_filled_with_a_photograph_and_half_with_a_colour_of_any(monkeypatch):
    data, pieces, colours, new = shapes(shapes=4), [], [], Image.new
    monkeypatch.setattr(data, "_piece", lambda rng: pieces.append(rng) or new("RGB", (64, 64)))
    monkeypatch.setattr(mask_data.Image, "new", lambda *given: colours.append(given[2:]) or new(*given))
    rng = np.random.default_rng(0)
    for _ in range(60):
        data.draw(rng)
    assert len(pieces) - 60 == pytest.approx(120, abs=24)  # one is what all lies on
    found = np.array([colour for (colour,) in filter(None, colours)])
    assert len(found) == 240 - (len(pieces) - 60) and found.min() < 10 and found.max() > 245


@torch.no_grad()
def test_a_teacher_sees_the_picture_in_its_own_size_and_numbers_and_the_point_where_it_is():
    model, _ = build("sam")
    mean, deviation, own_mean, own_deviation = (torch.rand(3, 1, 1) + 0.2 for _ in range(4))
    teacher = Teacher(model, mean, deviation, own_mean, own_deviation)
    pixels = torch.randn(1, 3, 96, 96)
    points = torch.tensor([[[0, 0], [60, 33]]])
    found = teacher({"pixel_values": pixels, "index": torch.tensor([-1])}, points)
    seen = F.interpolate(
        (pixels * own_deviation + own_mean - mean) / deviation, (64, 64), mode="bilinear", antialias=True
    )
    places = [[[(x + 0.5) * 64 / 96 - 0.5 for x in point]] for point in points[0].tolist()]  # of the pixels' middles
    expected = model(pixel_values=seen, input_points=torch.tensor([places]))
    torch.testing.assert_close(found.logits, expected.pred_masks, rtol=2e-3, atol=2e-3)  # points in float32


def test_points_are_uniform_in_their_region_and_never_outside():
    region = torch.zeros(5, 7, dtype=torch.bool)
    region[1, 2] = region[1, 3] = region[4, 6] = region[0, 0] = True
    draws = torch.tensor([0.0, 0.24, 0.26, 0.5, 0.74, 0.76, 0.999999])
    points = points_in(region.expand(7, 5, 7), draws).tolist()
    assert points == [[0, 0], [0, 0], [2, 1], [3, 1], [3, 1], [6, 4], [6, 4]]
    everywhere = torch.ones(7, 5, 7, dtype=torch.bool)  # is for regions that are empty altogether
    assert points_in(region.expand(7, 5, 7), draws, otherwise=everywhere).tolist() == points
    nothing = torch.zeros(5, 7, dtype=torch.bool)
    assert points_in(nothing[None], draws[:1], otherwise=region[None]).tolist() == [[0, 0]]
    assert points_in(nothing[None], draws[:1]).tolist() == [[0, 0]]
    assert boxes_around(region).tolist() == [0, 0, 6, 4]


def test_hard_points_move_to_what_was_missed_as_often_as_the_sample_says():
    model, _ = build("sam")
    data = shapes(rounds=3)
    batch = {name: torch.stack([data[i][name] for i in range(4)]) for name in data[0]}
    batch["rounds"] = torch.tensor([0, 1, 2, 3])
    expected = points_in(batch["masks"], batch["draws"][..., 0])
    for number in range(3):
        said = segment(model, expected, pixel_values=batch["pixel_values"])
        predicted = F.interpolate(best_masks(said.logits, said.scores), (64, 64), mode="bilinear") > 0
        missed = batch["masks"] & ~predicted
        moved = points_in(missed, batch["draws"][..., number + 1], otherwise=batch["masks"])
        expected[number + 1 :] = moved[number + 1 :]
    assert torch.equal(hard_points(model, batch), expected)
    start = points_in(batch["masks"], batch["draws"][..., 0])
    assert torch.equal(expected[0], start[0]) and not torch.equal(expected[1:], start[1:])


@pytest.mark.parametrize("resting", [(), ("vision_encoder",), ("norms",)], ids=["none", "encoder", "norms"])
def test_looking_for_hard_points_leaves_each_layer_as_it_was(resting):
    """In its mode, and the batch norms with the statistics of before."""
    model = TinySamModel(tiny_config(ARCHITECTURES["tinysam"])).train()
    norms = [layer for layer in model.vision_encoder.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    for layer in {"vision_encoder": [model.vision_encoder], "norms": norms}[resting[0]] if resting else []:
        layer.eval()
    data = shapes(rounds=1)
    batch = {name: torch.stack([data[number][name] for number in range(2)]) for name in data[0]}
    batch["rounds"] = torch.ones_like(batch["rounds"])
    modes = {name: layer.training for name, layer in model.named_modules()}
    before = {name: value.clone() for name, value in model.named_buffers()}
    hard_points(model, batch)
    assert {name: layer.training for name, layer in model.named_modules()} == modes
    assert norms and all(torch.equal(value, before[name]) for name, value in model.named_buffers())


def outputs(seed: int, side: int = 8) -> Outputs:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((2, 4, 3, 3), (2, 3, 6, 4), (2, 3, 3, side, side), (2, 3, 3))
    return Outputs(*(torch.randn(size, generator=generator) for size in sizes))


def test_the_supervised_loss_is_that_of_the_best_of_three_masks():
    said, masks = outputs(0), torch.rand(2, 3, 32, 32) > 0.5
    weights = TeacherArguments(focal_weight=3.0, dice_weight=0.5, iou_weight=0.2)
    targets, total = F.avg_pool2d(masks.float(), 4) >= 0.5, 0
    assert torch.equal(small(masks, 8), targets)
    for b in range(2):
        for p in range(3):
            losses, errors = [], []
            for m in range(3):
                logits, target = said.logits[b, p, m].double(), targets[b, p]
                q = torch.where(target, logits.sigmoid(), 1 - logits.sigmoid())
                share = torch.where(target, 0.25, 0.75).double()
                focal = (-share * (1 - q) ** 2 * q.log()).mean()
                x, t = logits.sigmoid(), target.double()
                losses.append(3 * focal + 0.5 * (1 - (2 * (x * t).sum() + 1) / (x.sum() + t.sum() + 1)))
                union, both = ((logits > 0) | target).sum(), ((logits > 0) & target).sum()
                errors.append((said.scores[b, p, m] - both / union).abs())
            total += min(losses) + 0.2 * sum(errors) / 3
    assert supervised_loss(said, masks, weights).item() == pytest.approx(float(total / 6), rel=1e-5)


def test_what_is_said_in_half_precision_is_compared_in_full():
    student, teacher = (Outputs(*(value.bfloat16() for value in outputs(seed))) for seed in (1, 2))
    masks = torch.rand(2, 3, 32, 32) > 0.5
    for name, said in {"embedding": "embeddings", "token": "tokens"}.items():
        alone = {f"{other}_weight": float(other == name) for other in ("embedding", "token", "mask")}
        weights = TeacherArguments(**alone)
        apart = (getattr(student, said).double() - getattr(teacher, said).double()).abs().mean()
        assert distillation_loss(student, teacher, masks, weights).item() == pytest.approx(apart.item(), rel=1e-5)
    weights = TeacherArguments(focal_weight=0, dice_weight=0, iou_weight=2.0)
    targets = small(masks, 8)[:, :, None]
    said = student.logits > 0
    ratio = (said & targets).sum((-2, -1)).double() / (said | targets).sum((-2, -1))
    error = (student.scores.double() - ratio).abs().mean().item()
    assert supervised_loss(student, masks, weights).item() == pytest.approx(2 * error, rel=1e-5)


def test_each_stage_of_the_distillation_has_its_weight():
    student, teacher, masks = outputs(1), outputs(2), torch.rand(2, 3, 32, 32) > 0.5
    targets = small(masks, 8)[:, :, None].expand(2, 3, 3, 8, 8)
    ratio = mask_iou(teacher.logits > 0, targets) / (mask_iou(student.logits > 0, targets) + 1e-6)
    hardness = torch.sigmoid(ratio - 1)
    distances = (student.logits - teacher.logits).abs().mean((-2, -1))
    expected = {
        "embedding": (student.embeddings - teacher.embeddings).abs().mean(),
        "token": (student.tokens - teacher.tokens).abs().mean(),
        "mask": (hardness * distances).mean(),
    }
    for name, value in expected.items():
        weights = TeacherArguments(**{f"{other}_weight": 2.0 * (other == name) for other in expected})
        assert distillation_loss(student, teacher, masks, weights).item() == pytest.approx(2 * value.item(), rel=1e-5)
    weights = TeacherArguments(embedding_weight=0, token_weight=0, hard_mask_weighting=False)
    assert distillation_loss(student, teacher, masks, weights).item() == pytest.approx(distances.mean().item() / 2)
    large = teacher._replace(logits=teacher.logits.repeat_interleave(2, -1).repeat_interleave(2, -2))
    # Masks of a larger teacher are compared on the student's grid, where each is the mean of four like ones.
    alone = TeacherArguments(embedding_weight=0, token_weight=0, mask_weight=2.0)
    smaller = F.interpolate(large.logits.flatten(1, 2), (8, 8), mode="bilinear").view_as(student.logits)
    torch.testing.assert_close(smaller, teacher.logits)
    assert distillation_loss(student, large, masks, alone).item() == pytest.approx(
        2 * expected["mask"].item(), rel=1e-5
    )


def test_masks_that_are_both_empty_agree():
    masks = torch.tensor([[[0, 0], [0, 0]], [[1, 1], [0, 0]], [[0, 0], [0, 0]]]).bool()
    targets = torch.tensor([[[0, 0], [0, 0]], [[0, 1], [1, 0]], [[0, 0], [0, 1]]]).bool()
    assert mask_iou(masks, targets).tolist() == [1, pytest.approx(1 / 3), 0]


def test_focal_and_dice_losses_are_least_where_all_is_right():
    target = torch.rand(1, 8, 8) > 0.5
    right = torch.where(target, 20.0, -20.0)
    assert focal_loss(right, target).item() < 1e-6 < focal_loss(-right, target).item()
    assert dice_loss(right, target).item() < 1e-3 < 0.9 < dice_loss(-right, target).item()


def test_the_iou_of_a_picture_is_that_of_its_best_scored_masks():
    model, _ = build("sam")
    data = shapes()
    batch = {name: value[None] for name, value in data[0].items()}
    points = points_in(batch["masks"], batch["draws"][..., 0])
    total = 0
    for number in range(3):
        prompt = {"input_points": points[:, number : number + 1, None].float()}
        with torch.no_grad():
            said = model(pixel_values=batch["pixel_values"], **prompt)
        best = said.pred_masks[0, 0, said.iou_scores[0, 0].argmax()]
        large = F.interpolate(best[None, None], (64, 64), mode="bilinear")[0, 0] > 0
        mask = batch["masks"][0, number]
        total += ((large & mask).sum() / (large | mask).sum()).item()
    assert measure(model, batch)["miou_point"].item() == pytest.approx(total / 3, abs=2e-3)


def test_of_three_masks_the_one_with_the_best_score_is_believed_whichever_it_is(monkeypatch):
    """By a point and by a box alike, and where it is looked for what was missed."""
    said = {"points": outputs(3, side=16), "boxes": outputs(7, side=16)}
    asked = []

    def segment(model, points=None, boxes=None, **image):
        asked.append((model, points if boxes is None else boxes, image))
        return said["points" if boxes is None else "boxes"]

    monkeypatch.setattr(mask_training, "segment", segment)
    encoder = torch.nn.Identity()
    model = types.SimpleNamespace(vision_encoder=encoder, get_image_embeddings=lambda pixels: f"seen of {pixels}")
    masks = torch.zeros(2, 3, 32, 32, dtype=torch.bool)
    masks[:, :, 4:20, 8:30] = True
    draws = torch.rand(2, 3, 2, generator=torch.Generator().manual_seed(5))
    batch = {"masks": masks, "draws": draws, "rounds": torch.tensor([1, 1]), "pixel_values": "pixels"}
    found, believed = measure(model, batch), {}
    for kind, answer in said.items():
        best = answer.scores.argmax(-1)
        assert {*best.flatten().tolist()} == {0, 1, 2}
        for b in range(2):
            ratios = []
            for p in range(3):
                whole = F.interpolate(answer.logits[b, p, best[b, p]][None, None], (32, 32), mode="bilinear")[0, 0] > 0
                ratios.append((whole & masks[b, p]).sum().item() / (whole | masks[b, p]).sum().item())
                believed[kind, b, p] = whole
            name = "miou_point" if kind == "points" else "miou_box"
            assert found[name][b].item() == pytest.approx(sum(ratios) / 3, rel=1e-5)
    assert [(own, image) for own, _, image in asked] == [(model, {"image_embeddings": "seen of pixels"})] * 2
    assert torch.equal(asked[0][1], points_in(masks, draws[..., 0]))
    assert asked[1][1].tolist() == [[[8, 4, 29, 19]] * 3] * 2
    moved = hard_points(model, batch)
    for b in range(2):
        for p in range(3):
            missed = (masks[b, p] & ~believed["points", b, p]).nonzero()
            row, column = missed[int(draws[b, p, 1] * len(missed))].tolist()
            assert moved[b, p].tolist() == [column, row]
    # Where nothing was missed the new point is another one of the mask, and not the picture's corner.
    said["points"].logits[:] = 1.0
    assert torch.equal(hard_points(model, batch), points_in(masks, draws[..., 1]))


def test_stored_embeddings_are_read_again_and_those_of_others_refused(sam_run, tmp_path):
    cache = tmp_path / "cache"
    run = [*sam_run, "--train_pictures", "8", "--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no"]
    first = main([*run, "--teacher_cache", str(cache), "--output_dir", str(tmp_path / "a")])
    files = sorted(cache.glob("*.safetensors"))
    assert len(files) == 8 and json.loads((cache / "cache.json").read_text())["seed"] == 42
    times = {file: file.stat().st_mtime_ns for file in files[1:]}
    # Pictures to evaluate on are others than those of the training, whatever their numbers, and not stored.
    trainer = prepare(
        "prepare_training", [*run, "--teacher_cache", str(cache), "--output_dir", str(tmp_path / "prepared")]
    ).trainer
    batch = trainer.data_collator([trainer.eval_dataset[number] for number in (0, 3)])
    assert batch["index"].tolist() == [-1, -1]
    torch.testing.assert_close(trainer.teacher.embeddings(batch), trainer.teacher._encode(batch["pixel_values"]))
    of_training = trainer.data_collator([trainer.train_dataset[8 + number] for number in (5, 2)])
    assert of_training["index"].tolist() == [5, 2]
    assert torch.equal(
        trainer.teacher.embeddings(of_training), torch.stack([load_file(files[n])["embeddings"] for n in (5, 2)])
    )
    files[0].unlink()  # as if the run had been ended
    again = main([*run, "--teacher_cache", str(cache), "--output_dir", str(tmp_path / "b")])
    assert files[0].exists() and times == {file: file.stat().st_mtime_ns for file in files[1:]}
    assert again["train_loss"] == pytest.approx(first["train_loss"], rel=1e-5)
    with pytest.raises(ValueError, match="--teacher_cache: .* was made with seed 42"):
        main([*run, "--seed", "3", "--teacher_cache", str(cache), "--output_dir", str(tmp_path / "c")])


NARROW = "prompt_encoder_config: {image_size: 32, patch_size: 8, hidden_size: 8, mask_input_channels: 4}, "
NARROW += "mask_decoder_config: {hidden_size: 8, mlp_dim: 16, num_attention_heads: 2, iou_head_hidden_dim: 8}"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--hard_prompt_rounds", "-1"], "--hard_prompt_rounds: got -1"),
        (["--mask_weight", "-2"], "--mask_weight: got -2"),
        (["--photographs", "/nowhere"], "--photographs: there is no folder /nowhere"),
        (["--image_size", "64"], "--image_size: of a SAM the parts' sizes are set"),
        (["--model", "tinyvit-5m"], "--model: .*tinyvit-5m"),
        (["--photographs", "EMPTY"], "--photographs: .*empty holds no picture"),
        (["--eval_photographs", "EMPTY"], "--eval_photographs: .*empty holds no picture"),
        (["--shown_pictures", "-1"], "--shown_pictures: got -1"),
        (["--train_pictures", "0"], "--train_pictures: got 0, accepted are whole numbers from 1"),
        (["--dice_weight", "inf"], "--dice_weight: got inf"),
        (
            ["--model_config", f"{{vision_config: {VISION.replace('channels: 16', 'channels: 8')}, {NARROW}}}"],
            "--teacher: its embeddings have 16 channels, the student's 8; give --embedding_weight 0 and",
        ),
    ],
)
def test_arguments_that_mean_nothing_are_refused(sam_run, tmp_path, arguments, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("no picture")
    arguments = [str(tmp_path / word.lower()) if word.isupper() else word for word in arguments]
    with pytest.raises((ValueError, OSError), match=words):
        main([*sam_run, *arguments, "--output_dir", str(tmp_path / "run")])


def test_fields_that_a_trained_network_does_not_have_are_told(teacher):
    with pytest.raises(ValueError, match="^--model_config: .*'no_such_field'"):
        load_sam(ModelArguments(model=str(teacher), model_config={"no_such_field": 1}))
    with pytest.raises(ValueError, match="^--ignore_mismatched_sizes: of a SAM the parts' sizes are set"):
        load_sam(ModelArguments(model=str(teacher), ignore_mismatched_sizes=True))


def test_a_cache_takes_a_teacher_and_an_evaluation_pictures():
    with pytest.raises(ValueError, match="--teacher_cache: there is no --teacher whose embeddings it could hold"):
        TeacherArguments(teacher_cache="x")
    for name in ("eval_pictures", "prompts_per_picture", "shapes_per_picture", "per_device_eval_batch_size"):
        with pytest.raises(ValueError, match=f"--{name}: got 0"):
            MaskGenerationEvaluationArguments(**{name: 0})
    for name in ("embedding", "token", "mask", "focal", "dice", "iou"):
        for value in (-1.0, float("inf"), float("nan")):
            with pytest.raises(ValueError, match=f"--{name}_weight: got {value}, accepted are "):
                TeacherArguments(**{f"{name}_weight": value})
        assert getattr(TeacherArguments(**{f"{name}_weight": 0.0}), f"{name}_weight") == 0
    for name in ("train_pictures", "eval_pictures", "prompts_per_picture", "shapes_per_picture", "hard_prompt_rounds"):
        least = int(name != "hard_prompt_rounds")
        with pytest.raises(ValueError, match=f"--{name}: got {least - 1}, accepted are whole numbers from {least}"):
            ShapesArguments(**{name: least - 1})
        assert getattr(ShapesArguments(**{name: least}), name) == least
    args = TeacherArguments()
    weights = {"embedding": 1.0, "token": 1.0, "mask": 1.0, "focal": 20.0, "dice": 1.0, "iou": 1.0}
    assert {name: getattr(args, f"{name}_weight") for name in weights} == weights and args.hard_mask_weighting


@pytest.mark.parametrize(
    "file, content, message",
    [
        ("notes.txt", "mine", "--teacher_cache: .* holds something else; name a new or an empty folder"),
        ("cache.json", "{", "--teacher_cache: .*cache.json is damaged .*; name another folder"),
        ("cache.json", "[1]", "--teacher_cache: .*cache.json is damaged .*; name another folder"),
        ("cache.json", '{"seed": 2}', "--teacher_cache: .* was made with seed 2, not 3; name another folder"),
        ("cache.json", '{"other": 3}', "--teacher_cache: .* was made with seed None, not 3; name another folder"),
    ],
)
def test_a_folder_of_other_things_is_no_cache(file, content, message, tmp_path):
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        open_cache(str(tmp_path), {"seed": 3})
    assert [path.name for path in tmp_path.iterdir()] == [file] and (tmp_path / file).read_text() == content
    (tmp_path / "empty").mkdir()
    for new in (tmp_path / "new", tmp_path / "deeper" / "new", tmp_path / "empty"):
        assert open_cache(str(new), {"seed": 3}) == open_cache(str(new), {"seed": 3}) == new
        assert json.loads((new / "cache.json").read_text()) == {"seed": 3}


def test_photographs_are_asked_for_where_none_are_installed(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="--photographs is missing: no photographs are installed; name a folder with"):
        mask_data.load_photographs(None, "train", "photographs")


def test_the_photographs_that_are_measured_on_are_others_than_those_that_are_trained_on(monkeypatch, tmp_path):
    """Also where a library lacks some, or is not there at all."""
    names = {
        "sklearn": ("datasets/images/china.jpg", "datasets/images/flower.jpg"),
        "skimage": ("data/astronaut.png", "data/chelsea.png", "data/coffee.png", "data/rocket.jpg"),
    }
    for number, (library, name) in enumerate((library, name) for library, files in names.items() for name in files):
        (tmp_path / library / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4), 40 * number).save(tmp_path / library / name)
    installed = ["sklearn", "skimage"]

    def find_spec(name):
        found = types.SimpleNamespace(submodule_search_locations=[str(tmp_path / name)])
        return found if name in installed else None

    def greys(split):
        found = mask_data.load_photographs(None, split, "photographs")
        return [round(photograph.convert("L").getpixel((0, 0)) / 40) for photograph in found]

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert (greys("train"), greys("evaluation")) == ([0, 1, 2, 3], [4, 5])
    (tmp_path / "skimage" / "data" / "astronaut.png").unlink()
    (tmp_path / "skimage" / "data" / "coffee.png").unlink()
    assert (greys("train"), greys("evaluation")) == ([0, 1, 3], [5])
    installed.remove("sklearn")
    assert greys("train") == [3]


def test_a_teacher_of_another_kind_of_masks_is_told():
    with pytest.raises(ValueError, match="--teacher: 'x' is a Linear, accepted are SAM and what has its decoder"):
        check_is_sam("--teacher", "x", torch.nn.Linear(1, 1))


def test_embeddings_of_a_larger_grid_are_compared_on_the_students():
    student, teacher = outputs(1), outputs(2)
    wide = torch.randn(2, teacher.embeddings.shape[1], *[2 * side for side in student.embeddings.shape[-2:]])
    weights = TeacherArguments(token_weight=0, mask_weight=0)
    found = distillation_loss(student, teacher._replace(embeddings=wide), torch.zeros(2, 3, 32, 32) > 0, weights)
    resized = torch.nn.functional.interpolate(wide, student.embeddings.shape[-2:], mode="bilinear")
    assert found.item() == pytest.approx((student.embeddings - resized).abs().mean().item(), rel=1e-6)


def test_pictures_of_masks_show_the_picture_in_its_own_colours(monkeypatch, tmp_path):
    said = Outputs(None, None, torch.full((1, 3, 3, 16, 16), -1.0), torch.zeros(1, 3, 3))
    drawn = []
    monkeypatch.setattr(mask_reports, "segment", lambda *given, **more: said)
    monkeypatch.setattr(mask_reports, "save_figure", lambda figure, file: drawn.append((figure, file)))
    data, model = shapes(), types.SimpleNamespace(device="cpu", eval=lambda: None)
    mask_reports.draw_masks(model, data, 2, tmp_path / "masks.png")
    [(figure, file)] = drawn
    assert file == tmp_path / "masks.png" and len(figure.axes) == 6
    for row in range(2):
        shown, masked, answered = (axes.images[0].get_array() for axes in figure.axes[3 * row : 3 * row + 3])
        picture, _ = data.draw(np.random.default_rng((7, row)))
        np.testing.assert_allclose(shown, np.asarray(picture) / 255, atol=1e-5)
        assert np.array_equal(answered, 0.5 * shown) and not np.array_equal(masked, answered)  # nothing was found


def test_photographs_may_be_ones_own(sam_run, tmp_path, monkeypatch):
    save, drawn = Figure.savefig, []
    monkeypatch.setattr(
        Figure, "savefig", lambda figure, *a, **k: (drawn.append(len(figure.axes)), save(figure, *a, **k))
    )
    folder = tmp_path / "photographs"
    folder.mkdir()
    Image.new("L", (50, 40), 99).save(folder / "gray.png")
    (folder / "notes.txt").write_text("no picture")
    results = main(
        [*sam_run, "--photographs", str(folder), "--max_steps", "1", "--output_dir", str(tmp_path / "run")]
        + ["--shown_pictures", "1"]
    )
    assert 0 <= results["eval_miou_point"] <= 1 and (tmp_path / "run" / "masks.png").exists()
    assert drawn[-1] == 3  # of five pictures one is shown: as it is, with its masks, with the answers


def test_no_other_photograph_or_teacher_of_masks_is_gone_on_with(sam_run, teacher, tmp_path):
    shutil.copytree(teacher, tmp_path / "teacher")
    (tmp_path / "photographs").mkdir()
    for number in range(2):
        Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "photographs" / f"{number}.png")
    run = [str(tmp_path / "teacher") if word == str(teacher) else word for word in sam_run]
    run += ["--photographs", str(tmp_path / "photographs"), "--eval_photographs", str(tmp_path / "photographs")]
    goes_on = begun([*run, "--output_dir", str(tmp_path / "run")])
    prepare("prepare_training", goes_on)
    Image.open(tmp_path / "photographs" / "1.png").rotate(90).save(tmp_path / "photographs" / "1.png")
    change_weights(tmp_path / "teacher")
    with pytest.raises(ValueError, match="the pictures of the photographs; .*the weights of the teacher"):
        prepare("prepare_training", goes_on)


@pytest.mark.parametrize("size", [(60, 40), (40, 60), (50, 50), (2, 1)])
def test_pieces_of_photographs_are_squares_of_two_fifths_of_the_shorter_side_at_least(size):
    """Anywhere within them, up to their edges."""
    boxes = []

    class Photograph:
        def resize(self, wanted, resample, box):
            assert wanted == (32, 32)
            boxes.append(box)

    photograph = Photograph()
    photograph.size = size
    rng = np.random.default_rng(0)
    for _ in range(400):
        Shapes._piece(types.SimpleNamespace(photographs=[photograph], size=32), rng)
    left, top, right, bottom = np.array(boxes).T
    sides = right - left
    assert np.array_equal(sides, bottom - top) and min(left.min(), top.min()) == 0
    assert (right.max(), bottom.max()) == size
    if min(size) > 1:
        assert round(0.4 * min(size)) <= sides.min() <= 0.45 * min(size) and sides.max() >= 0.95 * min(size)
    else:
        assert set(sides.tolist()) == {1}


def test_photographs_of_a_folder_come_in_the_order_of_their_names_however_their_endings_are_written(tmp_path):
    for number, name in enumerate(("m.png", "a.PNG", "z.png", "k.Png", "b.png", "y.png", "c.png")):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / name, format="PNG")
    found = mask_data.load_photographs(str(tmp_path), "train", "photographs")
    assert [photograph.getpixel((0, 0))[0] for photograph in found] == [1, 4, 6, 3, 0, 5, 2]


class Middling:
    """Draws the middle of each range, and one kind of shape."""

    def __init__(self, kind):
        self.kind = kind

    def integers(self, count):
        return mask_data.KINDS.index(self.kind)

    def uniform(self, low, high, size=None):
        middle = (low + high) / 2
        return middle if size is None else np.full(size, middle)


@pytest.mark.parametrize(
    "kind, area, inside",
    [
        ("disc", np.pi * 28.5**2, True),
        ("rectangle", 57 * 42.75, True),
        ("triangle", 3 * np.sqrt(3) / 4 * 34.2**2, True),
        ("ring", np.pi * (28.5**2 - 12.825**2), False),
    ],
    ids=["disc", "rectangle", "triangle", "ring"],
)
def test_shapes_have_the_areas_of_their_kinds(kind, area, inside):
    """Around the middle of 150 pixels, with 0.19 of them as radius; a rectangle is 3/4 as high as it is wide."""
    drawn = np.asarray(mask_data._outline(Middling(kind), 150))
    assert {*np.unique(drawn)} == {0, 255} and (drawn[75, 75] == 255) == inside
    assert (drawn > 0).sum() == pytest.approx(area, rel=0.06)


def test_a_folder_goes_before_a_type_of_models_and_must_hold_a_sam(teacher, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(teacher, tmp_path / "sam")
    model, processor = load_sam(ModelArguments(model="sam"))
    weights = load_file(tmp_path / "sam" / "model.safetensors")
    assert all(torch.equal(value, weights[name]) for name, value in model.named_parameters() if name in weights)
    assert list(processor.image_mean) == [0.5, 0.4, 0.3]
    monkeypatch.setattr(AutoModelForMaskGeneration, "from_config", lambda config: torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="--model: 'sam2' is a Linear, accepted are SAM and what has its decoder"):
        load_sam(ModelArguments(model="sam2"))


@torch.no_grad()
def test_looking_at_what_a_network_says_leaves_no_hook_in_it():
    model, _ = build("sam")
    segment(model, torch.tensor([[[3, 4]]]), pixel_values=torch.randn(1, 3, 64, 64))
    assert not [module for module in model.modules() if module._forward_hooks]


@pytest.mark.parametrize("taught", [True, False])
def test_a_step_learns_from_the_ground_truth_and_from_a_teacher_where_there_is_one(taught, monkeypatch):
    calls, inputs = Calls(), {"pixel_values": "pixels", "masks": "masks"}
    losses = {"supervised_loss": torch.tensor(3.0), "distillation_loss": torch.tensor(0.5)}
    for name, value in {**losses, "hard_points": "points", "segment": "outputs"}.items():
        monkeypatch.setattr(mask_training, name, calls.of(name, value))
    trainer = object.__new__(mask_training.MaskGenerationTrainer)
    trainer.accelerator = types.SimpleNamespace(unwrap_model=lambda model: f"within {model}")
    trainer.weights, trainer.teacher = "weights", calls.of("teacher", "taught") if taught else None
    loss, _ = trainer.task_loss("model", inputs)
    assert loss.item() == (3.5 if taught else 3.0)
    # The model as it is spread over processes is what is called: its gradient is that of all of them.
    assert calls == {
        "hard_points": [(("within model", inputs), {})],
        "segment": [(("within model", "points"), {"network": "model", "pixel_values": "pixels"})],
        "supervised_loss": [(("outputs", "masks", "weights"), {})],
    } | (
        {
            "teacher": [((inputs, "points"), {})],
            "distillation_loss": [(("outputs", "taught", "masks", "weights"), {})],
        }
        if taught
        else {}
    )


def test_an_evaluation_has_of_each_picture_its_own_measures_and_loss(monkeypatch):
    """By the picture's number, so that those that fill up a last batch are known."""
    values = {"miou_point": torch.tensor([0.1, 0.2, 0.3]), "miou_box": torch.tensor([0.4, 0.5, 0.6])}
    monkeypatch.setattr(mask_training, "measure", lambda network, inputs: {"of": (network, inputs), **values})
    trainer, seen = object.__new__(mask_training.MaskGenerationTrainer), []
    trainer.accelerator = types.SimpleNamespace(unwrap_model=lambda model: f"unwrapped {model}")
    trainer._prepare_inputs = lambda inputs: inputs

    def task_loss(network, picture):
        seen.append((network, {name: value.tolist() for name, value in picture.items()}))
        return picture["pixel_values"].double().sum() / 8, None

    trainer.task_loss = task_loss
    inputs = {"pixel_values": torch.tensor([[1, 1], [2, 2], [3, 3]]), "index": torch.tensor([4, 9, 0])}
    nothing, found, numbers = trainer.prediction_step("model", inputs, True)
    assert nothing is None and numbers.tolist() == [4, 9, 0] and found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor([[0.1, 0.4, 0.25], [0.2, 0.5, 0.5], [0.3, 0.6, 0.75]]))
    pictures = [{"pixel_values": [[n + 1] * 2], "index": [number]} for n, number in enumerate((4, 9, 0))]
    assert seen == [("unwrapped model", picture) for picture in pictures]


def test_pictures_of_masks_have_a_colour_for_each_and_show_what_is_likelier_than_not(monkeypatch, tmp_path):
    """Of masks over each other the last is seen; of two pictures two are shown, though more are asked for."""
    logits = torch.full((1, 3, 3, 64, 64), -1.0)
    logits[0, 1, 2, :32] = 0.25
    said = Outputs(None, None, logits, torch.tensor([0.1, 0.2, 0.9]).expand(1, 3, 3))
    drawn = []
    monkeypatch.setattr(mask_reports, "segment", lambda *given, **more: said)
    monkeypatch.setattr(mask_reports, "save_figure", lambda figure, file: drawn.append(figure))
    data, model = shapes(), types.SimpleNamespace(device="cpu", eval=lambda: None)
    data.count = 2
    mask_reports.draw_masks(model, data, 5, tmp_path / "masks.png")
    assert len(drawn[0].axes) == 6
    colours = np.array([[1, 0.2, 0.2], [0.2, 1, 0.2], [0.3, 0.5, 1]])
    for row in range(2):
        shown, masked, answered = (axes.images[0].get_array() for axes in drawn[0].axes[3 * row : 3 * row + 3])
        assert not np.allclose(shown, 0.5)
        expected = 0.5 * shown
        expected[:32] = 0.4 * shown[:32] + 0.6 * colours[1]
        np.testing.assert_allclose(answered, expected, atol=1e-6)
        expected = 0.5 * shown
        for mask, colour in zip(data[row]["masks"].numpy(), colours, strict=True):
            expected[mask] = 0.4 * shown[mask] + 0.6 * colour
        np.testing.assert_allclose(masked, expected, atol=1e-6)
