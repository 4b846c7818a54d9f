"""A smaller model computes what is left of the larger one."""

import pytest
import torch
from transformers import GPT2Config, LlamaConfig, LlamaForCausalLM

from hf_effmodels import PanguPiConfig, PanguPiForCausalLM
from hf_effmodels.compression import inherit, spread_layers
from hf_effmodels.compression.pruning import inheritance
from hf_effmodels.compression.pruning.calibration import channel_energies, layer_importance, read_batches
from hf_effmodels.compression.pruning.inheritance import check_inheritance, choose_units, take_layers
from hf_effmodels.compression.pruning.masks import masked
from hf_effmodels.compression.pruning.scores import structure_scores, top
from hf_effmodels.compression.pruning.structures import Axis, Sizes, axes_of

from ..conftest import LLAMA

SMALLER = {"num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 2}


def build(kind: str, reduction: int = 8):
    if kind == "pangu_pi":
        model = PanguPiForCausalLM(PanguPiConfig(**LLAMA, augmented_shortcut_reduction=reduction, rms_norm_eps=1e-12))
        for layer in model.model.layers:  # as after some training
            torch.nn.init.normal_(layer.mlp.act_fn.scale)
            torch.nn.init.normal_(layer.augmented_shortcuts[0].up_proj.weight)
    else:
        options = {"llama": {}, "biases": {"attention_bias": True, "mlp_bias": True}}
        options["tied"] = {"tie_word_embeddings": True}
        model = LlamaForCausalLM(LlamaConfig(**LLAMA, rms_norm_eps=1e-12, **options[kind]))
    for name, weight in model.named_parameters():
        if name.endswith(("norm.weight", "bias")):
            torch.nn.init.uniform_(weight, 0.5, 1.5)
    return model.double().eval()


def precision(model) -> float:
    """transformers' LLaMA computes its norms in float32, whatever the model's dtype; ours do not."""
    return 1e-9 if isinstance(model, PanguPiForCausalLM) else 1e-4


@pytest.fixture(params=["llama", "biases", "tied", "pangu_pi"])
def model(request):
    return build(request.param)


@pytest.fixture
def batches():
    return [torch.randint(0, 96, (2, 12)) for _ in range(3)]


def test_keeping_everything_gives_the_same_logits(model, batches):
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    same, _ = inherit(model)
    assert torch.equal(same(batches[0]).logits, model(batches[0]).logits)
    smaller, _ = inherit(model, **SMALLER, method="taylor", calibration=batches)
    assert all(torch.equal(before[name], weight) for name, weight in model.state_dict().items())
    assert not any(weight.grad is not None for weight in model.parameters())


@pytest.mark.parametrize("method", ["l1", "l2", "taylor", "learned"])
def test_structures_that_do_nothing_are_what_goes(model, batches, method):
    """Every fourth channel, neuron and group of heads is zero: without them, and with norms that keep their scale,
    the logits stay the same."""
    is_zero = {size: torch.arange(size) % 4 == 1 for size in (32, 48)}
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("embed_tokens.weight"):
                weight[:, is_zero[32]] = 0
            if name.endswith(("o_proj.weight", "mlp.down_proj.weight", "up_proj.weight")) and weight.shape[0] == 32:
                weight[is_zero[32]] = 0
            if name.endswith(("o_proj.bias", "down_proj.bias")):
                weight[is_zero[32]] = 0
            if "norm" in name:
                weight[is_zero[32]] = 0
            if "lm_head" in name or name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                weight[:, is_zero[32]] = 0
            if name.endswith(("gate_proj.weight", "mlp.up_proj.weight")):
                weight[:, is_zero[32]] = 0
            if name.endswith(("gate_proj.weight", "mlp.up_proj.weight", "gate_proj.bias", "up_proj.bias")):
                weight[is_zero[48]] = 0
            if name.endswith("mlp.down_proj.weight"):
                weight[:, is_zero[48]] = 0
            if "augmented_shortcuts" in name and name.endswith("down_proj.weight"):
                weight[:, is_zero[32]] = 0
                weight[3] = 0
            if "augmented_shortcuts" in name and name.endswith("up_proj.weight"):
                weight[:, 3] = 0
            if name.endswith("o_proj.weight"):
                weight[:, 16:] = 0  # the second group of heads
            if name.endswith(("q_proj.weight", "q_proj.bias")):
                weight[16:] = 0
            if name.endswith(("k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias")):
                weight[8:] = 0
    sizes = {"hidden_size": 24, "intermediate_size": 36, "num_attention_heads": 2}
    options = {"mask_steps": 2, "mask_learning_rate": 1e-3, "rescale_norms": True, "calibration": batches}
    smaller, made_of = inherit(model, **sizes, method=method, **options)
    assert made_of.layers == [0, 1, 2, 3]
    torch.testing.assert_close(smaller(batches[0]).logits, model(batches[0]).logits, rtol=0, atol=precision(model))


def test_sizes_and_head_groups_are_those_asked_for(model, batches):
    smaller, _ = inherit(model, **SMALLER)
    config = smaller.config
    assert {name: getattr(config, name) for name in SMALLER} == SMALLER
    assert (config.num_key_value_heads, config.head_dim) == (1, 8)
    assert type(smaller) is type(model) and type(config) is type(model.config)
    assert smaller(batches[0]).logits.shape == (2, 12, 96)
    generated = smaller.generate(batches[0], max_new_tokens=3, do_sample=False)
    assert generated.shape == (2, 15)


def head_scores(attention, method: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each of four query heads and of two key/value heads, each 8 wide: summed over all they read and write."""
    statistic = {"l1": torch.abs, "l2": torch.square}[method]
    q, k, v, o = (statistic(getattr(attention, f"{name}_proj").weight.detach().double()) for name in "qkvo")
    queries = q.view(4, 8, -1).sum((1, 2)) + o.view(-1, 4, 8).sum((0, 2))
    return queries, k.view(2, 8, -1).sum((1, 2)) + v.view(2, 8, -1).sum((1, 2))


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_the_best_query_heads_of_each_group_are_kept(model, method):
    with torch.no_grad():
        for number, layer in enumerate(model.model.layers):
            layer.self_attn.q_proj.weight[8 * (number % 2) : 8 * (number % 2) + 8] *= 4  # of the first group
    thinned, made_of = inherit(model, num_attention_heads=2, num_key_value_heads=2, method=method)
    for number, (layer, smaller) in enumerate(zip(model.model.layers, thinned.model.layers, strict=True)):
        queries, _ = head_scores(layer.self_attn, method)
        kept = [int(queries[:2].argmax()), 2 + int(queries[2:].argmax())]
        assert kept[0] == number % 2 and made_of.units[Axis("queries", number)].tolist() == kept
        assert made_of.units[Axis("keys", number)].tolist() == [0, 1]
        rows = torch.cat([torch.arange(8 * head, 8 * head + 8) for head in kept])
        assert torch.equal(smaller.self_attn.q_proj.weight, layer.self_attn.q_proj.weight[rows])
        assert torch.equal(smaller.self_attn.o_proj.weight, layer.self_attn.o_proj.weight[:, rows])
        assert torch.equal(smaller.self_attn.k_proj.weight, layer.self_attn.k_proj.weight)


@pytest.mark.parametrize("method", ["l1", "l2"])
def test_groups_are_chosen_with_their_query_heads(model, method):
    """The first group has the larger keys and values, the second the larger queries: by the sum the second stays."""
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.k_proj.weight[:8] *= 2
            layer.self_attn.q_proj.weight[16:] *= 4
    smaller, made_of = inherit(model, num_attention_heads=2, method=method)
    for number, layer in enumerate(model.model.layers):
        queries, keys = head_scores(layer.self_attn, method)
        groups = queries.view(2, 2).sum(1) + keys
        assert keys.argmax() == 0 and groups.argmax() == 1
        assert made_of.units[Axis("keys", number)].tolist() == [1]
        assert made_of.units[Axis("queries", number)].tolist() == [2, 3]
    assert smaller.config.num_key_value_heads == 1


@pytest.mark.parametrize("lead, stays", [(1.0, 1), (3.0, 1), (5.0, 1), (7.0, 0)])
def test_query_heads_weigh_in_a_group_as_many_as_they_are(lead, stays):
    """Three heads of 3 are 6 more than three of 1, though their mean is 2 more: whose keys lead by less goes."""
    keys, queries = torch.tensor([lead, 0.0]), torch.tensor([1.0, 1.0, 1.0, 3.0, 3.0, 3.0])
    source, target = Sizes(1, 8, 8, 6, 2, 0, 4), Sizes(1, 8, 8, 3, 1, 0, 4)
    units = choose_units({Axis("keys", 0): keys, Axis("queries", 0): queries}, source, target, {})
    assert units[Axis("keys", 0)].tolist() == [stays]
    assert units[Axis("queries", 0)].tolist() == [3 * stays, 3 * stays + 1, 3 * stays + 2]


def test_learned_masks_start_from_what_groups_weigh_with_their_query_heads(batches, monkeypatch):
    """By |w g|, as `method="taylor"` scores them: channels and neurons from what they read and write."""
    started = {}
    monkeypatch.setattr(inheritance, "learn_masks", lambda *given, **options: started.update(given[3]) or {})
    model = build("llama")
    inherit(model, num_attention_heads=2, method="learned", calibration=batches)
    for batch in batches:
        (model(batch, labels=batch).loss / len(batches)).backward()

    def statistic(weight) -> torch.Tensor:
        return (weight * weight.grad).detach().abs()

    assert len(started) == 1 + 2 * len(model.model.layers)
    for number, layer in enumerate(model.model.layers):
        q, k, v, o = (statistic(getattr(layer.self_attn, f"{name}_proj").weight) for name in "qkvo")
        groups = sum(part.view(2, -1).sum(1) for part in (q, k, v)) + o.view(len(o), 2, -1).sum((0, 2))
        torch.testing.assert_close(started[Axis("keys", number)].double(), groups, rtol=1e-4, atol=0)
        gate, up, down = (statistic(getattr(layer.mlp, f"{name}_proj").weight) for name in ("gate", "up", "down"))
        neurons = gate.sum(1) + up.sum(1) + down.sum(0)
        torch.testing.assert_close(started[Axis("ffn", number)].double(), neurons, rtol=1e-4, atol=0)


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("groups, width", [(1, 1), (1, 3), (2, 2), (3, 1), (4, 2)])
def test_of_whichever_groups_are_kept_the_best_query_heads_stay(groups, width, learned):
    """Four groups of three query heads; learned masks say which groups stay, and nothing of their heads."""
    generator = torch.Generator().manual_seed(groups * 10 + width)
    queries, keys = (torch.rand(n, generator=generator) for n in (12, 4))
    keys += torch.tensor([0.0, 0.1, 4.0, 8.0])  # the first groups go first
    masks = {Axis("keys", 0): torch.tensor([5.0, -5.0, 4.0, 6.0])} if learned else {}
    source, target = Sizes(1, 8, 8, 12, 4, 0, 4), Sizes(1, 8, 8, groups * width, groups, 0, 4)
    units = choose_units({Axis("keys", 0): keys, Axis("queries", 0): queries}, source, target, masks)
    of_groups = masks.get(Axis("keys", 0), keys + queries.view(4, 3).sum(1))
    kept = sorted(sorted(range(4), key=lambda group: -of_groups[group])[:groups])
    heads = [
        sorted(sorted(range(3 * group, 3 * group + 3), key=lambda head: -queries[head])[:width]) for group in kept
    ]
    assert units[Axis("keys", 0)].tolist() == kept and units[Axis("queries", 0)].tolist() == sum(heads, [])


@pytest.mark.parametrize("method", ["l1", "l2", "taylor"])
def test_neurons_and_channels_are_scored_over_all_that_they_read_and_write(method, batches):
    model = build("llama")
    gradients = dict.fromkeys(dict(model.named_parameters()))
    if method == "taylor":
        for batch in batches:
            (model(batch, labels=batch).loss / len(batches)).backward()
        gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        model.zero_grad(set_to_none=True)
    _, made_of = inherit(model, intermediate_size=30, hidden_size=20, method=method, calibration=batches)

    def statistic(name: str) -> torch.Tensor:
        weight = dict(model.named_parameters())[name].detach()
        return {"l1": weight.abs, "l2": weight.square, "taylor": lambda: (weight * gradients[name]).abs()}[method]()

    channels = statistic("model.embed_tokens.weight").sum(0) + statistic("lm_head.weight").sum(0)
    for number in range(4):
        mlp, attention = f"model.layers.{number}.mlp.", f"model.layers.{number}.self_attn."
        neurons = sum(statistic(f"{mlp}{name}_proj.weight").sum(1) for name in ("gate", "up"))
        neurons = neurons + statistic(f"{mlp}down_proj.weight").sum(0)
        expected = sorted(neurons.argsort(descending=True)[:30].tolist())
        assert made_of.units[Axis("ffn", number)].tolist() == expected
        channels = channels + sum(statistic(f"{mlp}{name}_proj.weight").sum(0) for name in ("gate", "up"))
        channels = channels + sum(statistic(f"{attention}{name}_proj.weight").sum(0) for name in "qkv")
        channels = (
            channels + statistic(f"{mlp}down_proj.weight").sum(1) + statistic(f"{attention}o_proj.weight").sum(1)
        )
    expected = sorted(channels.argsort(descending=True)[:20].tolist())
    assert made_of.units[Axis("hidden")].tolist() == expected


@pytest.mark.parametrize("rescale", [False, True])
@pytest.mark.parametrize("kind", ["llama", "tied", "pangu_pi"])
def test_masks_are_learned_on_what_the_slices_compute(kind, rescale, batches):
    """Of PanGu-π with shortcuts of one unit, which no smaller size has less of."""
    model = build(kind, reduction=24)
    smaller, made_of = inherit(model, **SMALLER, rescale_norms=rescale, calibration=batches)
    thin, masks = take_layers(model, made_of.layers), {}
    energies = channel_energies(thin, read_batches(batches, "this test")) if rescale else None
    sizes = Sizes.of(thin.config)
    for axis, kept in made_of.units.items():
        if axis.kind in ("hidden", "keys", "ffn"):
            masks[axis] = torch.zeros(sizes.units(axis.kind), dtype=torch.float64)
            masks[axis][kept] = 1
    with masked(thin, masks, energies):
        logits = thin(batches[0]).logits
    torch.testing.assert_close(logits, smaller(batches[0]).logits, rtol=0, atol=precision(model))


def test_learned_masks_keep_what_the_loss_needs(batches):
    """Neurons with large weights that write into nothing are no use; scores by size keep them."""
    model = build("llama")
    text = torch.stack([torch.arange(i, i + 16) % 96 for i in range(8)])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):  # so that the other neurons are of use
        with torch.no_grad():
            for layer in model.model.layers:
                layer.mlp.gate_proj.weight[:24] = 2
                layer.mlp.down_proj.weight[:, :24] = 0
        optimizer.zero_grad()
        loss = model(text, labels=text).loss
        loss.backward()
        if loss < 0.5:
            break
        optimizer.step()
    _, by_size = inherit(model, intermediate_size=24, method="l2")
    _, learned = inherit(model, intermediate_size=24, method="learned", calibration=[text], mask_steps=40)
    for axis, kept in learned.units.items():
        if axis.kind == "ffn":
            assert by_size.units[axis].max() < 24
            assert (kept >= 24).sum() >= 20


def test_layers_are_spread_or_chosen_by_their_loss(batches):
    assert spread_layers(12, 6) == [0, 1, 2, 9, 10, 11]
    assert spread_layers(12, 9) == [0, 1, 2, 3, 6, 8, 9, 10, 11]
    assert spread_layers(32, 21) == [0, 1, 2, *spread_layers(32, 21)[3:-3], 29, 30, 31]
    assert spread_layers(5, 1) == [0] and spread_layers(5, 2) == [0, 4] and spread_layers(5, 5) == [0, 1, 2, 3, 4]
    model = build("llama")
    with torch.no_grad():  # layer 1 adds nothing
        for projection in (model.model.layers[1].self_attn.o_proj, model.model.layers[1].mlp.down_proj):
            projection.weight.zero_()
    rises = layer_importance(model, read_batches(batches, "this test"))
    assert rises[1].abs() < 1e-12 and rises.abs().argmin() == 1
    assert model.config.num_hidden_layers == len(model.model.layers) == 4
    # Random weights: some layers' absence lowers the loss, so the empty one need not be the least.
    smaller, made_of = inherit(model, num_hidden_layers=3, layers="importance", calibration=batches)
    assert made_of.layers == sorted(rises.argsort(descending=True)[:3].tolist())
    named, _ = inherit(model, layers=[0, 2, 3])
    assert torch.allclose(named(batches[0]).logits, model(batches[0]).logits)


@pytest.mark.parametrize("keep", [0, 6])
def test_no_more_layers_are_spread_than_there_are(keep):
    with pytest.raises(ValueError, match=f"keep: got {keep}, accepted are 1 to 5 layers"):
        spread_layers(5, keep)


def test_what_was_made_of_what_is_told_for_a_file(llama, batches):
    smaller, made_of = inherit(
        llama, num_hidden_layers=3, layers="importance", intermediate_size=40, calibration=batches
    )
    told = made_of.to_dict()
    assert told["layers"] == made_of.layers and told["method"] == "l2"
    assert told["layer_losses"] == pytest.approx(layer_importance(llama, read_batches(batches, "this")).tolist())
    kept = {(row["axis"], row["layer"], row["shortcut"]): row["kept"] for row in told["units"]}
    assert kept["hidden", None, None] == [*range(32)] and len(kept["ffn", 2, None]) == 40
    taken = llama.model.layers[made_of.layers[2]].mlp.up_proj.weight[kept["ffn", 2, None]]
    assert torch.equal(smaller.model.layers[2].mlp.up_proj.weight, taken)
    # Masks that nothing is to be learned for leave what the layers are.
    whole, _ = inherit(llama, layers=[0, 2], method="learned", calibration=batches)
    assert torch.equal(whole.model.layers[1].mlp.up_proj.weight, llama.model.layers[2].mlp.up_proj.weight)


def test_layers_keep_the_kind_of_attention_they_have(llama):
    llama.config.layer_types = ["full_attention", "sliding_attention", "full_attention", "sliding_attention"]
    smaller, _ = inherit(llama, layers=[1, 2, 3])
    assert smaller.config.layer_types == ["sliding_attention", "full_attention", "sliding_attention"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"hidden_size": 33}, "hidden_size: got 33, accepted are 1 to 32"),
        ({"num_attention_heads": 3, "num_key_value_heads": 2}, "divisors of num_attention_heads"),
        ({"num_attention_heads": 4, "num_key_value_heads": 1}, "at most 2 query heads"),
        ({"layers": [0, 9]}, "layers: got .* 0 to 3"),
        ({"layers": "middle"}, "layers: got 'middle'"),
        ({"layers": []}, "layers: got .*, accepted are different numbers from 0 to 3"),
        ({"layers": [1, 1]}, "layers: got .*, accepted are different numbers from 0 to 3"),
        ({"layers": [-1, 1]}, "layers: got .*, accepted are different numbers from 0 to 3"),
        ({"layers": [0, 2], "num_hidden_layers": 3}, "num_hidden_layers: got 3 and 2 layers"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: got 0, accepted are 1 to 4"),
        ({"method": "random"}, "method: got 'random'"),
        ({"method": "taylor"}, "calibration: there are no batches, method 'taylor'"),
        ({"rescale_norms": True, "calibration": []}, "rescale_norms needs some"),
    ],
)
def test_wrong_input_is_named(llama, options, message):
    with pytest.raises(ValueError, match=message):
        inherit(llama, **options)


@pytest.mark.parametrize("method", ["l1", "l2", "taylor", "learned"])
def test_weights_that_are_no_numbers_are_refused(llama, batches, method):
    with torch.no_grad():
        llama.model.layers[2].mlp.up_proj.weight[5, 3] = float("nan")
    with pytest.raises(ValueError, match="scores of hidden are not finite"):
        inherit(llama, intermediate_size=24, method=method, calibration=batches)
    with pytest.raises(ValueError, match="calibration: the model's loss on these batches is nan"):
        inherit(llama, num_hidden_layers=2, layers="importance", method=method, calibration=batches)


@pytest.mark.parametrize("value", [float("inf"), -float("inf")])
@pytest.mark.parametrize("weight", ["up_proj", "down_proj"])
def test_weights_without_end_are_no_scores(llama, weight, value):
    with torch.no_grad():
        getattr(llama.model.layers[2].mlp, weight).weight[5, 3] = value
    for method in ("l1", "l2"):
        with pytest.raises(ValueError, match=f"the {method} scores of .* are not finite; its weights are not"):
            inherit(llama, intermediate_size=24, method=method)


def test_scores_of_structures_are_their_formulas():
    """Two structures, of two weights each: sums of |w| or |w g|, and the root of the sum of squares."""
    weights = [torch.tensor([[1.0, -2.0], [3.0, 0.0]]), torch.tensor([[[2.0]], [[-4.0]]])]
    gradients = [torch.tensor([[0.5, 1.0], [-1.0, 9.0]]), torch.tensor([[[-2.0]], [[0.25]]])]
    assert structure_scores("l1", weights).tolist() == [5, 7]
    assert structure_scores("l2", weights).tolist() == [3, 5]
    assert structure_scores("taylor", weights, gradients).tolist() == [6.5, 4]
    halves = [torch.tensor([[300.0, 400.0]], dtype=torch.float16)]  # whose squares and sum float16 has no numbers for
    assert structure_scores("l2", halves).tolist() == [500]
    assert structure_scores("taylor", halves, [torch.full((1, 2), 200.0).half()]).tolist() == [140_000]
    with pytest.raises(ValueError, match="method: 'taylor' needs the gradients of calibration batches"):
        structure_scores("taylor", weights)
    assert top(torch.tensor([1.0, 3.0, 3.0, 2.0, 3.0]), 3).tolist() == [1, 2, 4]
    assert top(torch.tensor([3.0, 3.0, 3.0]), 2).tolist() == [0, 1]
    for count in (0, 3):
        with pytest.raises(ValueError, match=f"count: got {count}, accepted are 1 to 2"):
            top(torch.tensor([1.0, 2.0]), count)


def test_a_weight_of_another_layout_is_named():
    with pytest.raises(ValueError, match="it has a weight 'model.layers.0.mixer.in_proj.weight', which a decoder"):
        axes_of("model.layers.0.mixer.in_proj.weight")
    assert axes_of("model.layers.7.augmented_shortcuts.2.up_proj.weight") == (Axis("hidden"), Axis("bottleneck", 7, 2))
    assert axes_of("model.layers.7.mlp.act_fn.scale") == (None, Axis("ffn", 7))


def test_other_architectures_are_refused_before_their_weights_are_read():
    with pytest.raises(ValueError, match="architecture 'gpt2'"):
        check_inheritance(GPT2Config())


@pytest.mark.parametrize(
    "heads, key_heads, asked, expected",
    [
        (8, 4, 6, 3),
        (8, 4, 3, 3),
        (8, 4, 1, 1),
        (12, 4, 8, 4),
        (12, 4, 4, 4),
        (12, 4, 6, 2),
        (12, 6, 5, 5),
        (6, 1, 4, 1),
    ],
)
def test_key_and_value_heads_go_with_the_query_heads_that_are_asked_for(heads, key_heads, asked, expected):
    """In the larger model's ratio where that divides them, or else as many as can be shared evenly."""
    sizes = {"hidden_size": 8 * heads, "num_attention_heads": heads, "num_key_value_heads": key_heads, "head_dim": 8}
    config = LlamaConfig(**{**LLAMA, **sizes})
    assert check_inheritance(config, num_attention_heads=asked, hidden_size=8 * asked).num_key_value_heads == expected


@pytest.mark.parametrize("rescale", [False, True])
def test_masks_are_learned_as_it_was_asked_for(llama, batches, rescale, monkeypatch):
    """On the layers that are kept, with the energies of their channels where norms are rescaled."""
    asked = {}

    def learn(model, target, given, initial, **options):
        asked.update(options, layers=model.config.num_hidden_layers, batches=len(given))
        return {}

    monkeypatch.setattr(inheritance, "learn_masks", learn)
    options = {"mask_steps": 7, "mask_learning_rate": 0.3, "seed": 5, "progress": True, "rescale_norms": rescale}
    inherit(llama, layers=[2, 0], method="learned", calibration=batches, **options)
    energies = asked.pop("energies")
    assert asked == {
        "steps": 7, "learning_rate": 0.3, "seed": 5, "progress": True, "layers": 2, "batches": len(batches),
    }  # fmt: skip
    norms = ("input_layernorm", "post_attention_layernorm")
    expected = {"model.norm", *(f"model.layers.{n}.{norm}" for n in (0, 1) for norm in norms)}
    assert (energies is not None) == rescale and (not rescale or {*energies} == expected)


def test_what_was_learned_is_what_stays_whatever_the_scores_say(llama, batches, monkeypatch):
    """Channels, groups of heads, and neurons of each layer by its own logits."""
    logits = {}

    def learn(model, target, given, initial, **options):
        for axis, scores in initial.items():  # the other way round than their scores
            logits[axis] = -scores
        return logits

    monkeypatch.setattr(inheritance, "learn_masks", learn)
    sizes = {"hidden_size": 20, "intermediate_size": 30, "num_attention_heads": 2}
    smaller, made_of = inherit(llama, **sizes, method="learned", calibration=batches)
    counts = {"hidden": 20, "keys": 1, "ffn": 30}
    assert len(logits) == 1 + 2 * 4
    for axis, of_axis in logits.items():
        expected = sorted(of_axis.argsort(descending=True)[: counts[axis.kind]].tolist())
        assert made_of.units[axis].tolist() == expected, axis
    kept = made_of.units[Axis("ffn", 3)][:, None], made_of.units[Axis("hidden")]
    assert torch.equal(smaller.model.layers[3].mlp.up_proj.weight, llama.model.layers[3].mlp.up_proj.weight[kept])


def test_layers_that_are_named_in_any_order_stay_in_their_own(llama):
    smaller, made_of = inherit(llama, layers=[2, 0])
    assert made_of.layers == [0, 2]
    for new, old in enumerate([0, 2]):
        assert torch.equal(smaller.model.layers[new].mlp.up_proj.weight, llama.model.layers[old].mlp.up_proj.weight)


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({"method": "taylor"}, "method 'taylor'"),
        ({"layers": "influence", "num_hidden_layers": 2}, "layers 'influence'"),
        ({"rescale_norms": True}, "rescale_norms"),
        (
            {"method": "activation", "layers": "importance", "rescale_norms": True},
            "method 'activation' and layers 'importance' and rescale_norms",
        ),
    ],
    ids=["method", "layers", "norms", "all"],
)
def test_all_that_needs_text_is_named(llama, options, needs):
    with pytest.raises(ValueError, match=needs):
        inherit(llama, **options)


def test_norms_are_rescaled_by_the_channels_that_stay(llama, batches):
    """√(mean square of the kept channels / of all), of what goes into the last norm of the layers that are kept."""
    smaller, made_of = inherit(llama, layers=[0, 1], hidden_size=24, rescale_norms=True, calibration=batches)
    plain, _ = inherit(llama, layers=[0, 1], hidden_size=24)
    kept, seen = made_of.units[Axis("hidden")], []
    thin = take_layers(llama, [0, 1])
    thin.model.norm.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().double()))
    with torch.no_grad():
        for batch in batches:
            thin(batch)
    energy = torch.cat([each.flatten(0, 1) for each in seen]).square().mean(0)
    expected = plain.model.norm.weight * (energy[kept].mean() / energy.mean()).sqrt()
    torch.testing.assert_close(smaller.model.norm.weight, expected.to(plain.model.norm.weight.dtype))
