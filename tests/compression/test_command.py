"""Each step is a command; what is wrong with its input is said before anything is written."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, LlamaConfig, LlamaForCausalLM

from hf_effmodels.cli import main
from hf_effmodels.compression import count_parameters

from .conftest import LLAMA


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
    # What was counted can be used again, without the corpus.
    again = ["--counts", compressed / "token_counts.json", "--strategy", "frequency", "--vocab-size", 400]
    assert run("compress-tokenizer", "--tokenizer", large, *again, "--output", tmp_path / "again") == 0
    assert len(AutoTokenizer.from_pretrained(tmp_path / "again")) == 400

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


def test_a_recipe_is_trained_in_rounds(large, corpus, tmp_path, capsys):
    output = tmp_path / "rounds"
    recipe = [
        "--dataset",
        corpus,
        "--block_size",
        32,
        "--text_unit",
        "line",
        "--max_train_documents",
        60,
        "--max_eval_documents",
        10,
    ]
    recipe += ["--per_device_train_batch_size", 8, "--num_train_epochs", 1, "--disable_tqdm", "true"]
    draw = ["--rate", 0.3, "--group-size", 2]
    assert run("train-rounds", *draw, "--output_dir", output, "--model", large, *recipe, "--json") == 0
    out = capsys.readouterr().out
    first, second = json.loads(out[out.index("[\n") :])
    assert abs(second["samples"] - 0.3 * first["samples"]) <= 2
    assert second["metrics"]["eval_loss"] < first["metrics"]["eval_loss"]
    drawn = tmp_path / "drawn.json"
    assert run("select-rounds", *draw, "--model", output / "round-2", "--output", drawn, *recipe) == 0
    assert json.loads(drawn.read_text())["samples"] == first["samples"]


def test_the_learning_rate_is_printed_as_a_recipe(capsys):
    scaled = ["--learning-rate", 1e-3, "--batch-tokens", "1M", "--new-batch-tokens", "250k"]
    assert run("scale-lr", *scaled, "--json") == 0
    assert json.loads(capsys.readouterr().out)["learning_rate"] == pytest.approx(5e-4)


@pytest.fixture
def wrong(large, corpus, tmp_path):
    """Values for the wrong command lines below."""
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "gpt2").mkdir()
    GPT2Config().save_pretrained(tmp_path / "gpt2")
    LlamaConfig(**LLAMA).save_pretrained(tmp_path / "other")
    LlamaConfig(**LLAMA).save_pretrained(tmp_path / "mismatched")
    AutoTokenizer.from_pretrained(large).save_pretrained(tmp_path / "mismatched")
    return {"large": large, "corpus": corpus, "here": str(tmp_path), "output": str(tmp_path / "output")}


@pytest.mark.parametrize(
    "command, message",
    [
        ("compress-tokenizer --tokenizer {large} --vocab-size 200 --dataset {corpus}", "vocab_size: got 200"),
        ("compress-tokenizer --tokenizer {large} --dataset {corpus}", "exactly one"),
        ("compress-tokenizer --tokenizer {large} --vocab-size 400", "--dataset is missing"),
        ("compress-tokenizer --tokenizer {large} --vocab-size 400 --dataset {here}/empty.txt", "empty"),
        ("compress-tokenizer --tokenizer {here}/none --vocab-size 400 --dataset {corpus}", "--tokenizer"),
        (
            "compress-tokenizer --tokenizer {large} --model {here}/other --vocab-size 400 --dataset {corpus}",
            "do not belong together",
        ),
        ("inherit --model {here}/gpt2 --hidden-size 8", "architecture 'gpt2'"),
        ("inherit --model {here}/mismatched --hidden-size 8", "96 tokens, the tokenizer's 901"),
        ("inherit --model {here}/other --method l1 --rescale-norms --dataset {corpus}", "has no tokenizer"),
        ("inherit --model {large} --hidden-size 64", "hidden_size: got 64"),
        ("inherit --model {large} --method taylor", "--dataset is missing"),
        ("inherit --model {large} --like {here}/other", "--like: it has 96 tokens"),
        ("select-rounds --model {large} --rate 2 --dataset {corpus}", "rate: got 2.0"),
        ("train-rounds --rounds 0 --model {large} --dataset {corpus}", "rounds: got 0"),
    ],
)
def test_wrong_input_ends_in_one_line(command, message, wrong, capsys, tmp_path):
    argv = [word.format(**wrong) for word in command.split()]
    option = "--output_dir" if command.startswith("train-rounds") else "--output"
    before = sorted(tmp_path.rglob("*"))
    assert run(*argv, option, wrong["output"]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(tmp_path.rglob("*")) == before
