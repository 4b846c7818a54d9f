"""What a quantised model takes, what its report, picture and card say, and what no calibration token decides."""

import argparse
import math
import re
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels import cli
from hf_effmodels.quantization import CbqConfig, quantize
from hf_effmodels.quantization.cbq import blocks, command, gptq, learning, quantization, room
from hf_effmodels.quantization.cbq.blocks import find_blocks
from hf_effmodels.quantization.cbq.capture import Call
from hf_effmodels.quantization.cbq.files import card, sizes
from hf_effmodels.quantization.cbq.layer_names import is_named
from hf_effmodels.quantization.cbq.loading import packed_config
from hf_effmodels.quantization.cbq.packed_linear import PackedLinear
from hf_effmodels.quantization.cbq.preprocessing import largest_inputs, scaled
from hf_effmodels.quantization.cbq.report import as_table, picture

# bytes


@pytest.mark.parametrize(
    "bits, group_size, symmetric",
    [(3, None, True), (3, 16, False), (4, 32, True), (8, None, False), (2, 16, True)],
)
def test_the_bytes_that_are_told_are_those_of_the_file(dense, tmp_path, bits, group_size, symmetric):
    """Of its tensors, apart from the shapes that stand beside the packed weights."""
    model = dense()
    before = sum(value.numel() * value.element_size() for value in dict(model.named_parameters()).values())
    config = CbqConfig(bits=bits, group_size=group_size, symmetric=symmetric, method="rtn")
    told = sizes(model, find_blocks(model, config), config)
    result = quantize(model, None, config)
    result.save(tmp_path / "out", "cbq")
    tensors = load_file(tmp_path / "out" / "model.safetensors")
    of = {
        kind: sum(value.nbytes for name, value in tensors.items() if name.endswith(kind))
        for kind in ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape")
    }
    assert told["bytes"] == sum(value.nbytes for value in tensors.values()) - of["weight_shape"]
    assert told["bytes_before"] == before and {**result.report, **told} == result.report
    # Of each of the three blocks: two of 64 × 64, two of 32 × 64, three of 96 × 64.
    assert told["weights"] == 3 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 96 * 64)
    packed = of["weight_packed"] + of["weight_scale"] + of["weight_zero_point"]
    assert told["bits_per_weight"] == pytest.approx(8 * packed / told["weights"], abs=5e-5)


def test_words_that_are_not_full_are_counted_whole():
    """A row of five inputs of 3 bits is 15 bits: one word; eleven are 33 bits: two."""
    block = nn.ModuleDict({"narrow": nn.Linear(5, 7, bias=False), "wide": nn.Linear(11, 2, bias=False)})
    modules = nn.ModuleList([block])
    blocks = SimpleNamespace(modules=modules, layers=[["narrow", "wide"]])
    model = nn.ModuleDict({"layers": modules, "norm": nn.BatchNorm1d(3)})
    model.register_buffer("kept", torch.zeros(2, dtype=torch.int8))
    model.register_buffer("derived", torch.zeros(9), persistent=False)
    # Of floats of four bytes; the norm has two weights and two statistics of three, and a counter of eight bytes.
    rest = 4 * 4 * 3 + 8 + 2
    for symmetric, zeros in ((True, 0), (False, 4 * (1 + 1))):
        told = sizes(model, blocks, CbqConfig(bits=3, group_size=None, symmetric=symmetric))
        packed = 4 * (7 * 1 + 2 * 2) + 4 * (7 + 2) + zeros
        assert told == {
            "weights": 35 + 22,
            "bits_per_weight": round(8 * packed / 57, 4),
            "bytes_before": 4 * 57 + rest,
            "bytes": packed + rest,
        }


def test_the_disk_of_a_folder_that_is_not_there_is_that_of_its_nearest_parent(tmp_path, monkeypatch):
    monkeypatch.setattr(room.shutil, "disk_usage", lambda place: SimpleNamespace(free=10 if place == tmp_path else 0))
    room.check_room({"out": (tmp_path / "not" / "there", 10)})
    with pytest.raises(OSError, match=r"^out: the disk of .* has room for 0\.000 GB"):
        room.check_room({"out": (tmp_path / "not" / "there", 11)})


# reports

REPORT = {
    "method": "gptq",
    "bits": 4,
    "group_size": 32,
    "activation_bits": None,
    "bits_per_weight": 4.5,
    "bytes_before": 2000,
    "bytes": 1500,
    "perplexity_before": 8.125,
    "perplexity_after": 9.25,
    "seconds": 1.5,
    "blocks": [
        {"block": 0, "output": 0.125, "layers": {"a": 0.1, "b": 0.4, "c": 0.3, "d": 0.2}},
        {"block": 1, "output": 0.25, "layers": {"a": 0.5}},
    ],
}


def test_a_table_has_a_line_for_each_number_and_the_three_worst_layers_of_each_block():
    lines = as_table(REPORT).splitlines()
    assert lines == [
        "method            gptq",
        "bits              4",
        "group_size        32",
        "bits_per_weight   4.5",
        "bytes_before      2000",
        "bytes             1500",
        "perplexity_before 8.125",
        "perplexity_after  9.25",
        "seconds           1.5",
        "",
        "block  output  layers (errors as shares)",
        "    0  0.1250  b 0.400, c 0.300, d 0.200",
        "    1  0.2500  a 0.500",
    ]
    bare = {**REPORT, "blocks": [{"block": 10, "layers": {"a": 0.1}}], "folder": "out"}
    assert as_table(bare).splitlines()[-1] == "   10          a 0.100"
    assert "folder            out" in as_table(bare)


@pytest.mark.draws
@pytest.mark.parametrize("with_outputs", [True, False])
def test_a_picture_has_a_line_for_each_layer_and_one_for_the_blocks_outputs(tmp_path, monkeypatch, with_outputs):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: drawn.append((self, file)))
    rows = [row if with_outputs else {k: v for k, v in row.items() if k != "output"} for row in REPORT["blocks"]]
    assert picture({**REPORT, "blocks": rows}, tmp_path / "x.png") is True
    ((figure, file),) = drawn
    (axes,) = figure.axes
    lines = {line.get_label(): [list(line.get_xdata()), list(line.get_ydata())] for line in axes.lines}
    expected = {"a": [[0, 1], [0.1, 0.5]], "b": [[0], [0.4]], "c": [[0], [0.3]], "d": [[0], [0.2]]}
    if with_outputs:
        expected["output of the block"] = [[0, 1], [0.125, 0.25]]
    assert lines == expected and [*lines] == [*expected] and file == tmp_path / "x.png"
    assert axes.get_ylim()[0] == 0 and axes.get_legend() is not None
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("block", "relative error")
    assert axes.get_title() == "gptq W4A16 g32: perplexity 8.12 → 9.25"


@pytest.mark.draws
def test_a_picture_is_called_by_what_was_quantised(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    titles = []
    monkeypatch.setattr(Figure, "savefig", lambda self, file, **options: titles.append(self.axes[0].get_title()))
    picture({**REPORT, "activation_bits": 8, "group_size": None, "perplexity_after": None}, tmp_path / "x.png")
    assert titles == ["gptq W4A8"]


def told(name="org/net", module="transformers.models.llama", license=None, tokenizer="one", **changes):
    kind = type("Net", (LlamaForCausalLM,), {"__module__": module})
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=10, max_position_embeddings=16, name_or_path=name, **sizes)
    return card({"format": "gptq", **REPORT, **changes}, kind(config), tokenizer, license)


def test_a_card_says_how_the_model_was_quantised_and_what_it_takes():
    made = told(license="mit")
    assert (made.data.base_model, made.data.license, made.data.tags) == ("org/net", "mit", ["gptq"])
    assert made.data.pipeline_tag == "text-generation" and made.data.library_name == "transformers"
    text = made.text
    assert text.strip().startswith("# net in 4 bits\n")
    for row in (
        "| method | GPTQ |",
        "| weights | 4 bits, a step for 32 weights |",
        "| bytes | 1,500, before 2,000 |",
        # Two tables of 10 x 8, seven matrices of 8 x 8 and three norms of 8.
        "| Parameters | 0.001 M |",
        "| Type | Net (llama) |",
        "| Longest sequence | 16 tokens |",
        "| perplexity before, on the held-out text | 8.125 |",
    ):
        assert row in text, row
    assert "| perplexity, held-out text | not published | 9.25 (hf-effmodels quantize) |" in text
    text = told(group_size=None, activation_bits=8, perplexity_after=None, method="rtn").text
    assert "| method | rounding to nearest |" in text
    assert "| weights | 4 bits, a step for each row, inputs of 8 bits |" in text
    assert "perplexity" not in text
    assert "CBQ (https://arxiv.org/abs/2312.07950)" in told(method="cbq").text


def test_a_card_of_a_model_from_a_folder_names_it_without_its_place():
    for name, title in (("/home/me/small", "small"), ("", "Net")):
        made = told(name)
        assert made.data.base_model is None and made.text.strip().startswith(f"# {title} in 4 bits\n")
        assert "/home" not in str(made)


@pytest.mark.parametrize(
    "format, module, registers",
    [
        ("gptq", "transformers.models.llama", None),
        ("cbq", "transformers.models.llama", "the format"),
        ("gptq", "hf_effmodels.modeling.pangu_pi", "the model"),
        ("cbq", "hf_effmodels.modeling.pangu_pi", "the format and the model"),
        ("gptq", "hf_effmodels_of_others", None),
    ],
)
def test_a_snippet_imports_this_package_where_it_is_needed(format, module, registers):
    text = told(module=module, format=format).text
    found = re.findall(r"^import hf_effmodels  # registers (.*)$", text, re.MULTILINE)
    assert found == ([] if registers is None else [registers])
    assert 'model_id = "."' in text and 'pipeline("text-generation", model=model_id)' in text
    assert "AutoModelForCausalLM" not in text
    assert "AutoModelForCausalLM.from_pretrained(model_id)" in told(module=module, format=format, tokenizer=None).text
    other = {"gptq": "pip install gptqmodel optimum", "cbq": "pip install"}[format]
    assert (other in text) == (format != "cbq")


def test_blocks_are_those_of_the_decoder_however_large_a_list_beside_it_is(dense):
    model = dense()
    model.tower = nn.ModuleList(nn.Sequential(nn.Linear(256, 256)) for _ in range(4))
    found = find_blocks(model, CbqConfig(group_size=32))
    assert found.name == "model.layers" and len(found.modules) == 3
    assert find_blocks(model, CbqConfig(group_size=32, blocks="tower")).layers == [["0"]] * 4


def test_blocks_are_the_largest_outermost_list_of_one_kind_that_has_matrices():
    def layers(count, width, kind=nn.Linear):
        return nn.ModuleList(kind(width, width) for _ in range(count))

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = layers(9, 8)

    class Decoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.small = layers(2, 8)
            self.mixed = nn.ModuleList([nn.Linear(40, 40), nn.Sequential(layers(3, 60))])
            self.norms = nn.ModuleList(nn.LayerNorm(9000) for _ in range(2))
            self.empty = nn.ModuleList()
            self.blocks = nn.ModuleList(Block() for _ in range(2))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.decoder = Decoder()

        def get_decoder(self):
            return self.decoder

    model = Model()
    name, found = blocks._block_list(model, None)
    assert name == "decoder.blocks" and found is model.decoder.blocks
    model.decoder.small = layers(3, 30)  # more weights than the blocks have
    assert blocks._block_list(model, None)[0] == "decoder.small"
    assert blocks._block_list(model, "decoder.mixed")[1] is model.decoder.mixed
    with pytest.raises(ValueError, match="^blocks: got 'decoder.empty', the model's lists are decoder.small, "):
        blocks._block_list(model, "decoder.empty")


# samples


def test_samples_of_one_form_are_cut_anew_and_others_stay_as_they_are():
    ids = torch.arange(35).reshape(5, 7)
    batches = [{"input_ids": ids[:3]}, {"input_ids": ids[3:]}]
    again = quantization._regrouped(batches, 2)
    assert [batch["input_ids"].tolist() for batch in again] == [ids[:2].tolist(), ids[2:4].tolist(), ids[4:].tolist()]
    (all_of_them,) = quantization._regrouped(batches, 5)
    assert torch.equal(all_of_them["input_ids"], ids)
    for other in ({"input_ids": ids[3:, :4]}, {"input_ids": ids[3:].int()}, {"ids": ids[3:]}):
        uneven = [batches[0], other]
        assert quantization._regrouped(uneven, 2) is uneven


def test_tokens_are_those_that_the_embeddings_have():
    def model(rows):
        embeddings = nn.Embedding(rows, 2) if rows else nn.Identity()
        return SimpleNamespace(get_input_embeddings=lambda: embeddings)

    batches = [{"input_ids": torch.tensor([[1, 6]])}, {"inputs_embeds": torch.ones(1, 2)}]
    for name in ("calibration", "evaluation"):
        quantization._check_tokens(model(7), batches, name)
        quantization._check_tokens(model(None), batches, name)
        quantization._check_tokens(model(6), (), name)
        with pytest.raises(ValueError, match=f"^{name}: got token 6, but the model's embeddings have 6 rows"):
            quantization._check_tokens(model(6), batches, name)


def test_work_is_of_its_samples_and_of_its_model():
    ids = torch.arange(6).reshape(2, 3)
    digest = quantization._digest
    same = digest([{"a": ids, "b": ids + 1}])
    assert same == digest([{"b": ids + 1, "a": ids.clone()}]) != digest([{"a": ids + 1, "b": ids}])
    assert len({same, digest([{"a": ids}]), digest([]), digest([{"c": ids}])}) == 4 and digest(None) == digest([])
    layer = nn.Linear(8, 32)
    model_digest = quantization._model_digest
    first = model_digest(layer, None)
    assert model_digest(layer.bfloat16(), None) != first
    layer = nn.Linear(8, 32)
    first = model_digest(layer, None)
    with torch.no_grad():
        layer.bias[-1] += 1
    assert model_digest(layer, None) != first


def test_samples_may_be_embeddings_also_where_the_work_is_kept(dense, samples, tmp_path, monkeypatch):
    model, asked = dense(), []
    monkeypatch.setattr(quantization, "check_room", lambda wanted, kept: asked.append((wanted, kept)))
    embeddings = model.get_input_embeddings()(samples).detach()
    config = CbqConfig(bits=4, group_size=32, method="gptq")
    expected = quantize(dense(), [samples], config).model.state_dict()
    given = {"inputs_embeds": embeddings, "labels": samples}
    room_for = room.bytes_of_work(model, samples.numel(), False)
    found = quantize(model, [given], config, work=tmp_path / "work", evaluation=[given])
    assert all(torch.equal(found.model.state_dict()[name], value) for name, value in expected.items())
    assert asked == [({"work": (tmp_path / "work", room_for)}, tmp_path / "work")]
    with pytest.raises(ValueError, match="^calibration: got a batch of inputs_embeds, accepted are those with labels"):
        quantize(dense(), [{"inputs_embeds": embeddings}], config)


def test_relative_errors_are_shares_of_what_was_there():
    ones = torch.ones(4)
    assert quantization._relative(1.5 * ones, ones) == pytest.approx(0.5)
    assert quantization._relative(ones, 2 * ones) == pytest.approx(0.5)
    assert quantization._relative(0 * ones, 0 * ones) == 0


@pytest.mark.parametrize(
    "scale, wrong", [(1e-9, False), (0.0, True), (-1.0, True), (float("nan"), True), (float("inf"), True)]
)
def test_every_step_is_a_number_above_zero(scale, wrong):
    layer = SimpleNamespace(grid=SimpleNamespace(scale=torch.tensor([[1.0, scale]])))
    if not wrong:
        quantization._check_grid(layer, "x")
        return
    with pytest.raises(ValueError, match="^x: it has steps that are zero or not finite"):
        quantization._check_grid(layer, "x")


# GPTQ


def plainly(weight, hessian, bits, size, damping):
    """The definition, a column at a time: the rest of the row makes up for each column's error. With zero points:
    the ends of a symmetric grid lie half-way between two integers."""
    weight, hessian = weight.clone(), hessian.clone()
    hessian += torch.diag(torch.full((len(hessian),), damping * hessian.diagonal().mean().item(), dtype=weight.dtype))
    upper = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    values, half = torch.zeros_like(weight), 2 ** (bits - 1)
    for column in range(weight.shape[1]):
        if column % size == 0:
            group = weight[:, column : column + size]
            low, high = group.amin(1).clamp(max=0), group.amax(1).clamp(min=0)
            step = (high - low) / (2**bits - 1)
            zero = (-half - low / step).round()
        integers = ((weight[:, column] / step).round() + zero).clamp(-half, half - 1)
        values[:, column] = (integers - zero) * step
        error = (weight[:, column] - values[:, column]) / upper[column, column]
        weight[:, column + 1 :] -= error[:, None] * upper[column, column + 1 :]
    return values


@pytest.mark.parametrize("block", [16, 24, 128])
@pytest.mark.parametrize("damping", [0.01, 0.5])
def test_errors_go_on_to_all_columns_after_whatever_is_worked_on_at_once(monkeypatch, block, damping):
    monkeypatch.setattr(gptq, "_BLOCK", block)
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(6, 48, generator=generator, dtype=torch.float64)
    inputs = torch.randn(96, 48, generator=generator, dtype=torch.float64)
    inputs = inputs @ torch.randn(48, 48, generator=generator, dtype=torch.float64)
    hessian = inputs.T @ inputs / 96
    given = weight.clone(), hessian.clone()
    integers, grid = gptq.gptq(weight, hessian, 3, 8, symmetric=False, damping=damping)
    assert torch.equal(weight, given[0]) and torch.equal(hessian, given[1]), "what was given stays"
    values = (integers.reshape(6, 6, 8) - grid.zero_point[:, :, None]) * grid.scale[:, :, None]
    torch.testing.assert_close(values.reshape(6, 48), plainly(weight, hessian, 3, 8, damping))


def test_columns_that_nothing_is_read_from_are_zero():
    weight = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    hessian = torch.eye(16)
    hessian[[2, 9], [2, 9]] = 0
    integers, grid = gptq.gptq(weight, hessian, 4)
    assert grid.scale.shape == (4, 1) and grid.scale.isfinite().all()
    assert (integers[:, [2, 9]] == 0).all() and (integers[:, 3] != 0).any()


# channels


class Summed(nn.Module):
    """A norm, and a layer that reads it; what the norm gives goes on beside it or does not."""

    def __init__(self, beside: bool):
        super().__init__()
        self.norm, self.proj, self.beside = nn.LayerNorm(8), nn.Linear(8, 8), beside
        with torch.no_grad():
            self.norm.weight[3], self.norm.bias[3] = 40.0, 1.0

    def forward(self, x):
        hidden = self.norm(x)
        return self.proj(hidden) + hidden if self.beside else self.proj(hidden)


@torch.no_grad()
@pytest.mark.parametrize("beside", [False, True])
def test_channels_are_scaled_where_the_blocks_output_stays(beside, caplog):
    torch.manual_seed(0)
    block, states, call = Summed(beside), torch.randn(1, 32, 8), Call((), {})
    state = {name: value.clone() for name, value in block.state_dict().items()}
    largest = largest_inputs(block, ["proj"], [states], [call])
    new, channels = scaled(block, state, ["proj"], largest, states, call, CbqConfig())
    if beside:
        assert channels == {} and all(torch.equal(new[name], value) for name, value in state.items())
        assert caplog.messages == ["norm: its channels cannot be scaled without changing the block; they stay."]
        return
    assert channels == {"proj": 1} and not caplog.messages
    factor = state["norm.weight"][3] / new["norm.weight"][3]
    assert factor > 1.5
    torch.testing.assert_close(new["norm.bias"][3] * factor, state["norm.bias"][3])
    torch.testing.assert_close(new["proj.weight"][:, 3], state["proj.weight"][:, 3] * factor)
    kept = [0, 1, 2, 4, 5, 6, 7]
    assert torch.equal(new["proj.weight"][:, kept], state["proj.weight"][:, kept])
    assert torch.equal(new["proj.bias"], state["proj.bias"])
    assert torch.equal(block.norm.weight, state["norm.weight"]), "the block's own weights are not changed"
    assert not block.norm._forward_hooks and not block.proj._forward_pre_hooks


@torch.no_grad()
def test_the_largest_of_a_channel_is_that_of_all_batches():
    block, call = nn.Sequential(nn.Linear(2, 2)), Call((), {})
    batches = [torch.tensor([[[1.0, -5.0], [2.0, 0.0]]]), torch.tensor([[[-3.0, 4.0]]])]
    assert largest_inputs(block, ["0"], batches, [call, call])["0"].tolist() == [3.0, 5.0]
    assert not block[0]._forward_pre_hooks


# names, options


@pytest.mark.parametrize(
    "pattern, named",
    [
        ("model.layers.1.mlp.up_proj", True),
        ("up_proj", True),
        ("mlp.up_proj", True),
        ("layers.1", True),
        ("model", True),
        ("re:.*up_proj", True),
        ("re:model.layers.[01].mlp", True),
        ("proj", False),
        ("layers.10", False),
        ("lp.up_proj", False),
        ("re:layers", False),
        ("p_proj", False),
    ],
)
def test_a_layer_is_named_whole_by_its_end_by_what_it_is_in_or_by_an_expression(pattern, named):
    assert is_named("model.layers.1.mlp.up_proj", pattern) is named


@pytest.mark.parametrize(
    "option, wrong",
    [
        ("--method", "awq"),
        ("--target", "all"),
        ("--rounding", "none"),
        ("--rounding-init", "one"),
    ],
)
def test_a_choice_that_there_is_not_is_refused_with_those_that_there_are(option, wrong, capsys):
    assert cli.main(["quantize", "model", "out", option, wrong]) == 2
    assert f"error: {option}: got '{wrong}', accepted are " in capsys.readouterr().err


@pytest.mark.parametrize(
    "text, value", [("none", None), ("None", None), ("NONE", None), ("7", 7), ("x", "got x, accepted are whole n")]
)
def test_none_is_a_value_of_options_that_may_have_none(text, value):
    read = command.or_none(int)
    if isinstance(value, str):
        with pytest.raises(argparse.ArgumentTypeError, match=f"^{value}umbers and none$"):
            read(text)
    else:
        assert read(text) == value


# what is loaded


def stored(**changes) -> SimpleNamespace:
    weights = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": False}
    group = {"targets": ["Linear"], "weights": weights | changes.pop("weights", {}), "input_activations": None}
    group |= changes.pop("group", {})
    stored = {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {"group_0": group}}
    return SimpleNamespace(quantization_config={**stored, "ignore": ["lm_head"], **changes})


TOKENS = {"num_bits": 8, "strategy": "token", "dynamic": True}


def test_what_a_checkpoint_of_others_says_is_read():
    found = packed_config(stored())
    assert (found.bits, found.group_size, found.symmetric, found.activation_bits) == (4, 32, False, None)
    assert found.modules_to_not_convert == ["lm_head"] and packed_config(stored(ignore=None)).bits == 4
    found = packed_config(stored(weights={"strategy": "channel", "num_bits": 8}, group={"input_activations": TOKENS}))
    assert (found.bits, found.group_size, found.activation_bits) == (8, None, 8)
    found = stored(weights={"actorder": "static"})
    del found.quantization_config["config_groups"]["group_0"]["weights"]["symmetric"]
    del found.quantization_config["config_groups"]["group_0"]["weights"]["type"]
    assert packed_config(found).symmetric is True
    inner = SimpleNamespace(get_text_config=lambda: stored())
    assert packed_config(inner).group_size == 32


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weights": {"num_bits": 3}}, r"weights of 3 bits \(int\); accepted are 2, 4, 8"),
        ({"weights": {"strategy": "tensor"}}, "steps by tensor, order None; accepted are by group or channel"),
        ({"group": {"input_activations": TOKENS | {"dynamic": False}}}, "quantises activations another way"),
        ({"group": {"input_activations": TOKENS | {"symmetric": False}}}, "quantises activations another way"),
        ({"group": {"input_activations": TOKENS | {"strategy": "tensor"}}}, "quantises activations another way"),
        ({"quant_method": "awq"}, "is of the format awq pack-quantized; accepted are compressed-tensors"),
        ({"format": None}, "is of the format compressed-tensors ; accepted"),
        ({"group": {"targets": ["Linear", "Conv2d"]}}, "has 1 groups of layers; accepted is one, for all"),
    ],
)
def test_what_packed_layers_cannot_be_is_named_with_the_checkpoint(changes, message):
    with pytest.raises(ValueError, match=f"^org/net .*{message}"):
        packed_config(stored(**changes), "org/net")


# packed layers


@pytest.mark.parametrize("rows, dense", [(63, False), (64, True)])
def test_many_rows_are_multiplied_densely(rows, dense, monkeypatch):
    torch.manual_seed(0)
    layer = PackedLinear.from_linear(nn.Linear(64, 32).bfloat16(), 4, 32)
    layer.prepare()
    assert layer.is_prepared
    calls = []
    monkeypatch.setattr(layer, "dense", lambda dtype: calls.append(dtype) or torch.zeros(32, 64, dtype=dtype))
    with torch.no_grad():
        assert layer(torch.ones(rows, 64)).shape == (rows, 32)
    assert calls == ([torch.bfloat16] if dense else [])


def test_a_layer_tells_its_sizes_and_how_it_is_multiplied():
    layer = PackedLinear.from_linear(nn.Linear(64, 32).bfloat16(), 4, 32)
    said = "in_features=64, out_features=32, bits=4, group_size=32, symmetric=True"
    assert layer.extra_repr() == f"{said}, unpacked in every call"
    layer.prepare()
    assert layer.extra_repr() == f"{said}, int4 product"
    assert layer.precision() == "weights 4 bits, inputs real"
    layer.activation_bits = 8
    assert layer.precision() == "weights 4 bits, inputs 8 bits"


def test_a_layer_is_made_in_the_precision_asked_for_with_places_for_what_is_loaded():
    layer = PackedLinear(40, 24, 3, 20, symmetric=False, bias=True, dtype=torch.float16)
    found = {name: (value.dtype, tuple(value.shape)) for name, value in layer.state_dict().items()}
    assert found == {
        "bias": (torch.float16, (24,)),
        "weight_packed": (torch.int32, (24, 4)),  # 120 bits a row
        "weight_scale": (torch.float16, (24, 2)),
        "weight_shape": (torch.int64, (2,)),
        "weight_zero_point": (torch.int32, (3, 2)),  # 72 bits a group
    }
    assert not layer.bias.requires_grad and PackedLinear(8, 8, 4, None).bias is None
    whole = PackedLinear(40, 24, 2, None, device="meta")
    assert whole.weight_scale.shape == (24, 1) and all(value.is_meta for value in whole.state_dict().values())
    assert "weight_zero_point" not in whole.state_dict()


@pytest.mark.parametrize("symmetric", [True, False])
def test_a_dense_layer_is_packed_and_comes_back_with_its_bias(symmetric):
    torch.manual_seed(0)
    linear = nn.Linear(32, 16).bfloat16()
    layer = PackedLinear.from_linear(linear, 8, 16, symmetric)
    assert (layer.bits, layer.group_size, layer.symmetric) == (8, 16, symmetric)
    assert torch.equal(layer.bias, linear.bias) and layer.weight_shape.tolist() == [16, 32]
    back = layer.to_linear()
    assert back.weight.dtype == torch.bfloat16 and torch.equal(back.bias, linear.bias)
    torch.testing.assert_close(back.weight, linear.weight, atol=2e-3, rtol=2e-2)
    double = layer.to_linear(torch.float64)
    assert double.weight.dtype == double.bias.dtype == torch.float64
    assert PackedLinear.from_linear(nn.Linear(8, 8, bias=False), 4, None).to_linear().bias is None


# what is measured and in which order


def test_perplexity_weighs_every_predicted_token_the_same():
    """Of three tokens two are predicted; of five one fewer than four, since one has no label."""
    losses = {3: 1.0, 5: 3.0}

    class Model:
        device = torch.device("cpu")

        def __call__(self, labels, use_cache):
            assert use_cache is False
            return SimpleNamespace(loss=torch.tensor(losses[labels.shape[1]]))

    batches = [{"labels": torch.ones(1, 3, dtype=torch.long)}, {"labels": torch.ones(1, 5, dtype=torch.long)}]
    batches[1]["labels"][0, 2] = -100
    batches[1]["labels"][0, 0] = 7  # the first is never predicted
    assert quantization._perplexity(Model(), batches) == pytest.approx(math.exp((2 * 1.0 + 3 * 3.0) / 5))


class Attention(nn.Module):
    """Reads its input twice, what it made of it once, and has a layer that it does not call."""

    def __init__(self):
        super().__init__()
        for name in ("out", "second", "unused", "first"):
            self.add_module(name, nn.Linear(3, 3))

    def forward(self, states, scale=1.0):
        return self.out(self.first(states) * scale + self.second(states))


def test_layers_that_read_the_same_are_together_in_the_order_in_which_they_are_called():
    module, states = Attention(), torch.randn(2, 3)
    names = ["unused", "out", "second", "first"]
    found = quantization._reading_the_same(module, names, states, Call((), {"scale": 2.0}))
    assert found == [["first", "second"], ["out"], ["unused"]]
    assert not any(layer._forward_pre_hooks for layer in module.children())
    # What quantises the inputs makes a tensor for each layer, and changes nothing of it.
    with learning.quantized_inputs([learning.LearnedBlock(module, {}, dict.fromkeys(names))], 4):
        assert quantization._reading_the_same(module, names, states, Call((), {})) == found


def test_inputs_are_quantised_within_and_nowhere_else():
    layer, x = nn.Linear(3, 2), torch.tensor([[1.0, -0.3, 0.1]])
    block = learning.LearnedBlock(nn.ModuleDict({"a": layer, "b": nn.Linear(3, 2)}), {}, {"a": None})
    step = 2 / 15
    rounded = (x / step).round().clamp(-8, 7) * step
    with learning.quantized_inputs([block], 4):
        torch.testing.assert_close(layer(x), nn.functional.linear(rounded, layer.weight, layer.bias))
        other = block.module["b"]
        assert torch.equal(other(x), nn.functional.linear(x, other.weight, other.bias))
    with learning.quantized_inputs([block], None):
        assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight, layer.bias))


def test_the_hessian_of_a_layer_is_the_mean_over_all_tokens_that_it_reads(dense):
    x = [torch.randn(2, 4, 3), torch.randn(1, 5, 3)]
    run = SimpleNamespace(quantised=x)
    module = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    module.forward = lambda states: module["a"](states)
    block = learning.LearnedBlock(module, {}, {})
    calls = [Call((), {}), Call((), {})]
    found = quantization._Run._hessian(run, block, {}, "a", calls)
    tokens = torch.cat([each.flatten(0, -2) for each in x])
    torch.testing.assert_close(found, tokens.T @ tokens / 13)
    assert quantization._Run._hessian(run, block, {}, "b", calls) is None and not module["a"]._forward_pre_hooks
