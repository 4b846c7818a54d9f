"""Layers that no token reaches, machines whose order of 4-bit integers is not known, and places and models refused."""

import copy
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import WordLevel
from torch import nn
from transformers import BertConfig, LlamaConfig, PreTrainedTokenizerFast, ViTConfig

from hf_effmodels.compression.command import models
from hf_effmodels.quantization import CbqConfig, load_packed, quantize
from hf_effmodels.quantization.cbq import command, int4, packed_linear, quantization, store
from hf_effmodels.quantization.cbq.blocks import find_blocks
from hf_effmodels.quantization.cbq.capture import _equal
from hf_effmodels.quantization.cbq.packed_linear import PackedLinear
from hf_effmodels.quantization.cbq.preprocessing import largest_inputs, scaled


class Experts(nn.Module):
    """Of two experts all tokens go to the first."""

    def __init__(self, mlp):
        super().__init__()
        self.experts = nn.ModuleList([mlp, copy.deepcopy(mlp)])

    def forward(self, x):
        return self.experts[0](x)


@pytest.fixture
def mixture(dense):
    model = dense(torch.float32)
    for layer in model.model.layers:
        layer.mlp = Experts(layer.mlp)
    return model


def by_hand(weight: torch.Tensor, bits: int, group: int) -> torch.Tensor:
    """Rounded to nearest, symmetrically, in groups of the inputs."""
    groups = weight.float().reshape(len(weight), -1, group)
    step = 2 * groups.abs().amax(-1, keepdim=True) / (2**bits - 1)
    half = 2 ** (bits - 1)
    return ((groups / step).round().clamp(-half, half - 1) * step).reshape(weight.shape)


def test_an_expert_that_no_token_has_reached_is_rounded_to_nearest(mixture, samples):
    before = {name: weight.clone() for name, weight in mixture.state_dict().items()}
    config = CbqConfig(bits=4, group_size=16, method="gptq")
    result = quantize(mixture, [samples], config)
    after = result.model.state_dict()
    for name in ("gate_proj", "up_proj", "down_proj"):
        unreached = f"model.layers.1.mlp.experts.1.{name}.weight"
        torch.testing.assert_close(after[unreached], by_hand(before[unreached], 4, 16))
    reached = "model.layers.1.mlp.experts.0.down_proj.weight"
    assert not torch.allclose(after[reached], by_hand(before[reached], 4, 16)), "by its inputs, not to nearest"


def test_channels_of_an_expert_that_no_token_has_reached_stay(mixture, caplog):
    block, config = mixture.model.layers[0], CbqConfig(group_size=16, lambda1=0.1, lambda2=0.1)
    found = find_blocks(mixture, config)
    inputs = quantization.capture(
        mixture, found, store.BlockStore(found.modules, None), [{"input_ids": torch.arange(12)[None]}]
    )
    states, call = inputs.hidden[0], inputs.calls[0][0]
    layers = found.layers[0]
    largest = largest_inputs(block, layers, [states], [call])
    reached = {name for name in layers if ".experts.1." not in name}
    assert largest.keys() == reached < {*layers}
    state = {name: value.clone() for name, value in block.state_dict().items()}
    with torch.no_grad():
        new, channels = scaled(block, state, layers, largest, states, call, config)
    assert channels and channels.keys() <= reached
    for name, value in new.items():
        # Its own weights, and those of what it reads when a token comes to it one day.
        if ".experts.1." in name or "norm" in name:
            assert torch.equal(value, state[name]), name
    assert "the norms' channels stay: no token of the sample has reached mlp.experts.1." in caplog.text


@pytest.fixture
def order_unknown(monkeypatch):
    """A version of torch that packs 4-bit integers in an order of its own."""
    monkeypatch.setattr(int4, "_LAYOUTS", ())
    int4._layout.cache_clear()
    int4.is_usable.cache_clear()
    yield
    int4._layout.cache_clear()
    int4.is_usable.cache_clear()


def test_where_the_order_of_the_integers_is_not_known_they_are_multiplied_as_packed_words(order_unknown):
    with pytest.raises(NotImplementedError, match="^the order in which this version of torch packs 4-bit integers is"):
        int4.unpack(int4.pack(torch.zeros(16, 32, dtype=torch.int8)))
    assert not int4.is_usable(16, 32, 32)
    torch.manual_seed(0)
    layer = PackedLinear.from_linear(nn.Linear(64, 32).bfloat16(), 4, 32)
    stored = layer.dense(torch.float32)
    layer.prepare()
    assert torch.equal(layer.dense(torch.float32), stored)
    x = torch.randn(2, 64)
    expected = x @ stored.T + layer.bias.float()
    torch.testing.assert_close(layer(x), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("error", [RuntimeError, AttributeError, NotImplementedError])
def test_a_machine_without_the_product_does_not_use_it(monkeypatch, error):
    def product(*_):
        raise error("not here")

    monkeypatch.setattr(int4, "product", product)
    assert int4.is_usable.__wrapped__(16, 32, 32) is False


@pytest.mark.parametrize("rows, inputs, group", [(16, 64, 64), (32, 96, 32), (16, 256, 256), (48, 128, 128)])
def test_a_product_that_is_wrong_is_not_used(monkeypatch, rows, inputs, group):
    assert int4.is_usable.__wrapped__(rows, inputs, group) is True
    real = int4.product
    monkeypatch.setattr(int4, "product", lambda *given: real(*given) + 1)
    assert int4.is_usable.__wrapped__(rows, inputs, group) is False
    monkeypatch.setattr(int4, "product", real)
    monkeypatch.setattr(int4, "unpack", lambda packed: torch.zeros(rows, group, dtype=torch.int8))
    assert int4.is_usable.__wrapped__(rows, inputs, group) is False


def test_groups_of_the_operator_are_those_of_the_weight_or_parts_of_them(monkeypatch):
    asked = []
    monkeypatch.setattr(packed_linear, "is_usable", lambda *given: asked.append(given) or given[2] == 32)
    layer = PackedLinear.from_linear(nn.Linear(256, 32).bfloat16(), 4, 128)
    assert layer._product_group() == 32 and asked == [(32, 256, size) for size in (128, 64, 32)]
    asked.clear()
    assert PackedLinear.from_linear(nn.Linear(256, 32).bfloat16(), 8, 128)._product_group() is None and not asked


@pytest.mark.parametrize("work", ["out", "out/inner", ".", "out/../out"])
def test_the_work_and_the_result_do_not_lie_in_each_other(tmp_path, work):
    with pytest.raises(ValueError, match="^work: .* and OUT lie in each other; accepted is a folder of its own.$"):
        command._check_places(tmp_path / "out", tmp_path / work)
    command._check_places(tmp_path / "out", tmp_path / "out.work")


def test_what_is_wrong_with_a_place_is_said_of_its_argument(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match=f"^out: {tmp_path / 'out'} was not written by this command"):
        command._check_places(tmp_path / "out", tmp_path / "work")
    with pytest.raises(ValueError, match=f"^work: {tmp_path / 'file'} is a file; accepted is a folder"):
        command._check_places(tmp_path / "new", tmp_path / "file")


def _config(config, **fields):
    for name, value in fields.items():
        setattr(config, name, value)
    return config


@pytest.mark.parametrize(
    "config, message",
    [
        (_config(LlamaConfig(), quantization_config={"bits": 4}), "is quantised already.$"),
        (ViTConfig(), "is a vit, accepted are causal language models.$"),
        (_config(ViTConfig(), auto_map={"AutoModel": "own.Net"}), "is a vit, accepted are causal language models.$"),
        (_config(BertConfig(), architectures=["BertForMaskedLM"]), "is a bert for fill-mask, accepted are causal"),
    ],
)
def test_a_model_of_the_hub_is_refused_by_its_configuration(monkeypatch, config, message):
    """Which is not here before it is downloaded."""
    monkeypatch.setattr(models, "load_config", lambda name, argument: config)
    monkeypatch.setattr(models, "load_model", lambda *_: pytest.fail("the weights are read"))
    with pytest.raises(ValueError, match=f"^model: a/b {message}"):
        command._load(SimpleNamespace(model="a/b", device="cpu"))


def test_a_causal_model_of_its_own_code_is_taken_and_goes_to_the_device(monkeypatch):
    own = _config(ViTConfig(), auto_map={"AutoModelForCausalLM": "own.Net"}, architectures=["Net"])
    moved = []
    monkeypatch.setattr(models, "load_config", lambda name, argument: own)
    monkeypatch.setattr(models, "load_model", lambda *_: SimpleNamespace(to=lambda device: moved.append(device) or 1))
    monkeypatch.setattr(models, "check_device", lambda device: moved.append(f"checked {device}"))
    monkeypatch.setattr("hf_effmodels.hub.ids.check_folder_or_id", lambda *_, **__: None, raising=False)
    monkeypatch.setattr("hf_effmodels._places.check_folder_or_id", lambda *_, **__: None)
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda name: f"tokenizer of {name}")
    assert command._load(SimpleNamespace(model="a/b", device="cuda:1")) == (1, "tokenizer of a/b")
    assert moved == ["checked cuda:1", "cuda:1"]


def test_samples_of_one_form_are_regrouped_and_others_stay_as_they_came():
    rows = torch.arange(10).reshape(5, 2)
    one = quantization._regrouped([{"input_ids": rows[:2]}, {"input_ids": rows[2:]}], 3)
    assert [batch["input_ids"].tolist() for batch in one] == [rows[:3].tolist(), rows[3:].tolist()]
    for other in ({"input_ids": rows[2:, :1]}, {"input_ids": rows[2:].int()}, {"other": rows[2:]}):
        batches = [{"input_ids": rows[:2]}, other]
        assert quantization._regrouped(batches, 3) is batches


def test_texts_are_drawn_by_the_seed_and_only_where_they_are_needed(monkeypatch):
    wanted = []

    def segments(rows, tokenizer, arguments, count, name):
        wanted.append((rows, count, name))
        return [{"input_ids": torch.tensor([number, number])} for number in range(20)]

    monkeypatch.setattr(command, "find_texts", lambda arguments: ("train", "held out"))
    monkeypatch.setattr(command, "_segments", segments)
    plain = {"dataset": None, "samples": 3, "eval_samples": 0, "segment_length": 2}
    config = SimpleNamespace(method="rtn", seed=5)
    assert command._texts(SimpleNamespace(**plain), None, config) == (None, None) and not wanted
    arguments = SimpleNamespace(**plain | {"dataset": "a.txt"})
    (batch,), held_out = command._texts(arguments, None, config)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(5))[:3]
    assert batch[:, 0].tolist() == order.tolist() and held_out is None and len(wanted) == 1
    config.method, arguments.eval_samples = "cbq", 2
    _, (held_out,) = command._texts(arguments, None, config)
    assert held_out.tolist() == [[0, 0], [1, 1]]
    assert wanted[-1] == ("held out", 2, "the held-out text")
    arguments.eval_samples = 50  # of fewer all are measured on
    assert len(command._texts(arguments, None, config)[1][0]) == 20
    arguments.samples = 21
    with pytest.raises(
        ValueError, match="^samples: got 21, but the calibration text has only 20 segments of 2 tokens"
    ):
        command._texts(arguments, None, config)


def test_a_corpus_is_read_no_further_than_its_segments_need():
    backend = Tokenizer(WordLevel({"<end>": 0, "a": 1}, unk_token="a"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer, read = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>"), []

    def rows(texts):
        for text in texts:
            read.append(text)
            yield {"text": text}

    # Sixteen characters for each token of one segment more than the five of four tokens: 384 of 100 each, and none.
    arguments = SimpleNamespace(segment_length=4, max_documents=None)
    blocks = command._segments(rows([None] + ["a " * 50] * 9), tokenizer, arguments, 5, "x")
    assert len(read) == 5 and blocks.counts.bytes == 384
    # Of a single large document no more than that is looked at.
    assert command._segments(rows(["a " * 5000]), tokenizer, arguments, 5, "x").counts.bytes == 384
    arguments.max_documents, read[:] = 2, []
    blocks = command._segments(rows(["a b c d e"] * 9), tokenizer, arguments, 5, "x")
    assert len(read) == 2 and blocks.counts.documents == 2
    with pytest.raises(ValueError, match="^--segment-length: got 4, but the text has only 3 tokens"):
        command._segments(rows(["a"]), tokenizer, arguments, 5, "the text")
    with pytest.raises(ValueError, match="^--dataset: the text is empty: 2 documents, none with text"):
        command._segments(rows(["", None, "a b c d e f"]), tokenizer, arguments, 5, "the text")


@pytest.mark.parametrize("number, size", [(0, 64), (1, 32), (2, 64), (3, 32)])
@pytest.mark.parametrize("rows", [64, 96, 48])
def test_each_order_of_the_integers_that_is_known_is_read(number, size, rows):
    """Of AVX-512, of AVX2 and of pairs, each written as it is described; rows that fill no block are pairs."""
    values = torch.randint(0, 16, (rows, 6), generator=torch.Generator().manual_seed(number), dtype=torch.uint8)
    written = []
    for begin in range(0, rows, size):
        block = values[begin : begin + size].tolist()
        for column in range(6):
            of = [row[column] for row in block]
            if len(of) < size or number > 1:
                pairs = [(2 * d, 2 * d + 1) for d in range(len(of) // 2)]
            elif number == 1:
                pairs = [(d, 16 + d) for d in range(16)]
            else:
                pairs = [(d, 32 + d) for d in range(16)] + [(16 + d, 48 + d) for d in range(16)]
                # Sixteen rows at a time: bytes 0 to 15 hold rows 0 to 15 and 32 to 47.
            written += [of[low] | of[high] << 4 for low, high in pairs]
    packed = torch.tensor(written, dtype=torch.uint8).view(rows, 3)
    assert torch.equal(int4._rows(packed, int4._LAYOUTS[number]), values)


@pytest.mark.parametrize("rows, inputs, group", [(24, 64, 32), (32, 64, 48), (32, 96, 64), (8, 32, 32)])
def test_sizes_that_the_product_does_not_take_are_not_given_to_it(rows, inputs, group):
    assert int4.is_usable(rows, inputs, group) is False


def test_only_the_first_block_runs_where_all_blocks_are_given_the_same(dense):
    model, called = dense(torch.float32), []
    blocks = find_blocks(model, CbqConfig(group_size=16))
    for number, block in enumerate(blocks.modules):
        block.register_forward_pre_hook(lambda module, args, number=number: called.append(number))
    same = [{"input_ids": torch.arange(9)[None] + number, "labels": torch.zeros(1, 9)} for number in range(4)]
    held = store.BlockStore(blocks.modules, None)
    found = quantization.capture(model, blocks, held, same)
    assert called == [0, 1, 2, 0, 1, 2, 0, 0]
    assert all(calls is found.calls[0] for calls in found.calls)  # kept once
    called.clear()
    longer = [*same[:3], {"input_ids": torch.arange(12)[None]}, same[3]]
    found = quantization.capture(model, blocks, held, longer)
    assert called == [0, 1, 2] * 2 + [0] + [0, 0, 1, 2] + [0] and len(found.calls[3]) == 3
    called.clear()
    quantization.capture(model, blocks, held, [same[0], longer[3], same[0]])
    assert called == [0, 1, 2] * 3, "two that differ: all are run as a whole"


@pytest.mark.parametrize(
    "one, other, same",
    [
        (torch.ones(2), torch.ones(2), True),
        (torch.ones(2), torch.ones(1), False),
        (torch.ones(2), torch.tensor([1.0, 2.0]), False),
        (torch.ones(1), 1.0, False),
        ((1, "a"), (1, "a"), True),
        ((1, "a"), [1, "a"], False),
        ((1, "a"), (1,), False),
        ({"a": torch.ones(1), "b": None}, {"b": None, "a": torch.ones(1)}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": [torch.ones(1)]}, {"a": [torch.zeros(1)]}, False),
        (None, None, True),
        (True, False, False),
    ],
    ids=range(12),
)
def test_arguments_are_the_same_where_all_in_them_is(one, other, same):
    assert _equal(one, other) is same and _equal(other, one) is same


def test_a_packed_model_is_of_the_place_and_the_precision_asked_for(monkeypatch):
    calls = {}
    config = SimpleNamespace(quantization_config={"quant_method": "cbq", "bits": 3})

    def reader(name, made):
        return SimpleNamespace(from_pretrained=lambda *args, **more: calls.update({name: (args, more)}) or made)

    monkeypatch.setattr("transformers.AutoConfig", reader("config", config))
    monkeypatch.setattr("transformers.AutoModelForCausalLM", reader("model", "the model"))
    where = {"revision": "v2", "token": "t", "trust_remote_code": True, "subfolder": "s", "cache_dir": "c"}
    assert load_packed("org/net", **where, device_map="cpu") == "the model"
    assert calls["config"] == (("org/net",), where)
    expected = {**where, "device_map": "cpu", "dtype": torch.bfloat16, "config": config}
    assert calls.pop("model") == (("org/net",), expected) and config.quantization_config["bits"] == 3
    del calls["config"]
    load_packed("org/net", dtype=torch.float32, config=config)
    assert calls == {"model": (("org/net",), {"dtype": torch.float32, "config": config})}
