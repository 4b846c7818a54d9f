"""Importance by activations against sums by hand, and pruning that removes exactly what does nothing."""

from functools import partial

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from hf_effmodels import PanguPiConfig, PanguPiForCausalLM
from hf_effmodels.compression.pruning.activations import (
    activation_scores,
    aggregate,
    block_influence,
    layer_influences,
    sum_of_squares,
)
from hf_effmodels.compression.pruning.calibration import read_batches
from hf_effmodels.compression.pruning.inheritance import inherit
from hf_effmodels.compression.pruning.structures import Axis
from hf_effmodels.training.losses.language_distillation import language_distillation_losses

SIZES = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MODELS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "biases": (partial(LlamaConfig, attention_bias=True, mlp_bias=True), LlamaForCausalLM),
    "pangu_pi": (partial(PanguPiConfig, num_augmented_shortcuts=2), PanguPiForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (partial(Qwen3Config, head_dim=6), Qwen3ForCausalLM),
    "gemma": (partial(GemmaConfig, head_dim=6), GemmaForCausalLM),
}
IDS = torch.arange(60).view(3, 20) * 7 % 61


def build(name):
    torch.manual_seed(0)
    config_class, model_class = MODELS[name]
    return model_class(config_class(**SIZES)).double().eval()


@pytest.fixture(params=MODELS)
def model(request):
    return build(request.param)


def test_scores_are_those_of_what_the_layers_say(model):
    batches = read_batches([IDS[:2], IDS[2:]], "this")
    scores = activation_scores(model, batches)
    said = {}
    layer = model.model.layers[1]
    for name, module in (("ffn", layer.mlp.down_proj), ("heads", layer.self_attn.o_proj)):
        module.register_forward_pre_hook(lambda m, args, name=name: said.__setitem__(name, args[0]))
    for number, shortcut in enumerate(getattr(layer, "augmented_shortcuts", ())):
        shortcut.up_proj.register_forward_pre_hook(
            lambda m, args, n=number: said.__setitem__(("shortcut", n), args[0])
        )
    norms = [m for n, m in model.named_modules() if n.endswith("norm") and ".self_attn." not in n]
    for number, norm in enumerate(norms):
        norm.register_forward_hook(lambda m, args, output, number=number: said.__setitem__(number, output))
    with torch.no_grad():
        model(IDS)
    neurons = said["ffn"].abs().mean(1).norm(dim=0)
    torch.testing.assert_close(scores[Axis("ffn", 1)].sqrt(), neurons)
    heads = said["heads"].view(3, 20, 4, -1).norm(dim=-1).mean(1).norm(dim=0)
    torch.testing.assert_close(scores[Axis("queries", 1)].sqrt(), heads)
    for number, _ in enumerate(getattr(layer, "augmented_shortcuts", ())):
        units = said["shortcut", number].abs().mean(1).norm(dim=0)
        assert units.any()
        torch.testing.assert_close(scores[Axis("bottleneck", 1, number)].sqrt(), units)
    channels = sum(said[number].abs().mean(1).norm(dim=0) for number in range(len(norms)))
    torch.testing.assert_close(scores[Axis("hidden")].sqrt(), channels)


def test_what_says_nothing_goes_and_nothing_changes(model):
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.up_proj.weight[[1, 4, 5, 7, 19]] = 0  # these neurons are always zero
            width = layer.self_attn.head_dim
            layer.self_attn.v_proj.weight[width:] = 0  # and so is the second key/value head with its two query heads
            if layer.self_attn.v_proj.bias is not None:
                layer.self_attn.v_proj.bias[width:] = 0
        before = model(IDS).logits
    smaller, made_of = inherit(
        model, intermediate_size=15, num_attention_heads=2, method="activation", calibration=[IDS]
    )
    assert type(smaller) is type(model) and made_of.method == "activation"
    kept = sorted(set(range(20)) - {1, 4, 5, 7, 19})
    assert all(made_of.units[Axis("ffn", number)].tolist() == kept for number in range(3))
    assert all(made_of.units[Axis("queries", number)].tolist() == [0, 1] for number in range(3))
    # Gemma keeps the root of its width in the precision it was built in.
    tolerance = 1e-6 if model.config.model_type == "gemma" else 1e-9
    with torch.no_grad():
        torch.testing.assert_close(smaller.double().eval()(IDS).logits, before, rtol=0, atol=tolerance)


def test_a_layer_that_changes_nothing_goes_first():
    model = build("llama")
    with torch.no_grad():
        model.model.layers[1].self_attn.o_proj.weight.zero_()
        model.model.layers[1].mlp.down_proj.weight.zero_()
        states = model(IDS, output_hidden_states=True).hidden_states
        before = model(IDS).logits
    influences = layer_influences(model, read_batches([IDS], "this"))
    cosine = torch.nn.functional.cosine_similarity(states[0], states[1], dim=-1).mean()
    torch.testing.assert_close(influences[0], 1 - cosine)
    assert influences.argmin() == 1 and influences[1].abs() < 1e-12
    turned = IDS.flip(1)
    both, other = (layer_influences(model, read_batches(texts, "this")) for texts in ([IDS, turned], [turned]))
    torch.testing.assert_close(both, (influences + other) / 2)
    smaller, made_of = inherit(model, num_hidden_layers=2, layers="influence", calibration=[IDS])
    assert made_of.layers == [0, 2]
    with torch.no_grad():
        torch.testing.assert_close(smaller.double().eval()(IDS).logits, before, rtol=0, atol=1e-9)


def test_looking_needs_text():
    for options in ({"method": "activation"}, {"layers": "influence", "num_hidden_layers": 2}):
        with pytest.raises(ValueError, match="calibration: there are no batches"):
            inherit(build("llama"), intermediate_size=8, **options)


def test_the_divergence_is_a_plain_sum_over_tokens_and_words():
    generator = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, 3, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    states = [torch.randn(2, 3, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    temperature, kl, error = 2.5, 0.0, 0.0
    for row, token in mask.nonzero().tolist():
        p, q = ((x[row, token] / temperature).softmax(-1) for x in (teacher, student))
        kl += float((p * (p / q).log()).sum()) * temperature**2 / 4
        error += float((states[0][row, token] - states[1][row, token]).square().mean()) / 4
    losses = language_distillation_losses(student, teacher, mask, temperature, *states)
    assert losses["kl"].item() == pytest.approx(kl) and losses["intermediate"].item() == pytest.approx(error)
    assert losses["alpha"].item() == pytest.approx(kl / error) and losses["total"].item() == pytest.approx(2 * kl)
    assert language_distillation_losses(student, student, mask)["total"].item() == pytest.approx(0, abs=1e-12)
    for wrong, message in (
        ((student, teacher[:, :2], mask), "got the shapes"),
        ((student, teacher, mask * 0), "no token counts"),
        ((student, teacher, mask, 0.0), "temperature"),
        ((student, teacher, mask, 1.0, states[0]), "give both or none"),
    ):
        with pytest.raises(ValueError, match=message):
            language_distillation_losses(*wrong)


@torch.no_grad()
@pytest.mark.parametrize(
    "part, small, large",
    [("ffn", "mlp.down_proj", "mlp.up_proj"), ("queries", "self_attn.o_proj", "self_attn.v_proj")],
)
def test_what_is_too_large_to_be_summed_is_named_with_its_layer(part, small, large):
    """Values whose squares are no numbers, of which the loss sees nothing."""
    model = build("llama")
    layer = model.model.layers[1]
    layer.get_submodule(large).weight.mul_(1e170)
    layer.get_submodule(small).weight.mul_(1e-170)
    with pytest.raises(ValueError, match=f"^model: what its {part} of layer 1 say on the calibration batches is not"):
        activation_scores(model, read_batches([IDS], "this"))
    assert not model.model.layers[1].mlp.down_proj._forward_pre_hooks


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_sums_of_magnitudes_are_precise_whatever_the_precision_of_the_model(dtype):
    """A mean that the precision has no number for, and one whose square is beyond single precision."""
    magnitudes = torch.full((2, 4000, 3), 1.0, dtype=dtype)
    step = torch.finfo(dtype).eps
    magnitudes[0, ::2, 1] += step
    found = sum_of_squares(magnitudes)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([2.0, 1 + (1 + step / 2) ** 2, 2.0], rel=1e-6)
    if dtype != torch.float16:
        assert sum_of_squares(torch.full((2, 3, 1), 2.0**90, dtype=dtype)).item() == pytest.approx(2.0**181)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_small_turns_of_a_layer_count_whatever_the_precision_of_the_model(dtype):
    """Cosines of 1 / √(1 + t²), which are 1 in half precision; and a token of zeros, of which there is no angle."""
    states = [torch.tensor([[[1.0, turn], [1.0, turn]]], dtype=dtype) for turn in (0.0, 2.0**-6, 2.0**-5)]
    expected = [1 - (1 + 2.0**-12) ** -0.5, 1 - (1 + 2.0**-11) / ((1 + 2.0**-12) * (1 + 2.0**-10)) ** 0.5]
    assert block_influence(states).tolist() == pytest.approx(expected, abs=3e-7)
    assert block_influence([torch.zeros(1, 1, 2, dtype=dtype), states[1]]).isfinite().all()


@torch.no_grad()
def test_heads_are_as_long_as_they_are_in_a_model_of_half_precision():
    model, said = build("llama").bfloat16(), []
    module = model.model.layers[1].self_attn.o_proj
    module.register_forward_pre_hook(lambda m, args: said.append(args[0].double()))
    scores = activation_scores(model, read_batches([IDS], "this"))
    expected = said[0].view(3, 20, 4, -1).norm(dim=-1).mean(1).square().sum(0)
    assert scores[Axis("queries", 1)].tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_magnitudes_are_averaged_over_tokens_and_added_up_in_squares_over_texts():
    magnitudes = torch.tensor([[[1.0, 0.0], [5.0, 2.0]], [[4.0, 0.0], [4.0, 0.0]]])
    assert aggregate(magnitudes).tolist() == pytest.approx([(9 + 16) ** 0.5, 1.0])
    assert sum_of_squares(magnitudes).tolist() == [25.0, 1.0]
