"""What is ParameterNet-MoE's own: the routing, the balance loss, the experts, upcycling."""

import pytest
import torch
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import hf_effmodels
from hf_effmodels.hub.convert import ConversionError, convert_state_dict
from hf_effmodels.modeling.parameternet_moe.configuration_parameternet_moe import PRESETS, ParameterNetMoeConfig
from hf_effmodels.modeling.parameternet_moe.convert_parameternet_moe import adapt
from hf_effmodels.modeling.parameternet_moe.modeling_parameternet_moe import (
    ParameterNetMoeExperts,
    ParameterNetMoeForCausalLM,
    ParameterNetMoeMLP,
    balance_loss,
    expert_load,
)
from hf_effmodels.registry import ARCHITECTURES

SMALL = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
IDS = torch.arange(1, 21).reshape(2, 10)


def build(**overrides):
    torch.manual_seed(0)
    return ParameterNetMoeForCausalLM(ParameterNetMoeConfig(**{**SMALL, "num_local_experts": 4, **overrides})).eval()


def test_the_preset_has_the_published_size():
    with torch.device("meta"):
        model = hf_effmodels.create_model("parameternet-moe-1b")
    parameters = sum(p.numel() for p in model.parameters())
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    preset = PRESETS["parameternet-moe-1b"]
    assert round(parameters / 1e6, 3) == preset.parameters
    assert parameters == pytest.approx(2.347e9, rel=5e-4)
    assert parameters - experts * 7 / 8 == pytest.approx(0.937e9, rel=1e-3)  # used for a token
    linear = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    routers = sum(p.numel() for name, p in model.named_parameters() if ".router." in name)
    weights = sum(p.numel() for name, p in model.named_parameters() if name.endswith("experts.weight"))
    assert (linear + routers + weights / 8) / 1e6 == pytest.approx(preset.macs, rel=1e-3)


@pytest.mark.parametrize("expert_bias", [True, False])
def test_each_token_goes_through_its_likeliest_expert_only(expert_bias):
    config = ParameterNetMoeConfig(**SMALL, num_local_experts=5, expert_bias=expert_bias)
    mlp = ParameterNetMoeMLP(config).double()
    for parameter in mlp.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 7, 32, dtype=torch.float64, requires_grad=True)
    output = mlp(x)
    inner = F.silu(mlp.gate_proj(x)) * mlp.up_proj(x)
    p, e = (inner @ mlp.router.weight.T).softmax(-1).max(-1)
    expected = torch.einsum("bti,btoi->bto", inner, mlp.experts.weight[e])
    expected = p[..., None] * (expected + (mlp.experts.bias[e] if expert_bias else 0))
    torch.testing.assert_close(output, expected)
    parameters = [x, *mlp.parameters()]
    weights = torch.randn_like(output)
    for got, wanted in zip(
        torch.autograd.grad(output, parameters, weights),
        torch.autograd.grad(expected, parameters, weights),
        strict=True,
    ):
        torch.testing.assert_close(got, wanted)
    with torch.no_grad():  # one token is indexed, many are grouped
        for token, row in zip(x[0], output[0], strict=True):
            torch.testing.assert_close(mlp(token[None, None])[0, 0], row)


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 5])
def test_autocast_reaches_the_experts(rows):
    experts = ParameterNetMoeExperts(ParameterNetMoeConfig(**SMALL, num_local_experts=3))
    torch.nn.init.normal_(experts.weight)
    torch.nn.init.normal_(experts.bias)
    inputs, index = torch.randn(rows, 48), torch.arange(rows) % 3
    exact = experts(inputs, index)
    with torch.autocast("cpu", torch.bfloat16):
        half = experts(inputs, index)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), exact, rtol=0.05, atol=0.2)


def test_tensor_parallel_processes_share_the_attention_of_a_llama_and_each_has_all_experts():
    """The router reads all of what the down projection is given, of which a split gate would leave a part."""
    plan = {f"layers.*.self_attn.{name}_proj": "colwise" for name in "qkv"}
    assert build().config.base_model_tp_plan == {**plan, "layers.*.self_attn.o_proj": "rowwise"}


def test_only_experts_in_use_are_multiplied():
    experts = ParameterNetMoeExperts(ParameterNetMoeConfig(**SMALL, num_local_experts=64))
    torch.nn.init.normal_(experts.weight)
    torch.nn.init.zeros_(experts.bias)
    with torch.profiler.profile() as profile:
        experts(torch.randn(12, 48), torch.tensor([3] * 7 + [60] * 5))
    products = sum(event.count for event in profile.key_averages() if event.key in ("aten::mm", "aten::addmm"))
    assert products == 2


def test_ties_go_to_the_first_expert():
    mlp = ParameterNetMoeMLP(ParameterNetMoeConfig(**SMALL, num_local_experts=4))
    torch.nn.init.zeros_(mlp.router.weight)
    logits, probability, index = mlp.router(torch.randn(2, 3, 48))
    assert not index.any() and torch.equal(probability, torch.full((2, 3), 0.25))


def test_balance_loss_is_one_in_balance_and_e_in_collapse():
    even = 50 * torch.eye(4).repeat(3, 1)[None]  # each expert as often, surely
    assert balance_loss((even, even)).item() == pytest.approx(1)
    collapsed = torch.zeros(2, 6, 4)
    collapsed[..., 1] = 50
    assert balance_loss((collapsed,)).item() == pytest.approx(4)
    torch.testing.assert_close(expert_load((even, collapsed[:1].repeat(1, 2, 1)))[1], torch.tensor([0.0, 1, 0, 0]))
    torch.testing.assert_close(expert_load((even,)), torch.full((1, 4), 0.25))
    first, second = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    first[0, range(4), [0, 0, 1, 2]], second[0, range(4), [3, 1, 1, 3]] = 9.0, 9.0
    mask = torch.tensor([[0, 1, 1, 1]])
    loads = expert_load((first, second), mask)
    torch.testing.assert_close(loads, torch.tensor([[1.0, 1, 1, 0], [0, 2, 0, 1]]) / 3)


def test_padding_counts_only_where_the_official_code_counts_it():
    ids, mask = IDS.clone(), torch.ones_like(IDS)
    ids[0, 6:], mask[0, 6:] = 0, 0
    for masked in (False, True):
        model = build(mask_padding_in_balance=masked)
        outputs = model(ids, attention_mask=mask, output_router_logits=True)
        alone = [logits[:1, :6] for logits in outputs.router_logits], [logits[1:] for logits in outputs.router_logits]
        by_row = (balance_loss(tuple(alone[0])) + balance_loss(tuple(alone[1]))) / 2
        expected = by_row if masked else balance_loss(outputs.router_logits)
        torch.testing.assert_close(outputs.aux_loss, expected)
    assert not torch.isclose(by_row, balance_loss(outputs.router_logits))


def test_the_balance_loss_is_in_the_training_loss_and_elsewhere_on_request():
    model = build(router_aux_loss_coef=0.5)
    plain = model(IDS, labels=IDS)
    assert plain.router_logits is None and plain.aux_loss is None
    asked = model(IDS, labels=IDS, output_router_logits=True)
    assert [tuple(logits.shape) for logits in asked.router_logits] == [(2, 10, 4)] * 2
    torch.testing.assert_close(asked.loss, plain.loss + 0.5 * asked.aux_loss)
    training = model.train()(IDS, labels=IDS)
    torch.testing.assert_close(training.loss, asked.loss)
    assert training.aux_loss is not None


def test_training_evens_out_the_experts():
    torch.manual_seed(0)
    model = build(router_aux_loss_coef=1.0).train()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.router.weight[0] += 1.0  # a favourite
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    loads = []
    for _ in range(30):
        outputs = model(IDS, labels=IDS)
        loads.append(expert_load(outputs.router_logits).amax().item())
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    assert outputs.aux_loss < 1.2 and loads[-1] < 0.6


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"mlp_bias": True, "tie_word_embeddings": True}])
def test_an_upcycled_llama_gives_the_same_outputs(fields):
    torch.manual_seed(0)
    source = LlamaForCausalLM(LlamaConfig(**{**SMALL, **fields})).eval()
    for name, parameter in source.named_parameters():
        if name.endswith(".bias"):
            parameter.normal_()  # they start as zero, which is as good as any multiple
    model = ParameterNetMoeForCausalLM.from_llama(source, num_local_experts=4)
    torch.testing.assert_close(model(IDS).logits, source(IDS).logits, rtol=0, atol=1e-5)
    down = source.model.layers[1].mlp.down_proj.weight
    assert all(torch.equal(expert, 4 * down) for expert in model.model.layers[1].mlp.experts.weight)
    assert not any(layer.mlp.router.weight.any() for layer in model.model.layers)
    with pytest.raises(ValueError, match="vocab_size: would change"):
        ParameterNetMoeForCausalLM.from_llama(source, vocab_size=5)
    if fields:
        bias = source.model.layers[1].mlp.down_proj.bias
        assert all(torch.equal(expert, 4 * bias) for expert in model.model.layers[1].mlp.experts.bias)
        with pytest.raises(ValueError, match="expert_bias: got False"):
            ParameterNetMoeForCausalLM.from_llama(source, expert_bias=False)
    else:  # what has no biases needs none
        without = ParameterNetMoeForCausalLM.from_llama(source, expert_bias=False)
        assert without.model.layers[0].mlp.experts.bias is None
        torch.testing.assert_close(without(IDS).logits, source(IDS).logits, rtol=0, atol=1e-5)


def test_an_official_checkpoint_with_other_experts_is_refused():
    model = build()
    names = {
        "experts.weight": "down_proj.experts.expert_{}.weight",
        "experts.bias": "down_proj.experts.expert_{}.bias",
    }
    names["router.weight"] = "down_proj.router.classifier.weight"
    official = {}
    for name, value in model.state_dict().items():
        ours = next((ending for ending in names if name.endswith(ending)), None)
        if ours is None:
            official[name] = value
        elif ours == "router.weight":
            official[name.replace(ours, names[ours])] = value
        else:
            official |= {name.replace(ours, names[ours].format(e)): v for e, v in enumerate(value)}
    architecture = ARCHITECTURES["parameternet_moe"]
    converted, ignored = convert_state_dict(architecture, model.config, official)
    assert torch.equal(converted(IDS).logits, model(IDS).logits) and not ignored
    official.pop("model.layers.1.mlp.down_proj.experts.expert_2.bias")
    with pytest.raises(ConversionError, match=r"1 missing: model\.layers\.1\.mlp\.experts\.bias"):
        convert_state_dict(architecture, model.config, official)


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"num_local_experts": 0}, "num_local_experts: got 0"),
        ({"router_aux_loss_coef": -1}, "router_aux_loss_coef: got"),
    ],
)
def test_bad_configurations_are_refused_by_name(fields, message):
    with pytest.raises(Exception, match=message):
        ParameterNetMoeConfig(**{**SMALL, **fields})


@torch.no_grad()
@pytest.mark.parametrize(
    "option",
    [
        {},
        {"num_local_experts": 1},
        {"num_local_experts": 7},
        {"expert_bias": False},
        {"hidden_act": "gelu"},
        {"mlp_bias": True},
        {"attention_bias": True, "num_key_value_heads": 2},
        {"rms_norm_eps": 0.5},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 50.0}},
        {"tie_word_embeddings": True},
    ],
    ids=str,
)
def test_every_option_is_a_llama_whose_down_projection_is_chosen_by_token(option):
    """Against LLaMA itself, with the mixture written down in place of its down projection."""
    model = build(**option).double()
    for parameter in model.parameters():
        parameter.add_(0.2 * torch.randn_like(parameter))
    fields = {**SMALL, **option}
    fields = {name: value for name, value in fields.items() if name not in ("num_local_experts", "expert_bias")}
    llama = LlamaForCausalLM(LlamaConfig(**fields, attn_implementation="sdpa")).double().eval()
    llama.load_state_dict(
        {n: w for n, w in model.state_dict().items() if ".router." not in n and ".experts." not in n}, strict=False
    )

    def chosen(mlp, ours):
        def down(u):
            p = (u @ ours.router.weight.T).softmax(-1)
            rows = []
            for x, probabilities in zip(u.flatten(0, 1), p.flatten(0, 1), strict=True):
                e = int(probabilities.argmax())
                y = ours.experts.weight[e] @ x
                rows.append(probabilities[e] * (y if ours.experts.bias is None else y + ours.experts.bias[e]))
            return torch.stack(rows).unflatten(0, u.shape[:2])

        mlp.down_proj = torch.nn.Identity()
        mlp.register_forward_hook(lambda module, args, output: down(output))

    for layer, ours in zip(llama.model.layers, model.model.layers, strict=True):
        chosen(layer.mlp, ours.mlp)
    for ids in (IDS, IDS[:1, :1]):
        # LLaMA computes its norms and rotary tables in float32.
        torch.testing.assert_close(model(ids).logits, llama(ids).logits, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_balance_loss_is_the_formula_written_down():
    model = build(num_local_experts=3)
    for mask_padding in (False, True):
        model.config.mask_padding_in_balance = mask_padding
        mask = torch.ones_like(IDS)
        mask[0, 7:] = 0
        outputs = model(IDS, attention_mask=mask, output_router_logits=True)
        total = 0.0
        for row in range(2):
            kept = [t for t in range(10) if mask[row, t] or not mask_padding]
            p = torch.stack([logits[row, t].softmax(-1) for logits in outputs.router_logits for t in kept])
            share = torch.stack([(p.argmax(-1) == e).float().mean() for e in range(3)])
            total += (share * p.mean(0)).mean() * 9
        torch.testing.assert_close(outputs.aux_loss, total / 2)


@pytest.mark.parametrize("masked", [True, False])
@torch.no_grad()
def test_with_a_cache_the_balance_is_of_the_new_tokens(masked):
    """The mask is then of all tokens, those of before too; texts are generated so."""
    model = build(mask_padding_in_balance=masked, output_router_logits=True)
    mask = torch.ones_like(IDS)
    mask[0, :3] = 0
    before = model(IDS[:, :6], attention_mask=mask[:, :6])
    found = model(IDS[:, 6:], attention_mask=mask, past_key_values=before.past_key_values)
    whole = model(IDS, attention_mask=mask)
    new = tuple(logits[:, 6:] for logits in whole.router_logits)
    for one, other in zip(found.router_logits, new, strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(found.aux_loss, balance_loss(new))
    how = {"attention_mask": mask, "max_new_tokens": 4, "do_sample": False}
    plain = build(mask_padding_in_balance=masked)
    assert torch.equal(model.generate(IDS, **how), plain.generate(IDS, **how))


def test_the_configuration_asks_for_the_balance_loss_and_no_factor_leaves_it_out():
    model = build(output_router_logits=True, router_aux_loss_coef=0.25)
    asked, plain = model(IDS, labels=IDS), model(IDS, labels=IDS, output_router_logits=False)
    torch.testing.assert_close(asked.loss, plain.loss + 0.25 * asked.aux_loss)
    assert model(IDS).aux_loss is not None and plain.aux_loss is None
    off = build(router_aux_loss_coef=0.0).train()(IDS, labels=IDS)
    assert off.aux_loss is None and off.router_logits is None


def test_a_step_of_several_batches_counts_the_balance_loss_once():
    model = build(router_aux_loss_coef=0.5).train()
    labels = IDS.clone()
    labels[0, 4:] = -100  # 3 + 9 of 20 predicted tokens of the step are in this batch
    got = model(IDS, labels=labels, num_items_in_batch=torch.tensor(20))
    plain = model(IDS, labels=labels, num_items_in_batch=torch.tensor(20), output_router_logits=False)
    torch.testing.assert_close(got.loss, plain.loss + 0.5 * got.aux_loss * 12 / 20)
    shifted = labels.roll(-1, dims=1)
    shifted[:, -1] = -100
    again = model(IDS, labels=labels, shift_labels=shifted, num_items_in_batch=20)
    torch.testing.assert_close(again.loss, got.loss)


def test_experts_and_router_start_with_the_spread_asked_for():
    torch.manual_seed(0)
    model = ParameterNetMoeForCausalLM(ParameterNetMoeConfig(**{**SMALL, "initializer_range": 0.3}))
    for layer in model.model.layers:
        assert layer.mlp.experts.weight.std().item() == pytest.approx(0.3, rel=0.05)
        assert layer.mlp.router.weight.std().item() == pytest.approx(0.3, rel=0.1)
        assert not layer.mlp.experts.bias.any()


def test_where_nothing_is_counted_no_expert_has_a_load():
    logits = (torch.randn(1, 3, 4),)
    assert torch.equal(expert_load(logits, torch.zeros(1, 3)), torch.zeros(1, 4))
    assert balance_loss(logits, torch.zeros(1, 3)) == 0


def test_experts_of_a_file_in_any_order_are_stacked_by_their_numbers():
    def layer(number, experts):
        return {f"model.layers.{number}.mlp.experts.{n}.weight": torch.full(size, n + 1.0) for n, size in experts}

    state = {
        "lm_head.weight": torch.zeros(1),
        **layer(0, [(n, (2, 3)) for n in (10, 3, 0, 7, 1, 9, 2, 4, 11, 6, 5, 8)]),
    }
    left = layer(1, [(n, (2, 3)) for n in range(11)]) | layer(2, [(n, (2, 3 + (n == 5))) for n in range(12)])
    config = ParameterNetMoeConfig(**SMALL, num_local_experts=12)
    assert adapt(state | left, config) is config
    adapt(state, config)
    assert state.keys() == {"lm_head.weight", "model.layers.0.mlp.experts.weight"}
    stacked = state["model.layers.0.mlp.experts.weight"]
    assert stacked.shape == (12, 2, 3) and stacked[:, 0, 0].tolist() == [n + 1.0 for n in range(12)]
    kept = dict(left)  # one lacks, or is of another shape: the check of all names tells it
    adapt(kept, config)
    assert kept.keys() == left.keys()
