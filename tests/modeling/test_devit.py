"""DeViT: parts that run apart, absent devices, exact pruning, and what every classifier promises."""

import copy

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from PIL import Image
from torch.nn import functional as F
from transformers import (
    AutoBackbone,
    AutoModel,
    AutoModelForImageClassification,
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from hf_effmodels.collaboration.decomposition import (
    assemble,
    from_transformers,
    merge_fusion,
    split_classes,
    take_part,
)
from hf_effmodels.compression.pruning.hsic import (
    BANDWIDTHS,
    head_scores,
    kept_of,
    neuron_scores,
    score_part,
)
from hf_effmodels.compression.pruning.vision_widths import complexity, prune_part, search_widths
from hf_effmodels.modeling.devit.configuration_devit import DeViTConfig, part_sizes
from hf_effmodels.modeling.devit.modeling_devit import DeViTBackbone, DeViTForImageClassification
from hf_effmodels.models import create_image_processor
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.losses.dekd import DekdLoss, FusedTokensLoss, feature_relation_loss, fused_token_loss

from ..threads import run_together
from .tiny import tiny_config


def build(**overrides) -> DeViTForImageClassification:
    torch.manual_seed(1)
    config = tiny_config(ARCHITECTURES["devit"], **{"num_labels": 5, "initializer_range": 0.3, **overrides})
    return DeViTForImageClassification(config).eval()


def images(batch: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(7))


@torch.no_grad()
def test_devices_and_aggregator_give_what_the_whole_gives():
    model, pixels = build(), images()
    for parameter in model.fusion.parameters():
        torch.nn.init.normal_(parameter, std=0.2)  # biases begin at 0
    outputs = model(pixels)
    sent = [model.encode(part, pixels) for part in range(2)]
    assert [tuple(tokens.shape) for tokens in sent] == [(2, 2, 16), (2, 2, 12)]
    assert torch.equal(model.fuse(sent), outputs.logits)
    alone = [take_part(model, part).encode(0, pixels) for part in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(alone, sent, strict=True))
    # By hand: the tokens of a DeiT have layers of their own, the mean counts.
    by_hand = 0
    for token, name in enumerate(("cls", "distillation")):
        joined = torch.cat([tokens[:, token] for tokens in sent], -1)
        by_hand += model.fusion.classifiers[name](model.fusion.hidden[name](joined)) / 2
    torch.testing.assert_close(outputs.logits, by_hand)
    merged = merge_fusion(model)
    torch.testing.assert_close(merged(pixels).logits, outputs.logits)
    # With one layer of fusion a part takes the columns of its own tokens along.
    for part, columns in enumerate((slice(0, 16), slice(16, 28))):
        for name, classifier in take_part(merged, part).fusion.classifiers.items():
            assert torch.equal(classifier.weight, merged.fusion.classifiers[name].weight[:, columns])
    three = build(parts=[part_sizes(16, 1, 4), part_sizes(12, 1, 3), part_sizes(8, 1, 2)], fusion_hidden_size=None)
    taken, of_all = (model.fusion.classifiers["cls"].weight for model in (take_part(three, 2), three))
    assert torch.equal(taken, of_all[:, 28:36])


@torch.no_grad()
def test_an_absent_device_counts_as_zeros_and_wrong_tokens_are_named():
    model = build()
    sent = [model.encode(part, images()) for part in range(2)]
    expected = model.fuse([sent[0], torch.zeros_like(sent[1])])
    assert torch.equal(model.fuse([sent[0], None]), expected)
    assert not torch.allclose(expected, model.fuse(sent))
    for wrong, message in (
        ([None, None], "0 of them present"),
        ([sent[0]], "got 1 parts"),
        ([sent[1], sent[1]], r"part 0 sent \(2, 2, 12\), accepted is \(2, 2, 16\)"),
    ):
        with pytest.raises(ValueError, match=message):
            model.fuse(wrong)
    for part in (2, -1, -2, 7):
        with pytest.raises(ValueError, match=f"part: got {part}, accepted are 0 to 1"):
            model.encode(part, images())


@torch.no_grad()
def test_it_saves_loads_and_runs_in_its_pipeline(tmp_path):
    model = build(id2label=dict(enumerate("abcde")), label2id={})
    model.save_pretrained(tmp_path)
    create_image_processor("devit-s", image_size=64).save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is DeViTForImageClassification
    torch.testing.assert_close(loaded(images()).logits, model(images()).logits)
    base = AutoModel.from_pretrained(tmp_path)(images(), output_hidden_states=True)
    assert base.last_hidden_state.shape == (2, 18, 28) and base.pooler_output.shape == (2, 28)
    assert torch.equal(base.pooler_output, base.last_hidden_state[:, 0])  # the class tokens, not those of distillation
    assert [h.shape[-1] for h in base.hidden_states] == [16, 16, 16, 12]
    found = pipeline("image-classification", model=str(tmp_path))([Image.new("RGB", (90, 70)), Image.new("L", (5, 9))])
    assert all(answer["label"] in "abcde" for answers in found for answer in answers)
    relabelled = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert relabelled(images()).logits.shape == (2, 7)


def test_feature_maps_are_the_parts_blocks_side_by_side(tmp_path):
    model, pixels = build(), images()
    model.save_pretrained(tmp_path)
    backbone = DeViTBackbone.from_pretrained(tmp_path, out_features=["stem", "stage1", "stage2"])
    assert type(AutoBackbone.from_config(backbone.config)) is DeViTBackbone
    with torch.no_grad():
        outputs = backbone(pixels, output_hidden_states=True)
        hidden = model(pixels, output_hidden_states=True).hidden_states
        # What blocks gave: two of the first part, one of the second, which stands in the last stage again.
        first = [model.devit.parts[0].embeddings(pixels), hidden[1], hidden[2]]
        second = [model.devit.parts[1].embeddings(pixels), hidden[3], hidden[3]]
        for maps, states in zip(outputs.feature_maps, zip(first, second, strict=True), strict=True):
            # Of a DeiT's 18 tokens the first two belong to no place; the others go row by row.
            expected = torch.cat([state[:, 2:] for state in states], -1).reshape(2, 4, 4, 28).permute(0, 3, 1, 2)
            torch.testing.assert_close(maps, expected)
        assert backbone.channels == [28, 28, 28] and len(outputs.hidden_states) == 3
        assert backbone(pixels, return_dict=False)[0][1].shape == (2, 28, 4, 4)
        assert backbone(images(1, 70)[..., :50]).feature_maps[-1].shape == (1, 28, 4, 3)
        last = DeViTBackbone.from_pretrained(tmp_path, out_indices=[-1])
        assert last.out_features == ["stage2"]
        last.save_pretrained(tmp_path / "backbone")
        torch.testing.assert_close(DeViTBackbone.from_pretrained(tmp_path / "backbone")(pixels)[0], last(pixels)[0])
        # A part by itself has the stages of its own blocks, in its folder, too.
        take_part(model, 1).save_pretrained(tmp_path / "part")
        part = DeViTBackbone.from_pretrained(tmp_path / "part")
        assert part.stage_names == ["stem", "stage1"]
        torch.testing.assert_close(part(pixels).feature_maps[0], outputs.feature_maps[-1][:, 16:])
        options = {"part_type": "cct", "qkv_bias": False, "tokenizer_kernel_size": 5, "num_tokenizer_layers": 2}
        cct = build(**options, image_size=48)
        found = DeViTBackbone(cct.config).eval()
        found.load_state_dict(cct.devit.state_dict(), strict=False)
        state = cct.devit.parts[0].embeddings(images(1, 40)[..., :28])
        torch.testing.assert_close(found.parts[0](images(1, 40)[..., :28])[0].flatten(2).transpose(1, 2), state)
        assert found.parts[0].embeddings.side == 12
    settings = {"hidden_size": 8, "pool_scales": [1, 2], "use_auxiliary_head": False, "num_labels": 3}
    segmenter = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone.config, **settings))
    output = segmenter(pixels, labels=torch.zeros(2, 64, 64, dtype=torch.long))
    assert output.logits.shape == (2, 3, 64, 64)
    output.loss.backward()
    without = [name for name, p in segmenter.named_parameters() if p.grad is None]
    # Tokens of the last block that belong to no place are not part of its map, yet their weights are the blocks'.
    assert not without
    with pytest.raises(ValueError, match=r"expected \(batch, 3"):
        backbone(pixels[:, :2])


def test_stages_are_those_of_the_parts_that_are_given_beside_a_file():
    stored = build().config.to_dict()
    assert DeViTConfig.from_dict(stored).stage_names == ["stem", "stage1", "stage2"]
    changed = {"parts": [part_sizes(8, 3, 2)], "out_features": ["stage3"], "out_indices": [3]}
    other = DeViTConfig.from_dict(stored | changed)
    assert other.stage_names == ["stem", "stage1", "stage2", "stage3"] and other.out_indices == [3]


@torch.no_grad()
def test_attention_kernels_sizes_batches_and_threads_do_not_matter():
    model = build().double()
    pixels = images(3).double()
    together = model(pixels).logits
    torch.testing.assert_close(torch.cat([model(image[None]).logits for image in pixels]), together)
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    outputs = eager(pixels, output_attentions=True)
    torch.testing.assert_close(outputs.logits, together)
    assert [tuple(a.shape) for a in outputs.attentions] == [(3, 4, 18, 18), (3, 2, 18, 18), (3, 2, 18, 18)]
    assert model(images(1, 80)[:, :, :48].double()).logits.shape == (1, 5)
    with pytest.raises(ValueError, match=r"expected \(batch, 3"):
        model(pixels[:, :2])
    inputs = [images(2, 64 - 16 * (i % 2)).double() + i for i in range(3)]
    alone = [model(pixels).logits for pixels in inputs]

    def ask(pixels):
        with torch.no_grad():
            return model(pixels).logits

    together = run_together(model, [lambda pixels=pixels: ask(pixels) for pixels in inputs])
    for found, expected in zip(together, alone, strict=True):
        torch.testing.assert_close(found, expected)


@torch.no_grad()
def test_later_blocks_are_dropped_more_often_and_a_cct_sends_its_weighted_mean():
    rates = [
        layer.drop_path.rate for layer in build(parts=[part_sizes(16, 3, 4)], drop_path_rate=0.3).devit.parts[0].layers
    ]
    assert rates == pytest.approx([0, 0.15, 0.3])
    model = build(part_type="cct", qkv_bias=False, num_tokenizer_layers=2)
    tokens, sequence = model.devit.parts[0](images())
    scores = sequence @ model.devit.parts[0].pooling.weight[0] + model.devit.parts[0].pooling.bias
    torch.testing.assert_close(tokens[:, 0], (scores.softmax(1)[..., None] * sequence).sum(1))


@pytest.mark.parametrize("part_type", ["vit", "cct"])
def test_it_learns_and_checkpointing_changes_no_gradient(part_type):
    options = {"qkv_bias": False, "num_tokenizer_layers": 2} if part_type == "cct" else {}
    model = build(part_type=part_type, drop_path_rate=0.2, initializer_range=0.02, **options).double().train()
    checkpointed = copy.deepcopy(model)
    checkpointed.activation_checkpointing_enable()
    for either in (model, checkpointed):
        torch.manual_seed(3)
        either(images(4).double(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    for (name, a), b in zip(model.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, msg=f"gradient of {name}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(25):
        loss = model(images(4).double(), labels=torch.tensor([0, 1, 2, 3])).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]


@torch.no_grad()
@pytest.mark.parametrize("distilled", [False, True])
def test_models_of_transformers_have_the_same_logits_and_prune_exactly(distilled):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 40}
    sizes |= {"image_size": 32, "patch_size": 8, "num_labels": 6, "initializer_range": 0.3, "layer_norm_eps": 1e-3}
    torch.manual_seed(2)
    stock = DeiTForImageClassificationWithTeacher(DeiTConfig(**sizes)) if distilled else None
    stock = (stock or ViTForImageClassification(ViTConfig(**sizes))).double().eval()
    pixels = images(4, 32).double()
    model = from_transformers(stock)
    torch.testing.assert_close(model(pixels).logits, stock(pixels).logits, rtol=1e-9, atol=1e-9)

    heads, neurons = score_part(model, pixels)
    kept = [[kept_of(scores, ratio) for scores in layers] for layers, ratio in ((heads, 0.5), (neurons, 0.3))]
    assert [len(numbers) for layers in kept for numbers in layers] == [2, 2, 28, 28]
    pruned = prune_part(model, *kept)
    assert pruned.num_parameters() < 0.8 * model.num_parameters()
    # Masked in transformers' own modules: nothing of these heads and neurons goes into what follows.
    for layer, numbers, of_mlp in zip(stock.base_model.layers, *kept, strict=True):
        head_mask = torch.zeros(4, 6, dtype=torch.float64).index_fill(0, torch.tensor(numbers), 1).flatten()
        neuron_mask = torch.zeros(40, dtype=torch.float64).index_fill(0, torch.tensor(of_mlp), 1)
        layer.attention.o_proj.weight.mul_(head_mask)
        layer.mlp.fc2.weight.mul_(neuron_mask)
    torch.testing.assert_close(pruned(pixels).logits, stock(pixels).logits, rtol=1e-12, atol=1e-12)
    for wrong in ([[0], []], [[0], [4]], [[0, 0], [1]], [[0]]):
        with pytest.raises(ValueError, match="heads: got"):
            prune_part(model, wrong, kept[1])


def test_parts_are_assembled_with_groups_that_cover_the_classes():
    groups = split_classes(10, 3)
    assert sorted(n for group in groups for n in group) == list(range(10))
    assert [len(group) for group in groups] == [3, 3, 4] and groups != split_classes(10, 3, seed=1)
    model = build()
    parts = [take_part(model, number) for number in range(2)]
    whole = assemble(parts, 10, class_groups=split_classes(10, 2), fusion_hidden_size=6)
    assert whole(images()).logits.shape == (2, 10)
    assert torch.equal(whole.encode(1, images()), model.encode(1, images()))
    for wrong in ([[0, 1], [2]], [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8]]):
        with pytest.raises(ValueError, match="class_groups: missing are"):
            assemble(parts, 10, class_groups=wrong)
    other = DeViTForImageClassification(DeViTConfig(part_type="deit", parts=[part_sizes(8, 1, 2)], image_size=32))
    with pytest.raises(ValueError, match="parts: they have the image_size 32, 64"):
        assemble([parts[0], other], 10)
    for wrong in (11, 2.5):
        with pytest.raises(ValueError, match=f"parts: got {wrong}"):
            split_classes(10, wrong)


def test_scores_are_those_of_the_formulas_written_out():
    torch.manual_seed(0)
    activations, outputs = torch.randn(5, 3, 4).double(), torch.randn(5, 3, 3, 6).double()
    probabilities = torch.randn(5, 7).double().softmax(-1)

    def kernel(x):
        distances = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist") ** 2
        return torch.stack([torch.exp(-distances / (2 * s**2)) for s in BANDWIDTHS]).mean(0)

    def hsic(k, other):
        centring = torch.eye(5).double() - 1 / 5
        return torch.trace(centring @ k @ centring @ centring @ other @ centring)

    def relevance(x):
        y = probabilities - probabilities.mean(0)
        return hsic(kernel(x - x.mean(0) / (x.std(0) + 1e-12)), y @ y.T)

    def from_0_to_1(x):
        return (x - x.min()) / (x.max() - x.min())

    relevant = torch.stack([relevance(activations[:, :, j]) for j in range(4)])
    expected = 0.3 * from_0_to_1(relevant) + 0.7 * from_0_to_1(activations.abs().sum((0, 1)))
    torch.testing.assert_close(neuron_scores(activations, probabilities, 0.3), expected)
    heads = [outputs[:, :, h].mean(-1) for h in range(3)]
    expected = [
        relevance(heads[h]) - 0.4 * sum(hsic(kernel(heads[h]), kernel(heads[o])) for o in range(3) if o != h) / 2
        for h in range(3)
    ]
    torch.testing.assert_close(head_scores(outputs, probabilities, 0.4), torch.stack(expected))
    for ratio in (0.9, 1.0, float("nan")):
        with pytest.raises(ValueError, match=f"ratio: got {ratio} of 4"):
            kept_of(torch.ones(4), ratio)
    with pytest.raises(ValueError, match="pixel_values: with them the model's outputs are not finite"):
        score_part(take_part(build(), 0), images() * float("nan"))


def test_costs_count_the_heads_that_are_left_and_the_search_keeps_to_its_target():
    whole, less = complexity([0.0, 0.0]), complexity([0.0, 0.25], [0.5, 0.2])
    # Three heads of six, and int(4.8) = 4: five fewer of 4·384·64 weights; a quarter of 1536 neurons.
    assert whole.parameters - less.parameters == pytest.approx((5 * 4 * 384 * 64 + 384 * (2 * 384 + 1)) / 1e6)
    a_head = 6 * 197 * 384 * 64 + 4 * 64 * 197**2 + 2 * 197 * 64 * 384
    assert whole.flops - less.flops == pytest.approx((5 * a_head + 4 * 197 * 384 * 384) / 1e9)
    asked = []

    def cost(neurons, heads):
        return complexity(neurons, heads).macs

    def evaluate(neurons, heads):
        asked.append((neurons, heads))
        return -sum(heads)

    found = search_widths(evaluate, cost, 0.8 * whole.macs, depth=2, bound=0.6, tolerance=0.05, samples=20, seed=3)
    assert len(asked) == 20 and all(abs(cost(*ratios) / (0.8 * whole.macs) - 1) <= 0.05 for ratios in asked)
    assert found == min(asked, key=lambda ratios: sum(ratios[1]))
    # Of equals the first stays.
    drawn = []
    first = search_widths(lambda *ratios: drawn.append(ratios) or 1.0, cost, 0.8 * whole.macs, depth=2, samples=3)
    assert len(drawn) == 3 and tuple(first) == drawn[0] != drawn[2]
    with pytest.raises(ValueError, match="no draw is within 2% of it; with nothing pruned"):
        search_widths(evaluate, cost, 2 * whole.macs, depth=2)
    with pytest.raises(ValueError, match="no draw is within 0%"):
        search_widths(evaluate, cost, 0.8 * whole.macs, depth=2, tolerance=0, attempts=50)


def test_losses_are_those_of_the_formulas_written_out():
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 4), torch.randn(2, 2, 5, 7)
    expected = 0
    for ours, theirs in zip(student, teacher, strict=True):
        ours, theirs = torch.cat(list(ours), -1), torch.cat(list(theirs), -1)
        p, q = (theirs @ theirs.T / 7**0.5).softmax(-1), (ours @ ours.T / 4**0.5).softmax(-1)
        expected += (p * (p / q).log()).sum() / 2
    torch.testing.assert_close(feature_relation_loss(student, teacher), expected)
    logits, taught = torch.randn(4, 6), torch.randn(4, 6)
    tokens, their_tokens = torch.randn(4, 2, 6), torch.randn(4, 2, 6)
    p, q = their_tokens.softmax(-1), tokens.softmax(-1)
    torch.testing.assert_close(fused_token_loss(tokens, their_tokens, "kldiv"), (p * (p / q).log()).sum() / 4)
    # The loss of recipes, of one layer q, k, v in the student and three in the teacher.
    names = {"student_block": "s", "teacher_block": "t", "student_head_width": 4, "teacher_head_width": 7, "blocks": 5}
    loss = DekdLoss(**names, query_weight=0.7, key_weight=0.4, value_weight=0.9, logits_weight=0.3)
    ours = torch.randn(2, 5, 36)
    theirs = {f"t.{letter}_proj": torch.randn(2, 5, 14) for letter in "qkv"}
    found = loss({"s.qkv": ours, "logits": logits}, {**theirs, "logits": taught}, None)
    for index, (name, weight, letter) in enumerate((("query", 0.7, "q"), ("key", 0.4, "k"), ("value", 0.9, "v"))):
        own = ours[:, :, 12 * index : 12 * index + 12].reshape(2, 5, 3, 4).transpose(1, 2)
        their = theirs[f"t.{letter}_proj"].reshape(2, 5, 2, 7).transpose(1, 2)
        torch.testing.assert_close(found[name], weight / 5 * feature_relation_loss(own, their))
    torch.testing.assert_close(found["logits"], 0.3 * F.cross_entropy(logits, taught.argmax(-1)))
    soft = DekdLoss(**names, logits_weight=0.3, kind="soft", temperature=3.0, head="d")
    found = soft({"s.qkv": ours, "logits": 0 * logits, "d": logits}, {**theirs, "logits": taught}, None)["logits"]
    p, q = (taught / 3).softmax(-1), (logits / 3).softmax(-1)
    torch.testing.assert_close(found, 0.3 * 9 * (p * (p / q).log()).mean())
    fused = FusedTokensLoss(["c", "d"], ["e", "pooled"], kind="mse")
    given = fused(
        {"c": tokens[:, 0], "d": tokens[:, 1]}, {"e": their_tokens[:, 0], "pooled": their_tokens[:, 1]}, None
    )
    torch.testing.assert_close(given, 2 * F.mse_loss(tokens, their_tokens))
    given = FusedTokensLoss(["c"], ["e"], kind="kldiv")({"c": tokens[:, 0]}, {"e": their_tokens[:, 0]}, None)
    torch.testing.assert_close(given, fused_token_loss(tokens[:, :1], their_tokens[:, :1], "kldiv"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"part_type": "swin"}, "part_type: got 'swin'"),
        ({"parts": []}, "parts: got none"),
        ({"parts": [{"hidden_size": 8}]}, "parts: part 0 has hidden_size, accepted are"),
        ({"parts": [{**part_sizes(8, 2, 2), "num_heads": [2, 0]}]}, "parts: part 0 has a size 0"),
        ({"parts": [{**part_sizes(8, 2, 2), "num_heads": [2]}]}, "num_heads of 1 blocks"),
        ({"class_groups": [[0], [1]]}, "class_groups: got 2 groups for 1 parts"),
        ({"drop_path_rate": 1.0}, "drop_path_rate: got 1.0"),
    ],
)
def test_settings_that_cannot_be_are_named(options, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        DeViTConfig(**options)


def test_images_smaller_than_a_patch_are_refused():
    assert build(patch_size=16, image_size=64)(images(size=16)).logits.shape == (2, 5)
    with pytest.raises(ValueError, match="pixel_values: got 15×16 pixels, accepted are images from 16×16"):
        build(patch_size=16, image_size=64)(images(size=16)[:, :, 1:])
    with pytest.raises(ValueError, match="pixel_values: got 16×15 pixels, accepted are images from 16×16"):
        build(patch_size=16, image_size=64)(images(size=16)[..., 1:])


def test_weights_of_attention_are_dropped_out_in_training_only():
    for implementation in ("sdpa", "eager"):
        plain, dropping = build(), build(attention_dropout=0.7)
        for model in (plain, dropping):
            model.set_attn_implementation(implementation)
        assert torch.equal(plain(images()).logits, dropping(images()).logits)
        torch.testing.assert_close(plain.train()(images()).logits, plain.eval()(images()).logits)
        assert not torch.allclose(dropping.train()(images()).logits, plain(images()).logits)


@torch.no_grad()
@pytest.mark.parametrize("kernel, stride, padding", [(1, 1, 1), (3, 1, 1), (5, 1, 2), (7, 2, 3)])
def test_a_tokenizers_geometry_follows_from_its_kernel(kernel, stride, padding):
    model = build(part_type="cct", tokenizer_kernel_size=kernel, num_tokenizer_layers=2, qkv_bias=False)
    embeddings = model.devit.parts[0].embeddings
    first, second = embeddings.convolutions
    assert (first.out_channels, second.in_channels, second.out_channels) == (64, 64, 16)
    for conv in (first, second):
        assert conv.stride == (stride, stride) and conv.padding == (padding, padding) and conv.bias is None
    hidden = images()
    for conv in (first, second):
        hidden = F.max_pool2d(F.conv2d(hidden, conv.weight, None, stride, padding).relu(), 3, 2, 1)
    assert embeddings.grid(64, 64) == tuple(hidden.shape[2:]) == (embeddings.side,) * 2
    expected = hidden.flatten(2).transpose(1, 2) + embeddings.position_embeddings
    torch.testing.assert_close(embeddings(images()), expected)
    assert model.devit.parts[0].layers[0].attention.qkv.bias is None
    assert build().devit.parts[0].layers[0].attention.qkv.bias is not None
