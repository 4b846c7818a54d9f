"""An exported language model reads, goes on and is asked as the model is."""

import io
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    pipeline,
)

import hf_effmodels
from hf_effmodels import edge_language, edge_text
from hf_effmodels.benchmarking.peers import PEERS
from hf_effmodels.benchmarking.workloads import make_call
from hf_effmodels.cli import main
from hf_effmodels.edge_language import export_language_model, load_language_model
from hf_effmodels.training.data.text.tokenization import train_tokenizer

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
TEXTS = ["The cat sat on the mat and the dog on the log.", "the dog"]


def of_transformers(vocabulary: int) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        **SIZES, num_key_value_heads=2, vocab_size=vocabulary, initializer_range=0.3, pad_token_id=0, eos_token_id=1
    )
    return LlamaForCausalLM(config).eval()


def generated(model, **inputs) -> list:
    return model.generate(**inputs, max_new_tokens=9, do_sample=False, pad_token_id=0).tolist()


def test_a_program_goes_on_as_the_model_does_alone_in_batches_and_in_the_pipeline(tmp_path, capsys):
    tokenizer = train_tokenizer(TEXTS, 300, at_most=True)
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.pad_token or tokenizer.eos_token, "left"
    model = of_transformers(len(tokenizer))
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "edge"), "--format", "onnx", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["text"] == "Python's help" and report["tokens"] == 16 * 127 and report["warnings"] == []
    assert report["agreement"] == report["continued"] == 1
    readme = (tmp_path / "edge" / "README.md").read_text()
    assert f"On 2032 tokens of Python's help its perplexity is {report['perplexity']:.4g}" in readme
    assert not (tmp_path / "edge" / "model.onnx.data").stat().st_size, "a program is one file"
    program = load_language_model(tmp_path / "edge")
    assert program._can_keep  # of a long prompt it computes the last token's logits alone
    inputs = tokenizer(TEXTS, padding=True, return_tensors="pt", return_token_type_ids=False)
    assert not inputs.attention_mask.all(), "one of them is filled up"
    expected = generated(model, **inputs)
    assert generated(program, **inputs) == expected and len({tuple(row[-9:]) for row in expected}) == 2
    assert generated(program, **inputs, num_beams=3) == generated(model, **inputs, num_beams=3)
    said = pipeline("text-generation", model=program, tokenizer=AutoTokenizer.from_pretrained(tmp_path / "edge"))
    [answer] = said(TEXTS[1], max_new_tokens=5, do_sample=False, return_full_text=False)
    told = []
    for folder in ("model", "edge"):
        assert main(["predict", str(tmp_path / folder), TEXTS[1], "--max-new-tokens", "5", "--json"]) == 0
        told.append(json.loads(capsys.readouterr().out)["text"])
    assert told == [answer["generated_text"]] * 2


def test_what_a_program_says_of_a_text_is_counted_token_by_token():
    """A model of two rows that is sure of tokens in turn, and a program that is less sure and sometimes of others."""
    text = edge_text.Text("the text", [torch.tensor([[0, 1, 2, 0, 1]]), torch.tensor([[2, 0, 1]])])
    wrong = {(5, 1), (3, 0)}  # (length of the row, place)

    def saying(sure: float, wrong=frozenset()):
        def call(input_ids, attention_mask):
            assert attention_mask.all() and attention_mask.shape == input_ids.shape
            logits = torch.zeros(*input_ids.shape, 3)
            for place, token in enumerate(input_ids[0].tolist()):
                said = (token + 1 + ((input_ids.shape[1], place) in wrong)) % 3
                logits[0, place, said] = sure
            return SimpleNamespace(logits=logits)

        return call

    class Speaker:
        def __init__(self, call, steps):
            self.call, self.steps = call, steps

        def __call__(self, **inputs):
            return self.call(**inputs)

        def generate(self, input_ids, max_new_tokens, **_):
            said = (input_ids[0, -1] + torch.tensor(self.steps[:max_new_tokens])) % 3
            return torch.cat([input_ids, said[None]], dim=1)

    found = edge_text.compare(Speaker(saying(2.0), [1, 2, 3]), Speaker(saying(1.0, wrong), [1, 2, 4]), text)
    assert found.tokens == 6 and found.agreement == 4 / 6

    def lost(sure: float, right: bool) -> float:
        return math.log(math.exp(sure) + 2) - sure * right

    assert found.perplexity_in_pytorch == pytest.approx(math.exp(lost(2.0, True)), rel=1e-6)
    assert found.perplexity == pytest.approx(math.exp((4 * lost(1.0, True) + 2 * lost(1.0, False)) / 6), rel=1e-6)
    # The rows go on from two and from one, with three tokens and with two; what follows another token counts no more.
    for ours, theirs, share in (
        ([1, 2, 3], [1, 2, 4], (2 / 3 + 1) / 2),
        ([1, 2, 3], [1, 2, 3], 1),
        ([2, 2, 3], [1, 2, 3], 0),
        ([1, 1, 3], [1, 2, 3], (1 / 3 + 1 / 2) / 2),
    ):
        found = edge_text.compare(Speaker(saying(2.0), ours), Speaker(saying(1.0), theirs), text)
        assert found.continued == pytest.approx(share)


def test_a_text_is_read_in_rows_and_one_that_is_too_short_refused():
    def tokenizer(text, verbose):
        return {"input_ids": [ord(letter) for letter in text]}

    text = edge_text.read_text(["ab" * 40, "", "c" * 30], tokenizer, 32)
    assert [row.shape for row in text.rows] == [(1, 32)] * 3 + [(1, 14)]
    assert torch.cat(text.rows, dim=1)[0].tolist() == [97, 98] * 40 + [99] * 30

    def endless():
        for _ in range(6):
            yield "x" * 100
        pytest.fail("more is read than there is room for")

    assert torch.cat(edge_text.read_text(endless(), tokenizer, 32).rows, dim=1).shape == (1, 16 * 32)
    whole = edge_text.read_text(None, tokenizer, None)
    assert whole.name == "Python's help" and len(whole.rows) == 16 and whole.rows[0].shape == (1, 128)
    with pytest.raises(ValueError, match="calibration: the text has 4 tokens, accepted are 64 or more"):
        edge_text.read_text(["abcd"], tokenizer, None)
    with pytest.raises(ValueError, match="tokenizer: got None"):
        edge_text.read_text(["abcd"], None, None)


def test_a_text_that_needs_options_is_told_without_options_that_an_export_does_not_have(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "train.jsonl").write_text('{"a": "x", "b": "y"}\n')
    with pytest.raises(
        ValueError, match=r"^calibration: '.*train.jsonl' needs more than its name \(text_column: it could"
    ):
        edge_text.read_text(str(tmp_path / "train.jsonl"), lambda text, verbose: {"input_ids": []}, None)
    with pytest.raises(
        ValueError, match="^calibration: name a data set on the Hub, a file, a folder, or pydoc_topics"
    ):
        edge_text.read_text("", lambda text, verbose: {"input_ids": []}, None)


def test_what_cannot_be_exported_is_said_and_leaves_nothing(tmp_path, capsys):
    mamba = MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=1, vocab_size=99, state_size=4))
    with pytest.raises(ValueError, match="MambaForCausalLM cannot be exported: its layers keep .*; accepted are"):
        export_language_model(mamba, tmp_path / "edge")
    with pytest.raises(ValueError, match="format: got 'executorch', accepted of language models are 'onnx', 'openv"):
        export_language_model(mamba, tmp_path / "edge", "executorch")
    with pytest.raises(ValueError, match="source: got Linear, accepted are causal language models"):
        export_language_model(torch.nn.Linear(1, 1), tmp_path / "edge")
    with pytest.raises(ValueError, match="tokenizer: got None, but what is read of a text are its tokens"):
        export_language_model(of_transformers(99), tmp_path / "edge", precision="int8")
    of_transformers(99).save_pretrained(tmp_path / "model")
    model, onnx = str(tmp_path / "model"), ["--format", "onnx"]
    for argv, message in (
        (["pangu-pi-15m", *onnx], "MODEL: the weights of pangu-pi-15m are random"),
        ([model, *onnx, "--image-size", "32"], "--image-size: got 32, but language models take no images"),
        ([model, *onnx, "--nms"], "--nms: got True, which language models are not exported with"),
        ([model, *onnx, "--min-agreement", "2"], "--min-agreement: got 2, accepted are numbers from 0 to 1"),
        (
            [model, "--format", "openvino", "--precision", "int4"],
            "--precision: got 'int4', accepted with --format openvino are float32, float16",
        ),
    ):
        assert main(["export", argv[0], str(tmp_path / "edge"), *argv[1:]]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "edge").exists()


def test_what_layers_keep_that_no_program_has_is_told_by_the_alphabet(monkeypatch):
    names = ("Echo", "Alpha", "Golf", "Delta", "Bravo", "Foxtrot", "Charlie")
    layers = [type(name, (), {})() for name in names] + [edge_language.DynamicLayer()]
    monkeypatch.setattr(edge_language, "DynamicCache", lambda config: SimpleNamespace(layers=layers))
    with pytest.raises(
        ValueError, match="its layers keep Alpha, Bravo, Charlie, Delta, Echo, Foxtrot, Golf; accepted"
    ):
        edge_language._check_kept(SimpleNamespace(config=None, forward=lambda input_ids, past_key_values: None))


def spelled(text: str, verbose: bool = True) -> dict:
    """A tokenizer of letters."""
    return {"input_ids": [ord(letter) % 64 for letter in text]}


spelled.save_pretrained = lambda folder: None


def of(name: str):
    """A small model that this project did not write, or one of its own."""
    torch.manual_seed(0)
    sizes, tokens = {**SIZES, "num_key_value_heads": 4}, {"vocab_size": 64, "pad_token_id": 0, "eos_token_id": 1}
    if name == "pangu-pi":
        own = {**SIZES, "num_hidden_layers": 1, "vocab_size": 64}
        return hf_effmodels.create_model("pangu-pi-15m", **own).eval()
    if name == "parameternet-moe":
        own = {**SIZES, "num_hidden_layers": 1, "vocab_size": 64, "num_key_value_heads": 2, "num_local_experts": 4}
        return hf_effmodels.create_model("parameternet-moe-1b", **own, initializer_range=0.2).eval()
    own = {"Mistral": {"sliding_window": 4}, "Gemma": {"head_dim": 8}}.get(name, {})  # less than is read
    if name == "GPT2":
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = getattr(transformers, f"{name}Config")(**sizes, **tokens, **own, initializer_range=0.2)
    return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.thorough
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Qwen2", "Phi", "Gemma", "GPT2", "pangu-pi", "parameternet-moe"])
def test_language_models_of_others_go_on_as_they_do(name, format, tmp_path):
    model = of(name)
    report = export_language_model(model, tmp_path / "edge", format, tokenizer=spelled)
    assert report.model == type(model).__name__ and report.difference <= 1e-4
    assert report.agreement == report.continued == 1
    program, ids = load_language_model(tmp_path / "edge"), torch.arange(3, 21).view(2, 9)
    with torch.no_grad():
        expected = model(ids).logits
    torch.testing.assert_close(program(ids).logits, expected, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(program(ids, logits_to_keep=2).logits, expected[:, -2:], rtol=1e-3, atol=1e-4)
    prompts = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    prompts["attention_mask"][1, :3] = 0
    assert generated(program, **prompts) == generated(model, **prompts)
    assert generated(program, **prompts, num_beams=2) == generated(model, **prompts, num_beams=2)


@pytest.mark.thorough
@pytest.mark.parametrize("format", ["onnx", "openvino"])
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Phi", "Gemma", "GPT2", "pangu-pi"])
def test_half_precision_takes_half_the_bytes_and_says_nearly_the_same(name, format, tmp_path):
    model = of(name)
    report = export_language_model(model, tmp_path / "edge", format, tokenizer=spelled, precision="fp16")
    assert report.precision == "float16" and 1e-5 < report.difference < 2e-2  # really numbers of 11 bits
    assert report.agreement > 0.95 and report.perplexity == pytest.approx(report.perplexity_in_pytorch, rel=0.02)
    program, ids = load_language_model(tmp_path / "edge"), torch.arange(3, 12)[None]
    logits = program(ids).logits
    assert logits.dtype == torch.float32
    with torch.no_grad():
        expected = model(ids).logits
    assert (logits - expected).abs().max() < 0.05 * expected.std()
    weights = sum(parameter.numel() for parameter in model.parameters())
    if format == "onnx":
        import onnx

        graph = onnx.load(tmp_path / "edge" / "model.onnx").graph
        halves = [one for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT16]
        assert sum(math.prod(one.dims) for one in halves) >= 0.9 * weights
    else:
        [file] = (tmp_path / "edge").glob("*.bin")
        assert file.stat().st_size < 3 * weights


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Each row in blocks of 32 to 2^bits levels from its smallest to its largest, zero among them."""
    blocks = weight.detach().unflatten(1, (-1, 32))
    low, high = blocks.amin(-1, keepdim=True).clamp(max=0), blocks.amax(-1, keepdim=True).clamp(min=0)
    step = (high - low) / (2**bits - 1)
    zero = (-low / step).round()
    return (((blocks / step + zero).round().clamp(0, 2**bits - 1) - zero) * step).flatten(1)


@pytest.mark.thorough
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Phi", "GPT2", "pangu-pi"])
def test_integers_are_the_nearest_levels_of_blocks_of_weights(name, bits, tmp_path):
    import onnx

    model = of(name)
    options = {"precision": f"int{bits}", "min_agreement": 0.0}
    report = export_language_model(model, tmp_path / "edge", tokenizer=spelled, **options)
    assert report.precision == f"int{bits}" and 1e-4 < report.difference
    program = onnx.load(tmp_path / "edge" / "model.onnx")
    nodes = program.graph.node
    packed = [node for node in nodes if node.op_type == "MatMulNBits"]
    for node in packed:
        settings = {a.name: a.i for a in node.attribute}
        assert settings["bits"] == bits and settings.get("accuracy_level", 0) == (4 if bits == 8 else 0)
    assert not [node for node in nodes if node.op_type == "Gemm"]
    if name == "Llama":  # all of its layers have rows of whole blocks but one
        linears = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.in_features % 32 == 0]
        for linear in linears:
            linear.weight.data = rounded(linear.weight, bits)
        for linear in (m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.in_features % 32):
            filled = torch.nn.functional.pad(linear.weight, (0, -linear.in_features % 32))
            linear.weight.data = rounded(filled, bits)[:, : linear.in_features]
        ids = torch.arange(3, 12)[None]
        with torch.no_grad():
            expected = model(ids).logits
        if bits == 8:  # with rounded inputs, too, it is as near as that, and the weights are seen without
            got = load_language_model(tmp_path / "edge")(ids).logits
            assert (got - expected).abs().max() < 0.15 * expected.std()
            for node in packed:
                node.attribute.remove(next(a for a in node.attribute if a.name == "accuracy_level"))
            onnx.save(program, tmp_path / "edge" / "model.onnx")
        got = load_language_model(tmp_path / "edge")(ids).logits
        assert (got - expected).abs().max() < 0.02 * expected.std() < report.difference


@pytest.mark.thorough
def test_the_command_exports_checks_talks_and_times_in_integers(tmp_path, capsys, monkeypatch):
    tokenizer = train_tokenizer(TEXTS, 300, at_most=True)
    torch.manual_seed(0)
    of_transformers(len(tokenizer)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 9))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    command = ["export", str(tmp_path / "model"), str(tmp_path / "edge"), "--format", "onnx", "--precision", "int8"]
    checked = [*command, "--calibrate", str(tmp_path / "text.txt")]
    assert main([*checked, "--min-agreement", "1"]) == 2
    assert "accepted is --min-agreement 1; nothing was written" in capsys.readouterr().err
    assert main([*command, "--calibrate", str(tmp_path / "no.txt")]) == 2
    assert "--calibrate: there is no file" in capsys.readouterr().err
    assert main([*checked, "--min-agreement", "0.3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["text"] == str(tmp_path / "text.txt") and 64 < report["tokens"] and report["agreement"] >= 0.3
    monkeypatch.setattr(sys, "stdin", io.StringIO("the cat\n\n"))
    assert main(["chat", str(tmp_path / "edge"), "--max-new-tokens", "3"]) == 0
    row = {"peer": "ours", "batch": 2, "threads": 1, "length": 6, "new_tokens": 3, "overrides": {}}
    for name, backend, mode, shape in (
        ("edge", "onnx", "generate", (2, 9)),
        ("edge", "onnx", "infer", (2, 1, len(tokenizer))),
        ("model", "openvino", "generate", (2, 9)),  # exported for it
    ):
        model = PEERS["ours"].build(str(tmp_path / name), False, {})
        said = make_call(model, row | {"preset": str(tmp_path / name), "backend": backend, "mode": mode})()
        assert getattr(said, "logits", said).shape == shape


def test_the_help_of_python_is_read_by_the_names_of_its_topics(monkeypatch):
    """So that versions of Python that keep it in another order give the same text."""
    monkeypatch.setattr("pydoc_data.topics.topics", {"b": "b" * 50, "a": "a" * 50, "c": "c" * 30})
    text = edge_text.read_text(None, lambda text, verbose: {"input_ids": [ord(letter) for letter in text]}, 32)
    assert "".join(map(chr, torch.cat(text.rows, dim=1)[0].tolist())) == "a" * 50 + "b" * 50 + "c" * 30
