"""What is PanGu-π's own: the series, the shortcut, the way from and to LLaMA, the diagnostics."""

import pytest
import torch
from transformers import (
    GemmaConfig,
    GemmaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.activations import ACT2FN

import hf_effmodels
from hf_effmodels.modeling.pangu_pi.configuration_pangu_pi import PRESETS, PanguPiConfig
from hf_effmodels.modeling.pangu_pi.diagnostics import (
    diversity,
    effective_dimension,
    layer_diagnostics,
    plot_layer_diagnostics,
    token_saliency,
)
from hf_effmodels.modeling.pangu_pi.modeling_pangu_pi import (
    PanguPiForCausalLM,
    PanguPiForQuestionAnswering,
    PanguPiForSequenceClassification,
    PanguPiModel,
    series_activation,
)

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
IDS = torch.arange(1, 21).reshape(2, 10)


def llama(cls=LlamaForCausalLM, dtype=torch.float32, **overrides):
    torch.manual_seed(0)
    return cls._from_config(LlamaConfig(**{**SMALL, "initializer_range": 0.2, **overrides}), dtype=dtype).eval()


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_size(name):
    with torch.device("meta"):
        model = hf_effmodels.create_model(name)
        plain = hf_effmodels.create_model(name, series_activations=[], num_augmented_shortcuts=0)
    parameters = sum(p.numel() for p in model.parameters())
    assert round(parameters / 1e6, 3) == PRESETS[name].parameters
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert linear / 1e6 == pytest.approx(PRESETS[name].macs, rel=1e-3)
    published = {"pangu-pi-1b": 1.033e9, "pangu-pi-7b": 6.73e9}
    assert parameters == pytest.approx(published.get(name, parameters), rel=5e-4)
    # The follow-up's numbers are those of plain LLaMA blocks.
    without = sum(p.numel() for p in plain.parameters())
    assert without == pytest.approx({"pangu-pi-1b-pro": 0.991e9}.get(name, without), rel=5e-4)
    assert parameters / without < 1.01


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "cls, ours",
    [
        (LlamaForCausalLM, PanguPiForCausalLM),
        (LlamaModel, PanguPiModel),
        (LlamaForSequenceClassification, PanguPiForSequenceClassification),
        (LlamaForQuestionAnswering, PanguPiForQuestionAnswering),
    ],
)
def test_from_llama_gives_the_same_bits_and_to_llama_leads_back(cls, ours, dtype):
    source = llama(cls, dtype)
    model = ours.from_llama(source, num_augmented_shortcuts=2, series_activations=["silu", "gelu", "tanh"])
    assert type(model) is ours and model.dtype == dtype and not model.training
    assert torch.equal(model(IDS)[0], source(IDS)[0])
    back = model.to_llama()
    assert type(back) is cls
    assert torch.equal(back(IDS)[0], source(IDS)[0])
    model.get_input_embeddings().weight.zero_()  # the three share no memory
    assert source.get_input_embeddings().weight.any() and back.get_input_embeddings().weight.any()


@torch.no_grad()
def test_from_llama_keeps_ties_scaled_rotary_biases_and_generation_and_reads_folders(tmp_path):
    rope = {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0}
    rope |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8}
    source = llama(
        tie_word_embeddings=True, attention_bias=True, mlp_bias=True, rope_parameters=rope, hidden_act="gelu"
    )
    source.generation_config.eos_token_id = 7
    source.save_pretrained(tmp_path)
    model = PanguPiForCausalLM.from_llama(tmp_path)
    assert torch.equal(model(IDS).logits, source(IDS).logits)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert model.config.series_activations == ["gelu", "gelu"]
    assert model.generation_config.eos_token_id == 7
    assert torch.equal(model.to_llama()(IDS).logits, source(IDS).logits)
    mistral = MistralForCausalLM(MistralConfig(**SMALL, head_dim=16, sliding_window=None)).eval()
    assert torch.equal(PanguPiForCausalLM.from_llama(mistral)(IDS).logits, mistral(IDS).logits)


def test_converted_extras_learn_from_the_first_step():
    model = PanguPiForCausalLM.from_llama(llama()).train()
    model(IDS, labels=IDS).loss.backward()
    for name, parameter in model.named_parameters():
        if name.endswith((".act_fn.scale", ".act_fn.bias", "shortcuts.0.up_proj.weight")):
            assert (parameter.grad.abs().amax(-1) > 0).all(), name


def test_what_llama_cannot_express_is_refused():
    model = PanguPiForCausalLM.from_llama(llama())
    with torch.no_grad():
        model.model.layers[1].mlp.act_fn.bias[1, 3] = 0.1
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.act_fn is in use"):
        model.to_llama()
    model = PanguPiForCausalLM.from_llama(llama())
    with torch.no_grad():
        model.model.layers[2].augmented_shortcuts[0].up_proj.weight[0, 0] = 0.1
    with pytest.raises(ValueError, match=r"layers\.2\.augmented_shortcuts\.0\.up_proj\.weight is in use"):
        model.to_llama()


@pytest.mark.parametrize(
    "model, overrides, message",
    [
        (lambda: GemmaForCausalLM(GemmaConfig(**SMALL, head_dim=16)), {}, "got the architecture 'gemma'"),
        (lambda: MistralForCausalLM(MistralConfig(**SMALL, sliding_window=8)), {}, "got sliding_window=8"),
        (lambda: llama(LlamaModel), {}, "LlamaModel does not fit PanguPiForCausalLM"),
        (lambda: torch.nn.Linear(2, 2), {}, "model: got Linear"),
        (llama, {"hidden_size": 32}, "hidden_size: would change"),
        (llama, {"series_activations": ["gelu"]}, "start with the model's own 'silu'"),
        (llama, {"series_activations": ["silu", "sigmoid"]}, "0 at 0"),
    ],
)
def test_other_sources_are_refused_by_name(model, overrides, message):
    with pytest.raises(ValueError, match=message):
        PanguPiForCausalLM.from_llama(model(), **overrides)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"series_activations": ["silu", "sulu"]}, "activation: got 'sulu'"),
        ({"num_augmented_shortcuts": -1}, "num_augmented_shortcuts: got -1"),
        ({"augmented_shortcut_reduction": 0}, "augmented_shortcut_reduction: got 0"),
        ({"augmented_shortcut_input": "raw"}, "augmented_shortcut_input: got 'raw'"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: got 3"),
        ({"hidden_size": 20}, r"head_dim: got 5 \(hidden_size 20, num_attention_heads 4\)"),
        ({"vocab_size": 0}, "vocab_size: got 0"),
    ],
)
def test_bad_configurations_are_refused_by_name(fields, message):
    with pytest.raises(Exception, match=message):
        PanguPiConfig(**{**SMALL, **fields})


def test_series_equals_its_formula_with_every_gradient():
    functions = [ACT2FN[name] for name in ("silu", "gelu", "tanh", "relu")]
    x, scale, bias = (torch.randn(*s, dtype=torch.float64) for s in ((2, 3, 8), (4, 8), (4, 8)))
    arguments = [t.requires_grad_() for t in (x, scale, bias)]
    y = series_activation(*arguments, functions)
    expected = sum(f(a * x + b) for f, a, b in zip(functions, scale, bias, strict=True))
    torch.testing.assert_close(y, expected)
    weights = torch.randn_like(y)
    for got, wanted in zip(
        torch.autograd.grad(y, arguments, weights), torch.autograd.grad(expected, arguments, weights), strict=True
    ):
        torch.testing.assert_close(got, wanted)
    with torch.no_grad():
        torch.testing.assert_close(series_activation(*arguments, functions), y)


def test_training_keeps_as_many_activations_as_llama():
    def kept(model):
        sizes = {}

        def pack(tensor):
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = model(IDS, labels=IDS, use_cache=False)
        weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
        return sum(size for place, size in sizes.items() if place not in weights), outputs

    source = llama(hidden_size=128, intermediate_size=344).train()
    plain, _ = kept(source)
    ours, _ = kept(PanguPiForCausalLM.from_llama(source))
    assert ours < 1.02 * plain


def test_scale_and_bias_are_not_to_be_decayed():
    model = PanguPiForCausalLM(PanguPiConfig(**SMALL))
    assert model.no_weight_decay() == {
        f"model.layers.{layer}.mlp.act_fn.{kind}" for layer in range(3) for kind in ("scale", "bias")
    }


def test_effective_dimension_counts_directions():
    basis = torch.linalg.qr(torch.randn(32, 32))[0]
    features = torch.randn(500, 4) @ basis[:4] + 7.0  # four equal directions, far from the origin
    assert [effective_dimension(features, t) for t in (0.2, 0.45, 0.7, 1.0)] == [1, 2, 3, 4]
    assert effective_dimension(torch.ones(10, 8)) == 0
    with pytest.raises(ValueError, match="threshold: got 80"):
        effective_dimension(features, 80)
    with pytest.raises(ValueError, match=r"features: got shape \(2, 3, 4\)"):
        diversity(torch.zeros(2, 3, 4))


def test_diagnostics_leave_padding_out_and_are_drawn(tmp_path):
    model = PanguPiForCausalLM(PanguPiConfig(**SMALL, initializer_range=0.2)).train()
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    ids[1, 6:], mask[1, 6:] = 0, 0
    found = layer_diagnostics(model, ids, mask)
    assert model.training
    assert {name: len(values) for name, values in found.items()} == dict.fromkeys(found, 4)
    hidden = model.eval()(ids, attention_mask=mask, output_hidden_states=True).hidden_states[1]
    rows = [hidden[0], hidden[1, :6]]
    assert found["diversity"][1] == pytest.approx(sum(map(diversity, rows)) / 2)
    assert found["effective_dimension"][1] == effective_dimension(torch.cat(rows).detach())
    figure = plot_layer_diagnostics({"pangu": found, "llama": layer_diagnostics(llama(), ids, mask)})
    figure.savefig(tmp_path / "figure.png")
    assert [line.get_ydata().tolist() for line in figure.axes[0].lines][0] == found["effective_dimension"]
    with pytest.raises(ValueError, match="measure: got 'size'"):
        plot_layer_diagnostics({"pangu": found}, "size")


def test_saliency_is_the_gradient_of_the_next_token():
    model = PanguPiForCausalLM(PanguPiConfig(**SMALL, initializer_range=0.2)).double().eval()
    saliency = token_saliency(model, IDS[:1], target=5)
    embeddings = model.model.embed_tokens(IDS[:1]).detach()
    step = torch.zeros_like(embeddings)
    step[0, 3, 2] = 1e-5
    up, down = (model(inputs_embeds=embeddings + sign * step).logits[0, -1, 5] for sign in (1, -1))
    assert saliency.shape == (10, 64)
    assert saliency[3, 2].item() == pytest.approx(((up - down) / 2e-5).abs().item(), rel=1e-5)
