"""What is PanGu-π's own: the series, the shortcut, the way from and to LLaMA, the diagnostics."""

import pytest
import torch
from torch.nn import functional as F
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
    PanguPiForTokenClassification,
    PanguPiModel,
    series_activation,
)
from hf_effmodels.modeling.parameternet_moe.modeling_parameternet_moe import ParameterNetMoeForTokenClassification

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
    for training in (True, False):  # the mode is kept; the settings are each one's own
        ours = PanguPiForCausalLM.from_llama(source.train(training))
        assert ours.training == training and ours.generation_config.eos_token_id == 7
    ours.generation_config.eos_token_id = 5
    assert source.generation_config.eos_token_id == 7
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
    for name, place in (("bias", (1, 3)), ("bias", (0, 3)), ("scale", (1, 3)), ("scale", (0, 3)), ("scale", (0, 0))):
        numbers = getattr(model.model.layers[1].mlp.act_fn, name).data
        numbers[place] -= 0.5  # of a first scale of 1: 0.5
        with pytest.raises(ValueError, match=r"layers\.1\.mlp\.act_fn is in use"):
            model.to_llama()
        numbers[place] += 0.5
    model = PanguPiForCausalLM.from_llama(llama())
    with torch.no_grad():
        model.model.layers[2].augmented_shortcuts[0].up_proj.weight[0, 0] = 0.1
    with pytest.raises(ValueError, match=r"layers\.2\.augmented_shortcuts\.0\.up_proj\.weight is in use"):
        model.to_llama()
    # Series at their initial values that are another function: another first one, or one that is not 0 at 0.
    for series in (["tanh", "silu"], ["silu", "sigmoid"]):
        model = PanguPiForCausalLM(PanguPiConfig(**{**SMALL, "series_activations": series}))
        with pytest.raises(ValueError, match=r"layers\.0\.mlp\.act_fn is in use"):
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
    wanted = torch.autograd.grad(expected, arguments, weights)
    torch.testing.assert_close(torch.autograd.grad(y, arguments, weights), wanted)
    frozen = series_activation(x, scale.detach(), bias.detach(), functions)
    torch.testing.assert_close(torch.autograd.grad(frozen, x, weights), wanted[:1])
    for kept in (1, 2):  # one of scale and bias learns alone
        others = [t if number == kept else t.detach() for number, t in enumerate(arguments)]
        alone = torch.autograd.grad(series_activation(*others, functions), arguments[kept], weights)
        torch.testing.assert_close(alone[0], wanted[kept])
    # Under autocast x comes in half precision, and goes on so.
    with torch.no_grad():
        half = series_activation(x.bfloat16(), scale, bias, functions)
    assert half.dtype == torch.bfloat16 == series_activation(x.bfloat16(), scale, bias, functions).dtype
    torch.testing.assert_close(half.double(), expected, rtol=0.1, atol=0.1)
    with torch.no_grad():
        torch.testing.assert_close(series_activation(*arguments, functions), y)


@pytest.mark.parametrize("names", [("silu", "silu"), ("swish", "silu", "silu"), ("gelu", "silu")])
@pytest.mark.parametrize("rows", [3, 3000])
def test_every_way_to_the_series_gives_its_formula(names, rows):
    """Few numbers and many, with and without gradients, compiled."""
    torch._dynamo.reset()
    functions = [ACT2FN[name] for name in names]
    x, scale, bias = (torch.randn(*s, dtype=torch.float64) for s in ((rows, 16), (len(names), 16), (len(names), 16)))
    plain = {"silu": F.silu, "swish": F.silu, "gelu": F.gelu}
    expected = sum(plain[name](scale[i] * x + bias[i]) for i, name in enumerate(names))
    torch.testing.assert_close(series_activation(x.requires_grad_(), scale, bias, functions), expected)
    with torch.no_grad():
        torch.testing.assert_close(series_activation(x, scale, bias, functions), expected)
    compiled = torch.compile(series_activation, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, scale, bias, functions), expected)


@torch.no_grad()
def test_the_series_of_a_token_is_one_product_and_one_activation():
    functions = [ACT2FN["silu"]] * 4
    with torch.profiler.profile() as profile:
        series_activation(torch.randn(1, 1, 8), torch.randn(4, 8), torch.randn(4, 8), functions)
    counts = {event.key: event.count for event in profile.key_averages()}
    assert (counts["aten::addcmul"], counts["aten::silu_"]) == (1, 1)


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


def test_the_saliency_of_a_token_is_the_gradient_of_the_next_ones_logit():
    model = PanguPiForCausalLM(PanguPiConfig(**SMALL, initializer_range=0.2)).eval()
    ids = IDS[:1]
    embeddings = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embeddings, use_cache=False).logits[0, -1]
    for target in (3, None):
        chosen = logits[3] if target else logits.max()
        (expected,) = torch.autograd.grad(chosen, embeddings, retain_graph=True)
        torch.testing.assert_close(token_saliency(model, ids, target), expected[0].abs())
    for wrong in (IDS, IDS[0]):
        with pytest.raises(ValueError, match=r"input_ids: got shape .*, accepted is \(1, length\)"):
            token_saliency(model, wrong)


@pytest.mark.draws
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


def by_the_paper(model, ids):
    """Logits written down from the paper (and LLaMA's), reading the configuration and the weights."""
    config, weights = model.config, model.state_dict()

    def linear(name, x):
        y = x @ weights[f"{name}.weight"].T
        return y + weights[f"{name}.bias"] if f"{name}.bias" in weights else y

    def norm(name, x):
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weights[f"{name}.weight"]

    def turned(x):  # (batch, heads, length, size), pairs (i, i + size / 2)
        half = x.shape[-1] // 2
        rates = config.rope_parameters["rope_theta"] ** -(torch.arange(half).double() / half)
        angles = torch.arange(x.shape[-2])[:, None] * rates
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)

    functions = {"silu": F.silu, "gelu": F.gelu, "tanh": torch.tanh, "relu": F.relu}
    h = weights["model.embed_tokens.weight"][ids]
    hidden, length = [h], ids.shape[1]
    for index in range(config.num_hidden_layers):
        name = f"model.layers.{index}"
        z = norm(f"{name}.input_layernorm", h)
        q, k, v = (
            linear(f"{name}.self_attn.{x}_proj", z).unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for x in "qkv"
        )
        groups = config.num_attention_heads // config.num_key_value_heads
        k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
        scores = turned(q) @ turned(k).mT / config.head_dim**0.5
        scores = scores.masked_fill(torch.ones(length, length).triu(1).bool(), float("-inf"))
        attention = linear(f"{name}.self_attn.o_proj", (scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        seen = h if config.augmented_shortcut_input == "residual" else z
        act = functions[config.augmented_shortcut_act]
        for t in range(config.num_augmented_shortcuts):
            shortcut = f"{name}.augmented_shortcuts.{t}"
            attention = attention + linear(f"{shortcut}.up_proj", act(linear(f"{shortcut}.down_proj", seen)))
        h = h + attention
        z = norm(f"{name}.post_attention_layernorm", h)
        gate = linear(f"{name}.mlp.gate_proj", z)
        if config.series_activations:
            scale, bias = (weights[f"{name}.mlp.act_fn.{x}"] for x in ("scale", "bias"))
            gate = sum(
                functions[f](a * gate + b) for f, a, b in zip(config.series_activations, scale, bias, strict=True)
            )
        else:
            gate = functions[config.hidden_act](gate)
        h = h + linear(f"{name}.mlp.down_proj", gate * linear(f"{name}.mlp.up_proj", z))
        hidden.append(h)
    return linear("lm_head", norm("model.norm", h)), hidden


@torch.no_grad()
@pytest.mark.parametrize(
    "option",
    [
        {},
        {"series_activations": []},
        {"series_activations": [], "hidden_act": "gelu"},
        {"series_activations": ["tanh"]},
        {"series_activations": ["silu", "gelu", "relu"]},
        {"hidden_act": "tanh"},
        {"num_augmented_shortcuts": 0},
        {"num_augmented_shortcuts": 3},
        {"augmented_shortcut_reduction": 5},
        {"augmented_shortcut_reduction": 1000},
        {"augmented_shortcut_act": "relu"},
        {"augmented_shortcut_act": "silu", "augmented_shortcut_input": "residual"},
        {"num_key_value_heads": None},
        {"num_key_value_heads": 1, "head_dim": 10},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        {"rms_norm_eps": 0.5},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"tie_word_embeddings": True},
    ],
    ids=str,
)
def test_every_option_is_the_papers(option):
    torch.manual_seed(0)
    model = PanguPiForCausalLM(PanguPiConfig(**{**SMALL, **option})).double().eval()
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    if option.get("tie_word_embeddings"):
        assert model.lm_head.weight is model.model.embed_tokens.weight
    expected, hidden = by_the_paper(model, IDS)
    found = model(IDS, output_hidden_states=True)
    torch.testing.assert_close(found.hidden_states[2], hidden[2], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.logits, expected, rtol=1e-9, atol=1e-9)
    for token in (IDS[:, :1], IDS[:1, :1]):  # the ways of few tokens
        torch.testing.assert_close(model(token).logits, by_the_paper(model, token)[0], rtol=1e-9, atol=1e-9)
    shortcut = next(iter(model.model.layers[0].augmented_shortcuts), None)
    if shortcut is not None:
        width = max(1, int(64 / option.get("augmented_shortcut_reduction", 32)))
        assert shortcut.down_proj.weight.shape == (width, 64)


def test_dropout_of_attention_and_classifier_acts_in_training_only():
    torch.manual_seed(0)
    model = PanguPiForCausalLM(PanguPiConfig(**SMALL, initializer_range=0.3, attention_dropout=0.999)).eval()
    plain = PanguPiForCausalLM(PanguPiConfig(**SMALL, initializer_range=0.3)).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(IDS).logits, plain(IDS).logits)
    with torch.no_grad():
        for layer in plain.model.layers:
            layer.self_attn.o_proj.weight.zero_()
    torch.testing.assert_close(model.train()(IDS).logits[:, :1], plain(IDS).logits[:, :1])
    for head in (PanguPiForTokenClassification, ParameterNetMoeForTokenClassification):
        config = head.config_class(**SMALL, classifier_dropout=1.0, num_labels=3)
        logits = head(config).train()(IDS).logits
        assert torch.equal(logits, torch.zeros_like(logits))  # the bias starts as zero
        assert head(config).eval()(IDS).logits.any()


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_weights_start_with_the_spread_asked_for_and_the_two_modules_without_effect(spread):
    torch.manual_seed(0)
    model = PanguPiForCausalLM(
        PanguPiConfig(**SMALL, initializer_range=spread, num_augmented_shortcuts=2, series_activations=["silu"] * 3)
    )
    for layer in model.model.layers:
        for weight in (layer.mlp.gate_proj.weight, layer.self_attn.q_proj.weight, layer.mlp.down_proj.weight):
            assert weight.std().item() == pytest.approx(spread, rel=0.05)
        for shortcut in layer.augmented_shortcuts:
            assert shortcut.down_proj.weight.std().item() == pytest.approx(spread, rel=0.25)
            assert not shortcut.up_proj.weight.any()
        assert layer.mlp.act_fn.scale.mean(-1).tolist() == [1, 0, 0] and not layer.mlp.act_fn.bias.any()
    assert model.model.embed_tokens.weight.std().item() == pytest.approx(spread, rel=0.05)
    assert not model.model.embed_tokens.weight[0].any()  # padding


def test_measures_of_collapse_at_their_ends():
    features = torch.diag(torch.tensor([3.0, 1.0, 1.0])).repeat(2, 1)
    with pytest.raises(ValueError, match="threshold: got 0, accepted are numbers above 0 and up to 1"):
        effective_dimension(features, 0)
    for empty in (torch.zeros(0, 4), torch.zeros(4)):
        with pytest.raises(ValueError, match="features: got shape .*, accepted is .tokens, channels. with tokens"):
            effective_dimension(empty)
    distance = (features - features.mean(0)).norm().item()
    assert diversity(features) == pytest.approx(distance)
    assert diversity(features, relative=True) == pytest.approx(distance / features.norm().item())
    assert diversity(torch.zeros(3, 2), relative=True) == 0
    model = PanguPiForCausalLM(PanguPiConfig(**SMALL, initializer_range=0.2))
    found = [layer_diagnostics(model, IDS, threshold=t)["effective_dimension"][1] for t in (0.3, 0.99)]
    hidden = model.eval()(IDS, output_hidden_states=True).hidden_states[1].detach().flatten(0, 1)
    assert found == [effective_dimension(hidden, t) for t in (0.3, 0.99)] and found[0] < found[1]
