"""What a distillation without data promises beyond the contract."""

import copy
import importlib
import json
import re
import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ConvNextImageProcessorPil,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from hf_effmodels import create_image_processor, create_model
from hf_effmodels.training import main, prepare
from hf_effmodels.training.data.digits import read_digits
from hf_effmodels.training.data_free import DataReadError, closed_to_data, load_generator
from hf_effmodels.training.tasks.data_free_distillation.arguments import DataFreeArguments
from hf_effmodels.training.tasks.data_free_distillation.teachers import (
    Input,
    Teacher,
    input_of,
    load_teachers,
    teachers_for,
)
from hf_effmodels.training.tasks.data_free_distillation.trainer import STATE_FILE

from ..contract import history

WEIGHTS = [
    *("--head_weight", "0.7", "--feature_weight", "0.3", "--ensemble_weight", "2", "--disagreement_weight", "1.5"),
    *("--statistics_weight", "0.4", "--first_norm_weight", "3"),
]


def trainer_of(arguments, tmp_path):
    trainer = prepare("prepare_training", [*arguments, "--output_dir", str(tmp_path / "run")]).trainer
    trainer.create_optimizer_and_scheduler(100)
    return trainer


def taught(trainer, pixels):
    """Logits and features of the two teachers, (batch, 2, ...), by hand: the second one sees images of 12 pixels,
    normalised by 0.5 and 0.25 in place of 0.4 and 0.3, and has its classes the other way round."""
    first, second = (teacher.model for teacher in trainer.teachers)
    other = F.interpolate((pixels * 0.3 + 0.4 - 0.5) / 0.25, (12, 12), mode="bilinear", align_corners=False)
    outputs = first(pixels, return_dict=True), second.resnet(other).pooler_output.flatten(1)
    logits = torch.stack([outputs[0].logits, second.classifier(outputs[1]).flip(1)], dim=1)
    return logits, torch.stack([outputs[0].head_features[:, 0], outputs[1]], dim=1)


def test_the_students_loss_is_that_of_the_paper_on_images_of_the_generator(data_free_run, tmp_path):
    trainer = trainer_of([*data_free_run, *WEIGHTS], tmp_path)
    trainer.get_batch_samples(iter([{"place": torch.arange(4)}]), 1, trainer.args.device)
    student, pixels = trainer.model.train(), trainer.images
    assert pixels.shape == (4, 1, 8, 8)
    torch.testing.assert_close(pixels.mean(), torch.tensor(0.0), atol=1e-5, rtol=0)  # of the last batch norm
    # Noise of its own for each side and each step.
    drawn = [trainer._generate(side, step) for side, step in ((5, 0), (5, 1), (6, 0), (6, 1))]
    assert torch.equal(drawn[0], pixels) and not any(torch.equal(a, b) for a, b in combinations(drawn, 2))
    trainer.is_in_train = True
    found, outputs = trainer.task_loss(copy.deepcopy(student), {"place": torch.tensor([2, 0])})
    own = copy.deepcopy(student)(pixels[[2, 0]])
    logits, features = taught(trainer, pixels[[2, 0]])
    heads = (own.head_logits - logits).abs().mean()
    ensemble = (own.head_logits.mean(1) - logits.mean(1)).abs().mean()
    apart = (own.head_features - features).abs().sum(2).mean()
    torch.testing.assert_close(found, 0.7 * heads + 0.3 * apart + 2 * ensemble)
    assert set(trainer.named_parts(outputs)) == {"heads", "ensemble", "features", "agreement"}


@pytest.mark.parametrize("cut", [(8, 1), (2, 4)])
def test_the_generators_gradient_is_that_of_the_paper_however_a_step_is_cut(
    data_free_run, plain_student, tmp_path, cut
):
    size = ["--per_device_train_batch_size", str(cut[0]), "--gradient_accumulation_steps", str(cut[1])]
    if cut[1] > 1:  # batch norms of a student see a batch each, as always
        data_free_run += ["--teachers", data_free_run[3], "--model", plain_student, "--model_config", "{}"]
    trainer = trainer_of([*data_free_run, *WEIGHTS, *size], tmp_path)
    student, count = copy.deepcopy(trainer.model).train(), len(trainer.teachers)
    images = torch.randn(8, 1, 8, 8)
    found = trainer._gradient_of(images)
    pixels = images.clone().requires_grad_()
    own, loss = student(pixels).head_logits, 0.0
    for number, teacher in enumerate(trainer.teachers):
        gaps: list = []
        handles = [
            norm.register_forward_hook(lambda norm, args, output, gaps=gaps: gaps.append((norm, args[0])))
            for norm in teacher.model.modules()
            if isinstance(norm, torch.nn.BatchNorm2d)
        ]
        logits = teacher(pixels)[0]
        for handle in handles:
            handle.remove()
        gap = 0.0
        for place, (norm, values) in enumerate(gaps):
            flat = values.transpose(0, 1).flatten(1)
            mean, variance = flat.mean(1), flat.var(1, correction=0)
            distance = (norm.running_mean - mean).norm() + (norm.running_var - variance).norm()
            gap = gap + (3 if place == 0 else 1) * distance
        loss = loss - 1.5 * (own[:, number] - logits).abs().mean() / count + 0.4 * gap / count
    expected = torch.autograd.grad(loss, pixels)[0]
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)
    recorded = {name: float(value) for name, value in trainer._seen.items()}
    total = 0.4 * recorded["generator_statistics"] - 1.5 * recorded["generator_disagreement"]
    assert total == pytest.approx(float(loss.detach()), rel=1e-5)
    assert not [p for p in trainer.model.parameters() if p.grad is not None], "the student keeps gradients"


def test_sides_take_turns_and_learning_rates_fall_together(data_free_run, tmp_path):
    schedule = ["--lr_scheduler_type", "step", "--save_strategy", "epoch", "--save_total_limit", "9"]
    schedule += ["--lr_scheduler_kwargs", "{decay_epochs: 1, decay_rate: 0.5, warmup_epochs: 0}"]
    rates = {}
    for kind in ("same", "constant"):
        run = prepare(
            "prepare_training",
            [*data_free_run, *schedule, "--generator_schedule", kind, "--output_dir", str(tmp_path / kind)],
        )
        trainer, seen = run.trainer, []
        step = trainer.generator_optimizer.step
        trainer.generator_optimizer.step = lambda trainer=trainer, seen=seen, step=step: (
            seen.append((trainer.state.global_step, trainer.generator_optimizer.param_groups[0]["lr"])),
            step(),
        )
        run()
        assert [number for number, _ in seen] == [2, 4, 6, 8, 10, 12]
        rates[kind] = [rate for _, rate in seen]
        logged = history(tmp_path / kind, "learning_rate")[:, 0]
        assert logged.tolist() == pytest.approx([0.05] * 4 + [0.025] * 4 + [0.0125] * 4)
    assert rates["same"] == pytest.approx([1e-3] * 2 + [5e-4] * 2 + [2.5e-4] * 2)
    assert rates["constant"] == pytest.approx([1e-3] * 6)
    # Once an epoch there is something to look at: the images in their own values, not inverted, not normalised.
    pictures = sorted((tmp_path / "same" / "generated").iterdir())
    assert [file.name for file in pictures] == ["epoch-001.png", "epoch-002.png", "epoch-003.png"]
    shown = np.asarray(Image.open(pictures[-1]).convert("L"))[:64, :64]
    values = ((trainer.images[0, 0].numpy() * 0.3 + 0.4) * 255).round().clip(0, 255)
    last = np.asarray(Image.open(tmp_path / "constant" / "generated" / "epoch-003.png").convert("L"))[:64, :64]
    assert np.array_equal(last[::8, ::8], values.astype(np.uint8)) and shown.std() > 0
    # The generator is saved with the model, and its optimizer with a checkpoint.
    state = load_file(tmp_path / "same" / "checkpoint-12" / STATE_FILE)
    saved = load_generator(tmp_path / "same" / "generator").state_dict()
    assert all(torch.equal(state[f"generator.{name}"], value) for name, value in saved.items())
    assert float(state["optimizer.step.project.weight"]) == 6


def test_what_is_best_and_evaluated_takes_a_data_set(data_free_run, tmp_path):
    start = data_free_run.index("--dataset")
    alone = [*data_free_run[:start], *data_free_run[start + 4 :]]
    at = alone.index("--eval_strategy")
    for options, message in (
        ([], "--eval_strategy: got 'epoch', which needs --dataset to evaluate on"),
        (
            ["--eval_strategy", "no", "--save_strategy", "no", "--load_best_model_at_end", "true"],
            "--load_best_model_at_end: what is best is measured on --dataset, which is missing",
        ),
        (["--eval_strategy", "no", "--real_samples", "5"], "--real_samples: got 5, which goes with --dataset"),
    ):
        run = alone if not options else [*alone[:at], *alone[at + 2 :], *options]
        with pytest.raises(ValueError, match=message):
            main([*run, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_cdfkd_mfs_weights_are_the_defaults(teachers):
    """1, 0.2 and 5 of the student's parts, 1 and 0.1 of the generator's, a student's five steps for each of its."""
    args = DataFreeArguments(teachers=teachers)
    published = {"head_weight": 1.0, "feature_weight": 0.2, "ensemble_weight": 5.0, "disagreement_weight": 1.0}
    published |= {"statistics_weight": 0.1, "first_norm_weight": 5.0, "latent_size": 256, "student_steps": 5}
    published |= {"steps_per_epoch": 250, "generator_learning_rate": 1e-3, "generator_schedule": "same"}
    published |= {"aggregation_steps": 200, "aggregation_learning_rate": 0.01}
    assert {name: getattr(args, name) for name in published} == published


def test_the_student_is_one_classifier_and_nothing_is_needed_but_teachers(data_free_run, tmp_path):
    output = tmp_path / "run"
    at = data_free_run.index("--dataset")
    without = data_free_run[:at] + data_free_run[at + 6 :]
    results = main([*without, "--save_strategy", "no", "--bf16", "true", "--output_dir", str(output)])
    assert not [name for name in results if name.startswith("eval_")] and np.isfinite(results["train_loss"])
    assert np.isfinite(history(output, "loss", "heads", "features", "ensemble")).all()
    student = AutoModelForImageClassification.from_pretrained(output)
    assert student.config.num_heads == 2 and student.config.id2label[3] == "3"
    outputs = student.eval()(torch.randn(2, 1, 8, 8))
    torch.testing.assert_close(outputs.logits, outputs.head_logits.mean(1))
    card = (output / "README.md").read_text()
    assert "Trained on" not in card
    assert re.search(r"^\| Multiply-adds \| \d+\.\d M for an image of 8 x 8 \|$", card, re.MULTILINE)
    assert "| teachers |" in card and "| training_data | `images of a generator` |" in card
    assert "aggregation_steps" not in card
    assert json.loads((output / "preprocessor_config.json").read_text())["image_mean"] == [0.4]


def test_a_training_step_that_opens_a_file_or_a_real_image_ends_the_run(data_free_run, tmp_path, monkeypatch):
    from sklearn.datasets import load_digits

    file = tmp_path / "picture.png"
    Image.new("L", (8, 8)).save(file)

    def with_reading(read, name):
        run = prepare("prepare_training", [*data_free_run, "--output_dir", str(tmp_path / name)])
        loss = run.trainer.task_loss
        run.trainer.task_loss = lambda *arguments: (read(run.trainer), loss(*arguments))[1]
        run()

    for name, read in {
        "opened": lambda trainer: Image.open(file),
        "digits": lambda trainer: load_digits(),
        "array": lambda trainer: np.load(tmp_path / "none.npy"),
        "evaluation": lambda trainer: trainer.eval_dataset[0],
    }.items():
        with pytest.raises(DataReadError, match="training without data was going to (open|read)"):
            with_reading(read, name)
    load_digits()  # it goes on for a step only
    with closed_to_data():
        (tmp_path / "log.txt").write_text("written")
        importlib.import_module("colorsys")  # of the program itself


def test_how_much_heads_count_is_learnt_from_a_few_real_images_and_nothing_else_is(data_free_run, tmp_path):
    config = "{hidden_sizes: [4, 4, 8], depths: [1, 1], aggregation: attention}"
    few = ["--model_config", config, "--real_samples", "20", "--save_strategy", "no"]
    steps = ["--aggregation_steps", "30", "--aggregation_learning_rate", "0.1"]
    trainer = prepare("prepare_training", [*data_free_run, *few, *steps, "--output_dir", str(tmp_path / "no")]).trainer
    kept = {name for name, weight in trainer.model.named_parameters() if not weight.requires_grad}
    assert kept == {f"aggregation.{name}" for name, _ in trainer.model.aggregation.named_parameters()} != set()
    main([*data_free_run, *few, *steps, "--output_dir", str(tmp_path / "few")])
    main([*data_free_run, *few, *steps, "--aggregation_steps", "1", "--output_dir", str(tmp_path / "one")])
    learnt, one = (load_file(tmp_path / name / "model.safetensors") for name in ("few", "one"))
    assert all(torch.equal(learnt[name], one[name]) for name in one if not name.startswith("aggregation."))
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "few").eval()
    attention = model.aggregation(model(torch.randn(3, 1, 8, 8)).head_features)
    assert attention.sum(1).allclose(torch.ones(3)) and (attention - 0.5).abs().max() > 1e-3
    assert not torch.equal(learnt["aggregation.query.weight"], one["aggregation.query.weight"])


def test_teachers_from_transformers_are_shown_what_they_are_used_to(teachers):
    loaded = load_teachers(teachers, None, False, statistics=True)
    given = input_of(loaded[0].processor, 1)
    assert given.size == 8 and input_of(loaded[1].processor, 1).size == 12
    teacher = Teacher("theirs", loaded[1].model, input_of(loaded[1].processor, 1), given, range(10))
    pixels = torch.randn(3, 1, 8, 8, requires_grad=True)
    logits, features = teacher(pixels)
    assert features.shape == (3, 8) and torch.autograd.grad(logits.sum(), pixels)[0].abs().sum() > 0
    # The same picture by the numbers that each of them is used to, and classes in another order.
    picture, own = torch.randint(0, 256, (2, 1, 12, 12)).float(), input_of(loaded[1].processor, 1)
    ours, theirs = (
        picture * torch.tensor(side.normalization.scale) + torch.tensor(side.normalization.shift)
        for side in (given, own)
    )
    assert not torch.allclose(ours, theirs)
    turned = Teacher("theirs", loaded[1].model, own, Input(12, given.normalization), range(9, -1, -1))
    torch.testing.assert_close(turned(ours)[0], loaded[1].model(theirs).logits.flip(1), rtol=1e-4, atol=1e-5)
    same_input = Input(12, given.normalization)
    plain = Teacher("theirs", loaded[1].model, same_input, same_input, range(10))
    torch.testing.assert_close(plain(torch.ones(1, 1, 12, 12))[0], loaded[1].model(torch.ones(1, 1, 12, 12)).logits)


@pytest.fixture(scope="module")
def vit_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=10, **sizes)
    ViTForImageClassification(config).save_pretrained(folder)
    ConvNextImageProcessorPil(size={"shortest_edge": 8}, image_mean=[0.4], image_std=[0.3]).save_pretrained(folder)
    return str(folder)


def test_without_statistics_a_classifier_needs_no_batch_norms_to_teach(vit_folder, tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        ViTForImageClassification.from_pretrained(vit_folder).to(dtype).save_pretrained(tmp_path)
        shutil.copy(Path(vit_folder, "preprocessor_config.json"), tmp_path)
        [one] = load_teachers([str(tmp_path)], None, False, statistics=False)
        assert one.model.dtype == torch.float32 and len(one.classes) == 10
    with pytest.raises(ValueError, match="--statistics_weight 0 does without"):
        load_teachers([str(tmp_path)], None, False, statistics=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--teachers", "VIT"], r"--teachers: .*vit.*, a ViTForImageClassification, has no batch norm that remembers"),
        (["--teachers", "wrn4x161"], "--teachers: wrn4x161 is a preset, whose random weights know nothing"),
        (["--model", "ghostnetv3-1.0x", "--model_config", "{}"], "--model: ghostnetv3-1.0x, .* has no head for each"),
        (
            ["--model_config", "{hidden_sizes: [4, 4, 8], depths: [1, 1], num_heads: 3}"],
            "--model_config: num_heads: got 3, there are 2",
        ),
        (["--model_config", "{hidden_sizes: [4, 4, 6], depths: [1, 1]}"], "--feature_weight: got 0.2, .* are 8 wide"),
        (["--model_config", "{hidden_sizes: [4, 4, 8], depths: [1, 1], aggregation: attention}"], "--real_samples"),
        (
            ["--teachers", "OURS", "--model", "OURS", "--model_config", "{hidden_sizes: [4, 4, 12]}"],
            "--model_config: ",
        ),
        (["--image_size", "10"], "--image_size: got 10, accepted with generator small are multiples of 4"),
        (["--max_train_samples", "5"], "--max_train_samples: nothing is trained on"),
        (["--real_samples", "5000"], "--real_samples: got 5000, digits/train has"),
        (["--student_steps", "0"], "--student_steps: got 0"),
        (["--generator_learning_rate", "0"], "--generator_learning_rate: got 0"),
        (["--aggregation_learning_rate", "0"], "--aggregation_learning_rate: got 0"),
        (["--fp16", "true"], "--fp16: the generator's gradients"),
        (["--per_device_train_batch_size", "1"], "a step of one image has no statistics"),
        (["--statistics_weight", "0", "--disagreement_weight", "0"], "the generator would learn nothing"),
        (
            ["--head_weight", "0", "--feature_weight", "0", "--ensemble_weight", "0"],
            "--head_weight, --feature_weight, --ensemble_weight: all are 0, nothing would be learnt",
        ),
        (["--num_channels", "3"], "--num_channels: the student takes 3 channels, .*ours 1: accepted are as many"),
        (["--teachers", "OURS", "RGB"], "--teachers: .*rgb takes 3 channels, the student 1"),
        (["--teachers", "OURS", "WIDE"], r"--teachers: an image processor with the size .*; accepted are squares"),
        (["--model", "FOLDED", "--model_config", "{}"], "--model: .*folded is folded for deployment and cannot be"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(data_free_run, vit_folder, tmp_path, arguments, message):
    folders = {
        "RGB": tmp_path / "rgb",
        "VIT": vit_folder,
        "OURS": data_free_run[3],
        "WIDE": tmp_path / "wide",
        "FOLDED": tmp_path / "folded",
    }
    if "RGB" in arguments:
        sizes = {"hidden_sizes": [4, 4, 8], "depths": [1, 1], "num_channels": 3, "image_size": 8}
        create_model("wrn4x161", id2label={n: str(n) for n in range(10)}, **sizes).save_pretrained(tmp_path / "rgb")
        ConvNextImageProcessorPil(size={"shortest_edge": 8}, crop_pct=1.0).save_pretrained(tmp_path / "rgb")
    if "WIDE" in arguments:
        shutil.copytree(data_free_run[4], tmp_path / "wide")
        ViTImageProcessorPil(size={"height": 8, "width": 12}).save_pretrained(tmp_path / "wide")
    if "FOLDED" in arguments:
        sizes = {"hidden_sizes": [4, 4, 8], "depths": [1, 1], "num_channels": 1, "image_size": 8}
        folded = create_model("mhwrn4x161", num_heads=2, id2label={n: str(n) for n in range(10)}, **sizes)
        folded.reparameterize()
        folded.save_pretrained(tmp_path / "folded")
        shutil.copy(Path(data_free_run[3], "preprocessor_config.json"), tmp_path / "folded")
    arguments = [str(folders.get(word, word)) for word in arguments]
    with pytest.raises(ValueError, match=message):
        main([*data_free_run, *arguments, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_evaluation_has_the_numbers_of_the_student_whose_classes_are_the_first_teachers(
    data_free_run, teachers, tmp_path
):
    words = [*data_free_run, "--teachers", *reversed(teachers), "--output_dir", str(tmp_path)]
    trainer = prepare("prepare_training", words).trainer
    assert trainer.model.config.id2label[0] == "9"
    source = trainer.eval_dataset.source
    expected = [9 - int(read_digits()["test"][row]["label"]) for row in source.rows]
    assert source.labels.tolist() == expected and len({*expected}) > 5


def test_teachers_of_other_classes_are_refused_by_their_names(tmp_path):
    for name, classes in (("pets", ["cat", "dog"]), ("cars", ["bus", "van"]), ("zoo", ["cat", "dog", "elk"])):
        model = create_model("wrn4x161", hidden_sizes=[4, 4], depths=[1], id2label=dict(enumerate(classes)))
        model.save_pretrained(tmp_path / name)
        create_image_processor("wrn4x161").save_pretrained(tmp_path / name)
    folders = {name: str(tmp_path / name) for name in ("pets", "cars", "zoo")}
    with pytest.raises(ValueError, match="the classes of .*cars .*bus, van.* are not those of .*pets .*cat, dog"):
        load_teachers([folders["pets"], folders["cars"]], None, False, statistics=True)
    with pytest.raises(ValueError, match="zoo has 3 classes, .*pets has 2"):
        load_teachers([folders["pets"], folders["zoo"]], None, False, statistics=True)
    assert len(load_teachers([folders["pets"]] * 2, None, False, statistics=True)) == 2
    # The same ones in another order are put into the first one's.
    model = create_model("wrn4x161", hidden_sizes=[4, 4], depths=[1], id2label={0: "elk", 1: "cat", 2: "dog"})
    model.save_pretrained(tmp_path / "farm")
    create_image_processor("wrn4x161").save_pretrained(tmp_path / "farm")
    loaded = load_teachers([folders["zoo"], str(tmp_path / "farm")], None, False, statistics=True)
    given = input_of(loaded[0].processor, 3)
    farm, pixels = teachers_for(loaded, given)[1], torch.randn(2, 3, given.size, given.size)
    torch.testing.assert_close(farm(pixels)[0], model.eval()(pixels).logits[:, [1, 2, 0]])


def test_a_student_over_a_backbone_of_transformers_learns(data_free_run, tmp_path):
    backbone = (
        "{trunk: backbone, backbone_config: {model_type: resnet, num_channels: 1, embedding_size: 4, "
        "hidden_sizes: [4, 8], depths: [1, 1], layer_type: basic, out_features: [stage1, stage2]}}"
    )
    main([*data_free_run, "--model_config", backbone, "--save_strategy", "no", "--output_dir", str(tmp_path / "run")])
    student = AutoModelForImageClassification.from_pretrained(tmp_path / "run")
    assert type(student.cdfkd_mfs.backbone).__name__ == "ResNetBackbone" and len(student.classifier) == 2


def test_where_teachers_come_from_is_said_with_what_is_none(tmp_path):
    (tmp_path / "file").write_text("mine")
    for name, message in (
        (str(tmp_path / "file"), "--teachers: .*file is a file; accepted are a folder and an id of the Hub"),
        (str(tmp_path / "nowhere"), "--teachers: .*nowhere"),
        ("resnet18-224", "--teachers: resnet18-224 is a preset, whose random weights know nothing"),
    ):
        with pytest.raises((ValueError, OSError), match=message) as error:
            load_teachers([name], None, False, True)
        assert "The teachers are trained first" in str(error.value)
