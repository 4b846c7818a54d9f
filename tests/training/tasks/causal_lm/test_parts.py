"""The pieces of a language model's run by themselves: its tokenizer, its network, its numbers, its sample."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import processors
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels.training import prepare
from hf_effmodels.training.data.text.arguments import TextArguments
from hf_effmodels.training.data.text.packing import Counts
from hf_effmodels.training.data.text.tokenization import train_tokenizer
from hf_effmodels.training.tasks.causal_lm import models, reports, task
from hf_effmodels.training.tasks.causal_lm import trainer as trainer_module
from hf_effmodels.training.tasks.causal_lm.arguments import CausalLMArguments, LanguageModelArguments
from hf_effmodels.training.tasks.causal_lm.models import find_tokenizer, load_language_model
from hf_effmodels.training.tasks.causal_lm.reports import text_metrics, write_evaluation, write_sample
from hf_effmodels.training.tasks.causal_lm.trainer import summarize

from ..recorders import Calls, Named, begun
from ..test_rare_preparations import reader
from ..test_rare_steps import bare

TEXTS = ["low lower lowest", "new newer newest"]
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 262, max_length=32)


def llama(**fields) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**SIZES, "vocab_size": 262, **fields})).eval()


def arguments(**given) -> LanguageModelArguments:
    return LanguageModelArguments(**{"model": "llama", "model_config": dict(SIZES), **given})


# tokenizers


def test_a_tokenizer_is_trained_or_that_of_the_checkpoint_that_the_run_goes_on_from(tokenizer, tmp_path, caplog):
    caplog.set_level("INFO", logger="hf_effmodels")
    args = arguments(tokenizer="train:262")
    found = find_tokenizer(args, lambda: TEXTS, 32)
    assert found.get_vocab() == tokenizer.get_vocab() and found.model_max_length == 32
    assert "trained a byte-level BPE of 262 tokens" in caplog.text
    assert len(find_tokenizer(args, lambda: TEXTS, 32, tmp_path)) == 262, "a folder without one"
    train_tokenizer(["other words"], 258).save_pretrained(tmp_path)
    again = find_tokenizer(args, lambda: pytest.fail("the texts are read"), 32, tmp_path)
    assert len(again) == 258


def test_a_tokenizer_of_its_own_has_no_revision_of_the_model(monkeypatch):
    asked = []
    monkeypatch.setattr(models, "load_tokenizer", lambda *args, **more: asked.append((args, more)))
    monkeypatch.setattr(models, "check_place", lambda *args, **more: asked.append((args, more)))
    place = (("--model", "org/net"), {"revision": ("--revision", "v2")})
    source = {"revision": "v2", "token": "t", "trust_remote_code": True}
    args = arguments(model="org/net", eos_token="</s>", **source)
    find_tokenizer(args, None, 32)
    assert asked == [place, (("org/net", "</s>"), {"argument": "--model", **source})]
    asked.clear()
    args.tokenizer = "org/words"
    find_tokenizer(args, None, 32)
    assert asked[1:] == [(("org/words", "</s>"), {**source, "revision": None})]
    for name in ("llama", "pangu-pi-15m"):
        with pytest.raises(ValueError, match=f"--tokenizer is missing: {name} starts from random weights"):
            find_tokenizer(arguments(model=name), None, 32)


# networks


def test_a_preset_for_another_task_is_no_language_model(monkeypatch):
    with pytest.raises(ValueError, match="ghostnetv3-1.0x is a preset for image-classification"):
        models.is_pretrained(arguments(model="ghostnetv3-1.0x"))
    assert not models.is_pretrained(arguments(model="pangu-pi-15m"))


def test_what_is_not_said_of_a_language_models_training_is_as_documented(tmp_path):
    args = CausalLMArguments(output_dir=str(tmp_path))
    assert args.ddp_find_unused_parameters is False and (args.save_total_limit, args.logging_steps) == (2, 50)
    assert args.eval_strategy == args.save_strategy == "epoch"
    assert (args.sample_prompt, args.sample_tokens, args.peak_tflops) == (None, 100, None)


def test_random_weights_have_the_tokens_of_the_tokenizer(tokenizer):
    for model in (
        load_language_model(arguments(attn_implementation="eager"), tokenizer, 16),
        load_language_model(
            arguments(model="pangu-pi-15m", model_config={**SIZES, "max_position_embeddings": 16}), tokenizer, 16
        ),
    ):
        config = model.config
        assert (config.vocab_size, config.bos_token_id, config.eos_token_id, config.pad_token_id) == (262, 0, 0, None)
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert (config.hidden_size, config.num_hidden_layers) == (16, 1)
    assert load_language_model(arguments(attn_implementation="eager"), tokenizer, 16).config._attn_implementation == (
        "eager"
    )
    padded = train_tokenizer(TEXTS, 262, max_length=32)
    padded.pad_token = padded.eos_token  # blocks have no padding, and an end of a document is to be learned
    assert load_language_model(arguments(), padded, 16).config.pad_token_id is None
    padded.bos_token = "l"
    config = load_language_model(arguments(), padded, 16).config
    assert (config.bos_token_id, config.eos_token_id) == (padded.get_vocab()["l"], 0)
    halves = arguments(model_config={**SIZES, "dtype": "bfloat16"})
    assert load_language_model(halves, tokenizer, 16).dtype == torch.float32, "what a training keeps"
    # What is given wins over what the tokenizer says.
    larger = load_language_model(arguments(model_config={**SIZES, "vocab_size": 300}), tokenizer, 16)
    assert larger.config.vocab_size == 300


def test_as_many_tokens_and_positions_as_there_are_may_be_asked_for(tokenizer, tmp_path):
    llama(max_position_embeddings=16).half().save_pretrained(tmp_path)
    model = load_language_model(arguments(model=str(tmp_path), model_config=None), tokenizer, 16)
    assert model.dtype == torch.float32, "trained in float32, whatever it was stored in"
    with pytest.raises(ValueError, match="--block_size: got 17, but the model takes 16 tokens"):
        load_language_model(arguments(model=str(tmp_path), model_config=None), tokenizer, 17)
    with pytest.raises(ValueError, match="--tokenizer: it has 263 tokens, the model only 262; nothing could be"):
        load_language_model(
            arguments(model=str(tmp_path), model_config=None), train_tokenizer(TEXTS, 263, max_length=32), 16
        )


def test_a_pretrained_network_gets_the_settings_that_are_given_and_no_others(tokenizer, tmp_path):
    llama().save_pretrained(tmp_path)
    given = {"attention_dropout": 0.25, "rms_norm_eps": 1e-4}
    options = {"model": str(tmp_path), "model_config": given}
    eager = load_language_model(arguments(**options, attn_implementation="eager"), tokenizer, 16)
    assert eager.config._attn_implementation == "eager"
    model = load_language_model(arguments(**options), tokenizer, 16)
    assert model.config._attn_implementation == "sdpa"
    assert {name: getattr(model.config, name) for name in given} == given
    with pytest.raises(ValueError, match="^--model_config: .*hidden_sice"):
        load_language_model(arguments(model=str(tmp_path), model_config={"hidden_sice": 3}), tokenizer, 16)


@pytest.mark.parametrize("to_be_trained", [True, False])
def test_a_network_without_a_head_is_trained_and_not_evaluated(to_be_trained, tokenizer, tmp_path, monkeypatch):
    llama().model.save_pretrained(tmp_path)
    args = arguments(model=str(tmp_path), model_config=None)
    if to_be_trained:
        assert load_language_model(args, tokenizer, 16, to_be_trained=True).lm_head.weight.isfinite().all()
    else:
        with pytest.raises(ValueError, match="^--model: .*lm_head"):
            load_language_model(args, tokenizer, 16, to_be_trained=False)
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(TEXTS))
    tokenizer.save_pretrained(tmp_path)
    call = ["--task", "causal-lm", "--model", str(tmp_path), "--dataset", str(text), "--block_size", "4"]
    with pytest.raises(ValueError, match="^--model: .*lm_head"):
        prepare("prepare_evaluation", call)


def test_an_attention_that_there_is_not_is_named_and_other_faults_are_not_blamed_on_it(tokenizer):
    with pytest.raises((ValueError, ImportError), match="^--attn_implementation: got 'abacus': "):
        load_language_model(arguments(attn_implementation="abacus"), tokenizer, 16)
    for attention in (None, "eager"):
        with pytest.raises(ValueError, match="^--model_config: .*hidden_sice"):
            load_language_model(
                arguments(attn_implementation=attention, model_config={"hidden_sice": 3}), tokenizer, 16
            )


# preparations


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("kind", ["plain", "stream", "sorted"])
def test_a_training_of_a_language_model_has_what_its_arguments_say(kind, pretrained, monkeypatch):
    calls, tokenizer = Calls(), SimpleNamespace(get_vocab=lambda: {"b": 1, "a": 0})
    trainer = SimpleNamespace(
        evaluate=lambda: "measured", eval_dataset="eval blocks", save_submodels=calls.of("save_submodels")
    )
    make = calls.of("Trainer", lambda **given: trainer)
    recorded = ("read_state", "make_ternary", "_check_report", "add_warm_start", "_try_forward")
    begun(
        monkeypatch,
        task,
        calls,
        **{name: calls.of(name) for name in (*recorded, "_check_stream_arguments")},
        load_texts=calls.of("texts", ("train texts", "eval texts")),
        read=lambda *given: ("read", *given),
        find_tokenizer=calls.of("tokenizer", tokenizer),
        load_language_model=calls.of("model", "model"),
        making_sorted=calls.of("sorted", lambda *_: make),
        is_pretrained=lambda args: pretrained,
        fingerprint=calls.of("fingerprint", "0123456789abcdefgh"),
        _facts=lambda texts: f"facts of {texts}",
        _training_blocks=calls.of("training blocks", "train blocks"),
        evaluation_blocks=calls.of("evaluation blocks", "eval blocks"),
        evaluated_split=lambda args, texts: f"split of {texts}",
        held_out_unasked=calls.of("held out", "the command's"),
        write_results=calls.of("write_results", "results"),
    )
    model_args, text = Named("model", model_config={}), Named("text", streaming=kind == "stream")
    args = Named("args", sorted_submodels={"half": {}} if kind == "sorted" else None)
    given = (model_args, text, args)
    run = task.prepare_training(reader(*given), *([] if kind == "sorted" else [make]))
    assert calls.get("sorted", []) == ([((task.SortedCausalLMTrainer, args), {})] if kind == "sorted" else [])
    assert calls.get("read_state", []) == ([(("checkpoint",), {})] if kind == "stream" else [])
    assert calls.get("_check_stream_arguments", []) == ([((args,), {})] if kind == "stream" else [])
    assert calls["texts"] == [((text, "model.token"), {})]
    [((of, texts, *where), _)] = calls["tokenizer"]
    assert (of, texts(), where) == (model_args, ("read", "train texts", 100_000), ["text.block_size", "checkpoint"])
    assert calls["set_seed"] == [(("args.seed",), {})]
    assert calls["model"] == [((model_args, tokenizer, "text.block_size"), {})]
    assert calls["make_ternary"] == [(("model", args), {})]
    assert calls["_check_report"] == [(("model", tokenizer, args), {})]
    contents = {"training text": "facts of train texts", "evaluation text": "facts of eval texts"}
    contents |= {
        "tokenizer": {"tokens": "0123456789abcdef"},
        **({"model": ("weights", "model")} if pretrained else {}),
    }
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    assert calls["fingerprint"] == [((['[["a", 0], ["b", 1]]'],), {})], "in whatever order a vocabulary is given"
    assert calls["training blocks"] == [(("train texts", tokenizer, text, args), {})]
    assert calls["evaluation blocks"] == [(("eval texts", tokenizer, text), {})]
    [(_, made)] = calls["Trainer"]
    assert made == {
        "model": "model", "args": args, "train_dataset": "train blocks", "eval_dataset": "eval blocks",
        "processing_class": tokenizer,
    }  # fmt: skip
    assert calls["add_warm_start"] == [((trainer, args), {})]
    assert calls["_try_forward"] == [(("model", "eval blocks", args), {})]
    assert run.evaluation == ({} if kind == "stream" else "the command's")
    if kind != "stream":
        assert calls["held out"] == [((text, "split of eval texts"), {})]
    assert run.report("train metrics") == "results"
    assert calls["write_results"] == [((trainer, "train metrics", "measured", "config", model_args, text), {})]
    assert len(calls.get("save_submodels", [])) == (kind == "sorted")


def test_of_a_stream_the_first_documents_are_known_again_and_of_other_texts_all():
    rows = [{"text": f"document {number}"} for number in range(70)]

    def stream(rows):
        yield from rows[:65]
        raise AssertionError("more is read than its beginning")

    known = task._facts(stream(rows))
    assert [*known] == ["first documents"] and len(known["first documents"]) == 16
    another = {"text": "another"}
    assert (
        known == task._facts(stream([*rows[:64], another])) != task._facts(stream([*rows[:63], another, *rows[64:]]))
    )
    other = [*rows[:69], another]
    assert task._facts(rows) == task._facts([*rows]) != task._facts(other)


# numbers


def test_bits_per_byte_are_all_losses_in_bits_over_the_bytes_of_the_text():
    metrics = {"eval_loss": 2 * math.log(2), "eval_tokens": 30, "eval_perplexity": 4.0}
    assert text_metrics(metrics, 40) == {**metrics, "eval_bits_per_byte": pytest.approx(1.5)}
    other = {"x_loss": math.log(2), "x_tokens": 8}
    assert text_metrics(other, 4, "x_")["x_bits_per_byte"] == pytest.approx(2.0)


def test_a_loss_is_the_mean_over_tokens_and_a_hopeless_one_has_no_finite_perplexity():
    def of(sums, counts) -> dict:
        return summarize(SimpleNamespace(predictions=np.array(sums, np.float32), label_ids=np.array(counts)))

    assert of([3.0, 1.0], [5, 3]) == {"loss": 0.5, "perplexity": pytest.approx(math.exp(0.5)), "tokens": 8}
    assert of([699.0], [1])["perplexity"] == pytest.approx(math.exp(699))
    assert of([700.0], [1])["perplexity"] == of([1e6], [1])["perplexity"] == math.inf
    # Sums of many sequences are exact where float32 would stop to count.
    assert of([2.0**24, 1.0, 1.0], [1, 0, 0])["loss"] == 2**24 + 2


def test_a_stopwatch_is_stopped_by_each_pause_and_begins_anew_with_each_lap(monkeypatch):
    clock = SimpleNamespace(now=5.0)
    monkeypatch.setattr(trainer_module.time, "perf_counter", lambda: clock.now)
    watch = trainer_module._Stopwatch()
    for pauses, seconds in (((), 3.0), ((10.0,), 4.0), ((1.0, 2.0), 5.0), ((), 6.0)):
        for pause in pauses:
            with watch.paused():
                clock.now += pause
        clock.now += seconds
        assert watch.lap() == seconds


def test_a_log_tells_the_tokens_of_all_processes_since_the_line_before_and_what_share_of_all_devices_they_took():
    """Two processes, 640 tokens each in four seconds, of 1e9 operations; 2e12 of a device are possible."""
    both = SimpleNamespace(reduce=lambda tokens, how: 2 * tokens if how == "sum" else None)
    trainer = SimpleNamespace(
        watch=SimpleNamespace(lap=lambda: 4.0), args=SimpleNamespace(device="cpu", world_size=2), accelerator=both,
        _tokens=640, _flops_per_token=1e9, _peak=2.0,
    )  # fmt: skip
    speed = trainer_module.CausalLMTrainer._speed
    assert speed(trainer) == {"tokens_per_second": 320.0, "mfu": pytest.approx(0.08)}
    assert speed(trainer) == {"tokens_per_second": 0.0, "mfu": 0}, "none since"


def test_a_stream_forgets_after_each_step_what_has_been_trained_on():
    forgotten = []
    stream = SimpleNamespace(forget=forgotten.append)
    trainer = SimpleNamespace(stream=stream, blocks_seen=lambda: 24, watch=SimpleNamespace(lap=lambda: None))
    state = SimpleNamespace(global_step=3, max_steps=12, epoch=None)
    trainer_module._StepHooks(trainer).on_step_end(None, state, None)
    assert forgotten == [24] and state.epoch == 0.25
    laps = []
    trainer.watch = SimpleNamespace(lap=lambda: laps.append("lap"))
    trainer_module._StepHooks(trainer).on_train_begin(None, state, None)
    assert laps == ["lap"], "what was done before the first step is no time of training"
    trainer.stream, state.epoch = None, 1.5
    trainer_module._StepHooks(trainer).on_step_end(None, state, None)
    assert forgotten == [24] and state.epoch == 1.5


def test_tokens_that_several_submodels_learn_from_are_counted_once_and_experts_by_the_whole():
    added = []
    whole = SimpleNamespace(config="its configuration")
    trainer = SimpleNamespace(_tokens=0, submodels_per_step=2, model=whole)
    trainer.mixture = SimpleNamespace(add=lambda *given: added.append(given))
    for number, network in enumerate((whole, SimpleNamespace())):
        inputs = {"input_ids": torch.zeros(3, 8)}
        trainer_module.SortedCausalLMTrainer.count(trainer, SimpleNamespace(network=network), inputs, number)
    assert trainer._tokens == 24 and added == [(0, "its configuration")]


@pytest.mark.parametrize("training", [True, False])
def test_batches_of_a_training_are_counted_and_a_line_of_its_loss_tells_them(training, monkeypatch):
    """An evaluation in between neither counts nor tells."""
    told, logged = [], []
    base = trainer_module.CausalLMTrainer.__mro__[1]
    monkeypatch.setattr(base, "task_loss", lambda self, *given: ("loss", "outputs"))
    monkeypatch.setattr(base, "log", lambda self, *given: logged.append(given))
    trainer = bare(
        trainer_module.CausalLMTrainer,
        model=SimpleNamespace(config="its configuration"),
        mixture=SimpleNamespace(add=lambda *given: told.append(given), take=lambda accelerator: {"balance_loss": 1.0}),
        accelerator=None,
        _tokens=8,
        _speed=lambda: {"tokens_per_second": 5.0},
    )
    inputs = {"input_ids": torch.zeros(3, 4)}
    assert trainer.task_loss(SimpleNamespace(training=training), inputs, 7) == ("loss", "outputs")
    assert (trainer._tokens, told) == ((20, [("outputs", "its configuration")]) if training else (8, []))
    trainer.log({"eval_loss": 2.0})
    trainer.log({"loss": 3.0}, 1.5)
    line = {"loss": 3.0, "tokens_per_second": 5.0, "balance_loss": 1.0}
    assert logged == [({"eval_loss": 2.0}, None), (line, 1.5)]


class _Trainer(SimpleNamespace):
    def is_world_process_zero(self) -> bool:
        return self.first


@pytest.mark.parametrize("first", [True, False])
def test_an_evaluation_is_printed_and_written_by_one_process(first, tmp_path, capsys):
    counts = Counts(documents=3, empty_documents=1, bytes=40, tokens=31, blocks=2, dropped_tokens=0)
    trainer = _Trainer(first=first, eval_dataset=SimpleNamespace(counts=counts))
    metrics = {"eval_loss": 2 * math.log(2), "eval_perplexity": 4.0, "eval_tokens": 30, "eval_runtime": 9.0}
    call = {"task": "causal-lm", "model": "m", "dataset": "d", "block_size": 16, "streaming": False}
    found = write_evaluation(trainer, metrics, str(tmp_path / "out.json"), call)
    expected = {"model": "m", "dataset": "d", "block_size": 16, "documents": 3, "bytes": 40, "tokens": 30}
    expected |= {"loss": 2 * math.log(2), "perplexity": 4.0, "bits_per_byte": 1.5}
    assert found.items() >= expected.items() and "runtime" not in found
    told = "loss 1.3863  perplexity 4.000  bits per byte 1.5000  tokens 30\n"
    assert capsys.readouterr().out == (told if first else "")
    assert (tmp_path / "out.json").exists() is first
    if first:
        assert json.loads((tmp_path / "out.json").read_text()).items() >= expected.items()


# samples


@pytest.mark.parametrize("begin", ["l", None])
def test_a_sample_goes_on_from_the_prompt_after_the_token_that_begins_a_document(begin, tmp_path):
    words = train_tokenizer(TEXTS, 262, max_length=32)
    words.bos_token = begin
    end = ("<|endoftext|>", words.eos_token_id)  # what the tokenizer itself puts around a text is left out
    words.backend_tokenizer.post_processor = processors.BertProcessing(end, end)
    first = words.eos_token_id if begin is None else words.get_vocab()["l"]
    model, asked = llama(), []
    generate = model.generate
    model.generate = lambda ids, **options: asked.append((ids, options)) or generate(ids, **options)
    args = SimpleNamespace(sample_prompt="new", sample_tokens=6, seed=3)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    model.train()
    text = write_sample(words, model, args, tmp_path)
    assert torch.equal(torch.get_rng_state(), before) and not model.training
    ((ids, options),) = asked
    assert ids.tolist() == [[first, *words("new", add_special_tokens=False).input_ids]]
    assert options.pop("attention_mask").tolist() == torch.ones_like(ids).tolist()
    assert options == {
        **{"max_new_tokens": 6, "do_sample": True, "temperature": 0.8, "top_k": 50},
        "pad_token_id": words.eos_token_id,
    }
    assert (tmp_path / "sample.txt").read_text(encoding="utf-8") == f"{text}\n"
    assert "new" in text and words.eos_token not in text
    assert write_sample(words, model, args, tmp_path) == text
    texts = set()
    for args.seed in range(4):
        texts.add(write_sample(words, model, args, tmp_path))
    assert len(texts) > 1


def test_a_curve_shows_training_beside_evaluation_and_a_card_what_was_measured_of_which_text(tmp_path, monkeypatch):
    drawn, written = [], []
    counts = Counts(documents=3, empty_documents=1, bytes=40, tokens=31, blocks=2, dropped_tokens=0)
    trainer = SimpleNamespace(
        args=SimpleNamespace(sample_prompt=None),
        stream=None,
        train_dataset=SimpleNamespace(counts=counts),
        eval_dataset=SimpleNamespace(counts=counts, split="test (held out)"),
        state=SimpleNamespace(log_history="the log"),
        mixture=SimpleNamespace(last_load=None),
        card_facts={"teacher_perplexity": "3.5"},
        tokens_seen=lambda: 450,
        get_total_train_batch_size=lambda args: 4,
    )
    monkeypatch.setattr(reports, "has_matplotlib", lambda: True)
    monkeypatch.setattr(reports, "plot_curves", lambda *given, **how: drawn.append((given, how)))
    monkeypatch.setattr(reports, "write_card", lambda *given, **how: written.append((given, how)))
    monkeypatch.setattr(
        reports, "training_summary", lambda config, names, batch: {"seed": config["seed"], "of": batch}
    )
    metrics = {"eval_loss": 1.0, "eval_perplexity": 2.0, "eval_bits_per_byte": 3.0, "eval_runtime": 4.0}
    texts = SimpleNamespace(dataset="some/texts", block_size=16)
    reports._write_reports(trainer, metrics, {"seed": 9}, SimpleNamespace(model="a-model"), texts, tmp_path)
    panels = {"cross entropy": {"loss": "training", "eval_loss": "evaluation"}}
    panels |= {"perplexity": {"eval_perplexity": "evaluation"}}
    assert drawn == [(("the log", tmp_path / "training_curve.png", panels), {"x": "step"})]
    ((_, measured), how), *others = written
    assert measured == {"loss": 1.0, "perplexity": 2.0, "bits_per_byte": 3.0} and not others
    assert (how["split"], how["dataset"], how["model"]) == ("test (held out)", "some/texts", "a-model")
    assert how["training"] == {"tokens_seen": 450, "seed": 9, "of": 4, "teacher_perplexity": "3.5"}
    assert how["unit"] == "blocks of 16 tokens"
    assert {*json.loads((tmp_path / "text.json").read_text())} == {"training", "evaluation"}


@pytest.mark.parametrize("prompt", ["Once", "", None])
def test_a_sample_is_written_and_shown_of_any_prompt_even_an_empty_one(prompt, monkeypatch, capsys, tmp_path):
    asked = []
    monkeypatch.setattr(reports, "has_matplotlib", lambda: False)
    monkeypatch.setattr(reports, "write_card", lambda *given, **how: None)
    monkeypatch.setattr(reports, "training_summary", lambda *given: {})
    monkeypatch.setattr(reports, "write_sample", lambda *given: asked.append(given) or "upon a time")
    counts = Counts(documents=3, empty_documents=1, bytes=40, tokens=31, blocks=2, dropped_tokens=0)
    others = Counts(documents=5, empty_documents=0, bytes=50, tokens=41, blocks=3, dropped_tokens=1)
    trainer = SimpleNamespace(
        args=SimpleNamespace(sample_prompt=prompt),
        stream=None,
        train_dataset=SimpleNamespace(counts=counts),
        eval_dataset=SimpleNamespace(counts=others, split="test"),
        mixture=SimpleNamespace(last_load=None),
        card_facts={},
        tokens_seen=lambda: 0,
        get_total_train_batch_size=lambda args: 1,
        accelerator=SimpleNamespace(unwrap_model=lambda model: f"the {model}"),
        model="network",
        processing_class="tokenizer",
    )
    metrics = {"eval_loss": 1.0, "eval_perplexity": 2.0, "eval_bits_per_byte": 3.0}
    given = SimpleNamespace(model="m", dataset="d", block_size=4)
    reports._write_reports(trainer, metrics, {}, given, given, tmp_path)
    assert asked == ([("tokenizer", "the network", trainer.args, tmp_path)] if prompt is not None else [])
    assert capsys.readouterr().out == ("upon a time\n" if prompt is not None else "")
    written = json.loads((tmp_path / "text.json").read_text())
    assert [written[part]["documents"] for part in ("training", "evaluation")] == [3, 5]


def test_of_a_stream_a_report_counts_what_was_trained_on():
    place = {"blocks": 8, "documents": 5, "empty_documents": 1, "epoch": 2, "source": None, "tokens": []}
    states = {10: {"window_start": place}}
    stream = SimpleNamespace(block=SimpleNamespace(size=16), state=states.__getitem__)
    trainer = SimpleNamespace(stream=stream, blocks_seen=lambda: 10)
    assert reports._training_counts(trainer) == {
        **{"blocks": 10, "tokens": 150},  # of each block all but the first are predicted
        **{"documents": 5, "empty_documents": 1, "epoch": 2},
    }


@pytest.mark.parametrize(
    "steps, blocks",
    [(0, 0), (1, 4), (2, 8), (3, 10), (4, 14), (6, 20), (8, 28)],
)
def test_tokens_of_a_run_are_those_of_its_blocks_as_often_as_they_were_seen(steps, blocks):
    """Ten blocks of 16 in batches of four: each epoch is of three steps, the last of two blocks."""
    trainer = task.CausalLMTrainer.__new__(task.CausalLMTrainer)
    data = type("Data", (list,), {"block": SimpleNamespace(size=16)})(range(10))
    trainer.__dict__ |= {"stream": None, "args": None, "state": SimpleNamespace(global_step=steps)}
    trainer.__dict__ |= {"train_dataset": data, "_steps_per_epoch": 3, "get_total_train_batch_size": lambda args: 4}
    assert trainer.tokens_seen() == blocks * 15
    trainer.stream = data
    assert trainer.tokens_seen() == steps * 4 * 15, "batches of a stream are whole"


# text


@pytest.mark.parametrize("size", ["", "abc", "256", "300.5", "-300", " 300"])
def test_a_tokenizer_is_trained_with_a_whole_number_of_tokens(size):
    with pytest.raises(
        ValueError, match=f"^--tokenizer: got 'train:{size}', accepted are whole numbers from 257 there"
    ):
        LanguageModelArguments(model="llama", tokenizer=f"train:{size}")
    assert LanguageModelArguments(model="llama", tokenizer="train:257").tokenizer == "train:257"


@pytest.mark.parametrize("attention", ["shared", "separate"])
def test_blocks_of_evaluation_keep_the_tail_and_those_of_training_do_not(attention, tokenizer, monkeypatch):
    asked = []
    counts = SimpleNamespace(log=lambda what: asked.append(what))
    monkeypatch.setattr(
        task, "PackedBlocks", lambda *args, **more: asked.append((args, more)) or SimpleNamespace(counts=counts)
    )
    args = TextArguments("x", block_size=7, document_attention=attention, preprocessing_num_workers=3)
    texts = SimpleNamespace(split="test")
    task.evaluation_blocks(texts, tokenizer, args)
    task._training_blocks(texts, tokenizer, args, None)
    ((found, evaluation), said, (others, training), also_said) = asked
    assert (said, also_said) == ("evaluation", "training") and found[0] is others[0] is texts
    assert evaluation == {"keep_tail": True, "num_workers": 3, "name": "the evaluation text", "split": "test"}
    assert training == {"num_workers": 3, "name": "the training text"}
    for _, encode, block in (found, others):
        assert (block.size, block.separate, encode.tokenizer) == (7, attention == "separate", tokenizer)
        assert (block.separators.begin, block.separators.end) == (0, 0) and encode.separators == block.separators


@pytest.mark.parametrize("given, drawn", [(None, 3), (7, 7)])
def test_a_stream_is_shuffled_in_windows_by_the_seed_of_the_data(given, drawn, tokenizer, monkeypatch):
    asked, checked = [], []

    def stream(texts, encode, block, **how):
        asked.append((texts, block.size, how))
        return SimpleNamespace(check=lambda: checked.append(True))

    monkeypatch.setattr(task, "PackedStream", stream)
    texts = TextArguments("x", block_size=7, streaming=True, eval_documents=2, shuffle_blocks=5)
    task._training_blocks("texts", tokenizer, texts, SimpleNamespace(seed=3, data_seed=given))
    assert asked == [("texts", 7, {"window": 5, "seed": drawn})] and checked == [True]


def test_an_evaluation_is_computed_as_it_was_asked_for(tokenizer, monkeypatch):
    asked = []

    def make(**given):
        asked.append(given)
        raise KeyError("made")

    monkeypatch.setattr(task, "CausalLMTrainer", make)
    for bf16, size in ((True, 3), (False, 8)):
        args = SimpleNamespace(per_device_eval_batch_size=size, bf16=bf16, output=None)
        with pytest.raises(KeyError, match="made"):
            task._evaluate("model", tokenizer, "blocks", args, {})
        given = asked.pop()
        assert (given["args"].bf16, given["args"].per_device_eval_batch_size) == (bf16, size)
        assert (given["model"], given["eval_dataset"], given["processing_class"]) == ("model", "blocks", tokenizer)


def test_a_run_is_drawn_from_its_seed_and_its_tokenizer_trained_on_the_training_text(text_run, tmp_path, monkeypatch):
    texts, read, networks = [], [], []
    load, find = task.load_texts, task.find_tokenizer
    monkeypatch.setattr(task, "load_texts", lambda *given: texts.append(load(*given)) or texts[-1])

    def finding(args, asked, *more):
        read.append(list(asked()))
        return find(args, asked, *more)

    def drawn(model, words, args):  # what is checked of a report before anything is trained
        networks.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
        raise KeyError("drawn")

    monkeypatch.setattr(task, "find_tokenizer", finding)
    monkeypatch.setattr(task, "_check_report", drawn)
    for number, seed in enumerate((5, 5, 6)):
        torch.manual_seed(number)  # whatever was drawn before
        words = ["--seed", str(seed), "--output_dir", str(tmp_path / str(number))]
        with pytest.raises(KeyError, match="drawn"):
            prepare("prepare_training", [*text_run, "--max_train_documents", "60", *words])
    (train, held_out), *_ = texts
    assert read[0] == [row["text"] for row in train] != [row["text"] for row in held_out]
    assert torch.equal(networks[0], networks[1]) and not torch.equal(networks[0], networks[2])
