"""Each step is a command; what is wrong with its input is said before anything is written."""

import inspect
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, LlamaForCausalLM, ViTConfig

from hf_effmodels import training
from hf_effmodels.cli import main
from hf_effmodels.compression import TokenCounts, count_parameters, sizes, unreachable_ids
from hf_effmodels.compression.command import corpus as corpora
from hf_effmodels.compression.command import inheritance as command
from hf_effmodels.compression.command import prune as prune_command
from hf_effmodels.compression.command import rounds as rounds_command
from hf_effmodels.compression.command import tokenizers as tokenizer_command
from hf_effmodels.compression.command.words import as_table
from hf_effmodels.compression.pruning import inheritance, minitron
from hf_effmodels.compression.tokenizers import report, token_counts, tokenizer_compression
from hf_effmodels.compression.tokenizers.id_map import IdMap
from hf_effmodels.training.data.fingerprints import fingerprint
from hf_effmodels.training.data.text import documents
from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.run.rounds import rounds, sample_losses

from .conftest import LLAMA, word_piece


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, lines):
    file = tmp_path_factory.mktemp("corpus") / "text.txt"
    file.write_text("\n".join(lines), encoding="utf-8")
    return str(file)


@pytest.fixture(scope="module")
def large(tmp_path_factory, byte_level_tokenizer):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("large")
    special = {"bos_token_id": 0, "eos_token_id": 1}
    LlamaForCausalLM(LlamaConfig(**{**LLAMA, "vocab_size": 901}, **special)).save_pretrained(folder)
    byte_level_tokenizer.save_pretrained(folder)
    return str(folder)


#: Of a causal-lm recipe, but for its data and their number.
RECIPE = ["--block_size", 32, "--text_unit", "line", "--per_device_train_batch_size", 8, "--num_train_epochs", 1]
RECIPE += ["--disable_tqdm", "true"]


def run(*argv) -> int:
    return main(["tiny-lm", *map(str, argv)])


def test_a_tokenizer_and_its_model_are_compressed_and_inherited_from(large, corpus, tmp_path, capsys):
    compressed, small = tmp_path / "compressed", tmp_path / "small"
    compress = ["compress-tokenizer", "--tokenizer", large, "--model", large, "--dataset", corpus]
    assert run(*compress, "--coverage", 0.9, "--output", compressed, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    tokenizer, model = (c.from_pretrained(compressed) for c in (AutoTokenizer, AutoModelForCausalLM))
    assert report["tokens_before"] == 901 and report["tokens_after"] == len(tokenizer) == model.config.vocab_size
    assert 0.9 <= report["coverage"] < 0.92 and report["unreachable"] == 0
    assert report["tokens_per_word_before"] < report["tokens_per_word_after"]
    assert report["parameters_before"] - report["parameters_after"] == (901 - len(tokenizer)) * 32 * 2
    assert model.config.eos_token_id == tokenizer.eos_token_id
    card = (compressed / "README.md").read_text()
    assert f"| Tokens | {len(tokenizer)}, before 901 |" in card and "A smaller `LlamaForCausalLM`." in card
    assert f"| Parameters before | {report['parameters_before'] / 1e6:.3f} M |" in card and str(tmp_path) not in card
    # What was counted can be used again, without the corpus.
    again = ["--counts", compressed / "token_counts.json", "--strategy", "frequency", "--vocab-size", 400]
    assert run("compress-tokenizer", "--tokenizer", large, *again, "--output", tmp_path / "again") == 0
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if "  " in line)
    smaller = AutoTokenizer.from_pretrained(tmp_path / "again")
    assert len(smaller) == 400
    card = (tmp_path / "again" / "README.md").read_text()
    assert "| Tokens | 400, before 901 |" in card and "A smaller tokenizer." in card and "pipeline_tag" not in card
    exec(card.partition("```python\n")[2].partition("```")[0].replace('"."', repr(str(tmp_path / "again"))), {})
    assert "input_ids" in capsys.readouterr().out
    # What was done is beside it: which tokens stay, by which rule, and which of them nothing can build any more.
    details = json.loads((tmp_path / "again" / "compression.json").read_text())
    lost = smaller.convert_ids_to_tokens(unreachable_ids(smaller))
    assert details["strategy"] == "frequency" and details["unreachable"] == lost and lost
    assert (shown["unreachable"], shown["tokens_after"], shown["folder"]) == (
        str(len(lost)),
        "400",
        str(tmp_path / "again"),
    )
    kept = IdMap.load(tmp_path / "again" / "id_map.json").kept
    assert smaller.convert_ids_to_tokens(range(400)) == AutoTokenizer.from_pretrained(large).convert_ids_to_tokens(
        kept
    )
    assert (
        TokenCounts.load(tmp_path / "again" / "token_counts.json").total
        == TokenCounts.load(compressed / "token_counts.json").total
    )
    assert not [*tmp_path.glob("*.counts.json")], "counting goes on after a kill, not after it is done"
    state = ["--state-file", tmp_path / "state.json", "--max-documents", 50, "--vocab-size", 400]
    assert run(*compress, *state, "--output", tmp_path / "few") == 0
    assert json.loads((tmp_path / "state.json").read_text())["samples"] == 50

    sizes = ["--layers", 3, "--hidden-size", 24, "--heads", 2, "--intermediate-size", 32]
    learned = ["--method", "learned", "--mask-steps", 2, "--calibration-batches", 2, "--block-size", 16]
    assert run("inherit", "--model", compressed, *sizes, *learned, "--dataset", corpus, "--output", small) == 0
    config = AutoModelForCausalLM.from_pretrained(small).config
    assert (config.num_hidden_layers, config.hidden_size, config.vocab_size) == (3, 24, len(tokenizer))
    assert json.loads((small / "inheritance.json").read_text())["layers"] == [0, 1, 3]
    assert AutoTokenizer.from_pretrained(small)("text").input_ids == tokenizer("text").input_ids
    assert not [*tmp_path.glob(".*")]


def test_a_suggested_configuration_is_what_inherit_takes(large, tmp_path, capsys):
    suggested, small = tmp_path / "suggested", tmp_path / "small"
    arguments = ["--params", "0.085M", "--vocab", 901, "--head-dim", 8, "--kv-groups", 2]
    assert run("suggest-config", *arguments, "--output", suggested) == 0
    assert capsys.readouterr().out.splitlines()[1].startswith("* ")
    like = LlamaConfig.from_pretrained(suggested)
    assert like.hidden_size <= 32
    sizes = ["--layers", 2, "--intermediate-size", 48]
    assert run("inherit", "--model", large, "--like", suggested, *sizes, "--output", small) == 0
    assert count_parameters(LlamaConfig.from_pretrained(small)).layer > 0
    assert LlamaConfig.from_pretrained(small).hidden_size == like.hidden_size


def test_the_recommended_shape_is_written_beside_what_is_in_the_folder(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert run("suggest-config", "--params", "2M", "--vocab", 512, "--output", tmp_path) == 0
    _, first, *others = capsys.readouterr().out.splitlines()
    written = LlamaConfig.from_pretrained(tmp_path)
    sizes = [written.num_hidden_layers, written.hidden_size, written.intermediate_size, written.num_attention_heads]
    assert [int(word) for word in first.split()[2:6]] == sizes and first.startswith("* ") and others
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_recipe_is_trained_in_rounds(large, corpus, tmp_path, capsys):
    output = tmp_path / "rounds"
    recipe = ["--dataset", corpus, "--max_train_documents", 60, "--max_eval_documents", 10, *RECIPE]
    draw = ["--rate", 0.3, "--group-size", 2]
    assert run("train-rounds", *draw, "--output_dir", output, "--model", large, *recipe, "--json") == 0
    out = capsys.readouterr().out
    first, second = json.loads(out[out.index("[\n") :])
    assert abs(second["samples"] - 0.3 * first["samples"]) <= 2
    assert second["metrics"]["eval_loss"] < first["metrics"]["eval_loss"]
    started = yaml.safe_load((output / "round-2" / "training_config.yaml").read_text())
    assert started["model"] == started["tokenizer"] == str(output / "round-1"), (
        "each round goes on from the one before"
    )
    drawn = tmp_path / "drawn.json"
    assert run("select-rounds", *draw, "--model", output / "round-2", "--output", drawn, *recipe) == 0
    assert json.loads(drawn.read_text())["samples"] == first["samples"]


def test_the_learning_rate_is_printed_as_a_recipe(capsys):
    scaled = ["--learning-rate", 1e-3, "--batch-tokens", "1M", "--new-batch-tokens", "250k"]
    assert run("scale-lr", *scaled, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["learning_rate"] == pytest.approx(5e-4) and shown["min_lr"] == pytest.approx(5e-5)
    # The paper's rate is for 2 million tokens: an eighth of them, by the cube root, half of it.
    assert run("scale-lr", "--new-batch-tokens", "250k", "--exponent", 1 / 3, "--json") == 0
    assert json.loads(capsys.readouterr().out)["learning_rate"] == pytest.approx(1e-4)


class Watched:
    """Stands for a function that a step calls: `arguments` are what it was called with, by the names of its own
    parameters, those that were left out with their defaults; the step ends there."""

    def __init__(self, monkeypatch, module, name: str):
        self.signature, self.arguments = inspect.signature(getattr(module, name)), {}
        self.defaults = {p.name: p.default for p in self.signature.parameters.values()}
        monkeypatch.setattr(module, name, self)

    def __call__(self, *arguments, **options):
        bound = self.signature.bind(*arguments, **options)
        bound.apply_defaults()
        self.arguments = {k: v for k, v in bound.arguments.items() if k != "fields"} | bound.arguments.get(
            "fields", {}
        )
        raise ValueError("it was called")

    def given(self) -> dict:
        """What differs from the function's own defaults."""
        return {k: v for k, v in self.arguments.items() if k not in self.defaults or self.defaults[k] != v}


def test_inherit_does_what_its_function_does_unless_it_is_told_otherwise(large, corpus, tmp_path, monkeypatch):
    watched, plain = Watched(monkeypatch, inheritance, "inherit"), ["--model", large, "--output", tmp_path / "out"]
    assert run("inherit", *plain, "--layers", 3) == 2
    assert watched.given().keys() == {"model", "num_hidden_layers"}
    sizes = ["--hidden-size", 24, "--intermediate-size", 30, "--heads", 2, "--key-value-heads", 2]
    ways = ["--select-layers", "0,3", "--method", "learned", "--rescale-norms", "--mask-steps", 7, "--seed", 5]
    text = ["--calibration-batches", 3, "--batch-size", 2, "--block-size", 16, "--dataset", corpus]
    assert run("inherit", *plain, *sizes, *ways, *text) == 2
    given = watched.given()
    assert [tuple(batch["input_ids"].shape) for batch in given.pop("calibration")] == [(2, 16)] * 3
    del given["model"]
    assert given == {
        "hidden_size": 24, "intermediate_size": 30, "num_attention_heads": 2, "num_key_value_heads": 2,
        "layers": [0, 3], "method": "learned", "rescale_norms": True, "mask_steps": 7, "seed": 5,
    }  # fmt: skip
    assert run("inherit", *plain, "--method", "taylor", "--heads", 2, "--dataset", corpus) == 2
    assert {tuple(batch["input_ids"].shape) for batch in watched.arguments["calibration"]} == {(8, 256)}
    assert len(watched.arguments["calibration"]) == 16


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_without_a_tokenizer_is_made_smaller_and_told_of_in_its_own_precision(tied, tmp_path, capsys):
    """Of 96 tokens; heads of 8 channels, four for queries and two for keys and values."""
    config = LlamaConfig(**LLAMA, tie_word_embeddings=tied)
    LlamaForCausalLM(config).bfloat16().save_pretrained(tmp_path / "large")
    sizes = ["--layers", 2, "--hidden-size", 24, "--intermediate-size", 40]
    assert run("inherit", "--model", tmp_path / "large", *sizes, "--output", tmp_path / "small", "--json") == 0

    def count(layers, hidden, neurons):
        ends = 96 * hidden * (1 if tied else 2)
        return ends, ends + layers * (hidden * (32 + 16 + 16 + 32) + 3 * hidden * neurons + 2 * hidden) + hidden

    ends, whole = count(2, 24, 40)
    assert json.loads(capsys.readouterr().out) == {
        "parameters": whole,
        "of": count(4, 32, 48)[1],
        "embedding_share": round(ends / whole, 4),
        "layers": [0, 3],
        "folder": str(tmp_path / "small"),
    }
    weights = load_file(tmp_path / "small" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16} and ("lm_head.weight" in weights) != tied
    made_of = json.loads((tmp_path / "small" / "inheritance.json").read_text())
    assert (
        made_of["layers"] == [0, 3]
        and made_of["method"] == "l2"
        and len(made_of["units"][0]["kept"]) in (24, 40, 4, 2)
    )
    assert not [*(tmp_path / "small").glob("tokenizer*")]


@pytest.mark.parametrize(
    "words, needed",
    [
        ("--method l1", False),
        ("--method taylor", True),
        ("--method activation", True),
        ("--method learned", True),
        ("--method l1 --select-layers importance", True),
        ("--method l1 --select-layers influence", True),
        ("--method l1 --select-layers 0,1", False),
        ("--method l1 --rescale-norms", True),
    ],
)
def test_text_is_read_where_something_looks_at_it(words, needed, large, corpus, tmp_path, monkeypatch):
    watched, asked = Watched(monkeypatch, inheritance, "inherit"), []
    monkeypatch.setattr(command, "calibration_batches", lambda arguments, tokenizer: "batches")
    own = command.tokenizer_of
    monkeypatch.setattr(command, "tokenizer_of", lambda *given: asked.append(given[2]) or own(*given))
    step = ["inherit", "--model", large, "--hidden-size", 24, "--dataset", corpus, "--output", tmp_path / "out"]
    assert run(*step, *words.split()) == 2
    assert watched.arguments["calibration"] == ("batches" if needed else None) and asked == [needed]


@pytest.mark.parametrize("own", [None, "layers", "hidden-size", "intermediate-size", "heads", "key-value-heads"])
def test_sizes_are_those_of_another_shape_but_for_those_that_are_named(own, large, tmp_path, monkeypatch):
    like = {"num_hidden_layers": 3, "hidden_size": 28, "intermediate_size": 40, "num_attention_heads": 2}
    LlamaConfig(**LLAMA | like | {"vocab_size": 901, "num_key_value_heads": 1}).save_pretrained(tmp_path / "like")
    watched = Watched(monkeypatch, inheritance, "inherit")
    named = {"layers": 2, "hidden-size": 24, "intermediate-size": 30, "heads": 1, "key-value-heads": 2}
    words = [] if own is None else [f"--{own}", named[own]]
    assert run("inherit", "--model", large, "--like", tmp_path / "like", *words, "--output", tmp_path / "out") == 2
    given = {name: watched.arguments[name] for name in (*like, "num_key_value_heads")}
    expected = [3, 28, 40, 2, 1]
    if own is not None:
        expected[[*named].index(own)] = named[own]
    assert [*given.values()] == expected


@pytest.mark.parametrize("most, read", [(None, 5), (2, 2)])
def test_no_more_text_is_read_than_calibration_takes(byte_level_tokenizer, monkeypatch, most, read):
    """Two sequences of four tokens, and one more, of eight letters each: 96 letters, which five lines of 20 have."""
    lines = []

    def texts():
        for number in range(40):
            lines.append(number)
            yield {"text": "the cat sat on a mat"}

    monkeypatch.setattr(command, "find_texts", lambda arguments: (texts(), None))
    arguments = SimpleNamespace(block_size=4, calibration_batches=1, batch_size=2, max_documents=most)
    (batch,) = command.calibration_batches(arguments, byte_level_tokenizer)
    assert batch["input_ids"].shape == (2, 4) and len(lines) == read


def test_a_sequence_of_calibration_has_two_tokens_and_more(byte_level_tokenizer, monkeypatch):
    monkeypatch.setattr(command, "find_texts", lambda arguments: ([{"text": "the cat sat"}, {"text": None}], None))
    arguments = SimpleNamespace(block_size=2, calibration_batches=2, batch_size=2, max_documents=None)
    batches = command.calibration_batches(arguments, byte_level_tokenizer)
    assert [batch["input_ids"].shape for batch in batches] == [(2, 2), (2, 2)]
    arguments.block_size = 1
    with pytest.raises(ValueError, match="--block-size: got 1, accepted are 2 and more: a token is predicted"):
        command.calibration_batches(arguments, byte_level_tokenizer)


@pytest.mark.parametrize(
    "options, said",
    [
        ("", "take a smaller vocabulary, a wider tolerance or --tie."),
        ("--tie", "take a smaller vocabulary or a wider tolerance."),
        (
            "--tie --kv-groups 2",
            "take a smaller vocabulary, a wider tolerance or heads of another width or in other gr",
        ),
        ("--head-dim 3", "--head-dim: got 3, accepted are even numbers: the rotary embedding turns pairs."),
        ("--model-type pangu_pi --head-dim 1", "--head-dim: got 1, accepted are even numbers"),
        ("--tolerance 1", "--tolerance: got 1.0, accepted are shares between 0 and 1."),
    ],
)
def test_shapes_are_refused_in_the_words_of_the_command(options, said, capsys):
    assert run("suggest-config", "--params", "2", "--vocab", "4k", *options.split()) == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


def test_shapes_are_suggested_as_the_function_does_unless_it_is_told_otherwise(monkeypatch):
    watched = Watched(monkeypatch, sizes, "list_shapes")
    assert run("suggest-config", "--params", "1M", "--vocab", "1k") == 2
    assert watched.given() == {"target_params": 1e6, "vocab_size": 1000}
    options = [
        "--model-type",
        "pangu_pi",
        "--max-layers",
        9,
        "--head-dim",
        16,
        "--kv-groups",
        2,
        "--tie",
        "--tolerance",
        0.1,
    ]
    assert run("suggest-config", "--params", "1M", "--vocab", "1k", *options, "--width-first") == 2
    assert watched.given() == {
        "target_params": 1e6, "vocab_size": 1000, "depth_first": False, "model_type": "pangu_pi", "max_layers": 9,
        "head_dim": 16, "kv_groups": 2, "tie_word_embeddings": True, "tolerance": 0.1,
    }  # fmt: skip


def test_a_tokenizer_is_counted_and_compressed_as_the_functions_do_unless_it_is_told_otherwise(
    large, corpus, tmp_path, monkeypatch
):
    plain = ["compress-tokenizer", "--tokenizer", large, "--output", tmp_path / "out"]
    for name, vocabulary in (("first", [1, 2, 3]), ("second", [0, 5])):
        TokenCounts.of(vocabulary, 901).save(tmp_path / f"{name}.json")
    with monkeypatch.context() as patch:
        watched = Watched(patch, tokenizer_compression, "compress_tokenizer")
        counts = ["--counts", tmp_path / "first.json", tmp_path / "second.json"]
        assert run(*plain, "--coverage", 0.9, *counts) == 2
        given = watched.given()
        assert (
            given.keys() == {"tokenizer", "counts", "coverage", "keep"}
            and given["keep"] == []
            and given["coverage"] == 0.9
        )
        assert given["counts"].counts[:4].tolist() == [1, 7, 3, 0], "of both files"
        assert run(*plain, "--vocab-size", 300, "--strategy", "frequency", "--keep", "a", "b", *counts) == 2
        given = watched.given()
        assert (given["vocab_size"], given["strategy"], [*given["keep"]]) == (300, "frequency", ["a", "b"])
    watched = Watched(monkeypatch, token_counts, "count_tokens")
    assert run(*plain, "--vocab-size", 300, "--dataset", corpus) == 2
    given = watched.given()
    assert given.keys() - {"progress"} == {"tokenizer", "dataset", "state_file"}
    assert given["state_file"] == tmp_path / "out.counts.json"
    assert run(*plain, "--vocab-size", 300, "--dataset", corpus, "--num-proc", 3, "--max-documents", 4) == 2
    assert (watched.given()["num_proc"], watched.given()["max_samples"]) == (3, 4)


def test_a_compressed_tokenizer_is_measured_on_text_that_was_not_counted(large, tmp_path, monkeypatch):
    """Which may have documents without a text."""
    train, held_out = [{"text": "the cat sat"}, {"text": "on a mat"}], [{"text": "the dog"}, {"text": None}]
    monkeypatch.setattr(tokenizer_command, "find_texts", lambda arguments: (train, held_out))
    watched = Watched(monkeypatch, report, "compression_report")
    step = ["compress-tokenizer", "--tokenizer", large, "--dataset", "pydoc_topics", "--vocab-size", 400]
    assert run(*step, "--output", tmp_path / "out") == 2
    assert watched.arguments["texts"] == ["the dog", ""]
    assert (watched.arguments["counts"].samples, watched.arguments["counts"].words) == (2, 6)


def test_rounds_are_trained_as_the_function_does_unless_it_is_told_otherwise(
    large, corpus, tmp_path, monkeypatch, capsys
):
    recipe = ["--model", large, "--dataset", corpus, *RECIPE]
    with monkeypatch.context() as patch:
        watched = Watched(patch, rounds, "train_rounds")
        assert run("train-rounds", "--output_dir", tmp_path, *recipe) == 2
        assert watched.given().keys() == {"make_trainer", "output_dir"}
        draw = {"rounds": 3, "rate": 0.2, "temperature": 2.0, "group_size": 4, "loss_batch_size": 2}
        words = [word for name, value in draw.items() for word in (f"--{name.replace('_', '-')}", value)]
        assert run("train-rounds", "--output-dir", tmp_path, *words, "--draw-seed", 9, *recipe) == 2
        given = watched.given()
        assert {name: given[name] for name in (*draw, "seed")} == draw | {"seed": 9}
    # Rounds after the first start from the model before, and may have a recipe of their own.
    (own := tmp_path / "own.yaml").write_text("task: causal-lm\n")
    (later := tmp_path / "later.yaml").write_text("task: causal-lm\n")
    prepared, results = [], [{"round": 1, "samples": 40, "metrics": {"eval_loss": 3.5, "eval_runtime": 1.0},
                              "mean_loss": 0.25, "folder": "there"}]  # fmt: skip

    def prepare(name, argv):
        prepared.append(argv)
        raise KeyError("prepared")

    def train(make_trainer, *_, **__):
        for start in (None, Path("before")):
            with pytest.raises(KeyError):
                make_trainer(1, start, Path("here"))
        return results

    monkeypatch.setattr(training, "prepare", prepare)
    monkeypatch.setattr(rounds, "train_rounds", train)
    command = ["train-rounds", "--output_dir", tmp_path / "rounds", "--next-config", later, *recipe]
    assert run(*command) == run(*command, "--config", own) == run(*command, f"--config={own}") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "round 1: 40 samples, eval_loss 3.5000, mean_loss 0.2500  there"
    start = ["--model", "before", "--tokenizer", "before"]
    ends = ["--task", "causal-lm", "--output_dir", "here", "--resume_from_checkpoint", "auto"]
    words = [str(word) for word in recipe]
    assert prepared[0] == [*words, *ends] and prepared[1][-len([*start, *ends]) :] == [*start, *ends]
    read = [ArgumentReader(argv).config_file for argv in prepared]
    assert read == [None, later, own, later, own, later]


def test_results_are_shown_as_a_table_and_as_yaml(capsys):
    assert run("scale-lr", "--new-batch-tokens", "2M") == 0
    assert "learning_rate: 0.0002" in capsys.readouterr().out.splitlines(), "the paper's rate for the paper's batch"
    assert as_table({"a": 1, "long": 0.12345, "none": None}) == "a     1\nlong  0.1235"
    assert as_table({"lost": 0, "share": 0.0, "none": None}) == "lost   0\nshare  0.0000"


def everything(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_only_what_a_step_wrote_is_replaced(large, corpus, tmp_path, capsys):
    """A name makes no folder ours, nor a file in it: what others wrote, changed or put there stays."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    smaller = ["inherit", "--model", large, "--layers", 2]
    theirs.mkdir()
    (theirs / "thesis.tex").write_text("two years of work")
    for name in ("config.json", "inheritance.json", "compression.json", ".written_files.json"):
        (theirs / name).write_text("{}")
        before = everything(theirs)
        assert run(*smaller, "--output", theirs, "--overwrite") == 2, name
        assert "was not written by this command" in capsys.readouterr().err
        assert everything(theirs) == before
    assert run(*smaller, "--output", ours) == 0
    mine = {"notes/mine.txt": b"mine", "vocab.json": b"my words", "adapter_model.safetensors": b"my adapter"}
    mine |= {"README.md": b"my card", "token_counts.json": b"mine as well"}
    for name, content in mine.items():
        (ours / name).parent.mkdir(exist_ok=True)
        (ours / name).write_bytes(content)
    assert run(*smaller, "--output", ours) == 2 and run(*smaller[:-1], 3, "--output", ours, "--overwrite") == 0
    assert LlamaConfig.from_pretrained(ours).num_hidden_layers == 3
    assert everything(ours) == everything(ours) | mine
    # Of another step: what the first one wrote goes, and nothing else.
    compress = ["compress-tokenizer", "--tokenizer", large, "--dataset", corpus, "--vocab-size", 400]
    assert run(*compress, "--output", ours, "--overwrite") == 2
    for name in ("README.md", "token_counts.json"):
        assert f"{name} was not written by this command" in capsys.readouterr().err.replace("\n", " ")
        (ours / name).unlink()
        del mine[name]
        assert run(*compress, "--output", ours, "--overwrite") == (2 if "token_counts.json" in mine else 0)
    assert everything(ours) == everything(ours) | mine
    assert not (ours / "model.safetensors").exists() and not (ours / "inheritance.json").exists()
    # What was changed since is the user's.
    config = json.loads((ours / "tokenizer_config.json").read_text())
    (ours / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 7}))
    before = everything(ours)
    assert run(*compress, "--output", ours, "--overwrite") == 2
    assert "tokenizer_config.json has been changed since it was written" in capsys.readouterr().err
    assert everything(ours) == before


def test_a_shape_and_a_draw_are_not_replaced_without_a_word(large, corpus, tmp_path, capsys):
    suggest = ["suggest-config", "--params", "0.085M", "--vocab", 901, "--head-dim", 8, "--output", tmp_path / "shape"]
    assert run(*suggest) == 0
    (tmp_path / "shape" / "config.json").write_text("mine")
    assert run(*suggest) == 2 and (tmp_path / "shape" / "config.json").read_text() == "mine"
    assert "--output" in capsys.readouterr().err
    assert run(*suggest, "--overwrite") == 0 and LlamaConfig.from_pretrained(tmp_path / "shape").vocab_size == 901
    (drawn := tmp_path / "drawn.json").write_text("mine")
    select = ["select-rounds", "--model", large, "--dataset", corpus, "--output", drawn, *RECIPE]
    assert run(*select) == 2 and drawn.read_text() == "mine"
    assert "drawn.json exists" in capsys.readouterr().err
    assert run(*select, "--overwrite") == 0 and json.loads(drawn.read_text())["samples"] > 100


def test_results_of_another_corpus_recipe_or_tokenizer_are_not_taken_for_these(large, corpus, tmp_path, capsys):
    other = tmp_path / "other.txt"
    # As many tokens: the lines begin elsewhere.
    lines = Path(corpus).read_text(encoding="utf-8").splitlines()[:60]
    (same := tmp_path / "same.txt").write_text("\n".join(lines), encoding="utf-8")
    other.write_text("\n".join(lines[::-1]), encoding="utf-8")
    select = ["select-rounds", "--model", large, "--output", tmp_path / "drawn.json", "--overwrite", *RECIPE]
    whole = ["--eval_dataset", same]
    assert run(*select, *whole, "--dataset", same) == 0
    assert run(*select, *whole, "--dataset", other) == 2
    assert "is of another model, data set or batch_size" in capsys.readouterr().err

    train = ["train-rounds", "--model", large, "--output_dir", tmp_path / "rounds", "--rate", 0.3, *RECIPE, *whole]
    assert run(*train, "--dataset", same, "--json") == 0
    out = capsys.readouterr().out
    first = json.loads(out[out.index("[\n") :])
    for changed, message in (
        (["--dataset", same, "--learning_rate", 0.5], "learning_rate"),
        (["--dataset", other], "dataset"),
    ):
        assert run(*train, *changed) == 2
        assert message in capsys.readouterr().err.splitlines()[-1]
    same.write_text(other.read_text(encoding="utf-8"), encoding="utf-8")  # the file is another, its name is not
    assert run(*train, "--dataset", same) == 2 and "other data" in capsys.readouterr().err
    same.write_text("\n".join(lines), encoding="utf-8")
    assert run(*train, "--dataset", same, "--json") == 0
    out = capsys.readouterr().out
    assert json.loads(out[out.index("[\n") :]) == first

    compress = ["compress-tokenizer", "--tokenizer", large, "--vocab-size", 400, "--output", tmp_path / "compressed"]
    word_piece().save_pretrained(tmp_path / "word_piece")
    other = ["--tokenizer", tmp_path / "word_piece", "--dataset", same, "--output", tmp_path / "others"]
    assert run("compress-tokenizer", "--vocab-size", 500, *other) == 0
    assert run(*compress, "--counts", tmp_path / "others" / "token_counts.json") == 2
    assert "token_counts.json is of another tokenizer" in capsys.readouterr().err


FEW = " ".join(map(str, ["--max_train_documents", 60, "--max_eval_documents", 10, *RECIPE]))
#: Wrong values by step: options that are right but for the last, which the message names, or says what is behind =>.
WRONG = {
    "compress-tokenizer --tokenizer {large} --dataset {corpus} --output {output}": [
        *("--vocab-size 0", "--vocab-size -5", "--vocab-size 1e3", "--vocab-size x", "--vocab-size 902"),
        *("--coverage 0", "--coverage nan", "--coverage inf", "--coverage 2", "--vocab-size 500 --coverage 0.5"),
        *("--vocab-size 500 --keep nothing", "--vocab-size 500 --num-proc 0", "--vocab-size 500 --max-documents 0"),
        *("--vocab-size 500 --text-column nope", "--vocab-size 500 --split nope", "--vocab-size 500 --strategy none"),
        *("--vocab-size 500 --model {here}/none", "--vocab-size 500 --model {here}/gpt2", "--vocab-size"),
        *("--vocab-size 500 --state-file {here}/gpt2", "--vocab-size 500 --counts {here}/gpt2/config.json"),
        *("--vocab-size 500 --model {here}/cut", "--vocab-size 500 --model {here}/fewer", "--vocab-size 500 --nope"),
        *("--vocab-size 500 --tokenizer {here}/gaps", "--vocab-size 500 --tokenizer {here}/listed"),
    ],
    "suggest-config --vocab 1k --params": [
        *("inf", "nan", "-1e6", "0", "1e400", "1e30", "5", "x", "M", "1TB", "1M --vocab inf", "1M --vocab 0"),
        *("1M --max-layers 0", "1M --head-dim 0", "1M --head-dim 14 => no llama with", "1M --kv-groups 0"),
        *(
            "1M --kv-groups 100000 => no llama with",
            "1M --head-dim 100000 => no llama with",
            "1M --model-type gpt2",
            "",
        ),
        "1M --model-type pangu_pi --head-dim 3 => --head-dim: got 3, accepted are even",
        *("1M --output {corpus}", "1M --output {large}"),
    ],
    "inherit --model {large} --output {output}": [
        *("--layers 0", "--layers -1", "--layers 9", "--layers x", "--layers 1.5", "--hidden-size 0"),
        *("--hidden-size 33", "--hidden-size 31 => hidden_size 31,", "--hidden-size 30 --heads 4 => hidden_size 30,"),
        *("--heads 5", "--heads 3 => --key-value-heads: got 1 for 3 query heads"),
        *("--heads 3 --key-value-heads 2", "--heads 4 --key-value-heads 3", "--key-value-heads 4"),
        *("--select-layers 0,0", "--select-layers ,", "--select-layers 0,99", "--select-layers -1"),
        *("--select-layers 0,1 --layers 3", "--method none", "--method learned --dataset {corpus} --mask-steps 0"),
        *("--method l1 --seed -1", "--like {here}/none", "--like {here}/gpt2", "--model {here}/cut"),
        *("--model {here}/fewer", "--model {here}/listed", "--output {corpus}", "--overwrite --output {large}"),
        "--method taylor --dataset {corpus} --hidden-size 16 --heads 2 --block-size 1",
        "--method taylor --dataset {corpus} --hidden-size 16 --heads 2 --block-size 100000000",
        "--method taylor --dataset {corpus} --batch-size 0",
    ],
    f"select-rounds --model {{large}} --dataset {{corpus}} --output {{output}}.json {FEW}": [
        *("--rate 0", "--rate 1e-9", "--rate nan", "--rate inf", "--rate x", "--temperature 0", "--temperature nan"),
        *(
            "--temperature 1e-320",
            "--group-size 0",
            "--group-size 1000000 => groups of 1000000 samples",
            "--loss-batch-size 0",
            "--draw-seed -1",
        ),
        *(
            "--draw-seed 99999999999",
            "--max_steps 3 --eval_strategy no --save_strategy no --eval_documents 5 --streaming true",
            "--nope 3",
            "--block_size 1",
        ),
    ],
    f"train-rounds --model {{large}} --dataset {{corpus}} --output_dir {{output}} {FEW}": [
        *("--rounds 0", "--rounds x", "--rate 1e-9", "--next-config {here}/none.yaml"),
        "--group-size 1000000 => groups of 1000000 samples",
    ],
    "scale-lr --new-batch-tokens": [
        *("inf", "0", "-1", "x", "", "1k --learning-rate 1e-3", "1k --batch-tokens 1k", "1k --exponent nan"),
        *("1k --batch-tokens 1k --learning-rate nan", "1k --batch-tokens 1k --learning-rate -1", "1k --exponent 2"),
    ],
    "": [" => STEP", "nothing => there is no step 'nothing'", "--json => STEP"],
}


@pytest.mark.parametrize("step", WRONG, ids=lambda step: step.partition(" ")[0] or "none")
def test_no_wrong_value_ends_in_a_traceback_or_leaves_anything(step, wrong, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    for values in WRONG[step]:
        values, _, expected = values.partition(" => ")
        words = f"{step} {values}".format(**wrong).split()
        assert run(*words) == 2, values
        message = capsys.readouterr().err.strip().splitlines()[-1]
        assert message.startswith("hf-effmodels: error: ") and len(message) > 30, values
        assert (expected or [word for word in words if word.startswith("--")][-1]) in message, values
        assert sorted(tmp_path.rglob("*")) == before, values


@pytest.fixture
def wrong(large, corpus, tmp_path):
    """Values for the wrong command lines below."""
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "gpt2").mkdir()
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    ViTConfig().save_pretrained(tmp_path / "vit")
    (tmp_path / "odd").mkdir()
    odd = {"model_type": "llama", "hidden_size": 32, "num_attention_heads": 3}
    (tmp_path / "odd" / "config.json").write_text(json.dumps(odd))
    LlamaConfig(**LLAMA).save_pretrained(tmp_path / "other")
    LlamaConfig(**LLAMA).save_pretrained(tmp_path / "mismatched")
    AutoTokenizer.from_pretrained(large).save_pretrained(tmp_path / "mismatched")
    LlamaConfig(**{**LLAMA, "vocab_size": 901, "hidden_size": 64}).save_pretrained(tmp_path / "wider")
    broken = LlamaForCausalLM(LlamaConfig(**LLAMA))
    broken.model.layers[1].mlp.up_proj.weight.data[3, 4] = float("nan")
    broken.save_pretrained(tmp_path / "broken")
    for size in (500, 901):
        TokenCounts.of([1, 2], size).save(tmp_path / f"{size}.json")
    for name in ("cut", "fewer", "listed", "gaps"):
        shutil.copytree(large, tmp_path / name)
    weights = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(weights[:500])
    config = json.loads((tmp_path / "fewer" / "config.json").read_text())
    (tmp_path / "fewer" / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 6}))
    content = json.loads((tmp_path / "listed" / "tokenizer.json").read_text())
    (tmp_path / "listed" / "tokenizer.json").write_text("[]")
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = {piece: n if n < 500 else n + 50 for piece, n in vocabulary.items()}
    (tmp_path / "gaps" / "tokenizer.json").write_text(json.dumps(content))
    return {"large": large, "corpus": corpus, "here": str(tmp_path), "output": str(tmp_path / "output")}


@pytest.mark.parametrize(
    "command, message",
    [
        ("compress-tokenizer --tokenizer {large} --vocab-size 200 --dataset {corpus}", "--vocab-size: got 200"),
        ("compress-tokenizer --tokenizer {large} --dataset {corpus}", "exactly one"),
        ("compress-tokenizer --tokenizer {large} --vocab-size 400", "--dataset is missing"),
        ("compress-tokenizer --tokenizer {large} --vocab-size 400 --dataset {here}/empty.txt", "empty"),
        ("compress-tokenizer --tokenizer {here}/none --vocab-size 400 --dataset {corpus}", "--tokenizer"),
        (
            "compress-tokenizer --tokenizer {large} --model {here}/other --vocab-size 400 --dataset {corpus}",
            "do not belong together",
        ),
        (
            "compress-tokenizer --tokenizer {large} --vocab-size 400 --counts {here}/0.json",
            "--counts: there is no file",
        ),
        (
            "compress-tokenizer --tokenizer {large} --vocab-size 400 --counts {here}/901.json {here}/500.json",
            "500.json is of 500 tokens, not of 901",
        ),
        ("inherit --model {here}/broken --layers 2", "broken has 1 broken weights: model.layers.1.mlp.up_proj."),
        ("inherit --model {large} --like {here}/wider", "--like: hidden_size: got 64, accepted are 1 to 32"),
        ("inherit --model {large} --like {here}/wider --hidden-size 48", "error: --hidden-size: got 48, accepted are"),
        ("inherit --model {here}/gpt2 --hidden-size 8", "architecture 'gpt2'"),
        ("inherit --model {here}/vit --like {large}", "--model: got the architecture 'vit', accepted are 'llama'"),
        ("inherit --model {large} --like {here}/odd", "read (The hidden size (32) is not a multiple of"),
        ("inherit --model {here}/mismatched --hidden-size 8", "96 tokens, the tokenizer's 901"),
        ("inherit --model {here}/other --method l1 --rescale-norms --dataset {corpus}", "has no tokenizer"),
        ("inherit --model {large} --hidden-size 64", "--hidden-size: got 64"),
        ("inherit --model {large} --method taylor", "--dataset is missing"),
        ("inherit --model {large} --like {here}/other", "--like: it has 96 tokens"),
        ("select-rounds --model {large} --rate 2 --dataset {corpus}", "--rate: got 2.0"),
        (
            "select-rounds --overwrite --model {large} --dataset {corpus} --output {here}",
            "is a folder, accepted is a file",
        ),
        ("train-rounds --rounds 0 --model {large} --dataset {corpus}", "--rounds: got 0"),
    ],
)
def test_wrong_input_ends_in_one_line(command, message, wrong, capsys, tmp_path):
    argv = [word.format(**wrong) for word in command.split()]
    option = "--output_dir" if command.startswith("train-rounds") else "--output"
    before = sorted(tmp_path.rglob("*"))
    assert run(*argv, *(() if option in argv else (option, wrong["output"]))) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_compressed_sentencepiece_model_lies_beside_the_tokenizer(
    byte_level_tokenizer, corpus, tmp_path, monkeypatch, capsys
):
    written = []
    file = tmp_path / "mine.model"
    file.write_bytes(b"1")

    def save(source, id_map, target):
        written.append((source, len(id_map)))
        target.write_bytes(b"2")

    pair = (SimpleNamespace(save_compressed=save), byte_level_tokenizer)
    monkeypatch.setattr(tokenizer_command, "_load_tokenizer", lambda name: pair)
    words = ["compress-tokenizer", "--tokenizer", file, "--vocab-size", 500, "--dataset", corpus]
    assert run(*words, "--output", tmp_path / "out") == 0, capsys.readouterr().err
    assert written == [(str(file), 500)] and (tmp_path / "out" / "tokenizer.model").read_bytes() == b"2"


@pytest.mark.parametrize("first", [True, False])
def test_of_several_processes_the_first_writes_which_samples_were_drawn(first, tmp_path, monkeypatch, capsys):
    written = []
    trainer = SimpleNamespace(model=None, train_dataset=range(8), args=SimpleNamespace(should_save=first))
    monkeypatch.setattr(rounds_command, "_check", lambda recipe: None)
    monkeypatch.setattr(rounds_command, "_prepared", lambda recipe, folder: SimpleNamespace(trainer=trainer))
    states = []
    monkeypatch.setattr(
        sample_losses,
        "compute_losses",
        lambda *_, batch_size, state_file, **__: states.append(state_file) or f"losses of {batch_size}",
    )
    monkeypatch.setattr(
        rounds, "write_drawn", lambda file, losses, **how: written.append((file, losses, how)) or {"indices": [1, 2]}
    )
    file = tmp_path / "drawn.json"
    draw = ["--rate", 0.25, "--temperature", 0.1, "--group-size", 2, "--draw-seed", 7, "--loss-batch-size", 3]
    assert run("select-rounds", "--model", tmp_path, "--output", file, "--dataset", "d", *draw) == 0
    how = {"rate": 0.25, "temperature": 0.1, "group_size": 2, "seed": 7, "data": fingerprint(range(8))}
    assert written == [(file, "losses of 3", how)] * first
    assert states == [tmp_path / "drawn.json.losses.npz"], "a file of its own for each draw, whatever its name ends in"
    assert ("drawn.json" in capsys.readouterr().out) == first


@pytest.mark.parametrize(
    "step",
    [("scale-lr", "--new-batch-tokens", "250k"), ("suggest-config", "--params", "2M", "--vocab", 512)],
    ids=["scale-lr", "suggest-config"],
)
def test_results_as_json_are_indented_and_said_by_the_first_process_alone(step, capsys, monkeypatch):
    assert run(*step, "--json") == 0
    shown = capsys.readouterr().out
    assert shown == json.dumps(json.loads(shown), indent=2) + "\n" and "\n  " in shown
    monkeypatch.setenv("RANK", "0")
    assert run(*step, "--json") == 0 and capsys.readouterr().out == shown
    monkeypatch.setenv("RANK", "1")
    assert run(*step) == 0 and capsys.readouterr().out == ""


def test_rounds_are_told_a_line_each_with_their_losses():
    metrics = {"train_loss": 2.0, "train_runtime": 3.0}
    first = {"round": 1, "samples": 8, "folder": "a/round-1", "mean_loss": 1.5, "mean_drawn_loss": 1.75}
    results = [{**first, "metrics": metrics}, {"round": 2, "samples": 4, "folder": "a/round-2", "metrics": metrics}]
    assert rounds_command._rounds_table(results).splitlines() == [
        "round 1: 8 samples, train_loss 2.0000, mean_loss 1.5000, mean_drawn_loss 1.7500  a/round-1",
        "round 2: 4 samples, train_loss 2.0000  a/round-2",
    ]


@pytest.mark.parametrize("exponent, factor", [(None, 0.5), (1, 0.25), (0, 1.0), (0.25, 0.5**0.5)])
def test_a_rate_of_ones_own_is_scaled_by_the_power_that_is_asked_for(exponent, factor, capsys):
    own = ["--learning-rate", 3e-3, "--batch-tokens", "1M", "--new-batch-tokens", "250k"]
    assert run("scale-lr", *own, *([] if exponent is None else ["--exponent", exponent]), "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["learning_rate"] == pytest.approx(3e-3 * factor)
    assert shown["min_lr"] == pytest.approx(3e-4 * factor)


@pytest.mark.parametrize("streaming", [False, True])
def test_a_steps_corpus_is_the_data_set_that_its_options_name(streaming, monkeypatch):
    named = {"dataset": "some/texts", "dataset_config": "en", "text_column": "body", "text_unit": "paragraph"}
    monkeypatch.setattr(documents, "load_texts", lambda args: args)
    arguments = SimpleNamespace(**named, split="validation", streaming=streaming, max_documents=None)
    monkeypatch.setattr(corpora, "check_named", lambda arguments: None)
    args = corpora.find_texts(arguments)
    assert {name: getattr(args, name) for name in named} == named
    assert (args.train_split, args.streaming) == ("validation", streaming)
    if streaming:
        assert args.eval_documents == 1000


def stop(given: list):
    """A function that takes down what it is given, and ends the command."""

    def call(*args, **options):
        given.append(options)
        raise ValueError("model: it is looked at no further")

    return call


def test_shapes_are_listed_by_what_the_options_say(monkeypatch, capsys):
    given = []
    monkeypatch.setattr(sizes, "list_shapes", lambda *args, **options: stop(given)(**options, places=args))
    words = ["suggest-config", "--params", "2M", "--vocab", "3k", "--model-type", "pangu_pi", "--width-first", "--tie"]
    words += ["--tolerance", 0.2, "--max-layers", 7, "--head-dim", 16, "--kv-groups", 3]
    assert run(*words) == 2 and "it is looked at no further" in capsys.readouterr().err
    same = {"tolerance": 0.2, "max_layers": 7, "head_dim": 16, "kv_groups": 3, "model_type": "pangu_pi"}
    assert given == [{"places": (2e6, 3000, False), "tie_word_embeddings": True, **same}]


def test_rounds_are_trained_by_what_the_options_say(large, corpus, tmp_path, monkeypatch, capsys):
    given = []
    monkeypatch.setattr(rounds, "train_rounds", stop(given))
    monkeypatch.setattr(rounds_command, "_check", lambda recipe: None)
    draw = ["--rounds", 3, "--rate", 0.25, "--temperature", 0.1, "--group-size", 2, "--draw-seed", 7]
    words = [*draw, "--loss-batch-size", 3, "--output_dir", tmp_path, "--model", large, "--dataset", corpus, *RECIPE]
    assert run("train-rounds", *words) == 2 and "it is looked at no further" in capsys.readouterr().err
    ((options),) = given
    same = {"rounds": 3, "rate": 0.25, "temperature": 0.1, "group_size": 2, "seed": 7, "loss_batch_size": 3}
    assert {name: options[name] for name in same} == same


def test_a_language_model_is_pruned_by_what_the_options_say(large, corpus, tmp_path, monkeypatch, capsys):
    given, chosen, places = [], [], []
    monkeypatch.setattr(prune_command, "check_device", lambda device: places.append(f"checked {device}"))
    network = SimpleNamespace(to=lambda device: places.append(device) or "there")
    monkeypatch.setattr(prune_command, "load_model", lambda name, argument: network)
    monkeypatch.setattr(minitron, "prune", lambda model, batches, **options: stop(given)(**options, batches=batches))
    monkeypatch.setattr(minitron, "choose_shapes", lambda model, **options: chosen.append(options))
    words = ["prune", large, tmp_path / "small", "--target-parameters", "40%", "--way", "any", "--tolerance", 0.2]
    words += ["--layers", 3, "--hidden", 24, "--intermediate", 40, "--heads", 2, "--key-value-heads", 1]
    words += ["--candidates", 3, "--method", "l1", "--select-layers", "ends", "--rescale-norms"]
    words += ["--retraining-steps", 2, "--learning-rate", 0.5, "--dataset", corpus]
    words += ["--calibration-batches", 3, "--batch-size", 2, "--block-size", 16, "--device", "cuda:1"]
    assert main([*map(str, words)]) == 2 and "it is looked at no further" in capsys.readouterr().err
    ((options),) = given
    assert [tuple(batch["input_ids"].shape) for batch in options.pop("batches")] == [(2, 16)] * 3
    named = {"num_hidden_layers": 3, "hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2}
    named |= {"num_key_value_heads": 1, "target_parameters": 0.4, "way": "any", "tolerance": 0.2, "candidates": 3}
    named |= {"layers": "ends", "method": "l1", "rescale_norms": True}
    assert chosen == [named] and places == ["checked cuda:1", "cuda:1"]
    del options["progress"]
    assert options == {**named, "retraining_steps": 2, "learning_rate": 0.5}
