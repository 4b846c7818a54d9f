"""What the task has beyond the contract: its tokenizer, teachers, packing, the folded embedding, the answers."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from diffusers import VQModel
from PIL import Image

from hf_effmodels import list_models
from hf_effmodels.pipelines import DelvmPipeline
from hf_effmodels.pipelines.delvm.configuration_delvm import PRESETS
from hf_effmodels.training import evaluate, main, prepare
from hf_effmodels.training.data.token_pairs import DrawnSentences, TokenPairs
from hf_effmodels.training.preparation import visual_sentences
from hf_effmodels.training.tasks.visual_sequence_modeling.answers import answer
from hf_effmodels.training.tasks.visual_sequence_modeling.arguments import (
    VisualModelArguments,
    VisualSequenceArguments,
)
from hf_effmodels.training.tasks.visual_sequence_modeling.models import load_language_model, train_image_tokenizer
from tests.pipelines.delvm.tiny import tiny_language_model, tiny_vqvae

from ..contract import history, run_until_killed, same, weights


@pytest.fixture
def one_pair(visual_run, tiny_pipeline):
    """A run of one step on all sentences, which are of one pair each and so without a draw."""
    return [
        *visual_run,
        *("--pairs_per_sentence", "1", "--task_samples", "{invert: 4, segment: 4}", "--max_steps", "1"),
        *("--model", str(tiny_pipeline), "--model_config", "{}", "--eval_strategy", "no", "--eval_delay", "0"),
    ]


def divergence(student, teacher, temperature: float, mask) -> float:
    p, q = ((logits / temperature).double().softmax(-1) for logits in (teacher, student))
    return temperature**2 * float((p * (p.log() - q.log())).sum(-1)[mask].mean())


def test_a_teacher_is_followed_as_the_arguments_say(one_pair, tiny_pipeline, tmp_path):
    pipe = DelvmPipeline.from_pretrained(tiny_pipeline)
    other = tiny_language_model(5, initializer_range=0.5)
    DelvmPipeline(pipe.vqvae, other, image_size=8).save_pretrained(tmp_path / "teacher")
    from hf_effmodels.training.data.image_pairs import load_pairs

    tasks = [task.evenly(4) for task in load_pairs("digits")[0]]
    ids = torch.cat(
        [pipe.image_tokenizer.encode(list(task.read(n))).reshape(1, -1) for task in tasks for n in range(len(task))]
    )
    with torch.no_grad():
        student, teacher = (model(ids).logits for model in (pipe.language_model, other))
    entropy = torch.nn.functional.cross_entropy(student[:, :-1].flatten(0, 1), ids[:, 1:].flatten()).item()
    everywhere = torch.ones_like(ids, dtype=torch.bool)
    predicted = everywhere.clone()
    predicted[:, -1] = False
    for number, (options, kl, gt, kd) in enumerate(
        (
            ([], divergence(student, teacher, 1, everywhere), 1, 1),
            (["--kd_temperature", "2", "--kd_weight", "0.5"], divergence(student, teacher, 2, everywhere), 1, 0.5),
            (["--kd_inverse", "true", "--gt_weight", "0"], divergence(teacher, student, 1, everywhere), 0, 1),
            (["--kd_predicted_only", "true", "--gt_weight", "2"], divergence(student, teacher, 1, predicted), 2, 1),
        )
    ):
        output = tmp_path / str(number)
        main([*one_pair, "--teacher", str(tmp_path / "teacher"), *options, "--output_dir", str(output)])
        [[loss, found]] = history(output, "loss", "kd")
        assert found == pytest.approx(kl, rel=1e-4) and loss == pytest.approx(gt * entropy + kd * kl, rel=1e-4)
    stranger = DelvmPipeline(tiny_vqvae(3), other, image_size=8)
    stranger.save_pretrained(tmp_path / "stranger")
    with pytest.raises(ValueError, match="--teacher: .* has another codebook"):
        main([*one_pair, "--teacher", str(tmp_path / "stranger"), "--output_dir", str(tmp_path / "none")])


def test_packed_sentences_are_trained_on_as_if_each_were_alone(one_pair, tmp_path):
    # 8 sentences of 32 ids in packs of 64 are two to a pack; alone they have the same mean loss.
    main([*one_pair, "--output_dir", str(tmp_path / "alone")])
    main([*one_pair, "--packing", "packed", "--packed_length", "64", "--output_dir", str(tmp_path / "packed")])
    assert history(tmp_path / "packed", "loss") == pytest.approx(history(tmp_path / "alone", "loss"), rel=1e-5)


def test_a_factorised_embedding_is_trained_and_saved_folded(visual_run, tiny_pipeline, tmp_path):
    results = main([*visual_run, "--factorized_embedding", "true", "--output_dir", str(tmp_path)])
    saved = DelvmPipeline.from_pretrained(tmp_path).language_model.get_input_embeddings()
    codebook = DelvmPipeline.from_pretrained(tiny_pipeline).image_tokenizer.codebook
    assert type(saved) is torch.nn.Embedding and np.linalg.matrix_rank(saved.weight.detach().numpy()) <= 4
    solved = torch.linalg.lstsq(codebook, saved.weight.detach()).solution
    torch.testing.assert_close(codebook @ solved, saved.weight.detach(), atol=1e-4, rtol=0)
    assert math.isfinite(results["eval_loss"])


@pytest.mark.thorough
def test_a_tokenizer_that_a_run_trains_is_that_of_the_run_that_goes_on(visual_run, tmp_path):
    run = [*visual_run, "--image_tokenizer", "train:8", "--tokenizer_config", "{block_out_channels: [16, 16]}"]
    run += ["--tokenizer_steps", "150", "--save_strategy", "steps", "--save_steps", "2", "--save_total_limit", "9"]
    main([*run, "--output_dir", str(tmp_path / "whole")])
    run_until_killed([*run, "--output_dir", str(tmp_path / "killed")], 4)
    vqvae = VQModel.from_pretrained(tmp_path / "killed" / "checkpoint-2", subfolder="vqvae")
    assert vqvae.config.num_vq_embeddings == 8
    # No other tokenizer is trained: this one would be.
    run += ["--resume_from_checkpoint", "true"]
    main([*run, "--output_dir", str(tmp_path / "killed")])
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "killed"))
    tokenizer = DelvmPipeline.from_pretrained(tmp_path / "whole").image_tokenizer
    from hf_effmodels.training.data.image_pairs import load_pairs

    images = [load_pairs("digits")[1][0].read(number)[0] for number in range(20)]
    decoded, pixels = tokenizer.decode(tokenizer.encode(images), "pt"), tokenizer.pixels(images)
    mean = pixels.mean(0, keepdim=True).expand_as(pixels)
    assert (decoded - pixels).square().mean() < 0.9 * (mean - pixels).square().mean()
    assert len(tokenizer.encode(images).unique()) > 4


def test_answers_are_measured_against_the_right_ones_and_the_prompt_is_seen_to_decide(monkeypatch):
    """A model that says what comes by the first id of its prompt: the answers of its task, copied from a table."""
    pipe = DelvmPipeline(tiny_vqvae(), tiny_language_model(), image_size=4)
    names = ["1", "2"]
    images = np.array([[1, 2, 3, 4], [5, 6, 7, 8]])
    answers = [np.array([[9, 9, 10, 10], [11, 12, 11, 12]]), np.array([[20, 21, 22, 23], [24, 25, 26, 27]])]
    tasks = [TokenPairs(task, names, images, right) for task, right in zip(("a", "b"), answers, strict=True)]
    prompts = [TokenPairs(task.task, names, np.full((2, 4), 30 + n), task.answers) for n, task in enumerate(tasks)]
    sentences = DrawnSentences(tasks, 2, prompts=prompts)

    def generate(ids, queries, number):
        rows = [int(query[0] == 5) for query in queries]
        return torch.tensor([answers[int(prompt[0]) - 30][row] for prompt, row in zip(ids, rows, strict=True)])

    pipe.generate_ids = generate
    measured, rows = answer(pipe, sentences, 2)
    assert measured["a_answer_accuracy"] == measured["b_iou"] == measured["prompt_followed"] == 1
    assert measured["a_psnr"] == pytest.approx(100) and len(rows) == 2 and len(rows[0]) == 5
    pipe.generate_ids = lambda *args: generate(args[0] * 0 + 31, *args[1:])  # always the second task
    measured, _ = answer(pipe, sentences, 2)
    assert measured["prompt_followed"] == 0.5 and measured["a_answer_accuracy"] == 0
    assert measured["b_answer_accuracy"] == 1
    pixels = pipe.image_tokenizer.decode(torch.from_numpy(np.concatenate(answers)), "pt")
    errors = (pixels[:2] - pixels[2:]).square().flatten(1).mean(1)
    assert measured["a_psnr"] == pytest.approx(float((-10 * errors.log10()).mean()), rel=1e-5)
    bright = (pixels > 0.5).any(1)  # red ink is bright, too
    shared, either = ((f(bright[:2], bright[2:])).flatten(1).sum(1) for f in (torch.logical_and, torch.logical_or))
    assert measured["a_iou"] == pytest.approx(float((shared / either).mean())) != 1
    # Nothing found where nothing is to be found is right.
    monkeypatch.setattr(type(pipe.image_tokenizer), "decode", lambda self, ids, form: torch.zeros(len(ids), 3, 4, 4))
    assert answer(pipe, sentences, 2)[0]["a_iou"] == 1


def test_prompts_are_compared_on_pictures_that_every_task_has():
    """By their names, wherever they stand; without such pictures nothing is said of it."""
    pipe = DelvmPipeline(tiny_vqvae(), tiny_language_model(), image_size=4)
    images, right = np.array([[1, 2, 3, 4], [5, 6, 7, 8]]), np.array([[9, 9, 10, 10], [20, 21, 22, 23]])
    asked = []

    def generate(ids, queries, number):
        asked.append(queries[:, 0].tolist())
        return torch.from_numpy(np.stack([right[int(prompt[0]) - 30] for prompt in ids]))

    pipe.generate_ids = generate
    for names, shared in ((["2", "3"], 1), (["4", "3"], 0)):
        tasks = [
            TokenPairs("a", ["1", "2"], images, right[[0, 0]]),
            TokenPairs("b", names, images[::-1].copy(), right[[1, 1]]),
        ]
        prompts = [TokenPairs(t.task, t.names, np.full((2, 4), 30 + n), t.answers) for n, t in enumerate(tasks)]
        asked.clear()
        measured, rows = answer(pipe, DrawnSentences(tasks, 2, prompts=prompts), 2)
        assert len(rows) == shared and ("prompt_followed" in measured) == bool(shared)
        assert measured["a_answer_accuracy"] == measured["b_answer_accuracy"] == 1
        if shared:  # the picture "2" is the second of the first task, with the prompt of each
            assert asked[2:] == [[5], [5]] and measured["prompt_followed"] == 1


def test_packs_may_cut_sentences_that_are_longer_than_the_context(visual_run, tmp_path):
    sizes = "{hidden_size: 16, intermediate_size: 24, num_hidden_layers: 1, num_attention_heads: 2"
    options = ["--model_config", sizes + ", max_position_embeddings: 64}", "--pairs_per_sentence", "4"]
    run = [*visual_run, *options, "--max_steps", "1", "--eval_strategy", "no", "--output_dir", str(tmp_path)]
    with pytest.raises(ValueError, match="sentences have 128 tokens"):
        main(run)
    results = main([*run, "--packing", "packed", "--packed_length", "64"])
    assert np.isfinite(results["eval_loss"])  # of sentences of two pairs, which fit


@pytest.mark.draws
def test_what_is_answered_is_written(visual_run, tmp_path):
    results = main([*visual_run, "--answered_images", "2", "--max_steps", "2", "--output_dir", str(tmp_path)])
    names = {f"eval_{task}_{name}" for task in ("invert", "segment") for name in ("answer_accuracy", "psnr", "iou")}
    assert names | {"eval_prompt_followed"} <= results.keys() and (tmp_path / "answers.png").stat().st_size > 1000
    index = json.loads((tmp_path / "hub" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline_delvm", "DelvmPipeline"]


def without_tokenizer(run: list[str]) -> list[str]:
    at = run.index("--image_tokenizer")
    return [*run[:at], *run[at + 2 :]]


@pytest.mark.parametrize(
    "options, words",
    [
        (["--dataset", "nowhere"], "--dataset: got 'nowhere'"),
        (["--image_tokenizer", "train:1"], "accepted are whole numbers from 2"),
        (["--tokenizer_config", "{a: 1}"], "--tokenizer_config goes with"),
        (["--model_config", "{max_position_embeddings: 32}"], "--pairs_per_sentence: sentences have 64 tokens"),
        (["--model_config", "{hidden_sise: 32}"], "LlamaConfig has no field 'hidden_sise'"),
        (["--task_samples", "{pose: 3}"], "--task_samples: got 'pose', accepted are the tasks invert, segment"),
        (["--kd_weight", "2"], "--kd_weight"),
        (["--packed_length", "64"], "--packed_length"),
        (["--image_size", "7"], "image_size: got 7, accepted are multiples of 2"),
        (["--teacher", "OTHER"], "--teacher: OTHER has another codebook; distil with its --image_tokenizer"),
        (["NO TOKENIZER"], "--image_tokenizer is missing: name one, or train:64 to train one of 64 codes"),
    ],
)
def test_wrong_input_is_named_before_anything_is_written(visual_run, tiny_pipeline, tmp_path, options, words):
    other = str(tmp_path / "other")
    if "OTHER" in options:
        pipe = DelvmPipeline.from_pretrained(tiny_pipeline)
        with torch.no_grad():
            pipe.vqvae.quantize.embedding.weight += 1
        pipe.save_pretrained(other)
    if "NO TOKENIZER" in options:
        visual_run, options = without_tokenizer(visual_run), []
    options, words = [other if word == "OTHER" else word for word in options], words.replace("OTHER", other)
    with pytest.raises((ValueError, OSError)) as error:
        main([*visual_run, *options, "--output_dir", str(tmp_path / "run")])
    assert words in str(error.value) and not (tmp_path / "run").exists()


def test_a_preset_is_a_transformer_over_the_codes_of_the_tokenizer(tiny_pipeline):
    """Of the published sizes but for what is asked for, and of a trained pipeline's for that."""
    tokenizer = DelvmPipeline.from_pretrained(tiny_pipeline).image_tokenizer
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes["num_key_value_heads"] = 2
    preset = next(iter(list_models(task="visual-prompting")))
    model = load_language_model(VisualModelArguments(model=preset, model_config=sizes), tokenizer, 64)
    assert model.config.vocab_size == tokenizer.vocab_size == 32 and model.config.hidden_size == 16
    published = PRESETS[preset].config["language_model"]
    assert model.config.max_position_embeddings == published["max_position_embeddings"]
    trained = load_language_model(VisualModelArguments(model=str(tiny_pipeline)), tokenizer, 64)
    expected = DelvmPipeline.from_pretrained(tiny_pipeline).language_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in trained.state_dict().items())
    for given, message in (
        (
            {"model": "llama", "model_config": {**sizes, "vocab_size": 31}},
            "--model: it has 31 tokens, the image",
        ),
        ({"model": str(tiny_pipeline), "model_config": sizes}, "the sizes of .* are set; it goes with --model llama"),
    ):
        with pytest.raises(ValueError, match=message):
            load_language_model(VisualModelArguments(**given), tokenizer, 64)


@pytest.mark.parametrize("kind", ["llama", "preset", "trained"])
def test_sentences_are_as_long_as_a_model_has_places_for_and_no_longer(kind, tiny_pipeline):
    """A field makes room in a new model; those of a trained pipeline are set."""
    tokenizer = DelvmPipeline.from_pretrained(tiny_pipeline).image_tokenizer
    if kind == "trained":
        args, places = VisualModelArguments(model=str(tiny_pipeline)), 1024
    else:
        fields = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
        fields |= {"num_key_value_heads": 2, "max_position_embeddings": 63}
        name = kind if kind == "llama" else next(iter(list_models(task="visual-prompting")))
        args, places = VisualModelArguments(model=name, model_config=fields), 63
    assert load_language_model(args, tokenizer, places).config.max_position_embeddings == places
    with pytest.raises(ValueError) as error:
        load_language_model(args, tokenizer, places + 1)
    advice = "" if kind == "trained" else " (a field for --model_config)"
    expected = f"sentences have {places + 1} tokens, but the model has max_position_embeddings {places}{advice}."
    assert str(error.value) == f"--pairs_per_sentence: {expected}"


@pytest.mark.parametrize("config", [{"a": 1}, {"block_out_channels": 3}])
def test_a_tokenizer_that_cannot_be_trained_is_told_with_its_option(config):
    args = VisualModelArguments(model="llama", image_tokenizer="train:8", tokenizer_config=config)
    with pytest.raises(ValueError, match="^--tokenizer_config: "):
        train_image_tokenizer(torch.zeros(2, 3, 8, 8), args, 0)


def test_targets_of_sequences_are_not_smoothed(tmp_path):
    with pytest.raises(ValueError, match="--label_smoothing_factor: the plain cross entropy is trained on; accepted"):
        VisualSequenceArguments(output_dir=str(tmp_path), label_smoothing_factor=0.1)


def test_a_table_of_tokens_keeps_to_its_tokenizer(visual_run, tiny_pipeline, tmp_path):
    """Which it names itself; others, other sizes and other pictures are told, in training and in an evaluation."""
    for split in ("train", "test"):
        for task, part in itertools.product(("invert", "segment"), ("images", "answers")):
            folder = tmp_path / "pairs" / split / task / part
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (8, 8), (40 * number, 0, 60)).save(folder / f"{number}.png")
    store = ["--dataset", str(tmp_path / "pairs"), "--image_tokenizer", str(tiny_pipeline), "--image_size", "8"]
    table = str(visual_sentences.main([*store, "--output", str(tmp_path / "table")]))
    pipe = DelvmPipeline.from_pretrained(tiny_pipeline)
    with torch.no_grad():
        pipe.vqvae.quantize.embedding.weight += 1
    pipe.save_pretrained(tmp_path / "other")
    run = [*visual_run, "--dataset", table, "--task_samples", "{}", "--output_dir", str(tmp_path / "run")]
    for options, message in (
        (["--image_size", "16"], "--image_size: got 16, but the table was made with 8"),
        (["--image_tokenizer", str(tmp_path / "other")], "--image_tokenizer: .*other has other codes than the table"),
        (["--image_tokenizer", "train:8"], "--image_tokenizer: a table of tokens is of the tokenizer it was made"),
    ):
        with pytest.raises(ValueError, match=message):
            main([*run, *options])
    fewer = {most: prepare("prepare_training", [*without_tokenizer(run), "--max_eval_samples", most]) for most in "24"}
    assert len(fewer["2"].trainer.eval_dataset) < len(fewer["4"].trainer.eval_dataset)
    words = ["--task", "visual-sequence-modeling", "--output", str(tmp_path / "e.json"), "--dataset", table]
    with pytest.raises(ValueError, match="--dataset: .*table was made with another image tokenizer"):
        evaluate([*words, "--model", str(tmp_path / "other")])
    for name in ("image_tokenizer", "teacher"):
        with pytest.raises(ValueError, match=f"--{name} goes with training; a trained pipeline has what it needs"):
            evaluate([*words, "--model", str(tiny_pipeline), f"--{name}", "x"])
    by_table = evaluate([*words, "--model", str(tiny_pipeline), "--answered_images", "1"])
    words[-1] = str(tmp_path / "pairs")
    by_pictures = evaluate([*words, "--model", str(tiny_pipeline), "--overwrite", "true", "--answered_images", "0"])
    assert by_table["loss"] == pytest.approx(by_pictures["loss"], rel=1e-6)
    assert "invert_psnr" in by_table and "invert_psnr" not in by_pictures
