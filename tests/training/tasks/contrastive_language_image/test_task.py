"""What the task promises beyond the contract: one large batch however it is spread, losses, data, errors."""

import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Image, List, Value
from PIL import Image as Picture
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from transformers import (
    AutoModelForZeroShotImageClassification,
    AutoProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    ResNetConfig,
    ResNetModel,
    SiglipConfig,
    SiglipModel,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from hf_effmodels import LightClipModel
from hf_effmodels.metrics.retrieval import retrieval_recall
from hf_effmodels.modeling.light_clip.token_matching import token_matching_loss
from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.data.digits import read_digits
from hf_effmodels.training.data.fingerprints import weights_fingerprint
from hf_effmodels.training.losses.affinity import affinity_loss
from hf_effmodels.training.losses.embedding_distance import embedding_distance
from hf_effmodels.training.tasks.contrastive_language_image.arguments import (
    ContrastiveArguments,
    ImagePartArguments,
    ImageTextArguments,
    TwoTowerArguments,
)
from hf_effmodels.training.tasks.contrastive_language_image.data import input_size, load_image_texts
from hf_effmodels.training.tasks.contrastive_language_image.evaluation import (
    class_vectors,
    mean_loss,
    zero_shot_accuracy,
)
from hf_effmodels.training.tasks.contrastive_language_image.masking import mask_words
from hf_effmodels.training.tasks.contrastive_language_image.models import load_two_towers
from hf_effmodels.training.tasks.contrastive_language_image.task import _example
from hf_effmodels.training.tasks.contrastive_language_image.tokenizer import SMALLEST, train_tokenizer

from ..contract import history
from ..image_classification.test_data import cache, write_parquet  # noqa: F401
from .conftest import MODEL, TEXT, VIT


def prepared(arguments, tmp_path, **changes):
    """The trainer of a run that is not started."""
    words = [word for name, value in changes.items() for word in (f"--{name}", str(value))]
    trainer = prepare("prepare_training", [*arguments, *words, "--output_dir", str(tmp_path / "run")]).trainer
    trainer.state.max_steps = 100
    return trainer


def batches_of(trainer, count: int, size: int, dtype=torch.float64) -> list:
    data = trainer.train_dataset
    batches = [trainer.data_collator([data[size * k + n] for n in range(size)]) for k in range(count)]
    return [{**batch, "pixel_values": batch["pixel_values"].to(dtype)} for batch in batches]


def gradients_of(trainer, batches: list) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of a step that is made of these batches."""
    model = trainer.model.eval()  # as an evaluation in between leaves it
    model.zero_grad()
    found, _ = trainer.get_batch_samples(iter(batches), len(batches), trainer.args.device)
    model.train()
    total = 0.0
    for batch in found:
        loss, _ = trainer.task_loss(model, batch)
        loss.backward()
        total += loss.item()
    return total, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


# One large batch


def test_two_or_eight_cached_batches_give_the_gradient_of_one_that_is_as_large(contrastive_run, tmp_path):
    options = ", uniform_softening: true, token_top_k: 2, token_projection: own, token_loss_weight: 0.5}"
    trainer = prepared(contrastive_run, tmp_path, max_train_samples=64, model_config=MODEL[:-1] + options)
    trainer.model.double()
    trainer.state.global_step = 40
    large = batches_of(trainer, 1, 64)
    expected_loss, expected = gradients_of(trainer, large)
    for small in (batches_of(trainer, 2, 32), batches_of(trainer, 8, 8)):
        loss, cached = gradients_of(trainer, small)
        assert loss == pytest.approx(expected_loss, rel=1e-12)
        assert cached.keys() == expected.keys() and {"logit_scale", "mask_embedding"} <= cached.keys()
        for name, gradient in expected.items():
            torch.testing.assert_close(cached[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    # And it is the model's own loss of that batch.
    given = {name: value for name, value in large[0].items() if name != "class_number"}
    trainer.model.zero_grad()
    own = trainer.model(**given, softening=0.2 * 40 / 100)
    own.loss.backward()
    assert own.loss.item() == pytest.approx(loss, rel=1e-12)
    torch.testing.assert_close(trainer.model.text_projection.weight.grad, cached["text_projection.weight"])


def test_a_cached_batch_is_embedded_again_with_the_same_dropout_and_moves_statistics_once(
    model_arguments, contrastive_run, tmp_path
):
    tower = "{embedding_size: 8, hidden_sizes: [8, 16], depths: [1, 1]}"
    changed = MODEL.replace(VIT, tower).replace(TEXT, TEXT[:-1] + ", attention_dropout: 0.5}")
    trainer = prepared(contrastive_run, tmp_path, model_config=changed)
    trainer.model.double()
    batches = batches_of(trainer, 3, 4)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    torch.manual_seed(5)
    _, cached = gradients_of(trainer, batches)
    after = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    drawn = torch.rand(1)
    # By hand: all batches embedded at once, with gradient.
    trainer.model.load_state_dict(before)
    trainer.model.zero_grad()
    assert trainer.model.training
    torch.manual_seed(5)
    chunks = [trainer._embed(trainer.model, batch) for batch in batches]
    assert torch.equal(torch.rand(1), drawn)
    longest = max(chunk["words"].shape[1] for chunk in chunks)
    whole = {
        name: torch.cat(
            [F.pad(c[name], (0, 0, 0, longest - c[name].shape[1])) if name == "words" else c[name] for c in chunks]
        )
        for name in ("images", "texts", "patches", "words")
    }
    whole["word_mask"] = torch.cat([F.pad(c["word_mask"], (0, longest - c["word_mask"].shape[1])) for c in chunks])
    parts = trainer._compare(whole, trainer.model.logit_scale.exp())
    masked = sum(int(batch["mlm_labels"].ne(-100).sum()) for batch in batches)
    (sum(parts.values()) + sum(c["masked_words"] for c in chunks) / masked).backward()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(cached[name], parameter.grad, rtol=1e-9, atol=1e-12, msg=name)
    statistics = [name for name in after if "running" in name or "tracked" in name]
    assert statistics and all(torch.equal(after[name], trainer.model.state_dict()[name]) for name in statistics)
    assert not torch.equal(after[statistics[0]], before[statistics[0]])


def test_targets_soften_along_the_training_and_every_loss_is_logged(contrastive_run, tmp_path):
    fields = MODEL[:-1] + ", token_loss_weight: 0.5, mlm_loss_weight: 0.25}"
    run = [*contrastive_run, "--model_config", fields, "--softening", "0.4", "--softening_schedule", "cosine"]
    run += ["--gradient_accumulation_steps", "2", "--max_steps", "2", "--per_device_train_batch_size", "4"]
    main([*run, "--mask_ratio", "0.4", "--output_dir", str(tmp_path / "run")])
    logged = history(tmp_path / "run", "loss", "instance_loss", "token_loss", "mlm_loss")
    assert len(logged) == 2 and (logged > 0).all()
    np.testing.assert_allclose(logged[:, 0], logged[:, 1:] @ [1, 0.5, 0.25], rtol=2e-3)  # logged as rounded
    trainer = prepared([*run, "--mask_ratio", "0.4"], tmp_path / "again")
    trainer.state.global_step = 50
    assert trainer.softening == pytest.approx(0.2)
    trainer.state.global_step = 25
    assert trainer.softening == pytest.approx(0.2 * (1 - 0.5**0.5)), "a quarter of the way along a cosine"
    assert trainer.train_dataset.masking.ratio == 0.4
    # What is left has nothing of the training, and works in the pipeline.
    model = AutoModelForZeroShotImageClassification.from_pretrained(tmp_path / "run" / "hub")
    assert type(model) is LightClipModel
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["architectures"] == ["LightClipModel"]
    pipe = pipeline("zero-shot-image-classification", model=str(tmp_path / "run"))
    answers = pipe(Picture.new("RGB", (20, 20)), candidate_labels=["zero", "one"], hypothesis_template="the digit {}")
    assert {answer["label"] for answer in answers} == {"zero", "one"}


def test_pairs_are_compared_in_full_precision_where_the_towers_compute_in_half(contrastive_run, tmp_path):
    trainer = prepared(contrastive_run, tmp_path)
    images, texts = torch.randn(6, 12), torch.randn(6, 12)
    expected = trainer._compare({"images": images, "texts": texts}, torch.tensor(20.0))["instance_loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert (images @ texts.T).dtype == torch.bfloat16
        found = trainer._compare({"images": images, "texts": texts}, torch.tensor(20.0))["instance_loss"]
    assert found.item() == expected.item()
    results = main([*contrastive_run, "--bf16", "true", "--max_steps", "1", "--output_dir", str(tmp_path / "half")])
    assert np.isfinite(results["train_loss"])


def test_words_are_matched_within_groups_where_memory_is_short(contrastive_run, tmp_path):
    trainer = prepared(contrastive_run, tmp_path, token_group=3)
    patches, words = torch.randn(7, 5, 4, requires_grad=True), torch.randn(7, 6, 4)
    mask, scale = torch.arange(6) < torch.arange(1, 8)[:, None], torch.tensor(4.0)
    loss = trainer._match_words(patches, words, mask.to(torch.uint8), scale)
    parts = [slice(0, 3), slice(3, 5), slice(5, 7)]  # as even as they can be
    expected = sum(len(patches[p]) / 7 * token_matching_loss(patches[p], words[p], mask[p], scale) for p in parts)
    torch.testing.assert_close(loss, expected)
    found, wanted = (torch.autograd.grad(value, patches)[0] for value in (loss, expected))
    torch.testing.assert_close(found, wanted)


def test_the_factor_of_the_cosines_is_held_at_a_hundred(contrastive_run, tmp_path):
    fields = MODEL[:-1] + ", logit_scale_init_value: 9.0}"
    main([*contrastive_run, "--model_config", fields, "--max_steps", "1", "--output_dir", str(tmp_path)])
    assert AutoModelForZeroShotImageClassification.from_pretrained(tmp_path).logit_scale.exp().item() <= 100.001


# Learning from a larger one


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    """A CLIP of transformers that sees pictures of another size in other numbers, and reads with other words."""
    torch.manual_seed(2)
    tokenizer = train_tokenizer(["the digit seven", "a one by hand"], 530)
    text = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text |= {"vocab_size": len(tokenizer), "bos_token_id": tokenizer.bos_token_id, "pad_token_id": 1}
    text |= {"eos_token_id": tokenizer.eos_token_id, "max_position_embeddings": 40}
    vision = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {"image_size": 24, "patch_size": 8}
    folder = tmp_path_factory.mktemp("clip")
    CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    images = CLIPImageProcessorPil(**size, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def test_affinities_and_embeddings_of_a_larger_clip_are_learnt(contrastive_run, clip_folder, tmp_path):
    run = [*contrastive_run, "--teacher", str(clip_folder), "--affinity_weight", "0.5", "--feature_weight", "2"]
    trainer = prepared(run, tmp_path)
    (batch,) = batches_of(trainer, 1, 6, torch.float32)
    trainer.get_batch_samples(iter([batch]), 1, trainer.args.device)
    loss, parts = trainer.task_loss(trainer.model.eval(), batch)
    clip = CLIPModel.from_pretrained(clip_folder).eval()
    with torch.no_grad():
        ours = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
        theirs = batch["pixel_values"] * torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None] + ours
        pixels = F.interpolate((theirs - 0.5) / 0.25, (24, 24), mode="bicubic", antialias=True)
        seen = clip(
            input_ids=batch["teacher_input_ids"], pixel_values=pixels, attention_mask=batch["teacher_attention_mask"]
        )
        own = trainer.model(
            **{name: batch[name] for name in ("pixel_values", "input_ids", "attention_mask")}, return_loss=False
        )
        divergence = 0.0
        for name in ("logits_per_image", "logits_per_text"):
            expected = seen[name].softmax(1)
            divergence += (expected * (expected.log() - own[name].log_softmax(1))).sum(1).mean() / 2
        distance = sum(((own[n] - seen[n]) ** 2).sum(1).mean() for n in ("image_embeds", "text_embeds"))
    torch.testing.assert_close(parts["affinity_loss"], divergence, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts["feature_loss"], distance, rtol=1e-4, atol=1e-5)
    total = parts["instance_loss"] + parts["token_loss"] + parts["mlm_loss"] + 0.5 * divergence + 2 * distance
    torch.testing.assert_close(loss, total, rtol=1e-4, atol=1e-4)
    assert not [p for p in trainer.teacher.model.parameters() if p.grad is not None or p.requires_grad]
    results = main(
        [*run, "--max_steps", "2", "--gradient_accumulation_steps", "2", "--output_dir", str(tmp_path / "b")]
    )
    assert np.isfinite(results["train_loss"]) and history(tmp_path / "b", "affinity_loss", "feature_loss").shape == (
        2,
        2,
    )


def test_losses_of_a_larger_clip_are_theirs_by_hand():
    generator = torch.Generator().manual_seed(0)
    a, b, c, d = (torch.randn(5, width, generator=generator, dtype=torch.float64) for width in (4, 4, 7, 7))
    total = 0.0
    for ours, theirs in (((a, b), (c, d)), ((b, a), (d, c))):
        student, teacher = (
            scale * F.normalize(x, dim=1) @ F.normalize(y, dim=1).T for scale, (x, y) in ((3.0, ours), (5.0, theirs))
        )
        p, q = teacher.softmax(1), student.softmax(1)
        total += (p * (p / q).log()).sum(1).mean() / 2
    torch.testing.assert_close(affinity_loss(a, b, c, d, 3.0, 5.0), total)
    assert affinity_loss(a, b, a, b, 3.0, 3.0).abs() < 1e-12
    distance = sum((F.normalize(x, dim=1) - F.normalize(y, dim=1)).pow(2).sum() / 5 for x, y in ((a, b), (c, d)))
    torch.testing.assert_close(embedding_distance(a, c, b, d), distance)
    with pytest.raises(ValueError, match="got .1, 1, 1, 1. rows"):
        affinity_loss(a[:1], b[:1], c[:1], d[:1], 1.0, 1.0)
    with pytest.raises(ValueError, match="teacher_images: got shape"):
        embedding_distance(a, b, c, d)


# Data


@pytest.fixture(scope="module")
def captions_file(tmp_path_factory):
    """Forty digits with one or two captions each, as parquet."""
    rows = read_digits()["train"][:40]
    captions = [
        [f"a {row['label']} number {n}", f"here is a {row['label']}"][: 1 + n % 2] for n, row in enumerate(rows)
    ]
    images = [row["image"] for row in rows]
    features = Features({"picture": Image(), "said": List(Value("string"))})
    file = tmp_path_factory.mktemp("captions") / "pairs.parquet"
    Dataset.from_dict({"picture": images, "said": captions}, features=features).to_parquet(file)
    return file


def test_captions_are_drawn_and_found_again_and_classes_are_measured_beside_them(
    model_arguments, captions_file, tmp_path
):
    run = ["--task", "contrastive-language-image", *model_arguments, "--dataset", "parquet", "--data_files"]
    run += [str(captions_file), "--caption_column", "said", "--eval_holdout", "8", "--max_steps", "2"]
    run += ["--zero_shot_dataset", "digits", "--eval_templates", "a {}", "{} here", "--learning_rate", "0.01"]
    run += ["--per_device_train_batch_size", "8", "--disable_tqdm", "true", "--horizontal_flip", "1"]
    results = main([*run, "--output_dir", str(tmp_path / "run")])
    names = [f"{way}_recall_at_{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5)]
    assert all(0 <= results[f"eval_{name}"] <= 1 for name in [*names, "accuracy", "top_5_accuracy"])
    assert "eval_image_to_text_recall_at_10" not in results
    trainer = prepared(run, tmp_path / "again", metric_for_best_model="text_to_image_recall_at_5")
    data = trainer.train_dataset
    two = next(index for index in range(len(data)) if len(data.source.texts(index)) == 2)
    drawn = {tuple(data[two + len(data) * epoch]["input_ids"].tolist()) for epoch in range(12)}
    assert len(drawn) == 2 and data[two]["input_ids"].tolist() == data[two]["input_ids"].tolist()
    # Evaluated by itself it is measured the same.
    evaluation = run[run.index("--dataset") : run.index("--max_steps")] + ["--zero_shot_dataset", "digits"]
    evaluation += ["--eval_templates", "a {}", "{} here", "--output", str(tmp_path / "e.json")]
    measured = evaluate(["--task", "contrastive-language-image", "--model", str(tmp_path / "run"), *evaluation])
    for name in (*names, "loss", "accuracy", "top_5_accuracy"):
        assert measured[name] == pytest.approx(results[f"eval_{name}"], rel=1e-5), name


def test_classes_have_one_number_in_both_splits_and_new_ones_come_last(tmp_path):
    labels = {"train": ["dog", "cat"], "test": ["dog", "ant", "cat"]}
    files = {split: write_parquet(tmp_path / f"{split}.parquet", of_split) for split, of_split in labels.items()}
    args = ImageTextArguments(dataset="parquet", data_files=files, caption_templates=["a {}"])
    train, evaluation = load_image_texts(args)
    for source, numbers in ((train, [1, 0]), (evaluation, [1, 2, 0])):
        assert [source.class_number(n) for n in range(len(source))] == numbers
    assert [evaluation.texts(n) for n in range(3)] == [["a dog"], ["a ant"], ["a cat"]]
    assert [*evaluation.all_texts()] == ["a cat", "a dog", "a ant"]


def test_a_clip_of_transformers_is_trained_on_its_pairs_from_a_folder_of_images(clip_folder, tmp_path):
    folder = tmp_path / "images" / "train"
    folder.mkdir(parents=True)
    lines = []
    for number, row in enumerate(read_digits()["train"][:20]):
        row["image"].save(folder / f"{number}.png")
        lines.append(json.dumps({"file_name": f"{number}.png", "caption": f"a {row['label']} with number {number}"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    run = ["--task", "contrastive-language-image", "--model", str(clip_folder), "--dataset", str(tmp_path / "images")]
    run += ["--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "2", "--max_steps", "2"]
    results = main([*run, "--eval_holdout", "4", "--disable_tqdm", "true", "--output_dir", str(tmp_path / "run")])
    assert np.isfinite(results["train_loss"]) and "eval_text_to_image_recall_at_1" in results
    before, after = (CLIPModel.from_pretrained(place) for place in (clip_folder, tmp_path / "run"))
    moved = [not torch.equal(a, b) for a, b in zip(before.parameters(), after.parameters(), strict=True)]
    assert sum(moved) > len(moved) / 2


def test_an_image_tower_begins_with_the_weights_of_its_folder(digit_arguments, tmp_path):
    tower = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"))
    tower.save_pretrained(tmp_path / "tower")
    run = ["--task", "contrastive-language-image", "--model", "light_clip-tinyvit-5m", "--tokenizer", "train:540"]
    run += ["--image_tower", str(tmp_path / "tower"), "--image_size", "16", *digit_arguments]
    model = prepared([*run, "--model_config", f"{{text_config: {TEXT}}}"], tmp_path).model
    assert model.config.vision_config.model_type == "resnet"
    for name, value in tower.state_dict().items():
        assert torch.equal(model.vision_model.state_dict()[name], value), name


def test_of_a_classifier_only_the_pooling_layer_of_its_tower_begins_anew(digit_arguments, tmp_path):
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    classifier = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8))
    classifier.save_pretrained(tmp_path / "tower")
    run = ["--task", "contrastive-language-image", "--model", "light_clip-tinyvit-5m", "--tokenizer", "train:540"]
    run += ["--image_tower", str(tmp_path / "tower"), "--image_size", "16", *digit_arguments]
    run += ["--model_config", f"{{text_config: {TEXT}}}"]
    weights = prepared(run, tmp_path).model.vision_model.state_dict()
    for name, value in classifier.vit.state_dict().items():
        assert torch.equal(weights.pop(name), value), name
    assert {*weights} == {"pooler.dense.weight", "pooler.dense.bias"}
    file = tmp_path / "tower" / "model.safetensors"
    kept = {name: value for name, value in load_file(file).items() if not name.startswith("vit.embeddings.patch")}
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ValueError, match="^--image_tower: .*tower lacks weights of ViTModel: embeddings.patch"):
        prepared(run, tmp_path)


def test_parts_of_images_are_drawn_and_mirrored_in_training_only(contrastive_run, tmp_path):
    everything = ["--crop_scale", "1", "1", "--crop_ratio", "1", "1"]
    flipped, whole = (
        prepared([*contrastive_run, *everything, "--horizontal_flip", flip], tmp_path) for flip in ("1", "0")
    )
    a, b = (trainer.train_dataset[3]["pixel_values"] for trainer in (flipped, whole))
    torch.testing.assert_close(a, b.flip(2))
    parts = prepared([*contrastive_run, "--crop_scale", "0.2", "0.3"], tmp_path).train_dataset
    assert not torch.equal(parts[3]["pixel_values"], parts[3 + len(parts)]["pixel_values"])
    data = whole.eval_dataset
    expected = data.processor(data.source.read(2, 3), return_tensors="pt")["pixel_values"][0]
    assert torch.equal(data[2]["pixel_values"], expected)
    # Of the whole picture training makes what the processor makes.
    seen = whole.train_dataset
    pixels = seen.processor(seen.source.read(3, 3), return_tensors="pt")["pixel_values"][0]
    torch.testing.assert_close(b, pixels, atol=2e-2, rtol=0)


# Words


def test_a_share_of_the_words_is_masked_and_most_of_it_hidden():
    rng = np.random.default_rng(0)
    ids = np.arange(10, 10 + 2002)
    words = np.ones(2002, dtype=bool)
    words[[0, -1]] = False
    masked, labels = mask_words(ids, words, 0.3, 9999, np.arange(5000, 5100), rng)
    chosen = labels != -100
    assert chosen.sum() == 600 and not chosen[[0, -1]].any()
    assert (labels[chosen] == ids[chosen]).all() and (masked[~chosen] == ids[~chosen]).all()
    hidden, others = (masked == 9999).sum(), (masked >= 5000).sum() - (masked == 9999).sum()
    assert 0.74 < hidden / 600 < 0.86 and 0.06 < others / 600 < 0.14
    assert (mask_words(ids[:3], words[:3], 0.01, 9999, ids, rng)[1] != -100).sum() == 1
    assert (mask_words(ids[:1], words[:1], 0.5, 9999, ids, rng)[1] == -100).all()


def test_a_tokenizer_of_the_captions_has_every_byte_and_clips_marks():
    captions = ["a photo of a seven", "a photo of an eight"] * 5
    tokenizer = train_tokenizer(captions, SMALLEST + 40)
    assert SMALLEST < len(tokenizer) <= SMALLEST + 40
    assert tokenizer.convert_ids_to_tokens(tokenizer("A  photo of")["input_ids"]) == [
        *("<|startoftext|>", "a</w>", "photo</w>", "of</w>", "<|endoftext|>"),
    ]
    for text in ("zebra!", "straße", "日本", "1999"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.eos_token_id not in ids[:-1] and len(ids) > 2
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text
    # What is frequent is joined first, also in words that were never seen.
    tokenizer = train_tokenizer(["abd"] * 10 + ["bcd"] * 5, 600)
    assert tokenizer.convert_ids_to_tokens(tokenizer("abcd")["input_ids"])[1] == "ab"
    with pytest.raises(ValueError, match="--tokenizer: got train:100, accepted are sizes from 514"):
        train_tokenizer(captions, 100)


# Measures


def test_recall_counts_ties_against_and_the_same_texts_for_the_right_one():
    rng = np.random.default_rng(1)
    images, texts = (rng.standard_normal((12, 5)) for _ in range(2))
    groups = np.array([0, 0, *range(2, 12)])
    texts[1] = texts[0]
    found = retrieval_recall(images, texts, groups, ks=(1, 3, 50))
    assert sorted(found) == sorted(f"{w}_recall_at_{k}" for w in ("image_to_text", "text_to_image") for k in (1, 3))
    for name, table in (("image_to_text", images @ texts.T), ("text_to_image", texts @ images.T)):
        for k in (1, 3):
            right = 0
            for row in range(12):
                own = [column for column in range(12) if groups[column] == groups[row]]
                best = max(table[row, own])
                right += sum(table[row, c] >= best for c in range(12) if c not in own) < k
            assert found[f"{name}_recall_at_{k}"] == right / 12
    same = np.ones((4, 3))
    assert set(retrieval_recall(same, same, ks=(1,)).values()) == {0.0}
    with pytest.raises(ValueError, match="texts: got shape"):
        retrieval_recall(images, texts[:3])


def test_classes_are_the_mean_direction_of_their_templates(contrastive_run, tmp_path):
    trainer = prepared(contrastive_run, tmp_path)
    model, tokenizer = trainer.model.eval(), trainer.processing_class.tokenizer
    vectors = class_vectors(model, trainer.train_dataset.encode, 0, ["one", "two"], ["a {}", "the number {} here"])
    for number, name in enumerate(("one", "two")):
        units = []
        for text in (f"a {name}", f"the number {name} here"):
            features = model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output
            units.append(F.normalize(features, dim=-1))
        expected = F.normalize(sum(units), dim=-1)[0]
        torch.testing.assert_close(vectors[number], expected, rtol=1e-4, atol=1e-5)
    images, classes = np.eye(7)[[0, 1, 2, 6]], np.eye(7)
    found = zero_shot_accuracy(images, classes, np.array([0, 1, 3, 6]))
    assert found == {"accuracy": 0.75, "top_5_accuracy": 0.75}
    assert zero_shot_accuracy(np.ones((2, 3)), np.ones((4, 3)), np.array([0, 1])) == {"accuracy": 0.0}
    a, b = (F.normalize(torch.randn(5, 4), dim=1).numpy() for _ in range(2))
    logits = torch.from_numpy(3 * a[:4] @ b[:4].T)
    own = torch.arange(4)
    expected = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
    assert mean_loss(a, b, 3.0, 4) == pytest.approx(expected.item(), rel=1e-5)  # the fifth is alone


# Errors


@pytest.mark.parametrize(
    "words, message",
    [
        (["--caption_templates", "a photo"], r"--caption_templates: got 'a photo', accepted are texts with one \{\}"),
        (["--eval_templates", "{} and {}"], "--eval_templates: got '{} and {}'"),
        (
            ["--per_device_train_batch_size", "1"],
            "--per_device_train_batch_size: got 1 in one process, accepted are 2",
        ),
        (["--per_device_train_batch_size", "64"], "train has 40 pairs: no batch is full"),
        (["--dataloader_drop_last", "false"], "--dataloader_drop_last: got false, accepted is true"),
        (["--class_names", "{eleven: x}"], "--class_names: .* has no class 'eleven'"),
        (["--class_names", "{'0': one, '1': one}"], "--class_names: two classes of .* are called 'one'"),
        (["--tokenizer", "train:few"], "--tokenizer: got 'train:few'"),
        (["--max_length", "99"], "--max_length: got 99, but the text tower takes 32 tokens"),
        (["--num_channels", "1"], "--num_channels: got 1, accepted is 3"),
        (["--num_channels", "4"], "--num_channels: got 4, accepted is 3"),
        (["--softening", "1"], "--softening: got 1.0, accepted are"),
        (["--label_smoothing_factor", "0.1"], "--label_smoothing_factor: got 0.1; say --softening"),
        (["--affinity_weight", "2"], "--affinity_weight: .*teacher"),
        (["--model", "ghostnetv3-1.0x"], "--model: ghostnetv3-1.0x is a preset for image-classification"),
        (["--model_config", "{token_matching: greedy}"], "token_matching: got 'greedy'"),
        (["--model_config", "{token_top_k: 999}"], "--model_config: token_top_k: got 999, accepted are 1 to"),
        (["--model_config", MODEL[:-1] + ", token_top_k: 5, mlm_loss_weight: 0}"], "token_top_k: got 5, accepted are"),
        (
            ["--model_config", "{token_matching: one_to_one}"],
            r"--max_length: captions may have \d+ words, but images 1 place",
        ),
        (["--crop_scale", "0.9", "0.2"], "--crop_scale: got .0.9, 0.2., accepted are two positive numbers"),
        (["--crop_ratio", "1", "1", "2"], "--crop_ratio: got .1.0, 1.0, 2.0., accepted are two positive numbers"),
        (["--token_group", "1"], "--token_group: got 1"),
        (["--zero_shot_split", "test"], "--zero_shot_split: .*zero_shot_dataset"),
        (["--zero_shot_config", "small"], "--zero_shot_config: .*zero_shot_dataset"),
        (["--metric_for_best_model", "recall"], "--metric_for_best_model: got 'recall', accepted are loss, accuracy"),
        (["--zero_shot_dataset", "digits"], "--zero_shot_dataset: with --caption_templates the evaluation split"),
        (["--ignore_mismatched_sizes", "true"], "--ignore_mismatched_sizes: there is no head here that could be"),
        (["--caption_column", "said"], "--caption_templates and --caption_column exclude each other"),
        (["--label_column", "digit"], "--label_column: there is no 'digit' in digits/train, it is 'label'"),
        (["--model_config", "{vision_config: 3}"], "--model_config: vision_config: got 3, accepted is a mapping"),
        (["--image_tower", "somewhere"], "--image_tower: --model_config has a vision_config, which says another"),
        (["--tokenizer", "nowhere/at-all"], "--tokenizer: 'nowhere/at-all' cannot be found"),
        (["--max_length", "2"], "--max_length: got 2"),
        (["--eval_group", "1"], "--eval_group: got 1"),
        (["--max_eval_samples", "1"], "has 1 pair, accepted are 2 or more"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_written(words, message, contrastive_run, tmp_path):
    with pytest.raises(Exception, match=message):
        prepare("prepare_training", [*contrastive_run, *words, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_what_is_trained_by_default_is_half_of_a_picture_and_softened_targets(tmp_path):
    part, args = ImagePartArguments(), ContrastiveArguments(output_dir=str(tmp_path))
    assert (part.crop_scale, part.crop_ratio, part.horizontal_flip) == ([0.5, 1.0], [3 / 4, 4 / 3], 0.0)
    defaults = {"softening": 0.2, "softening_schedule": "linear", "mask_ratio": 0.15, "affinity_weight": 1.0}
    defaults |= {"feature_weight": 0.0, "token_group": None, "eval_group": 64, "dataloader_drop_last": True}
    assert {name: getattr(args, name) for name in defaults} == defaults
    data = ImageTextArguments(dataset="digits")
    assert data.templates_of_classes == ["a photo of a {}."] and not data.skip_empty_captions
    for name in ("caption_templates", "eval_templates"):
        with pytest.raises(ValueError, match=f"--{name}: got none, accepted are one or more"):
            ImageTextArguments(dataset="digits", **{name: []})


def test_classes_of_a_column_have_their_names_or_are_told_as_none(tmp_path):
    """Named classes keep their numbers, texts and numbers get one each, and what is no class is named by its row."""

    def read(labels, names=None):
        kind = ClassLabel(names=names) if names else Value("string" if isinstance(labels[0], str) else "float64")
        kind = Value("int64") if isinstance(labels[0], int) and not names else kind
        features = Features({"image": Image(), "label": kind})
        rows = {"image": [Picture.new("RGB", (8, 8))] * len(labels), "label": labels}
        file = tmp_path / f"{len(list(tmp_path.iterdir()))}.parquet"
        Dataset.from_dict(rows, features=features).to_parquet(str(file))
        options = {"caption_templates": ["a {}"], "eval_split": "train", "cache_dir": str(tmp_path / "cache")}
        return load_image_texts(ImageTextArguments(dataset="parquet", data_files=str(file), **options))[0]

    named = read([2, 0], ["cat", "dog", "eel"])
    assert named.names == ("cat", "dog", "eel") and named.labels.tolist() == [2, 0]
    for labels, names in (([7, 3, 7], ("3", "7")), (["b", "a", "b"], ("a", "b"))):
        source = read(labels)
        assert source.names == names and source.labels.tolist() == [1, 0, 1]
    for labels, names, said in (([0, -1], ["cat", "dog"], "-1"), (["a", ""], None, "''"), ([0.5, 1.5], None, "0.5")):
        with pytest.raises(ValueError, match=rf"row \d of parquet/train: .* holds {said}, which is no class"):
            read(labels, names)


@pytest.mark.parametrize(
    "processor, size",
    [
        ({"size": {"shortest_edge": 9}, "crop_size": {"height": 6, "width": 8}}, (6, 8)),
        ({"size": {"height": 5, "width": 7}, "do_center_crop": False}, (5, 7)),
        ({"size": {"shortest_edge": 9}, "crop_size": {"shortest_edge": 7}}, (7, 7)),
        ({"size": {"shortest_edge": 9}, "do_center_crop": False}, None),
    ],
)
def test_pictures_have_the_size_of_the_crop_where_there_is_one(processor, size):
    processor = SimpleNamespace(**{"do_center_crop": True, **processor})
    if size is not None:
        assert input_size(processor) == size
        return
    with pytest.raises(ValueError, match="--model: its image processor makes images of no fixed size .*; accepted is"):
        input_size(processor)


def test_a_trained_tokenizer_has_no_more_tokens_than_were_asked_for():
    words = ["".join(letters) for letters in itertools.product("abcd", repeat=4)]
    for size in (514, 530, 601):
        assert size - 6 < len(train_tokenizer(words, size)) <= size
        assert len(train_tokenizer([f"{word}e" for word in words], size)) == size  # all end alike
    text = "a bad cab, naïve"
    tokenizer = train_tokenizer(words, 530)
    read = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
    assert read.replace(" ", "") == text.replace(" ", "")


def test_models_that_are_no_two_towers_or_do_not_fit_are_named(clip_folder, convnext_folder, tmp_path):
    clip = {"model": str(clip_folder)}
    for given, message in (
        ({**clip, "image_tower": "x"}, "--image_tower goes with a preset; .* has an image tower"),
        ({**clip, "image_size": 8}, "--image_size: that of .* is set; it goes with a preset"),
    ):
        with pytest.raises(ValueError, match=message):
            load_two_towers(TwoTowerArguments(**given))
    tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    siglip = SiglipConfig(
        text_config={**tower, "vocab_size": 600, "max_position_embeddings": 8},
        vision_config={**tower, "image_size": 8, "patch_size": 4},
    )
    SiglipModel(siglip).save_pretrained(tmp_path / "siglip")
    AutoProcessor.from_pretrained(clip_folder).save_pretrained(tmp_path / "siglip")
    with pytest.raises(ValueError, match="--model: .*siglip is a SiglipModel, accepted are models with CLIP's two"):
        load_two_towers(TwoTowerArguments(model=str(tmp_path / "siglip")))
    model = CLIPModel.from_pretrained(clip_folder)
    model.config.text_config.eos_token_id = 5
    model.save_pretrained(tmp_path / "ends")
    AutoProcessor.from_pretrained(clip_folder).save_pretrained(tmp_path / "ends")
    with pytest.raises(ValueError, match="--model: the model looks for the mark of the end 5, but the tokenizer's"):
        load_two_towers(TwoTowerArguments(model=str(tmp_path / "ends")))


def test_what_an_evaluation_has_no_use_for_is_named(clip_folder, digit_arguments, tmp_path):
    words = ["--task", "contrastive-language-image", *digit_arguments, "--output", str(tmp_path / "e.json")]
    for given, message in (
        (["--model", "light_clip-resnet-18"], "--model: light_clip-resnet-18 has random weights; name a trained one"),
        (["--model", str(clip_folder), "--tokenizer", "x"], "--tokenizer goes with training; a trained model has"),
        (["--model", str(clip_folder), "--image_size", "8"], "--image_size goes with training"),
        (["--model", str(clip_folder), "--image_tower", "x"], "--image_tower goes with training"),
        (["--model", str(clip_folder), "--max_eval_samples", "1"], "digits/test has 1 pair, accepted are 2 or more"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate([*words, *given])
    assert not (tmp_path / "e.json").exists()


def test_captions_that_say_nothing_are_named_or_left_out(model_arguments, tmp_path):
    rows = read_digits()["train"][:12]
    captions = [f"the number {n}" for n in range(12)]
    captions[3], captions[7] = "  ", None
    features = Features({"image": Image(), "text": Value("string"), "other": Value("int64")})
    table = {"image": [row["image"] for row in rows], "text": captions, "other": [*range(12)]}
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "pairs.parquet")
    run = ["--task", "contrastive-language-image", *model_arguments, "--dataset", "parquet", "--eval_holdout", "4"]
    run += ["--data_files", str(tmp_path / "pairs.parquet"), "--per_device_train_batch_size", "2"]
    with pytest.raises(ValueError, match=r"captions of .* are empty or no texts: row \d"):
        prepared(run, tmp_path)
    table["text"] = [None] * 12
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "mute" / "pairs.parquet")
    mute = ["--dataset", str(tmp_path / "mute"), "--skip_empty_captions", "true"]
    with pytest.raises(ValueError, match="--skip_empty_captions: 8 of the 8 captions of .* are empty or no texts"):
        prepared([*[word for word in run if word not in ("--data_files", run[-3])], *mute], tmp_path)
    kept = prepared([*run, "--skip_empty_captions", "true"], tmp_path)
    rows = [*kept.train_dataset.source.rows, *kept.eval_dataset.source.rows]
    assert sorted(rows) == [0, 1, 2, 4, 5, 6, 8, 9, 10, 11]
    with pytest.raises(ValueError, match="empty or no texts"):
        prepared([*run, "--caption_column", "other"], tmp_path)
    with pytest.raises(ValueError, match="--caption_column: there is no 'said', the columns are"):
        prepared([*run, "--caption_column", "said"], tmp_path)
    with pytest.raises(ValueError, match="--caption_templates is missing: digits has classes and no captions"):
        prepared(["--task", "contrastive-language-image", *model_arguments, "--dataset", "digits"], tmp_path)
    with pytest.raises(ValueError, match="--eval_templates goes with"):
        prepared([*run, "--eval_templates", "a {}"], tmp_path)


def test_the_teachers_weights_are_recorded_so_that_no_other_goes_on(contrastive_run, clip_folder, tmp_path):
    argv = [*contrastive_run, "--teacher", str(clip_folder), "--output_dir", str(tmp_path / "run")]
    recorded = prepare("prepare_training", argv).config["contents"]
    expected = weights_fingerprint(AutoModelForZeroShotImageClassification.from_pretrained(clip_folder))
    assert recorded[f"teacher {clip_folder}"] == expected


def test_a_teacher_that_does_not_fit_is_refused(contrastive_run, clip_folder, convnext_folder, tmp_path):
    teach = [*contrastive_run, "--teacher", str(clip_folder)]
    wide = MODEL.replace("projection_dim: 12", "projection_dim: 16")
    with pytest.raises(ValueError, match="--feature_weight: the teacher's embeddings have 12 numbers, the model's 16"):
        prepared([*teach, "--model_config", wide, "--feature_weight", "1"], tmp_path)
    with pytest.raises(ValueError, match="--teacher: nothing is learnt"):
        prepared([*teach, "--affinity_weight", "0"], tmp_path)
    with pytest.raises((ValueError, OSError), match="--teacher"):
        prepared([*contrastive_run, "--teacher", str(convnext_folder)], tmp_path)
    other = ["--task", "contrastive-language-image", "--model", str(clip_folder), "--tokenizer", "train:600"]
    with pytest.raises(ValueError, match="--tokenizer: the tokenizer has .* tokens, the model"):
        prepared([*other, *contrastive_run[contrastive_run.index("--dataset") :]], tmp_path)


@pytest.mark.parametrize("count", [2, 5])
def test_what_to_try_next_is_an_image_and_what_it_may_be_called(tmp_path, count):
    class Source:
        labels, texts = None, staticmethod(lambda index: [f"text {index}", "another"])

        def __len__(self):
            return count

        def read(self, index, channels):
            assert (index, channels) == (0, 3)
            return Picture.new("RGB", (3, 2), (9, 8, 7))

    file = str(tmp_path / "example.png")
    texts = ["text 0", "text 1", "text 2"][:count]
    assert _example(Source(), tmp_path) == [file, "--template", "{}", "--labels", *texts]
    with Picture.open(file) as image:
        assert image.size == (3, 2) and image.getpixel((0, 0)) == (9, 8, 7)
    labelled = Source()
    labelled.labels, labelled.templates, labelled.names = [0] * count, ["a {}", "the {}"], [str(n) for n in range(12)]
    assert _example(labelled, tmp_path) == [file, "--template", "a {}", "--labels", *"0123456789"]
