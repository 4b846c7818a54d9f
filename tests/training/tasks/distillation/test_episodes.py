"""Few-shot learning: episodes of a few classes, told by cosines to their mean features."""

import copy
import json
from contextlib import nullcontext
from dataclasses import make_dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModelForImageClassification,
    ConvNextConfig,
    ConvNextForImageClassification,
    ConvNextImageProcessorPil,
)

from hf_effmodels.training import main, prepare
from hf_effmodels.training.tasks.distillation import task
from hf_effmodels.training.tasks.distillation.episodes import (
    CosineHead,
    Episodes,
    Shape,
    drawn,
    episode_labels,
    episode_logits,
    few_shot_accuracy,
    members_of,
)
from hf_effmodels.training.tasks.distillation.model import DistillationModel
from hf_effmodels.training.tasks.distillation.taps import Taps, dry_run
from hf_effmodels.training.tasks.distillation.teacher import Teachers

from ....processes import run_in_two
from ..contract import history, same, weights
from ..recorders import Calls

SHAPE = Shape(way=3, shot=2, query=3)
BASE, NOVEL = [*"0123456"], [*"789"]


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Student and teacher of seven digits, without batch norms: a step is the same in one batch or several."""
    folder, names = tmp_path_factory.mktemp("seven"), [str(number) for number in range(7)]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    for name, width in (("student", 8), ("teacher", 12)):
        torch.manual_seed(width)
        config = ConvNextConfig(
            patch_size=2, hidden_sizes=[8, width], depths=[1, 1], num_stages=2, image_size=16, **labels
        )
        if name == "teacher":
            config.episode_scale = 3.0
        ConvNextForImageClassification(config).save_pretrained(folder / name)
        ConvNextImageProcessorPil(size={"shortest_edge": 16}, crop_pct=0.875).save_pretrained(folder / name)
    return folder


@pytest.fixture
def run(classifiers):
    return [
        *(
            "--task",
            "distillation",
            "--model",
            str(classifiers / "student"),
            "--teacher",
            str(classifiers / "teacher"),
        ),
        *("--dataset", "digits", "--classes", *BASE, "--train_crop", "random_padded", "--max_eval_samples", "11"),
        *("--way", "3", "--shot", "2", "--query", "3", "--episodes_per_epoch", "4", "--num_train_epochs", "2"),
        *("--per_device_train_batch_size", "30", "--optim", "sgd", "--learning_rate", "0.1", "--logging_steps", "1"),
        *("--losses", "{adaptconf: {tau: 0.25, temperature: 10, warmup: 0.5}}", "--max_grad_norm", "0"),
        *("--few_shot_dataset", "digits", "--few_shot_classes", *NOVEL, "--eval_episodes", "20"),
        *("--eval_strategy", "no", "--load_best_model_at_end", "false", "--disable_tqdm", "true"),
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_in_half_precision_are_compared_in_full_and_finer_ones_as_they_are(dtype):
    features = torch.randn(SHAPE.size * 2, 6, generator=torch.Generator().manual_seed(2)).to(dtype)
    full = torch.float64 if dtype == torch.float64 else torch.float32
    found = episode_logits(features, SHAPE, 10.0)
    assert found.dtype == full and torch.equal(found, episode_logits(features.to(full), SHAPE, 10.0))


def test_logits_are_cosines_to_the_mean_of_what_a_class_is_known_by():
    features = torch.randn(2 * SHAPE.size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = CosineHead(SHAPE, 4.0).double()(features)
    expected = []
    for episode in features.split(SHAPE.size):
        classes = episode.split(5)
        centres = [pictures[:2].mean(0) for pictures in classes]
        for pictures in classes:
            for picture in pictures[2:]:
                expected.append([4 * F.cosine_similarity(picture, centre, dim=0) for centre in centres])
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert episode_labels(30, SHAPE).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2


def test_what_is_measured_is_what_the_nearest_mean_tells():
    rng = np.random.default_rng(0)
    labels = np.repeat([4, 7, 9, 2], 8)
    centres = {4: (9, 0), 7: (0, 9), 9: (-9, -9), 2: (9, -9)}
    features = torch.from_numpy(np.array([centres[c] for c in labels]) + rng.standard_normal((32, 2)))
    assert few_shot_accuracy(features, labels, SHAPE, 30, "novel") == (1.0, 0.0)
    accuracy, interval = few_shot_accuracy(torch.from_numpy(rng.standard_normal((32, 2))), labels, SHAPE, 200, "novel")
    assert abs(accuracy - 1 / 3) < 0.06 and 0 < interval < 0.05
    members = members_of(labels, SHAPE, "novel")
    chosen = [drawn(members, SHAPE, (1, 2, 3), number) for number in range(3)]
    assert len({*np.concatenate(chosen).tolist()}) == 15 and len({labels[c[0]] for c in chosen}) == 3
    assert all(len({*labels[pictures]}) == 1 for pictures in chosen)
    assert len({tuple(pictures % 8) for pictures in chosen}) == 3, "each class has a draw of its own"
    exactly = members_of(labels[[*range(5), *range(8, 13), *range(16, 21), *range(24, 28)]], SHAPE, "novel")
    assert [numbers.tolist() for numbers in exactly] == [[*range(5)], [*range(5, 10)], [*range(10, 15)]], (
        "5 are enough"
    )
    with pytest.raises(ValueError, match="--way: got 3, but novel has 2 classes of 5 pictures or more .* 3 in all"):
        members_of(labels[:18], SHAPE, "novel")


def test_half_an_interval_is_that_of_the_mean_of_the_episodes():
    rng = np.random.default_rng(3)
    labels, features = np.repeat([0, 1, 2], 9), rng.standard_normal((27, 4))
    found = few_shot_accuracy(torch.from_numpy(features), labels, SHAPE, 40, "novel")
    members, shares = members_of(labels, SHAPE, "novel"), []
    for episode in range(40):
        right, chosen = 0, [drawn(members, SHAPE, (0, 0, episode), number) for number in range(3)]
        centres = np.stack([features[pictures[:2]].mean(0) for pictures in chosen])
        for number, pictures in enumerate(chosen):
            for picture in features[pictures[2:]]:
                right += number == np.argmax(centres @ picture / np.linalg.norm(centres, axis=1))
        shares.append(right / 9)
    deviation = np.sqrt(np.square(shares - np.mean(shares)).sum() / 39)
    np.testing.assert_allclose(found, (np.mean(shares), 1.96 * deviation / np.sqrt(40)), rtol=1e-6)


def test_pictures_of_an_episode_follow_from_seed_epoch_and_episode_and_are_varied_by_their_own_numbers():
    labels = np.repeat([0, 1, 2, 3], 6)
    source = SimpleNamespace(labels=labels, split="base", read=lambda number, channels: (number, channels))

    def episodes(seed):
        data = SimpleNamespace(
            seed=seed, source=source, num_channels=1, transform=lambda picture, rng: (*picture, rng.random())
        )
        return Episodes(data, SHAPE, 2)

    members = members_of(labels, SHAPE, "base")
    for seed, epoch, episode in ((0, 0, 0), (0, 0, 1), (0, 2, 1), (5, 0, 0), (5, 2, 1)):
        start, found = (2 * epoch + episode) * SHAPE.size, []
        for place in range(SHAPE.size):
            picture, channels, drawn_number = episodes(seed)[start + place]["pixel_values"]
            rng = np.random.default_rng((seed, epoch, episode * SHAPE.size + place))
            assert channels == 1 and drawn_number == rng.random()
            found.append(picture)
        expected = [drawn(members, SHAPE, (seed, epoch, episode), number) for number in range(3)]
        assert found == np.concatenate(expected).tolist()
    assert not np.array_equal(*(drawn(members, SHAPE, (seed, 0, 0), 0) for seed in (0, 5)))


def test_a_student_that_has_learnt_by_episodes_goes_on_with_its_scale_and_a_head_of_none_begins_at_ten(classifiers):
    for name, scale in (("student", 10.0), ("teacher", 3.0)):
        network = AutoModelForImageClassification.from_pretrained(classifiers / name)
        taps = Taps(network, dry_run(network, torch.zeros(2, 3, 16, 16)), ["pooled"])
        assert DistillationModel(network, {}, taps, SHAPE).episodes.scale.item() == scale


def test_new_classes_are_read_as_an_evaluation_set_of_their_own(monkeypatch):
    """Whole, whatever of the training's own data is held or left out, and what is wrong is named by its options."""
    calls, wrong = Calls(), ValueError("--eval_dataset: x has no --eval_split; --classes: there is none")

    class Data:
        def __init__(self, source, transform, num_channels):
            self.source, self.transform, self.num_channels = source, transform, num_channels

    evaluation = Data(None, "transform", 3)
    trainer = SimpleNamespace(network=SimpleNamespace(config="configuration"), eval_dataset=evaluation)
    source = SimpleNamespace(names=["8", "9"], labels=np.repeat([0, 1], 3), split="x/test")

    def load(args, token):
        if args.classes == ["none"]:
            raise wrong
        return source

    monkeypatch.setattr(
        task,
        "_STUDENT",
        SimpleNamespace(load_evaluation_data=calls.of("load", load), class_names=lambda config: ["0", "7"]),
    )
    own = {"dataset": "d", "eval_dataset": "e", "eval_split": "s", "eval_fraction": 0.5, "classes": ["0", "7"]}
    own |= {"max_eval_samples": 3, "label_mapping": {"0": "a"}, "image_column": "picture", "eval_holdout": 4}
    settings = make_dataclass("Settings", own)
    asked = {"few_shot_dataset": "y", "few_shot_split": "z", "shape": Shape(2, 1, 2)}
    arguments = SimpleNamespace(token="a token"), settings(**own), None, None
    for chosen in (None, ["8", "9"]):
        given = SimpleNamespace(**asked, few_shot_classes=chosen)
        found = task._novel_classes(given, trainer, arguments)
        assert isinstance(found, Data) and vars(found) == {**vars(evaluation), "source": source}
        [((data, token), _)] = calls.pop("load")
        changed = {"eval_dataset": "y", "eval_split": "z", "classes": chosen, "eval_holdout": None}
        changed |= dict.fromkeys(("eval_fraction", "max_eval_samples", "label_mapping"))
        assert vars(data) == {**own, **changed} and token == "a token"
    with pytest.raises(ValueError, match="^--few_shot_dataset: x has no --few_shot_split; --few_shot_classes: there "):
        task._novel_classes(SimpleNamespace(**asked, few_shot_classes=["none"]), trainer, arguments)
    source.names = ["8", "7"]
    with pytest.raises(ValueError, match="^--few_shot_dataset: x/test has the class '7', which is trained on"):
        task._novel_classes(SimpleNamespace(**asked, few_shot_classes=None), trainer, arguments)
    assert task._novel_classes(SimpleNamespace(few_shot_dataset=None), trainer, arguments) is None


@pytest.mark.parametrize("taught", [True, False])
def test_student_and_teacher_are_measured_on_classes_that_are_new_to_them_each_by_itself(taught, monkeypatch):
    """The student tells all, the teacher nothing: to it all pictures are alike. Seven pictures at a time, in order."""
    seen = []

    class Teacher:
        def __call__(self, pixels):
            return {"pooled": torch.ones(len(pixels), 3)}

    class Network:
        evaluated = False

        def eval(self):
            self.evaluated = True
            return self

    def pooled(network, pixels):
        assert network.evaluated
        seen.append(len(pixels))
        return F.one_hot(pixels.long(), 3).half()

    monkeypatch.setattr(task, "_pooled", pooled)
    labels = np.array([2, 0, 1] * 6)

    class Novel(list):
        source = SimpleNamespace(labels=labels, split="novel")

    teachers = Teachers.__new__(Teachers)
    teachers.teachers = [Teacher()]
    trainer = SimpleNamespace(
        network=Network(),
        teachers=teachers if taught else None,
        args=SimpleNamespace(per_device_eval_batch_size=7, device="cpu"),
        accelerator=SimpleNamespace(autocast=nullcontext),
    )
    novel = Novel({"pixel_values": torch.tensor(float(label))} for label in labels)
    found = task._few_shot(trainer, novel, SimpleNamespace(shape=SHAPE, eval_episodes=4))
    expected = {"eval_few_shot_accuracy": 1.0, "eval_few_shot_interval": 0.0}
    if taught:
        expected |= {"eval_teacher_few_shot_accuracy": pytest.approx(1 / 3), "eval_teacher_few_shot_interval": 0.0}
    assert found == expected and seen == [7, 7, 4]


def test_a_student_learns_by_episodes_and_tells_classes_it_has_not_seen(run, classifiers, tmp_path):
    run += ["--save_strategy", "steps", "--save_steps", "2"]
    results = main([*run, "--output_dir", str(tmp_path / "whole")])
    logged = history(tmp_path / "whole", "loss", "task_loss", "adaptconf/teacher", "adaptconf/own", "grad_norm")
    np.testing.assert_allclose(logged[:, 0], logged[:, 1:4].sum(1), rtol=1e-3)
    before, after = (
        AutoModelForImageClassification.from_pretrained(folder).eval()
        for folder in (classifiers / "student", tmp_path / "whole")
    )
    assert torch.equal(before.classifier.weight, after.classifier.weight), "the head takes no part"
    first = "convnext.embeddings.patch_embeddings.weight"
    assert not torch.equal(before.state_dict()[first], after.state_dict()[first])
    assert after.config.episode_scale != 10.0
    written = json.loads((tmp_path / "whole" / "eval_results.json").read_text())
    assert written["eval_few_shot_accuracy"] == results["eval_few_shot_accuracy"]

    # The first step's loss, and the measured accuracy, by hand.
    trainer = prepare("prepare_training", [*run, "--output_dir", str(tmp_path / "again")]).trainer
    head = [*trainer.network.classifier.parameters()]
    assert head and not any(weight.requires_grad for weight in head), "no process waits for its gradient"
    samples = [trainer.train_dataset[index] for index in range(30)]
    pixels = torch.stack([sample["pixel_values"] for sample in samples])
    assert [sample["labels"] for sample in samples[:10]] == [-100, -100, 0, 0, 0, -100, -100, 1, 1, 1]
    episodes = copy.copy(trainer.train_dataset)
    episodes.transform = lambda picture, rng: np.asarray(picture).tobytes()
    first, later = ([episodes[start + n]["pixel_values"] for n in range(10)] for start in (0, len(episodes)))
    assert first != later, "an epoch has episodes of its own"
    with torch.no_grad():
        logits = episode_logits(before.convnext(pixels).pooler_output, SHAPE, 10.0)
    loss = F.cross_entropy(logits, episode_labels(30, SHAPE))
    np.testing.assert_allclose(logged[0, 1], loss, rtol=1e-3)
    teacher = AutoModelForImageClassification.from_pretrained(classifiers / "teacher").eval()
    with torch.no_grad():
        expected = episode_logits(teacher.convnext(pixels).pooler_output, SHAPE, 3.0)
    # In the first step nothing is of the student's own: the divergence alone.
    divergence = 100 * F.kl_div((logits / 10).log_softmax(1), (expected / 10).softmax(1), reduction="batchmean")
    np.testing.assert_allclose(logged[0, 2], divergence, rtol=1e-3, atol=1e-4)
    assert logged[0, 3] == 0 < logged[3, 3]

    checkpoint = str(tmp_path / "whole" / "checkpoint-2")
    main([*run, "--output_dir", str(tmp_path / "resumed"), "--resume_from_checkpoint", checkpoint])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "resumed"))
    assert np.array_equal(history(tmp_path / "resumed", "loss")[-2:], logged[-2:, :1])
    halves = ["--per_device_train_batch_size", "15", "--gradient_accumulation_steps", "2"]
    main([*run, *halves, "--output_dir", str(tmp_path / "halves")])
    again = history(tmp_path / "halves", "loss", "task_loss", "adaptconf/teacher", "adaptconf/own", "grad_norm")
    np.testing.assert_allclose(again, logged, rtol=1e-4, atol=1e-5)


def test_what_does_not_go_with_episodes_is_said_before_training(run, tmp_path):
    teacher = run[run.index("--teacher") + 1]
    for options, message in (
        (["--per_device_train_batch_size", "16"], "accepted are multiples of an episode's 15 pictures"),
        (["--episodes_per_epoch", "3"], "--episodes_per_epoch: got 3, accepted are multiples of the 2 of a step"),
        (["--way", "8"], "--way: got 8, but digits/train has 7 classes"),
        (["--mixup", "0.2"], "--mixup: it does not go with --episodes_per_epoch"),
        (["--losses", "{crd: {}}"], "crd is of single pictures; it does not go with --episodes_per_epoch"),
        (["--few_shot_classes", "6", "8", "9"], "has the class '6', which is trained on"),
        (["--few_shot_classes", "eight", "8", "9"], "--few_shot_classes: digits/test has no class 'eight'"),
        (["--few_shot_split", "nowhere"], "--few_shot_split: there is no 'nowhere'"),
        (["--way", "4", "--per_device_train_batch_size", "40"], "--way: got 4, but digits/test has 3 classes"),
        (["--shot", "0"], "--shot: got 0"),
        (["--way", "1"], "--way: got 1"),
        (["--eval_episodes", "1"], "--eval_episodes: got 1"),  # which have no interval
        (["--codec", "{at: x, widths: [2]}"], "--codec: it does not go with --episodes_per_epoch"),
        (
            ["--repeated_augmentation", "3"],
            "--repeated_augmentation, --loss: they do not go with --episodes_per_epoch",
        ),
        (["--loss", "binary_cross_entropy"], "--repeated_augmentation, --loss: they do not go with"),
        (["--teacher", f"{{{teacher}: 1, {teacher}/.: 1}}"], "--teacher: with --episodes_per_epoch accepted is one"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*run, *options, "--output_dir", str(tmp_path / "refused")])
    assert not (tmp_path / "refused").exists()


@pytest.mark.thorough
def test_two_processes_learn_the_episodes_of_one(run, tmp_path):
    """Two episodes in a step, one in each process."""
    names = "loss", "task_loss", "adaptconf/teacher", "adaptconf/own", "grad_norm"
    size = run.index("--per_device_train_batch_size") + 1
    run_in_two(main, [*run[:size], "15", *run[size + 1 :], "--output_dir", str(tmp_path / "two")])
    main([*run, "--output_dir", str(tmp_path / "one")])
    two, one = (history(tmp_path / name, *names) for name in ("two", "one"))
    assert one.shape == (4, 5)
    np.testing.assert_allclose(two, one, rtol=1e-4, atol=1e-5)
    measured = [json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("two", "one")]
    assert measured[0]["eval_few_shot_accuracy"] == pytest.approx(measured[1]["eval_few_shot_accuracy"], abs=0.02)
