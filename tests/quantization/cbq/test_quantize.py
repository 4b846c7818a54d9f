"""`quantize`: the result of each method, its options, killed runs, and models of all kinds."""

import json
import sys
from contextlib import contextmanager
from functools import partialmethod

import pytest
import torch
import transformers
from safetensors import SafetensorError

from hf_effmodels.quantization import CbqConfig, quantize
from hf_effmodels.quantization.cbq import quantization, room, store
from hf_effmodels.quantization.cbq.blocks import find_blocks
from hf_effmodels.quantization.cbq.capture import Call
from hf_effmodels.quantization.cbq.gptq import gptq
from hf_effmodels.quantization.cbq.grid import dequantize, weight_grid
from hf_effmodels.quantization.cbq.grid import quantize as to_integers
from hf_effmodels.quantization.cbq.learning import LearnedBlock, LearnedLayer, learn_window
from hf_effmodels.quantization.cbq.preprocessing import largest_inputs, scaled
from hf_effmodels.quantization.cbq.report import picture
from hf_effmodels.registry import ARCHITECTURES

from ...modeling.tiny import tiny_config

QUICK = {"bits": 2, "group_size": 16, "epochs": 2, "batch_size": 4}


def integers(result) -> dict[str, torch.Tensor]:
    return {
        f"{i}.{name}": layer.integers
        for i in range(len(result.blocks.modules))
        for name, layer in result.layers_of(i).items()
    }


def test_rounding_to_nearest_is_that(dense):
    weight = dense().model.layers[1].mlp.down_proj.weight.float()
    result = quantize(dense(), None, CbqConfig(bits=3, group_size=32, method="rtn"))
    largest = weight.reshape(64, 3, 32).abs().amax(-1, keepdim=True)
    step = (2 * largest / 7).bfloat16().float()
    expected = ((weight.reshape(64, 3, 32) / step).round().clamp(-4, 3) * step).reshape(64, 96).bfloat16()
    assert torch.equal(result.model.model.layers[1].mlp.down_proj.weight, expected)
    assert result.model.dtype == torch.bfloat16


def test_gptq_rounds_to_nearest_where_inputs_are_independent_and_better_where_not():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(16, 64, generator=generator, dtype=torch.float64)
    integers, grid = gptq(weight, torch.eye(64, dtype=torch.float64), 3, 16)
    nearest = weight_grid(weight, 3, 16)
    assert torch.equal(integers, to_integers(weight, nearest, 3))
    torch.testing.assert_close(grid.scale, nearest.scale)

    mixed = torch.randn(256, 64, generator=generator, dtype=torch.float64) @ torch.randn(
        64, 64, generator=generator, dtype=torch.float64
    )
    hessian = mixed.T @ mixed / 256

    def error(integers, grid):
        off = dequantize(integers, grid) - weight
        return torch.einsum("ri,ij,rj->", off, hessian, off)

    of_gptq = error(*gptq(weight, hessian, 3, 16, damping=0.001))
    assert of_gptq < 0.6 * error(to_integers(weight, nearest, 3), nearest)
    assert of_gptq < error(*gptq(weight, hessian, 3, 16, damping=10.0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"target": "homologous"},
        {"target": "accumulated", "window": 3, "overlap": 2},
        {"rank": None, "rounding_init": "zero", "rounding": "soft"},
        {"activation_bits": 8, "symmetric": False},
    ],
    ids=str,
)
def test_what_is_learned_is_better_than_rounding_to_nearest(dense, samples, options):
    learning = {"rounding_lr": 0.05, "step_lr": 0.01, "epochs": 8, "batch_size": 2, "cfp": False}
    config = CbqConfig(**(QUICK | learning | options))
    blocks = quantize(dense(torch.float32), [samples], config).report["blocks"]
    assert all(row["loss_after"] < row["loss_before"] for row in blocks)


def test_every_option_of_learning_changes_the_result(dense, samples):
    """Each is away from its default, and gives another result than the defaults do."""
    samples = samples[:, :8]
    base = integers(quantize(dense(), [samples], CbqConfig(**QUICK)))
    others = [{"cfp": False}, {"kld_weight": 500.0}, {"rank": 2}, {"learn_steps": False}, {"rounding_init": "zero"}]
    others += [
        {"rounding": "soft"},
        {"lambda1": 0.2},
        {"lambda2": 50.0},
        {"cfp_rounds": 4},
        {"epochs": 3},
        {"batch_size": 2},
        {"seed": 7},
    ]
    others += [{"rounding_lr": 0.2}, {"step_lr": 0.1}, {"rounding_weight": 50.0}, {"target": "homologous"}]
    others += [{"target": "accumulated"}, {"window": 1, "overlap": 0}, {"overlap": 0}, {"symmetric": False}]
    others += [{"activation_bits": 4}, {"method": "gptq"}, {"method": "rtn"}]
    for other in others:
        result = integers(quantize(dense(), [samples], CbqConfig(**(QUICK | other))))
        assert any(not torch.equal(result[name], base[name]) for name in base), other
    again = integers(quantize(dense(), [samples], CbqConfig(**QUICK)))
    assert all(torch.equal(again[name], base[name]) for name in base)


def test_the_rounding_term_decides_the_rounding():
    """Free numbers end at the nearest integers where nothing else pulls; without the term they stay in between."""
    generator = torch.Generator().manual_seed(0)
    weight, states = torch.randn(8, 16, generator=generator), torch.randn(1, 32, 16, generator=generator)
    block = torch.nn.Sequential(torch.nn.Linear(16, 8, bias=False))

    def learned(rounding_weight):
        settings = {
            "rounding_lr": 0.2,
            "rounding": "soft",
            "epochs": 200,
            "learn_steps": False,
            "rounding_weight": rounding_weight,
        }
        layer = LearnedLayer(weight, CbqConfig(bits=3, group_size=16, rank=None, **settings), generator)
        window = [LearnedBlock(block, {}, {"0": layer})], [states], [[Call((), {})]], [[states @ weight.T]]
        learn_window(*window, CbqConfig(rank=None, **settings), 0)
        return layer

    def decided(layer):
        return ((layer.delta() < 0.02) | (layer.delta() > 0.98)).double().mean()

    driven = learned(10.0)
    assert decided(driven) > 0.9 and decided(learned(0.0)) < 0.3
    near = to_integers(weight, driven.first, 3)
    assert (driven.hard(torch.float32).integers == near).double().mean() > 0.8


def test_samples_come_in_an_order_of_their_own_in_every_epoch_that_follows_the_seed():
    """Nothing moves at a rate of almost nought: the loss of a step says which sample it is of."""
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    block = torch.nn.Sequential(torch.nn.Linear(8, 4, bias=False))
    hidden = [torch.full((1, 2, 8), float(n)) for n in range(1, 7)]
    targets = [[torch.zeros(1, 2, 4)] for _ in hidden]
    settings = {"bits": 4, "group_size": 8, "rank": None, "rounding": "soft", "epochs": 4, "kld_weight": 0.0}
    config = CbqConfig(**settings, rounding_lr=1e-12, step_lr=1e-12, rounding_weight=0.0)

    def order(seed):
        layer, losses = LearnedLayer(weight, config, torch.Generator().manual_seed(0)), []
        learn_window([LearnedBlock(block, {}, {"0": layer})], hidden, [[Call((), {})]] * 6, targets, config, seed,
                     losses.append)  # fmt: skip
        known = sorted({round(loss, 4) for loss in losses})
        assert len(losses) == 24 and len(known) == 6
        return [known.index(round(loss, 4)) for loss in losses]

    first, again, other = order(1), order(1), order(2)
    epochs = [tuple(first[start : start + 6]) for start in range(0, 24, 6)]
    assert all(sorted(epoch) == [*range(6)] for epoch in epochs), "each sample once in an epoch"
    assert len(set(epochs)) > 2 and first == again != other


@pytest.mark.parametrize(
    ("options", "scaled"),
    [({}, False), ({"activation_bits": 8}, True), ({"activation_bits": 8, "cfp": False}, False)],
    ids=["weights alone", "inputs too", "without pre-processing"],
)
def test_channels_are_scaled_where_inputs_are_quantised_and_norms_stay_elsewhere(options, scaled, dense, samples):
    config = CbqConfig(**(QUICK | {"epochs": 0} | options))
    result = quantize(dense(torch.float32), [samples[:4, :8]], config)
    before = dense(torch.float32).model.layers[0].input_layernorm.weight
    assert torch.equal(result.rest_of(0)["input_layernorm.weight"], before) is not scaled


def test_scaled_channels_do_not_change_the_block(dense):
    block = dense(torch.float32).model.layers[0]
    layers = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    model = dense(torch.float32)
    found = find_blocks(model, CbqConfig(group_size=16))
    inputs = quantization.capture(
        model, found, store.BlockStore(found.modules, None), [{"input_ids": torch.arange(12)[None]}]
    )
    states, call = inputs.hidden[0], inputs.calls[0][0]
    state = {name: value.clone() for name, value in block.state_dict().items()}
    largest = largest_inputs(block, layers, [states], [call])
    with torch.no_grad():
        new, channels = scaled(block, state, layers, largest, states, call, CbqConfig())
        assert channels["self_attn.q_proj"] == 1
        expected = block(states, **call.kwargs)
        block.load_state_dict(new)
        torch.testing.assert_close(block(states, **call.kwargs), expected, atol=1e-4, rtol=1e-4)
    scale = state["input_layernorm.weight"][5] / new["input_layernorm.weight"][5]
    assert scale > 1.5
    torch.testing.assert_close(new["self_attn.k_proj.weight"][:, 5], state["self_attn.k_proj.weight"][:, 5] * scale)
    after = largest_inputs(block, layers, [states], [call])
    torch.testing.assert_close(after["self_attn.q_proj"][5] * scale, largest["self_attn.q_proj"][5])


def test_blocks_are_those_that_are_named_or_found(dense):
    config = {"group_size": 16, "modules_to_not_convert": ["layers.1", "mlp.up_proj"]}
    found, named = (find_blocks(dense(), CbqConfig(**config, blocks=name)) for name in (None, "model.layers"))
    assert found.name == named.name == "model.layers" and found.layers == named.layers
    assert [len(layers) for layers in found.layers] == [6, 0, 6] and "mlp.up_proj" not in found.layers[0]
    assert set(found.left) == {
        *(f"model.layers.{block}.mlp.up_proj.weight" for block in (0, 2)),
        *(name for name, weight in dense().named_parameters() if "layers.1." in name and weight.ndim == 2),
    }


@torch.no_grad()
@pytest.mark.parametrize("lengths", [(12, 12, 12), (12, 12, 8), (12, 8, 12), (8,)])
def test_every_batch_is_captured_with_the_arguments_of_its_own_length(dense, lengths):
    model = dense(torch.float32)
    blocks = find_blocks(model, CbqConfig(group_size=16))
    batches = [{"input_ids": torch.arange(length)[None] + number} for number, length in enumerate(lengths)]
    found = quantization.capture(model, blocks, store.BlockStore(blocks.modules, None), batches)
    assert [len(calls) for calls in found.calls] == [3] * len(lengths)
    for batch, length, states, calls in zip(batches, lengths, found.hidden, found.calls, strict=True):
        torch.testing.assert_close(states, model.model.embed_tokens(batch["input_ids"]))
        assert {call.kwargs["position_embeddings"][0].shape[1] for call in calls} == {length}
        for block, call in zip(blocks.modules, calls, strict=True):
            states = block(states, *call.args, **call.kwargs)
        torch.testing.assert_close(
            model.lm_head(model.model.norm(states)), model(**batch).logits, atol=1e-4, rtol=1e-4
        )


def test_models_whose_blocks_are_no_chain_are_refused(dense):
    def captured(change):
        model = dense(torch.float32)
        blocks = find_blocks(model, CbqConfig(group_size=16))
        with change(model):
            quantization.capture(
                model, blocks, store.BlockStore(blocks.modules, None), [{"input_ids": torch.arange(6)[None]}]
            )

    @contextmanager
    def doubled(model):  # something happens between the blocks
        handle = model.model.layers[1].register_forward_pre_hook(
            lambda module, args, kwargs: ((2 * args[0], *args[1:]), kwargs), with_kwargs=True
        )
        yield
        handle.remove()

    @contextmanager
    def skipped(model):
        model.model.layers = model.model.layers[:2]
        yield

    with pytest.raises(
        ValueError, match=r"model: block 1 \(LlamaDecoderLayer\) does not go on from the output of the"
    ):
        captured(doubled)
    with pytest.raises(ValueError, match="model: 3 blocks were called 2 times in one pass"):
        captured(skipped)


class Killed(Exception):
    pass


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("method", ["cbq", "gptq"])
def test_a_killed_run_ends_in_the_same_result(dense, samples, held_out, tmp_path, monkeypatch, method, offload):
    config = CbqConfig(**QUICK, method=method)
    whole = quantize(dense(), [samples], config, evaluation=[held_out])
    finish, finished = store.Progress.finish, []

    def killed(self, step, rows, at):
        if step == at:
            raise Killed
        finish(self, step, rows)

    for at in (0, 1):
        monkeypatch.setattr(store.Progress, "finish", partialmethod(killed, at=at))
        with pytest.raises(Killed):
            quantize(dense(), [samples], config, work=tmp_path / "work", offload=offload)
    monkeypatch.setattr(store.Progress, "finish", lambda self, *args: (finished.append(args[0]), finish(self, *args)))
    again = quantize(dense(), [samples], config, work=tmp_path / "work", offload=offload, evaluation=[held_out])
    assert finished == list(range(1, 2 if method == "cbq" else 3))
    expected, got = integers(whole), integers(again)
    assert all(torch.equal(got[name], expected[name]) for name in expected)
    assert again.report["perplexity_after"] == whole.report["perplexity_after"]
    assert [row["layers"] for row in again.report["blocks"]] == [row["layers"] for row in whole.report["blocks"]]
    if not offload:
        weights = zip(again.model.parameters(), whole.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)


def test_progress_of_other_work_is_refused(dense, samples, tmp_path):
    quantize(dense(), [samples], CbqConfig(**QUICK, method="gptq"), work=tmp_path)
    with pytest.raises(ValueError, match="another call; different are config"):
        quantize(dense(), [samples], CbqConfig(**(QUICK | {"seed": 3}), method="gptq"), work=tmp_path)
    other = dense()
    other.model.layers[1].mlp.up_proj.weight.data[48:] += 1  # of a weight that begins as it did
    with pytest.raises(ValueError, match="another call; different are model"):
        quantize(other, [samples], CbqConfig(**QUICK, method="gptq"), work=tmp_path)
    with pytest.raises(ValueError, match="another call; different are samples"):
        quantize(dense(), [samples + 0 * samples.roll(1) - samples], CbqConfig(**QUICK, method="gptq"), work=tmp_path)


@pytest.mark.draws
def test_the_report_says_what_was_measured(dense, samples, held_out, tmp_path):
    model = dense()
    with torch.no_grad():
        before = model(held_out, labels=held_out).loss.exp().item()
    result = quantize(model, [samples], CbqConfig(bits=4, group_size=32, method="gptq"), evaluation=[held_out])
    report = result.report
    with torch.no_grad():
        after = result.model(held_out, labels=held_out).loss.exp().item()
    assert report["perplexity_before"] == pytest.approx(before, rel=1e-5)
    assert report["perplexity_after"] == pytest.approx(after, rel=1e-5)
    # 4 bits, and a step of 16 bits for 32 weights
    assert report["bits_per_weight"] == 4.5
    result.save(tmp_path / "out")
    written = json.loads((tmp_path / "out" / "quantization_report.json").read_text())
    assert written == {**report, "format": "compressed-tensors"}
    assert (tmp_path / "out" / "quantization_report.png").stat().st_size > 1000
    # The header of the file and the shapes of the weights come on top.
    size = (tmp_path / "out" / "model.safetensors").stat().st_size
    assert report["bytes"] < size < report["bytes"] + 8192
    off = dense().model.layers[2].mlp.up_proj.weight.float()
    new = result.layers_of(2)["mlp.up_proj"].weight()
    assert report["blocks"][2]["layers"]["mlp.up_proj"] == pytest.approx(
        ((new - off).norm() / off.norm()).item(), rel=1e-4
    )


@pytest.mark.parametrize(
    "error, message",
    [
        (OSError(28, "No space left on device"), "^folder: .*out cannot be written .*No space left"),
        (OSError(5, "Input/output error"), "^folder: .*out cannot be written .*Input/output error"),
        (SafetensorError("I/O error"), "^folder: .*out cannot be written .I/O error"),
        (PermissionError(13, "Permission denied"), "^.Errno 13. Permission denied$"),
    ],
)
def test_a_disk_that_is_full_is_told_of_the_folder_and_other_faults_as_they_are(dense, tmp_path, error, message):
    result = quantize(dense(), None, CbqConfig(group_size=32, method="rtn"))

    def full(*args, **kwargs):
        raise error

    result.model.save_pretrained = full
    with pytest.raises(OSError, match=message):
        result.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_without_matplotlib_there_is_no_picture(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert picture({}, tmp_path / "report.png") is False and not list(tmp_path.iterdir())
    assert "report.png is not drawn: matplotlib is not installed" in caplog.text


COMMON = {"vocab_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32}
OTHERS = {
    "mistral": {**COMMON, "intermediate_size": 64, "num_key_value_heads": 1, "sliding_window": 8},
    "qwen2": {**COMMON, "intermediate_size": 64, "num_key_value_heads": 1},
    "gemma2": {**COMMON, "intermediate_size": 64, "num_key_value_heads": 1, "head_dim": 16, "sliding_window": 8},
    "opt": {**COMMON, "ffn_dim": 64, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
    "gpt_neox": {**COMMON, "intermediate_size": 64, "max_position_embeddings": 64},
}


@pytest.mark.parametrize("model_type", [*OTHERS, "pangu_pi", "parameternet_moe", "adem_vl"])
def test_any_decoder_is_quantised_and_loads_again(model_type, tmp_path):
    auto = transformers.AutoModelForImageTextToText if model_type == "adem_vl" else transformers.AutoModelForCausalLM
    if model_type in OTHERS:
        config = transformers.AutoConfig.for_model(model_type, **OTHERS[model_type])
    else:
        config = tiny_config(ARCHITECTURES[model_type])
    model = auto.from_config(config).eval()
    ids = torch.randint(3, 60, (4, 12))
    left = ["augmented_shortcuts"] if model_type == "pangu_pi" else None
    # OPT's feed-forward reads tokens in one dimension, where compressed-tensors gives every value a grid of its own.
    activation_bits = None if model_type == "opt" else 8
    settings = {"bits": 4, "group_size": 8, "activation_bits": activation_bits, "epochs": 1, "batch_size": 2}
    result = quantize(model, [ids], CbqConfig(**settings, modules_to_not_convert=left))
    assert len(result.report["blocks"]) == 2
    result.save(tmp_path / "out")
    with torch.no_grad(), result.in_use():
        expected = model(ids).logits
    loaded = auto.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(loaded(ids).logits, expected, atol=1e-5, rtol=1e-5)


def test_what_cannot_be_quantised_is_named_before_any_work(dense, samples, tmp_path, monkeypatch):
    def refused(model, text, batches=(samples,), **options):
        with pytest.raises((ValueError, OSError), match=text):
            quantize(model, batches, CbqConfig(**({"group_size": 32} | options)))

    gpt2 = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=2))
    refused(gpt2, "no torch.nn.Linear.*Conv1D, LayerNorm")
    refused(dense(), "group_size: got 24.*the 64 inputs of model.layers.0.mlp.*are 8, 16, 32 and none", group_size=24)
    narrow = dense()
    narrow.model.layers[0].mlp.up_proj = torch.nn.Linear(4, 96)
    refused(
        narrow, "the 4 inputs of model.layers.0.mlp.up_proj; no size from 8 on.*not_convert='model.layers.0.mlp.up"
    )
    refused(dense(), "blocks: got 'decoder'.*model.layers", blocks="decoder")
    bare = dense()
    bare.model.layers = torch.nn.Sequential(*bare.model.layers)
    refused(bare, "no list of decoder blocks was found in LlamaForCausalLM; name it, blocks='...'. Its lists are none")
    with pytest.raises(ValueError, match="work: offload needs a folder for the blocks that are not in use"):
        quantize(dense(), [samples], CbqConfig(**QUICK), offload=True)
    refused(dense(), "calibration: there are no batches, the method cbq", batches=None)
    unknown = samples.clone()
    unknown[0, 0] = 96
    refused(dense(), "calibration: got token 96, but the model's embeddings have 96", batches=[samples, unknown])
    shared = dense()
    shared.model.layers[1].mlp.up_proj.weight = shared.model.layers[0].mlp.up_proj.weight
    refused(shared, "are one weight")
    broken = dense()
    broken.model.layers[2].mlp.up_proj.weight.data[0, 0] = float("nan")
    refused(broken, "model.layers.2.mlp.up_proj is not finite")
    empty = dense(torch.float16)  # which has no number as small as the smallest step
    empty.model.layers[1].mlp.up_proj.weight.data[3] = 0
    refused(empty, "model.layers.1.mlp.up_proj: it has steps that are zero", method="rtn")
    done = quantize(dense(), None, CbqConfig(group_size=32, method="rtn"))
    done.save(tmp_path / "done")
    refused(transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "done"), "quantised already.*compressed")
    done.report["bytes"] = done.report["bytes_before"]
    with pytest.raises(ValueError, match="bits: with 4 bits and group_size 32.*nothing was written"):
        done.save(tmp_path / "large")
    assert not (tmp_path / "large").exists()
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: transformers.utils.ModelOutput(free=1000))
    with pytest.raises(OSError, match="work: the disk of .* has room for 0.000 GB, about"):
        quantize(dense(), [samples], CbqConfig(**QUICK), work=tmp_path / "work")


@pytest.mark.parametrize(
    "options, text",
    [
        ({"bits": 5}, "bits: got 5, accepted are 2, 3, 4, 8"),
        ({"group_size": 0}, "group_size: got 0, accepted are 8 to 65536"),
        ({"activation_bits": 3}, "activation_bits: got 3, accepted are none, 4, 6, 8"),
        ({"window": 2, "overlap": 2}, "overlap: got 2, accepted are 0 to window - 1 = 1"),
        ({"symmetric": 1}, "symmetric: got 1"),
        ({"epochs": 0, "rounding_init": "zero"}, "epochs: got 0"),
        ({"lambda1": float("nan")}, "lambda1: got nan"),
    ],
)
def test_values_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        CbqConfig(**options)


def test_what_is_kept_of_the_work_are_the_blocks_that_are_not_finished(dense, samples, tmp_path, monkeypatch):
    """Three blocks in windows of two, of which each shares one with the next."""
    save, kept = store.Progress.save, {}

    def saving(self, name, tensors):
        kept[name] = {int(key.split(".")[1]) for key in tensors if key.startswith(("layer.", "state."))}
        save(self, name, tensors)

    monkeypatch.setattr(store.Progress, "save", saving)
    quantize(dense(), [samples], CbqConfig(**QUICK, window=2, overlap=1), work=tmp_path / "work")
    windows = {name: blocks for name, blocks in kept.items() if name.startswith("window-")}
    assert windows == {"window-00000": {1}, "window-00001": set()}


@pytest.mark.parametrize("shown", [False, True])
def test_a_bar_of_the_windows_is_drawn_where_it_is_asked_for(dense, capsys, shown):
    quantize(dense(), None, CbqConfig(group_size=32, method="rtn"), progress=shown)
    drawn = capsys.readouterr().err
    assert ("3/3" in drawn and "window" in drawn) if shown else "window" not in drawn


@pytest.mark.parametrize("kept", [False, True], ids=["in memory", "in a folder"])
def test_rounding_with_zero_points_is_that_of_a_range_from_below_zero_to_above(dense, tmp_path, kept):
    weight = dense().model.layers[1].mlp.down_proj.weight.float().reshape(64, 3, 32)
    config = CbqConfig(bits=4, group_size=32, symmetric=False, method="rtn")
    result = quantize(dense(), None, config, work=tmp_path / "work" if kept else None)
    low, high = weight.amin(-1, keepdim=True).clamp(max=0), weight.amax(-1, keepdim=True).clamp(min=0)
    exact = (high - low) / 15
    step, zero = exact.bfloat16().float(), (-8 - low / exact).round()
    expected = (((weight / step).round() + zero).clamp(-8, 7) - zero) * step
    assert zero.unique().numel() > 2, "not all of them nought"
    found = result.model.model.layers[1].mlp.down_proj.weight
    assert torch.equal(found, expected.reshape(64, 96).bfloat16())


@pytest.mark.parametrize("left, window, overlap", [("layers.0", 1, 0), ("layers.1", 1, 0), ("layers.2", 2, 1)])
def test_a_block_whose_layers_all_stay_is_passed_through(dense, samples, left, window, overlap):
    """With the others as they would be: rounded to nearest where nothing is learned."""
    config = {"bits": 4, "group_size": 16, "epochs": 0, "cfp": False, "modules_to_not_convert": [left]}
    result = quantize(dense(), [samples[:4, :8]], CbqConfig(**config, window=window, overlap=overlap))
    assert [row["block"] for row in result.report["blocks"]] == [0, 1, 2]
    before = dense().model.layers
    for number, row in enumerate(result.report["blocks"]):
        stays = left == f"layers.{number}"
        assert len(row["layers"]) == (0 if stays else 7) and row["loss_after"] == pytest.approx(row["loss_before"])
        for name, weight in result.model.model.layers[number].named_parameters():
            assert torch.equal(weight, before[number].get_parameter(name)) == (stays or "norm" in name)


def test_batches_without_a_token_to_predict_count_nothing(dense, samples, held_out):
    ignored = {"input_ids": held_out[:1, :9], "labels": torch.full((1, 9), -100)}
    single = {"input_ids": held_out[:1, :1]}
    config = CbqConfig(method="rtn", bits=8, group_size=32)
    expected = quantize(dense(), None, config, evaluation=[held_out]).report
    found = quantize(dense(), None, config, evaluation=[ignored, held_out, single]).report
    for name in ("perplexity_before", "perplexity_after"):
        assert found[name] == pytest.approx(expected[name], rel=1e-6)
    for nothing in ([ignored], [single, ignored]):
        with pytest.raises(
            ValueError, match="^evaluation: none of its tokens is predicted; accepted are texts of two"
        ):
            quantize(dense(), None, config, evaluation=nothing)
