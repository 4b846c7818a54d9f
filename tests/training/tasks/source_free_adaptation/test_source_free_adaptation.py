"""What a source-free adaptation promises beyond the contract."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels import create_model
from hf_effmodels.training import main, prepare
from hf_effmodels.training.adaptation import estimate_source, keep_confident, spherical_clusters
from hf_effmodels.training.data.digits import read_digits
from hf_effmodels.training.linear_head import linear_head, seen_by
from hf_effmodels.training.losses.contrastive_domain import contrastive_domain_discrepancy
from hf_effmodels.training.task import load_task
from hf_effmodels.training.tasks.source_free_adaptation.data import plan_round

from ..contract import history, same, weights

TINY = {
    "resnet": lambda: ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=3)
    ),
    "vit": lambda: ViTForImageClassification(
        ViTConfig(
            image_size=32,
            patch_size=16,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            num_labels=3,
        )
    ),
    "convnext": lambda: ConvNextForImageClassification(
        ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, patch_size=4, num_labels=3)
    ),
    "mobilenet": lambda: MobileNetV2ForImageClassification(
        MobileNetV2Config(image_size=32, depth_multiplier=0.25, num_labels=3)
    ),
}


@torch.no_grad()
@pytest.mark.parametrize("kind", TINY)
def test_any_classifier_that_ends_in_a_linear_layer_has_a_head(kind):
    model, pixels = TINY[kind]().train(), torch.randn(2, 3, 32, 32)
    head = linear_head(model, pixels)
    assert model.training, "it was left in evaluation"
    assert linear_head(model.eval(), pixels) is head and not model.training, "nor in training"
    with seen_by(head) as seen:
        logits = model(pixels).logits
    torch.testing.assert_close(seen[0] @ head.weight.T + head.bias, logits)
    model(pixels)
    assert len(seen) == 1, "it is looked at no longer"


def test_a_layer_inside_that_is_as_wide_as_the_head_is_none():
    config = ViTConfig(
        image_size=16, patch_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8
    )
    config.num_labels = 8

    class Pooled(ViTForImageClassification):
        def forward(self, pixel_values, **more):
            found = super().forward(pixel_values, **more)
            self.after(found.logits)  # looked at by nobody: the last linear layer of all
            return found

    model = Pooled(config)
    model.after = nn.Linear(8, 8)
    assert linear_head(model, torch.randn(2, 3, 16, 16)) is model.classifier


def test_a_classifier_that_ends_in_something_else_is_refused():
    model = create_model("mhwrn4x161", num_labels=3)  # the mean of several linear layers
    with pytest.raises(ValueError, match="are no output of one linear layer"):
        linear_head(model, torch.randn(2, 3, 32, 32))


def test_a_step_has_so_many_pictures_of_so_many_classes_in_order():
    labels = np.array([0] * 6 + [1] * 2 + [2] * 9 + [3] * 5)
    kept = np.ones(22, dtype=bool)
    kept[:3] = False
    options = {"steps": 40, "samples_per_class": 3, "seed": (1, 2)}
    pictures, classes = plan_round(labels, kept, np.array([0, 1, 2]), batch_size=6, **options)
    assert pictures.shape == classes.shape == (40, 6)
    assert (labels[pictures] == classes).all() and kept[pictures].all()
    for row in classes:
        assert row[0] == row[1] == row[2] != row[3] == row[4] == row[5]
    # Class 1 has fewer pictures than it gives; of the others none comes twice in a step.
    for row, of in zip(pictures, classes, strict=True):
        for number in (0, 2):
            assert len(set(row[of == number])) == (of == number).sum()
    assert set(classes.flatten()) == {0, 1, 2}
    # Fewer classes than a step could have: more pictures each.
    _, classes = plan_round(labels, kept, np.array([1, 2]), batch_size=9, **options)
    assert all(sorted(np.unique(row, return_counts=True)[1]) == [4, 5] for row in classes)


def test_the_first_step_is_that_of_the_papers_parts_by_hand(adapted_run, tmp_path):
    adapted_run += ["--std_factor", "1.7", "--discrepancy_weight", "2"]
    trainer = prepare("prepare_training", [*adapted_run, "--output_dir", str(tmp_path / "run")]).trainer
    torch.nn.init.normal_(trainer.head.bias)
    rows, features = trainer.head.weight.detach(), trainer.features()
    clusters = spherical_clusters(features, rows)
    threshold = trainer.adaptation.distance_threshold = float(clusters.distances.min(1).values.quantile(0.7))
    trainer.begin_epoch(0)
    kept, classes = keep_confident(clusters, threshold=threshold, min_samples=2)
    estimate = estimate_source(features, clusters.labels, kept, classes, rows, std_factor=1.7)
    assert not kept.all()
    torch.testing.assert_close(trainer.round["mean"], estimate.mean)
    torch.testing.assert_close(trainer.round["std"], estimate.std)
    # One step, with the sampled source made anything: the loss is the discrepancy of it and the target.
    of = trainer.train_dataset.classes[0] = np.repeat([3, 1, 2, 0], 2)  # as they were drawn, in no order
    target, logits = torch.randn(8, rows.shape[1]), torch.randn(8, 10)
    drawn = torch.randn(8, rows.shape[1])
    taken, asked = [0], []

    class Drawn:
        def __init__(self, *arguments):
            pass

        def sample(self, chosen, count, generator):
            asked.append((chosen, count))
            taken.append(taken[-1] + count)
            return drawn[taken[-2] : taken[-1]]

    module = __import__(type(trainer).__module__, fromlist=["SourceEstimate"])
    original, module.SourceEstimate = module.SourceEstimate, Drawn
    try:
        loss = trainer._loss_of_step(0, target, logits)
    finally:
        module.SourceEstimate = original
    count = [int((of == number).sum()) for number in dict.fromkeys(of.tolist())]
    probabilities = nn.functional.linear(drawn, rows, trainer.head.bias).softmax(1)
    expected = contrastive_domain_discrepancy([(drawn, target), (probabilities, logits.softmax(1))], count, 10)
    torch.testing.assert_close(loss, 2 * expected["loss"])
    assert asked == [([3], 2), ([1], 2), ([2], 2), ([0], 2)]


def test_labels_of_the_pictures_are_never_used_and_the_head_stays(adapted_run, convnext_folder, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(load_task("image-classification"), "plot_confusion", lambda *found: drawn.append(found))
    adapted_run += ["--num_train_epochs", "2"]
    runs = [adapted_run, [*adapted_run, "--estimate_source", "false"]]
    for number, arguments in enumerate(runs):
        main([*arguments, "--save_strategy", "no", "--output_dir", str(tmp_path / f"{number}")])
    # The same pictures under other labels.
    run = prepare(
        "prepare_training", [*adapted_run, "--save_strategy", "no", "--output_dir", str(tmp_path / "others")]
    )
    source = run.trainer.train_dataset.source
    source.labels[:] = (source.labels + 3) % 10
    run()
    assert same(weights(tmp_path / "0"), weights(tmp_path / "others"))
    assert not same(weights(tmp_path / "0"), weights(tmp_path / "1")), "estimate_source changes nothing"
    before, after = weights(convnext_folder), weights(tmp_path / "0")
    moved = (
        {name.partition(":")[2] for name in after if not torch.equal(after[name], before[name])}
        if (before.keys() <= after.keys())
        else set()
    )
    assert moved and not [name for name in moved if name.startswith("classifier.")]
    report = json.loads((tmp_path / "0" / "adaptation.json").read_text())
    assert [entry["round"] for entry in report["rounds"]] == [1, 2]
    assert set(report["before"]["of_class"]) == set(report["after"]["of_class"])
    assert (tmp_path / "0" / "confusion_matrix.png").is_file()
    predicted, labels, _, file = drawn[0]
    assert file == tmp_path / "0" / "confusion_matrix_before.png"
    assert (predicted == labels).mean() == report["before"]["accuracy"]
    assert len(history(tmp_path / "0", "loss")) == 8


def test_pictures_without_a_column_of_labels_are_adapted_to_as_those_with_one(adapted_run, tmp_path):
    import datasets

    rows = read_digits()["train"][:40]
    images, marked = [row["image"] for row in rows], [int(row["label"]) for row in rows]
    columns = {"without": {}, "with": {"label": marked}, "kept_back": {"label": [-1] * 40}}
    for name, more in columns.items():
        features = {"image": datasets.Image()} | ({"label": datasets.Value("int64")} if more else {})
        table = datasets.Dataset.from_dict({"image": images, **more}, features=datasets.Features(features))
        table.to_parquet(str(tmp_path / f"{name}.parquet"))
    short = [*adapted_run, "--dataset", "parquet", "--num_train_epochs", "2", "--steps_per_round", "2"]
    short += ["--max_train_samples", "40", "--save_strategy", "no", "--std_factor", "1.3", "--eval_strategy"]
    for name in columns:
        files = json.dumps(
            {"train": str(tmp_path / f"{name}.parquet")}
            | ({"test": str(tmp_path / "with.parquet")} if name == "with" else {})
        )
        strategy = "no" if name == "with" else "epoch"  # for which there are no labels
        results = main([*short, strategy, "--data_files", files, "--output_dir", str(tmp_path / name)])
        assert ("eval_accuracy" in results) == (name == "with")
        report = json.loads((tmp_path / name / "adaptation.json").read_text())
        assert len(report["rounds"]) == 2 and ("before" in report) == (name == "with")
    assert same(weights(tmp_path / "without"), weights(tmp_path / "kept_back"))
    saved = [load_file(tmp_path / name / "model.safetensors") for name in ("without", "with")]
    assert same(*saved)
    assert "| std_factor | `1.3` |" in (tmp_path / "without" / "README.md").read_text()


def test_switches_of_the_papers_ablations_are_what_they_say(adapted_run, tmp_path):
    arguments = [
        *adapted_run,
        "--estimate_source",
        "false",
        "--std_factor",
        "1.7",
        "--output_dir",
        str(tmp_path / "run"),
    ]
    trainer = prepare("prepare_training", arguments).trainer
    rows, features = trainer.head.weight.detach(), trainer.features()
    clusters = spherical_clusters(features, rows)
    trainer.begin_epoch(0)
    assert trainer.round["kept"].all(), "a threshold of 1 leaves some out"
    for number, mean, std in zip(*(trainer.round[name] for name in ("classes", "mean", "std")), strict=True):
        own = features[clusters.labels == number]
        torch.testing.assert_close(mean, own.mean(0))
        torch.testing.assert_close(std, 1.7 * own.std(0).clamp_min(1e-4), atol=1e-5, rtol=1e-4)
    # Augmented pictures are others each time they are looked at.
    once, again = trainer.features(0), trainer.features(0, again=True)
    assert not torch.equal(once, again) and not torch.equal(once, features)
    assert torch.equal(once, trainer.features(0))


def test_in_bfloat16_the_losses_are_nearly_those_of_float32(adapted_run, tmp_path):
    """Features are bfloat16's; what is made of them, clusters, estimates and losses, is computed in float32."""
    run = [*adapted_run, "--max_steps", "2", "--eval_strategy", "no", "--save_strategy", "no"]
    run += ["--load_best_model_at_end", "false"]
    for name in ("true", "false"):
        main([*run, "--bf16", name, "--output_dir", str(tmp_path / name)])
    half, whole = (history(tmp_path / name, "loss", "grad_norm") for name in ("true", "false"))
    assert not np.array_equal(half, whole), "it was not in bfloat16"
    np.testing.assert_allclose(half, whole, rtol=0.1, atol=0.05)


def test_norms_have_a_learning_rate_of_their_own(adapted_run, tmp_path):
    arguments = [*adapted_run, "--norm_learning_rate_factor", "10", "--output_dir", str(tmp_path / "run")]
    trainer = prepare("prepare_training", arguments).trainer
    optimizer = trainer.create_optimizer()
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for module in trainer.model.modules():
        for parameter in module.parameters(recurse=False):
            if module is trainer.head:
                assert id(parameter) not in rates
            else:
                assert rates[id(parameter)] == pytest.approx(
                    0.1 if isinstance(module, nn.LayerNorm) or (type(module).__name__ == "ConvNextLayerNorm") else 0.01
                )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--samples_per_class", "3"], "--samples_per_class: got 3, accepted are numbers that divide a step's 8"),
        (["--samples_per_class", "8"], "--samples_per_class: got 8"),
        (["--max_train_samples", "9"], "has 9 pictures, the model 10 classes"),
        (["--mixup", "0.2"], "--mixup: it needs labels"),
        (["--mixup", "1"], "--mixup: it needs labels"),
        (["--cutmix", "0.2"], "--cutmix: it needs labels"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor: it needs labels"),
        (["--label_maps", "maps"], "--label_maps: it needs labels"),
        (["--bitnet", "mean"], "--bitnet: it needs labels, or another training"),
        (["--bivit", "layers"], "--bivit: it needs labels, or another training"),
        (["--cluster_tolerance", "0"], "--cluster_tolerance: got 0"),
        (["--ignore_mismatched_sizes", "true"], "--ignore_mismatched_sizes: an adaptation keeps the head"),
        (["--model", "tinynet-e"], "--model: random weights know no source"),
        (["--min_samples_per_class", "1"], "--min_samples_per_class: got 1"),
        (["--std_factor", "0"], "--std_factor: got 0"),
        (["--repeated_augmentation", "2"], "--repeated_augmentation, --loss: they do not go with an adaptation"),
        (["--loss", "binary_cross_entropy"], "--repeated_augmentation, --loss: they do not go with an adaptation"),
        (["--classes", "1", "2", "3"], "--model: .* tells 10 classes, digits-inverted/train has 3; accepted are"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(adapted_run, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        main([*adapted_run, *arguments, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_a_head_of_other_classes_is_refused_though_there_are_as_many(adapted_run, convnext_folder, tmp_path):
    shutil.copytree(convnext_folder, tmp_path / "model")
    file = tmp_path / "model" / "config.json"
    names = {str(number): f"letter {number}" for number in range(10)}
    labels = {"id2label": names, "label2id": {name: int(number) for number, name in names.items()}}
    file.write_text(json.dumps(json.loads(file.read_text()) | labels))
    mapping = json.dumps({str(number): f"digit {number}" for number in range(10)})
    words = ["--model", str(tmp_path / "model"), "--label_mapping", mapping, "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match=r"classes \(10: digit 0, .* are not the model's \(10: letter 0"):
        main([*adapted_run, *words])
    assert not (tmp_path / "run").exists()


def test_too_few_near_pictures_are_said_with_the_threshold(adapted_run, tmp_path):
    with pytest.raises(ValueError, match=r"--distance_threshold: got 0.0001, within which 0 classes .* in round 1"):
        main([*adapted_run, "--distance_threshold", "0.0001", "--output_dir", str(tmp_path / "run")])
