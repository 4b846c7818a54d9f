"""DeViT's distillation through the task: parts by relations of a whole network, their fusion by its tokens."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from hf_effmodels.collaboration.decomposition import assemble, keep_classes
from hf_effmodels.compression.pruning.vision_widths import prune_part
from hf_effmodels.modeling.devit.configuration_devit import DeViTConfig, part_sizes
from hf_effmodels.modeling.devit.modeling_devit import DeViTForImageClassification
from hf_effmodels.models import create_image_processor
from hf_effmodels.training import main, prepare
from hf_effmodels.training.losses.dekd import feature_relation_loss

from ..contract import follow_one, goes_on_the_same, history

DEKD = (
    "{dekd: {weight: 2, student_block: devit.parts.0.layers.0.attention, teacher_layers: [qkv], blocks: 2, "
    "teacher_block: devit.parts.0.layers.0.attention, student_head_width: 4, teacher_head_width: 4}}"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A whole network, a pruned part for three digits, and two parts with a fusion."""
    torch.manual_seed(3)
    folder = tmp_path_factory.mktemp("devit")
    names = {number: str(number) for number in range(10)}
    sizes = {"image_size": 16, "patch_size": 8, "initializer_range": 0.2}
    config = DeViTConfig(**sizes, parts=[part_sizes(16, 2, 4)], id2label=names, label2id={})
    whole = DeViTForImageClassification(config)
    part = prune_part(keep_classes(whole, [7, 2, 4]), [[0, 2], [1, 2, 3]], [[*range(40)], [*range(33)]])
    other = keep_classes(whole, [0, 1, 3, 5, 6, 8, 9])
    fused = assemble([part, other], 10, class_groups=[[7, 2, 4], [0, 1, 3, 5, 6, 8, 9]], fusion_hidden_size=16)
    fused.config.id2label = names
    for name, model in (("whole", whole), ("part", part), ("fused", fused)):
        model.save_pretrained(folder / name)
        create_image_processor("devit-s", image_size=16).save_pretrained(folder / name)
    return folder


def arguments(folders, student: str, *more: str) -> list[str]:
    return [
        *("--task", "distillation", "--teacher", str(folders / "whole"), "--model", str(folders / student)),
        *("--dataset", "digits", "--train_crop", "none", "--max_train_samples", "24", "--max_eval_samples", "9"),
        *("--per_device_train_batch_size", "8", "--max_steps", "1", "--logging_steps", "1", "--eval_strategy", "no"),
        *("--save_strategy", "no", "--load_best_model_at_end", "false", "--disable_tqdm", "true", *more),
    ]


def test_a_part_learns_relations_and_its_own_classes_of_the_whole(folders, tmp_path):
    output = ["--output_dir", str(tmp_path / "run"), "--classes", "7", "2", "4"]
    run = prepare("prepare_training", arguments(folders, "part", "--losses", DEKD, *output))
    batch, trainer = next(iter(run.trainer.get_train_dataloader())), run.trainer
    student, teacher = trainer.network, trainer.teachers.first.model
    seen = []
    with torch.no_grad():
        for model in (student, teacher):
            attention = model.devit.parts[0].layers[0].attention
            handle = attention.qkv.register_forward_hook(lambda *call: seen.append(call[2]))
            seen.append(model(batch["pixel_values"]).logits)
            handle.remove()
    ours, logits, theirs, taught = seen
    assert ours.shape[-1] == 3 * 2 * 4 and theirs.shape[-1] == 3 * 4 * 4  # two heads of four are left
    split = [[x.unflatten(-1, (-1, 4)).transpose(1, 2) for x in values.chunk(3, -1)] for values in (ours, theirs)]
    relations = [
        weight / 2 * feature_relation_loss(own, their)
        for weight, own, their in zip((0.2, 0.1, 0.3), *split, strict=True)
    ]
    hard = 0.5 * F.cross_entropy(logits, taught[:, [7, 2, 4]].argmax(-1))
    task = F.cross_entropy(logits, batch["labels"])
    run()
    [logged] = history(
        tmp_path / "run", "loss", "task_loss", *(f"dekd/{n}" for n in ("query", "key", "value", "logits"))
    )
    expected = [task + 2 * (sum(relations) + hard), task, *relations, hard]
    np.testing.assert_allclose(logged, [float(value) for value in expected], rtol=2e-3)


def test_the_fusion_learns_the_token_that_the_whole_classifies_by(folders, tmp_path):
    losses = "{fused_tokens: {weight: 2}, deit: {weight: 1}}"
    options = ["--losses", losses, "--output_dir", str(tmp_path / "run")]
    run = prepare("prepare_training", arguments(folders, "fused", *options))
    batch, trainer = next(iter(run.trainer.get_train_dataloader())), run.trainer
    with torch.no_grad():
        outputs = trainer.network(batch["pixel_values"])
        taught = trainer.teachers.first.model(batch["pixel_values"])
    token = F.mse_loss(outputs.fused_tokens[:, 0], taught.part_tokens[0][:, 0])
    hard = F.cross_entropy(outputs.logits, taught.logits.argmax(-1))
    task = F.cross_entropy(outputs.logits, batch["labels"])
    run()
    [logged] = history(tmp_path / "run", "loss", "fused_tokens", "deit")
    np.testing.assert_allclose(logged, [float(v) for v in (task + 2 * token + hard, token, hard)], rtol=2e-3)


STUDENTS = {
    "part": ["--losses", DEKD, "--classes", "7", "2", "4"],
    "fused": ["--losses", "{fused_tokens: {weight: 2}, deit: {weight: 1}}"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("student", STUDENTS)
def test_parts_and_their_fusion_learn_alike_in_one_batch_in_eight_and_in_two_processes(student, folders, tmp_path):
    options = [*STUDENTS[student], "--optim", "sgd", "--max_grad_norm", "0", "--max_steps", "2"]
    follow_one(arguments(folders, student, *options), tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("student", STUDENTS)
def test_a_killed_part_and_a_killed_fusion_are_the_same_bit_for_bit(student, folders, tmp_path):
    goes_on_the_same(arguments(folders, student, *STUDENTS[student], "--max_steps", "3"), tmp_path)


def test_what_does_not_fit_is_named_before_anything_is_trained(folders, tmp_path):
    for student, losses, message in (
        ("part", DEKD.replace("student_head_width: 4", "student_head_width: 5"), "student_head_width: got 5, but "),
        ("part", DEKD.replace("blocks: 2", "blocks: 0"), "blocks: got 0"),
        ("part", DEKD.replace("blocks: 2", "head: devit.parts.0.norm"), "head: devit.parts.0.norm gives "),
        ("part", "{fused_tokens: {student_tokens: [a, b]}}", "teacher_tokens: got 1 for 2"),
        ("part", "{fused_tokens: {student_tokens: [fusion.classifiers.cls]}}", "accepted are vectors of one width"),
    ):
        output = ["--output_dir", str(tmp_path / "run"), "--classes", "7", "2", "4"]
        with pytest.raises(ValueError, match=message):
            main(arguments(folders, student, "--losses", losses, *output))
    lacking = keep_classes(DeViTForImageClassification.from_pretrained(folders / "whole"), [7, 2, 5, 6])
    lacking.save_pretrained(tmp_path / "lacking")
    create_image_processor("devit-s", image_size=16).save_pretrained(tmp_path / "lacking")
    with pytest.raises(ValueError, match="lacking has 4 classes, the student has 3"):
        main(arguments(folders, "part", *output, "--teacher", str(tmp_path / "lacking")))
    assert not (tmp_path / "run").exists()
