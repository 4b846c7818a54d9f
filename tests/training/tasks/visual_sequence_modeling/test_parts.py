"""The pieces of a run over sequences of images by themselves: answers, reports, networks, what is refused."""

import math
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import EvalPrediction, LlamaConfig, LlamaForCausalLM

from hf_effmodels.pipelines import DelvmPipeline
from hf_effmodels.pipelines.delvm.factorized_embedding import factorize_embedding
from hf_effmodels.training.data.token_pairs import DrawnSentences, TokenPairs
from hf_effmodels.training.run.trainer import RecipeTrainer
from hf_effmodels.training.tasks.visual_sequence_modeling import models, reports, task
from hf_effmodels.training.tasks.visual_sequence_modeling.answers import answer
from hf_effmodels.training.tasks.visual_sequence_modeling.arguments import (
    EvaluationArguments,
    VisualDataArguments,
    VisualModelArguments,
    VisualSequenceArguments,
)
from hf_effmodels.training.tasks.visual_sequence_modeling.trainer import VisualSequenceTrainer, summarize
from tests.pipelines.delvm.tiny import tiny_language_model, tiny_vqvae

from ..recorders import Calls, Named
from ..test_rare_preparations import Stop, patched, reader, stop
from ..test_rare_steps import bare

SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


# Answers


def _shown(ids: torch.Tensor, form: str = "pt") -> torch.Tensor:
    """A picture of 2×2 pixels of the grey that four ids say."""
    return (ids.float() / 400).reshape(-1, 1, 2, 2).expand(-1, 3, 2, 2)


def _asked(count: int, tasks: str = "abc"):
    """What is answered of twenty pictures of each task, three of which the third has as well: rightly but for the
    last of four tokens, which is half of it. Picture n begins with n, its right answers are 100, 200, 300 and n."""
    own = [f"p{n}" for n in range(20)]
    names = {"a": own, "b": own, "c": [*own[:3], *(f"q{n}" for n in range(3, 20))]}
    numbers = np.arange(20)[:, None].repeat(4, 1)
    pairs = [TokenPairs(t, names[t], numbers + [0, 0, 1, 2], numbers + 100 * (1 + "abc".index(t))) for t in tasks]
    prompts = [TokenPairs(p.task, p.names, numbers + 1000 * (1 + "abc".index(p.task)), p.answers) for p in pairs]
    sentences, seen = DrawnSentences(pairs, 2, prompts=prompts), []

    def generate(given, queries, tokens):
        seen.append((given.clone(), queries[:, 0].tolist()))
        first = 100 * (given[:, 0] // 1000) + queries[:, 0]
        return torch.stack([first, first, first, first // 2], 1)

    pipe = SimpleNamespace(
        device="cpu", generate_ids=generate, image_tokenizer=SimpleNamespace(decode=_shown, tokens_per_image=4)
    )
    return (*answer(pipe, sentences, count), sentences, seen)


def test_pictures_are_answered_all_over_a_task_each_by_a_prompt_of_its_own():
    """Eighteen of twenty, sixteen at a time."""
    chosen = [round(n * 19 / 17) for n in range(18)]
    measured, _, sentences, seen = _asked(18)
    for number, name in enumerate("abc"):
        parts = seen[2 * number : 2 * number + 2]
        assert [len(queries) for _, queries in parts] == [16, 2] and sum((q for _, q in parts), []) == chosen
        expected = [sentences.prompt(20 * number + n) for n in chosen]
        assert torch.cat([prompts for prompts, _ in parts]).tolist() == np.stack(expected).tolist()
        assert measured[f"{name}_answer_accuracy"] == 0.75, "three of four tokens of each"
        right = [100 * (number + 1) + n for n in chosen]
        errors = [((one - one // 2) / 400) ** 2 / 4 for one in right]
        noise = -sum(10 * math.log10(error) for error in errors) / 18
        assert measured[f"{name}_psnr"] == pytest.approx(noise, rel=1e-4)
    # Nothing of the first task is bright, of the second all but the first picture, which is just not.
    assert (measured["a_iou"], measured["c_iou"]) == (1, 0.75)
    assert measured["b_iou"] == pytest.approx((1 + 17 * 0.75) / 18)


def test_a_row_shows_a_picture_and_for_each_task_its_answer_beside_the_right_one():
    """Of pictures that all tasks have, as many as were asked for."""
    measured, rows, _, seen = _asked(2)
    assert measured["prompt_followed"] == 1 and [queries for _, queries in seen[3:]] == [[0, 1]] * 3
    assert len(rows) == 2 and len(_asked(18)[1]) == 3
    for n, row in enumerate(rows):
        expected = [[n, n, n + 1, n + 2]]
        for first in (100 + n, 200 + n, 300 + n):
            expected += [[first, first, first, first // 2], [first] * 4]
        assert len(row) == 7
        for shown, ids in zip(row, expected, strict=True):
            grey = np.array(ids).reshape(2, 2, 1) / 400
            np.testing.assert_allclose(shown, grey.repeat(3, 2), rtol=1e-6)
    measured, rows, _, _ = _asked(2, "b")
    assert "prompt_followed" not in measured and not rows, "a single task has nothing to be told apart from"


# Reports


@pytest.mark.parametrize("shown, plots, saves", [(2, True, True), (0, True, True), (2, False, True), (2, True, False)])
def test_a_pipeline_is_published_with_what_was_measured_and_as_many_answers_as_are_shown(
    shown, plots, saves, monkeypatch, tmp_path
):
    calls = Calls()

    def export(pipe, folder, **how):
        folder.mkdir()
        (folder / "README.md").write_text("the card, é", encoding="utf-8")
        calls.of("export")(pipe, folder, **how)

    patched(
        monkeypatch,
        reports,
        save_results=lambda *_: "all results",
        has_matplotlib=lambda: plots,
        plot_curves=calls.of("curves"),
        draw=calls.of("draw"),
        training_summary=calls.of("summary", {"seed": 3}),
        card_results=calls.of("results", "the results"),
        what_was_saved=lambda trainer: {"weights": "of step 4"},
        export=export,
    )
    args = SimpleNamespace(should_save=saves, output_dir=str(tmp_path), shown_images=shown, license="mit")
    trainer = SimpleNamespace(
        args=args,
        state=SimpleNamespace(log_history="the log"),
        eval_dataset=SimpleNamespace(tasks=[SimpleNamespace(task="invert"), SimpleNamespace(task="pose")]),
        get_total_train_batch_size=lambda given: 24,
        pipeline=lambda: "the pipeline",
    )
    metrics = {"eval_loss": 1.0, "eval_pose_psnr": 9.0, "eval_runtime": 2.0, "eval_samples_per_second": 3.0}
    metrics |= {"eval_steps_per_second": 4.0, "epoch": 5.0}
    data = SimpleNamespace(dataset="/home/me/pairs")
    assert reports.write_results(trainer, {}, metrics, ["r1", "r2", "r3"], "config", data) == "all results"
    if not saves:
        assert not calls
        return
    drawn = [((["r1", "r2"], ["invert", "pose"], tmp_path / "answers.png"), {})]
    assert calls.get("draw", []) == (drawn if shown and plots else [])
    curves = {"loss": {"loss": "training", "eval_loss": "evaluation"}}
    assert calls.get("curves", []) == ([(("the log", tmp_path / "training_curve.png", curves), {})] if plots else [])
    assert calls["results"] == [((trainer, {"loss": 1.0, "pose_psnr": 9.0}, "test"), {})]
    assert calls["summary"] == [(("config", reports.HYPER_PARAMETERS, 24), {})]
    [(given, how)] = calls["export"]
    assert given == ("the pipeline", tmp_path / "hub")
    assert how == {
        "overwrite": True, "license": "mit", "dataset": "pairs", "results": "the results",
        "training": {"weights": "of step 4", "seed": 3},
    }  # fmt: skip
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "the card, é"


@pytest.mark.draws
def test_answers_are_drawn_under_the_names_of_their_tasks(monkeypatch, tmp_path):
    drawn = []
    monkeypatch.setattr(reports, "save_figure", lambda figure, file: drawn.append((figure, file)))
    rows = [[np.full((2, 2, 3), (5 * row + column) / 10) for column in range(5)] for row in range(2)]
    reports.draw(rows, ["invert", "pose"], tmp_path / "answers.png")
    [(figure, file)] = drawn
    titles = ["picture", "invert", "invert, right", "pose", "pose, right"]
    assert [axes.get_title() for axes in figure.axes] == [*titles, *[""] * 5] and file == tmp_path / "answers.png"
    greys = [float(axes.images[0].get_array()[0, 0, 0]) for axes in figure.axes]
    assert greys == pytest.approx([n / 10 for n in range(10)])


def test_an_evaluation_is_written_with_what_it_was_of_and_printed(monkeypatch, capsys):
    calls = Calls()
    monkeypatch.setattr(reports, "write_results_file", calls.of("file", lambda file, results, call: results))
    measured, facts = {"loss": 1.5, "pose_iou": 0.25}, {"model": "m", "samples": 3}
    assert reports.write_evaluation(measured, facts, "e.json", "call") == {**facts, **measured}
    assert calls["file"] == [(("e.json", {**facts, **measured}, "call"), {})]
    assert capsys.readouterr().out == "loss 1.5000  pose_iou 0.2500\n"


# Arguments


def test_what_is_not_said_of_sequences_is_as_documented(tmp_path):
    data, args = VisualDataArguments(dataset="digits"), VisualSequenceArguments(output_dir=str(tmp_path))
    assert (data.pairs_per_sentence, data.packing, data.packed_length, data.max_eval_samples) == (
        4,
        "drawn",
        2048,
        None,
    )
    assert (args.answered_images, args.shown_images) == (32, 4) and VisualModelArguments(
        model="llama"
    ).tokenizer_steps == 1000
    taught = {"gt_weight": 1, "kd_weight": 1, "kd_temperature": 1, "kd_inverse": False, "kd_predicted_only": False}
    assert {name: getattr(args, name) for name in taught} == taught
    evaluation = EvaluationArguments()
    assert (evaluation.per_device_eval_batch_size, evaluation.answered_images) == (64, 32)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"kd_temperature": 0.0}, "--kd_temperature: got 0"),
        ({"kd_weight": -1.0}, "--kd_weight: got -1"),
        ({"gt_weight": -1.0}, "--gt_weight: got -1"),
        ({"shown_images": 65}, "--shown_images: got 65"),
        ({"answered_images": -1}, "--answered_images: got -1"),
        ({"shown_images": 64, "answered_images": 0, "kd_weight": 0.0, "gt_weight": 0.0}, None),
    ],
)
def test_weights_and_numbers_of_pictures_are_what_they_can_be(options, message, tmp_path):
    with pytest.raises(ValueError, match=message) if message else nullcontext():
        VisualSequenceArguments(output_dir=str(tmp_path), **options)


def test_pairs_of_a_task_are_limited_by_its_own_number():
    class Task:
        def __init__(self, name):
            self.task = name

        def evenly(self, limit):
            return self.task, limit

    tasks = [Task("invert"), Task("pose")]
    assert task._limited(tasks, {"pose": 3}) == [("invert", None), ("pose", 3)]
    with pytest.raises(ValueError, match="^--task_samples: got 'segment', accepted are the tasks invert, pose"):
        task._limited(tasks, {"segment": 3})


# Networks


def test_a_network_of_a_pipeline_that_lacks_weights_is_named(tiny_pipeline, tmp_path):
    shutil.copytree(tiny_pipeline, tmp_path / "pipe")
    [file] = (tmp_path / "pipe" / "language_model").glob("*.safetensors")
    weights = load_file(file)
    weights.pop("model.norm.weight")
    save_file(weights, file, {"format": "pt"})
    for argument in ("--model", "--teacher"):
        with pytest.raises(ValueError, match=rf"^{argument}: .*pipe.* lacks weights of .*: model\.norm\.weight"):
            models.load_pipeline(argument, str(tmp_path / "pipe"))


def test_an_image_tokenizer_that_lacks_weights_is_named(tiny_pipeline, tmp_path):
    """One by itself, and a pipeline's, whatever has named it."""
    shutil.copytree(tiny_pipeline, tmp_path / "pipe")
    [file] = (tmp_path / "pipe" / "vqvae").glob("*.safetensors")
    weights = load_file(file)
    weights.pop("quantize.embedding.weight")
    save_file(weights, file, {"format": "pt"})
    lacks = r"pipe(/vqvae)? lacks weights of VQModel: quantize\.embedding\.weight"
    with pytest.raises(ValueError, match=f"^--teacher: .*{lacks}"):
        models.load_pipeline("--teacher", str(tmp_path / "pipe"))
    for name in (tmp_path / "pipe", tmp_path / "pipe" / "vqvae"):
        with pytest.raises(ValueError, match=f"^--image_tokenizer: .*{lacks}"):
            models.load_image_tokenizer(str(name), 8)


def test_a_llama_over_codes_has_room_for_its_sentences_and_no_special_tokens(tiny_pipeline):
    tokenizer = DelvmPipeline.from_pretrained(tiny_pipeline).image_tokenizer
    for context, positions in ((64, 2048), (2049, 2049)):
        args = VisualModelArguments(model="llama", model_config={**SIZES, "eos_token_id": 2})
        model = models.load_language_model(args, tokenizer, context)
        config = model.config
        assert (config.max_position_embeddings, config.vocab_size) == (positions, 32)
        assert (config.attention_bias, config.mlp_bias, config.tie_word_embeddings) == (True, False, False)
        for settings in (config, model.generation_config):  # whose usual ids are codes here
            assert (settings.bos_token_id, settings.eos_token_id, settings.pad_token_id) == (None, None, None)
    exact = VisualModelArguments(model="llama", model_config={**SIZES, "max_position_embeddings": 64})
    assert models.load_language_model(exact, tokenizer, 64).config.max_position_embeddings == 64


def test_a_factorised_embedding_begins_as_wide_as_the_networks_own(tiny_pipeline):
    """The width of its start is that of the configuration, whatever the codes are."""
    tokenizer = DelvmPipeline.from_pretrained(tiny_pipeline).image_tokenizer
    spread = {}
    for width in (0.02, 0.5):
        torch.manual_seed(0)
        fields = {**SIZES, "hidden_size": 64, "initializer_range": width}
        args = VisualModelArguments(model="llama", model_config=fields, factorized_embedding=True)
        spread[width] = (
            models.load_language_model(args, tokenizer, 64).get_input_embeddings().fold().weight.std().item()
        )
    assert spread[0.5] / spread[0.02] == pytest.approx(25, rel=1e-3)


def test_an_image_tokenizer_is_not_trained_on_pictures_that_its_stages_do_not_divide():
    args = VisualModelArguments(model="llama", image_tokenizer="train:8", tokenizer_steps=1)
    with pytest.raises(ValueError, match="image_size: got 6, accepted are multiples of 4"):
        models.train_image_tokenizer(torch.rand(2, 3, 6, 6), args, 0)


@pytest.mark.parametrize("kept", ["vqvae", "other", None])
def test_a_run_goes_on_with_the_image_tokenizer_that_its_checkpoint_has(kept, monkeypatch, tmp_path):
    """None where it has trained none, or begins."""
    if kept:
        (tmp_path / kept).mkdir()
    calls = Calls()
    patched(
        monkeypatch,
        task,
        open_run=lambda *_: ("config", tmp_path if kept else None),
        check_license=lambda license: None,
        is_table=lambda dataset: True,
        _image_tokenizer=calls.of("tokenizer", stop),
    )
    given = (Named("model"), Named("data"), Named("args"))
    with pytest.raises(Stop):
        task.prepare_training(reader(*given))
    assert calls["tokenizer"] == [((*given, None, tmp_path / "vqvae" if kept == "vqvae" else None), {})]


# Training


def test_a_teacher_is_in_evaluation_mode_and_is_not_trained(monkeypatch):
    added = []
    monkeypatch.setattr(RecipeTrainer, "__init__", lambda self, **given: vars(self).update(args=given["args"]))
    monkeypatch.setattr(VisualSequenceTrainer, "add_loss", lambda self, *given, **how: added.append((given, how)))
    teacher = LlamaForCausalLM(LlamaConfig(**SIZES, vocab_size=32)).train()
    args = SimpleNamespace(device="cpu", kd_weight=0.5)
    made = VisualSequenceTrainer(vqvae="v", image_size=8, keeps_tokenizer=False, teacher=teacher, args=args)
    assert made.teacher is teacher and not teacher.training
    assert not any(weight.requires_grad for weight in teacher.parameters())
    assert added == [(("kd", made._divergence, 0.5), {"count": made._counted_tokens})]
    assert made.metric_names() == ("loss", "perplexity", "token_accuracy")


@pytest.mark.parametrize("predicted_only", [False, True])
def test_what_is_said_of_a_sentence_in_a_pack_is_what_is_said_of_it_alone(predicted_only):
    """By the teacher as by the network that is measured: neither sees the sentence before it."""
    teacher, student = tiny_language_model(1), tiny_language_model(2)
    ids = torch.tensor([[3, 7, 11, 5, 30, 2, 9], [1, 8, 8, 21, 4, 6, 0]])
    labels = torch.tensor([[7, 11, -100, 30, 2, 9, -100], [8, 8, -100, 4, 6, 0, -100]])
    inputs = {"input_ids": ids, "position_ids": torch.tensor([[0, 1, 2, 0, 1, 2, 3]] * 2), "shift_labels": labels}
    with torch.no_grad():
        own, their = (
            torch.cat([network(part).logits for part in (ids[:, :3], ids[:, 3:])], 1).double()
            for network in (student, teacher)
        )
    args = SimpleNamespace(kd_predicted_only=predicted_only, kd_temperature=2.0, kd_inverse=False)
    trainer = bare(VisualSequenceTrainer, teacher=teacher, args=args)
    q, p = ((logits / 2).softmax(-1) for logits in (own, their))
    every = 4 * (p * (p / q).log()).sum(-1)
    counted = labels != -100 if predicted_only else torch.ones_like(labels, dtype=torch.bool)
    found = trainer._divergence(student, inputs, SimpleNamespace(logits=own.float()))
    assert found.item() == pytest.approx(every[counted].mean().item(), rel=1e-4)
    assert trainer._counted_tokens(inputs).item() == (10 if predicted_only else 14)

    trainer._prepare_inputs, trainer.compute_loss_context_manager = lambda batch: batch, nullcontext
    nothing, measured, tokens = trainer.prediction_step(student, inputs, True)
    said = own.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels != -100)
    right = (own.argmax(-1) == labels).sum(1)
    assert nothing is None and tokens.tolist() == [5, 5]
    torch.testing.assert_close(measured, torch.stack([-said.sum(1), right.double()], 1), rtol=1e-5, atol=1e-5)


def test_a_network_in_half_precision_is_measured_in_full():
    logits = (5 * torch.randn(2, 6, 9, generator=torch.Generator().manual_seed(0))).bfloat16()
    labels = torch.arange(12).view(2, 6) % 9
    trainer = bare(
        VisualSequenceTrainer, _prepare_inputs=lambda batch: batch, compute_loss_context_manager=nullcontext
    )
    inputs = {"input_ids": labels, "shift_labels": labels}
    _, found, _ = trainer.prediction_step(lambda *_, **__: SimpleNamespace(logits=logits), inputs, True)
    said = logits.double().log_softmax(-1).gather(-1, labels[..., None])[..., 0].sum(1)
    torch.testing.assert_close(found[:, 0], -said, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factorized", [True, False])
def test_a_pipeline_says_what_the_network_that_was_trained_says(factorized, monkeypatch):
    """At the size of the training's pictures, with an embedding like any other."""
    network, vqvae = tiny_language_model(4), tiny_vqvae()
    if factorized:
        factorize_embedding(network, torch.randn(32, 4, generator=torch.Generator().manual_seed(1)), std=0.3)
    monkeypatch.setattr(VisualSequenceTrainer, "network", network)
    ids = torch.tensor([[3, 7, 11, 5, 30, 2]])
    with torch.no_grad():
        expected = network(ids).logits
        pipe = bare(VisualSequenceTrainer, vqvae=vqvae, image_size=24).pipeline()
        torch.testing.assert_close(pipe.language_model(ids).logits, expected)
    assert type(pipe.language_model.get_input_embeddings()) is torch.nn.Embedding
    assert not pipe.language_model.training and pipe.vqvae is vqvae and pipe.config["image_size"] == 24


@pytest.mark.parametrize("in_train, first", [(True, True), (False, True), (False, False)])
def test_a_pipeline_is_saved_where_it_is_asked_for_and_a_checkpoint_has_the_network(in_train, first, monkeypatch):
    saved = []
    monkeypatch.setattr(RecipeTrainer, "save_model", lambda self, *given: saved.append(given), raising=False)
    args = SimpleNamespace(should_save=first, output_dir="output")
    pipe = SimpleNamespace(save_pretrained=lambda folder: saved.append(str(folder)))
    trainer = bare(VisualSequenceTrainer, is_in_train=in_train, args=args, pipeline=lambda: pipe)
    trainer.save_model()
    trainer.save_model("folder", True)
    assert saved == ([(None, False), ("folder", True)] if in_train else ["output", "folder"] * first)


def test_a_loss_over_codes_is_the_mean_over_tokens_and_a_hopeless_one_has_no_finite_perplexity():
    def of(sums, right, counts) -> dict:
        return summarize(EvalPrediction(np.array([sums, right]).T, np.array(counts)))

    expected = {"loss": 0.5, "perplexity": pytest.approx(math.exp(0.5)), "token_accuracy": 0.375}
    assert of([3.0, 1.0], [1.0, 2.0], [5.0, 3.0]) == expected
    assert of([699.0], [0.0], [1.0])["perplexity"] == pytest.approx(math.exp(699))
    assert of([700.0], [0.0], [1.0])["perplexity"] == of([1e6], [0.0], [1.0])["perplexity"] == math.inf


# Evaluations


def test_an_evaluation_by_itself_reads_what_its_arguments_say_and_refuses_what_trains(monkeypatch):
    calls, bar = Calls(), lambda **_: None

    class Pairs(str):
        def evenly(self, limit):
            return f"{self} up to {limit}"

    patched(
        monkeypatch,
        task,
        open_results=lambda *_: "call",
        load_pipeline=calls.of("load", SimpleNamespace(image_tokenizer="its", set_progress_bar_config=bar)),
        is_table=lambda dataset: False,
        load_pairs=lambda dataset: ("train", [Pairs("test")]),
        _limited=calls.of("limited", "limited"),
        _tokens=calls.of("tokens", ("train tokens", "eval tokens")),
        DrawnSentences=calls.of("sentences", "sentences"),
    )
    none = dict.fromkeys(("model_config", "image_tokenizer", "teacher", "factorized_embedding"))
    args = Named("args")
    found = task.prepare_evaluation(reader(Named("model", **none), Named("data"), args))
    assert calls["load"] == [(("--model", "model.model", "model.token"), {})]
    assert calls["limited"] == [(("train", "data.task_samples"), {})]
    [((tokenizer, _, _, pairs), _)] = calls["tokens"]
    assert (tokenizer, pairs) == ("its", ("limited", ["test up to data.max_eval_samples"]))
    assert calls["sentences"] == [(("eval tokens", "data.pairs_per_sentence"), {"prompts": "train tokens"})]
    assert found.args[1:] == ("sentences", "model.model", "data.dataset", args, "call")
    for name in none:
        with pytest.raises(ValueError, match=f"^--{name} goes with training; a trained pipeline has what it needs"):
            task.prepare_evaluation(reader(Named("model", **{**none, name: "given"}), Named("data"), args))


@pytest.mark.parametrize("answered", [0, 3])
def test_an_evaluation_by_itself_counts_each_token_of_all_sentences_once(answered, monkeypatch):
    """Three sentences, two at a time, of three tokens each of which the last has no next one."""
    calls = Calls()
    labels = torch.tensor([[1, 2, -100], [3, 0, -100], [2, 2, -100]])
    logits = torch.randn(3, 3, 4, generator=torch.Generator().manual_seed(0))
    sentences = [{"input_ids": torch.tensor([n]), "shift_labels": row} for n, row in enumerate(labels)]
    pipe = SimpleNamespace(
        to=lambda device: None,
        device="cpu",
        language_model=lambda ids, use_cache: SimpleNamespace(logits=logits[ids[:, 0]]),
    )
    patched(
        monkeypatch,
        task,
        write_evaluation=calls.of("write", "written"),
        answer=calls.of("answer", ({"pose_psnr": 7.0}, "rows")),
    )
    args = SimpleNamespace(per_device_eval_batch_size=2, answered_images=answered, output="e.json")
    assert task._evaluate(pipe, sentences, "a-model", "digits", args, "call") == "written"
    [((measured, facts, *where), _)] = calls["write"]
    losses = [-logits[n, at].log_softmax(-1)[labels[n, at]].item() for n in range(3) for at in range(2)]
    right = [logits[n, at].argmax() == labels[n, at] for n in range(3) for at in range(2)]
    assert measured["loss"] == pytest.approx(sum(losses) / 6, rel=1e-6)
    assert measured["token_accuracy"] == pytest.approx(float(sum(right)) / 6)
    assert facts == {"model": "a-model", "dataset": "digits", "samples": 3} and where == ["e.json", "call"]
    assert calls.get("answer", []) == ([((pipe, sentences, 3), {})] if answered else [])
    assert measured.get("pose_psnr") == (7.0 if answered else None)
