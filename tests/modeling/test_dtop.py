"""What DToP promises beyond the numbers of the official code."""

import copy
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from PIL import Image
from torch.nn import functional as F
from transformers import AutoModelForSemanticSegmentation, SegformerConfig, pipeline

from hf_effmodels import edge
from hf_effmodels.hub import export
from hf_effmodels.modeling.dtop.configuration_dtop import DtopConfig
from hf_effmodels.modeling.dtop.convert_dtop import adapt
from hf_effmodels.modeling.dtop.modeling_dtop import (
    DtopForSemanticSegmentation,
    certain_tokens,
    class_scores,
    segmentation_losses,
)
from hf_effmodels.models import create_image_processor
from hf_effmodels.registry import ARCHITECTURES
from tests.threads import run_together

from .tiny import tiny_config


def build(**overrides) -> DtopForSemanticSegmentation:
    torch.manual_seed(2)
    config = tiny_config(ARCHITECTURES["dtop"], **{"num_labels": 4, **overrides})
    return DtopForSemanticSegmentation(config).eval()


def images(batch: int = 3, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(batch, 3, height, width, generator=torch.Generator().manual_seed(5))


@torch.no_grad()
def test_thresholds_from_one_on_are_the_plain_network():
    """Blocks and heads called one after the other, all tokens in all of them."""
    model = build(thresholds=[1.0, 7.0])
    outputs = model(images())
    hidden = model.vit.embed(images())
    for index, layer in enumerate(model.vit.layers):
        hidden = layer(hidden)
        classes, masks = model.heads[index](hidden)
        assert torch.equal(outputs.class_logits[index], classes) and torch.equal(outputs.mask_logits[index], masks)
    expected = F.interpolate(class_scores(classes, masks).unflatten(-1, (8, 8)), (32, 32), mode="bilinear")
    assert torch.equal(outputs.logits, expected)
    assert not any(finished.any() for finished in outputs.finished_tokens)
    assert outputs.num_tokens.tolist() == [[64] * 3] * 3
    torch.testing.assert_close(model(images(), return_dict=False), outputs.to_tuple(), rtol=0, atol=0)


@torch.no_grad()
def test_an_image_does_not_depend_on_the_images_beside_it():
    model = build().double()
    together = model(images().double())
    assert len(set(together.num_tokens[:, -1].tolist())) == 3, "rows of three lengths, or nothing is filled up"
    for row, image in enumerate(images().double()):
        alone = model(image[None])
        torch.testing.assert_close(alone.logits[0], together.logits[row], rtol=0, atol=1e-9)
        assert torch.equal(alone.num_tokens[0], together.num_tokens[row])
        for a, b in zip(alone.mask_logits, together.mask_logits, strict=True):
            torch.testing.assert_close(a[0], b[row], rtol=0, atol=1e-9)


def test_of_each_class_the_surest_tokens_stay_and_the_others_leave():
    #           class 0: .9 .9 .8 .7, of which .6 is below the threshold; class 1: .95 alone; the last is no token
    scores = torch.tensor([[[0.8, 0.9, 0.6, 0.9, 0.7, 0.1, 0.99], [0.1, 0.1, 0.2, 0.3, 0.1, 0.95, 0.0]]])
    valid = torch.tensor([[True] * 6 + [False]])
    leaves = [certain_tokens(scores, 0.65, count, valid)[0].nonzero()[:, 0].tolist() for count in (1, 2, 3, 5)]
    assert leaves == [[0, 3, 4], [0, 4], [4], []]
    assert not certain_tokens(scores, 0.95, 1, valid).any(), "a score that equals the threshold is not above it"


@torch.no_grad()
def test_at_threshold_zero_no_more_than_the_surest_of_each_class_go_on():
    model = build(thresholds=[0.0, 1.0], keep_top_k=3)
    assert model(images()).num_tokens.max(dim=0).values.tolist()[1] <= 3 * 4
    counts = [build(thresholds=[t, 1.0])(images()).num_tokens[:, 1] for t in (0.3, 0.5, 0.7, 0.9)]
    assert all((low <= high).all() for low, high in zip(counts, counts[1:], strict=False))
    assert counts[0].sum() < counts[-1].sum()


@torch.no_grad()
def test_a_token_that_has_left_keeps_its_mask_and_gets_the_last_class():
    outputs = build()(images())
    for before, after, finished in zip(
        outputs.mask_logits, outputs.mask_logits[1:], outputs.finished_tokens[:2], strict=False
    ):
        gone = finished[:, None].expand_as(before)
        assert gone.any() and torch.equal(before[gone], after[gone])
        assert not torch.equal(before[~gone], after[~gone])
    presence = outputs.class_logits[-1].softmax(-1)[..., 0]
    expected = (presence[..., None] * outputs.mask_logits[-1].sigmoid()).unflatten(-1, (8, 8))
    torch.testing.assert_close(outputs.logits, F.interpolate(expected, (32, 32), mode="bilinear"))


@torch.no_grad()
def test_images_of_other_shapes_and_channels():
    model = build(backbone_config={**build().config.backbone_config.to_dict(), "num_channels": 1})
    assert model(torch.randn(1, 1, 24, 40)).logits.shape == (1, 4, 24, 40)
    with pytest.raises(ValueError, match=r"pixel_values: got shape \(1, 3, 32, 32\), expected \(batch, 1,"):
        model(images(1))
    with pytest.raises(ValueError, match="got images of 30×32 pixels, accepted are multiples of 4"):
        build()(images(1, 30))
    with pytest.raises(ValueError, match="got images of 32×30 pixels, accepted are multiples of 4"):
        build()(images(1, 32, 30))
    with pytest.raises(ValueError, match=r"labels: got shape \(1, 8, 8\), accepted is \(1, 32, 32\)"):
        build()(images(1), labels=torch.zeros(1, 8, 8, dtype=torch.long))


@pytest.mark.parametrize("none", [0, 1])
def test_pixels_of_the_label_that_stands_for_none_are_not_learned_also_where_it_is_a_class(none):
    """They are background of the other classes, as pixels of the label 255 are, and their class is absent."""
    torch.manual_seed(0)
    classes, masks = torch.randn(2, 3, 2), torch.randn(2, 3, 4)
    labels = torch.randint(3, (2, 4, 4))
    config = {"class_loss_weight": 1.0, "mask_loss_weight": 1.0, "dice_loss_weight": 1.0, "absent_class_weight": 0.1}
    found, expected = (
        segmentation_losses(
            classes, masks, given, (2, 2), SimpleNamespace(semantic_loss_ignore_index=number, **config)
        )
        for given, number in ((labels, none), (labels.masked_fill(labels == none, 255), 255))
    )
    assert (labels == none).any() and found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)


def test_the_weights_of_the_losses_reach_the_loss():
    """Focal and Dice loss by their formulas, one class fills the left half; every weight away from its default."""
    weights = {"class_loss_weight": 3.0, "mask_loss_weight": 5.0, "dice_loss_weight": 7.0, "absent_class_weight": 0.3}
    config = build(**weights, semantic_loss_ignore_index=9).config
    torch.manual_seed(0)
    classes, masks = torch.randn(1, 4, 2), torch.randn(1, 4, 4)
    labels = torch.tensor([[[2, 9], [2, 9]]])
    losses = segmentation_losses(classes, masks, labels, (2, 2), config)
    p, t = masks[0, 2].sigmoid(), torch.tensor([1.0, 0, 1, 0])
    focal = torch.where(t == 1, -0.25 * (1 - p) ** 2 * p.log(), -0.75 * p**2 * (1 - p).log()).mean()
    dice = 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)
    entropy = -classes[0].log_softmax(-1)
    presence = (entropy[2, 0] + 0.3 * entropy[[0, 1, 3], 1].sum()) / (1 + 3 * 0.3)
    expected = {"class": 3 * presence, "mask": 5 * focal, "dice": 7 * dice}
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=name)
    # An image without any class has a loss, too: that all are absent.
    empty = segmentation_losses(classes, masks, torch.full_like(labels, 9), (2, 2), config)
    assert empty["mask"] == empty["dice"] == 0 and empty["class"] > 0

    model = build(thresholds=[1.0, 1.0], auxiliary_loss_weight=0.0)
    truth = torch.randint(0, 4, (3, 32, 32))
    outputs = model(images(), labels=truth)
    last = segmentation_losses(outputs.class_logits[-1], outputs.mask_logits[-1], truth, (8, 8), model.config)
    torch.testing.assert_close(outputs.loss, sum(last.values()))
    assert build(thresholds=[1.0, 1.0], auxiliary_loss_weight=2.0)(images(), labels=truth).loss > outputs.loss


def test_it_learns_with_pruning_and_all_of_it_does():
    torch.manual_seed(0)
    model = build(head_dropout=0.0, drop_path_rate=0.0, thresholds=[0.3, 0.3]).train()
    pixels = images(4)
    labels = (pixels.mean(1) > 0).long()
    pixels = pixels + 2 * labels[:, None]
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        outputs = model(pixels, labels=labels)
        losses.append(outputs.loss.item())
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    assert outputs.finished_tokens[-1].any()
    # The class token is part of official checkpoints only.
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert set(without) <= {"vit.embeddings.cls_token"} | {n for n in without if n.endswith("k_proj.bias")}
    assert losses[-1] < 0.8 * losses[0]


def test_dropout_and_stochastic_depth_are_those_of_the_configuration():
    model = build(head_dropout=0.4, drop_path_rate=0.3)
    assert [layer.dropout.rate for layer in model.vit.layers] == pytest.approx([0.0, 0.15, 0.3])
    assert {m.p for m in model.heads.modules() if isinstance(m, torch.nn.Dropout)} == {0.4}
    assert model.heads[0].layers[0].cross_attention.dropout == 0.4
    plain = model(images())
    torch.manual_seed(0)
    assert not torch.equal(model.train()(images()).logits, plain.logits)
    attention, queries, tokens = model.heads[0].layers[0].cross_attention, torch.randn(1, 4, 12), torch.randn(1, 9, 12)
    first, second = attention(queries, tokens), attention(queries, tokens)
    assert not torch.equal(first[0], second[0]) and torch.equal(first[1], second[1])
    attention.eval()
    assert torch.equal(attention(queries, tokens)[0], attention(queries, tokens)[0])


@torch.no_grad()
def test_the_blocks_are_told_how_to_attend():
    models = {}
    for implementation in ("sdpa", "eager"):
        torch.manual_seed(2)
        config = tiny_config(ARCHITECTURES["dtop"], num_labels=4)
        model = DtopForSemanticSegmentation._from_config(config, attn_implementation=implementation).eval()
        assert {layer.attention.config._attn_implementation for layer in model.vit.layers} == {implementation}
        models[implementation] = model(images())
    torch.testing.assert_close(models["eager"].logits, models["sdpa"].logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("places", [[2], [0, 2], [0, 1, 2]])
def test_the_last_head_of_an_official_file_comes_after_however_many_others(places):
    config = build(out_indices=places, thresholds=[1.0] * (len(places) - 1)).config
    weights = {
        "heads.last.queries.weight": torch.zeros(2),
        "heads.last.layers.0.self_attention.in_proj_bias": torch.arange(6),
    }
    adapt(weights, config)
    last = f"heads.{len(places) - 1}"
    parts = [f"{last}.layers.0.self_attention.{letter}_proj.bias" for letter in "qkv"]
    assert weights.keys() == {f"{last}.queries.weight", *parts}
    assert [weights[name].tolist() for name in parts] == [[0, 1], [2, 3], [4, 5]]


def test_gradient_checkpointing_changes_nothing():
    plain = build(head_dropout=0.0, drop_path_rate=0.0).double().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.activation_checkpointing_enable()
    labels = torch.randint(0, 4, (3, 32, 32))
    for model in (plain, checkpointed):
        model(images().double(), labels=labels).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        if a.grad is not None:
            torch.testing.assert_close(a.grad, b.grad, rtol=1e-9, atol=1e-12, msg=name)


@torch.no_grad()
def test_threads_do_not_see_each_others_images():
    model = build()
    batches = [images(2) + shift for shift in (0.0, 0.4, 0.8)]
    expected = [model(batch) for batch in batches]
    answers = run_together(model, [lambda batch=batch: model(batch) for batch in batches])
    for answer, one in zip(answers, expected, strict=True):
        torch.testing.assert_close(answer.logits, one.logits, rtol=0, atol=1e-6)
        assert torch.equal(answer.num_tokens, one.num_tokens)


@torch.no_grad()
def test_it_runs_in_the_pipeline_from_its_folder(tmp_path):
    model = build(id2label={0: "sky", 1: "sea", 2: "sand", 3: "ship"}, label2id={})
    processor = create_image_processor("dtop-base-ade20k", image_size=32)
    export(model, processor, tmp_path, license="apache-2.0")
    loaded = AutoModelForSemanticSegmentation.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(images()).logits, model(images()).logits)
    picture = Image.effect_noise((50, 40), 90).convert("RGB")
    found = pipeline("image-segmentation", model=str(tmp_path))(picture)
    assert found and {part["label"] for part in found} <= {"sky", "sea", "sand", "ship"}
    assert all(part["mask"].size == (50, 40) for part in found)
    expected = model(processor(picture, return_tensors="pt").pixel_values).logits
    labels = F.interpolate(expected, (40, 50), mode="bilinear", align_corners=False).argmax(1).unique()
    assert {part["label"] for part in found} == {model.config.id2label[int(label)] for label in labels}


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"out_indices": [0, 1]}, "out_indices: got .*0, 1.*the last 2"),
        ({"out_indices": [1, 0, 2]}, "out_indices: got"),
        ({"thresholds": [0.5]}, "thresholds: got .*0.5.* accepted are 2 numbers"),
        ({"thresholds": [0.5, -1]}, "thresholds: got"),
        ({"keep_top_k": 0}, "keep_top_k: got 0"),
        ({"head_num_attention_heads": 5}, "head_num_attention_heads: got 5, accepted are divisors of .*12"),
        ({"backbone_config": {"hidden_dropout_prob": 0.1, "num_hidden_layers": 3}}, "hidden_dropout_prob=0.1"),
    ],
)
def test_what_cannot_be_is_refused(wrong, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        build(**wrong)


@pytest.mark.parametrize("label", [4, 254, -1])
def test_labels_of_no_class_are_refused(label):
    """They would count as background of every mask, without a word."""
    model, pixels = build(), torch.randn(1, 3, 32, 32)
    labels = torch.full((1, 32, 32), 255)
    assert torch.isfinite(model(pixels, labels=labels).loss)
    labels[0, 3, 5] = label
    with pytest.raises(ValueError, match=f"labels: got the class {label}, accepted are 0 to 3, and 255 for none"):
        model(pixels, labels=labels)


def test_the_heads_are_half_as_wide_as_the_vit():
    assert DtopConfig().head_hidden_size == 384 and DtopConfig(head_hidden_size=60).head_hidden_size == 60


@torch.no_grad()
def test_an_exported_graph_finds_what_the_pruned_network_finds():
    """Nothing can leave a graph: tokens that would have left are in it, and nobody sees them."""
    model = build()
    shapes = {"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}}
    graph = torch.export.export(model, (), {"pixel_values": images(2)}, dynamic_shapes=shapes, strict=False).module()
    outputs = model(images())
    assert len(set(outputs.num_tokens[:, -1].tolist())) == 3
    torch.testing.assert_close(graph(pixel_values=images()).logits, outputs.logits, rtol=1e-4, atol=1e-6)
    unpruned = build(thresholds=[1.0, 1.0])(images()).logits
    assert (unpruned - outputs.logits).abs().max() > 1e-3, "pruning changes nothing here"


def test_segmenters_are_a_kind_of_what_is_exported():
    model = build()
    assert edge.kind_of(model) == edge.kind_of_folder(model.config) == "image-segmentation"
    both = SegformerConfig(architectures=["SegformerForImageClassification"])
    assert edge.kind_of_folder(both) == "image-classification"
    both.architectures = ["SegformerForSemanticSegmentation"]
    assert edge.kind_of_folder(both) == "image-segmentation"
