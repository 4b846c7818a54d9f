"""What the losses of the distillation are in a run, and what is refused before one."""

import json
import math
import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTModel,
)

from hf_effmodels.training import main, prepare
from hf_effmodels.training.data.text.tokenization import train_tokenizer
from hf_effmodels.training.tasks.language_distillation import task
from hf_effmodels.training.tasks.language_distillation.arguments import LanguageDistillationArguments
from hf_effmodels.training.tasks.language_distillation.projections import ProjectedStudent
from hf_effmodels.training.tasks.language_distillation.trainer import LanguageDistillationTrainer

from ..contract import history
from ..recorders import Calls, Named, begun
from ..test_rare_preparations import reader
from ..test_rare_steps import bare
from .test_contract import SIZES, pair  # noqa: F401


@pytest.fixture
def run(pair, text_file):  # noqa: F811
    return [
        *(
            "--task",
            "language-distillation",
            "--model",
            str(pair[0]),
            "--dataset",
            str(text_file),
            "--text_unit",
            "line",
        ),
        *("--block_size", "16", "--max_steps", "1", "--per_device_train_batch_size", "4", "--disable_tqdm", "true"),
        *("--logging_steps", "1", "--eval_strategy", "no", "--save_strategy", "no"),
    ]


@pytest.fixture(scope="module")
def teacher_of_equal_width(pair, tmp_path_factory):  # noqa: F811
    folder = tmp_path_factory.mktemp("equal")
    LlamaForCausalLM(LlamaConfig(vocab_size=300, num_hidden_layers=2, **SIZES)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(pair[1]).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("wider", [False, True])
def test_each_loss_is_its_formula_over_the_predicted_tokens(
    run,
    pair,  # noqa: F811
    teacher_of_equal_width,
    tmp_path,
    wider,
):
    pair = (pair[0], pair[1] if wider else teacher_of_equal_width)
    weights = ["--divergence_weight", "0.5", "--hidden_states_weight", "2", "--label_weight", "0.3"]
    settings = ["--divergence", "reverse", "--temperature", "2", "--top_k", "7"]
    prepared = prepare(
        "prepare_training", [*run, "--teacher", str(pair[1]), *weights, *settings, "--output_dir", str(tmp_path)]
    )
    batch = next(iter(prepared.trainer.get_train_dataloader()))
    projection = torch.eye(32)
    if wider:
        (projection,) = (each.weight.detach().clone() for each in prepared.trainer.model.projections)
        assert projection.shape == (40, 32)
    prepared.train()
    (row,) = history(tmp_path, "loss", "divergence", "hidden_states", "task_loss")
    with torch.no_grad():
        student, teacher = (AutoModelForCausalLM.from_pretrained(folder) for folder in pair)
        one, two = (model(**batch, output_hidden_states=True) for model in (student, teacher))
    labels = batch["labels"][:, 1:]
    label, divergence, hidden = [], [], []
    for line, place in labels.ne(-100).nonzero().tolist():
        label.append(-one.logits[line, place].log_softmax(-1)[labels[line, place]])
        likeliest = two.logits[line, place].argsort(descending=True)[:7]
        q, p = ((outputs.logits[line, place, likeliest] / 2).softmax(-1) for outputs in (one, two))
        divergence.append(4 * (q * (q / p).log()).sum())
        projected = projection @ one.hidden_states[1][line, place]
        hidden.append((projected - two.hidden_states[2][line, place]).square().mean())
    label, divergence, hidden = (torch.stack(values).mean().item() for values in (label, divergence, hidden))
    expected = [0.5 * divergence + 2 * hidden + 0.3 * label, divergence, hidden, 0.3 * label]
    assert row.tolist() == pytest.approx(expected, rel=1e-4)
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert results["eval_teacher_perplexity"] > 1
    card = (tmp_path / "README.md").read_text()
    assert f"| teacher_perplexity | `{results['eval_teacher_perplexity']:.6g}` |" in card
    assert f"| perplexity, data of its maker's own, {prepared.trainer.eval_dataset.split} |" in card
    assert f"| tokens_seen | `{4 * 15}` |" in card, "a step of four blocks, whose first token is not predicted"
    counted = f"{len(prepared.trainer.train_dataset)} blocks of 16 tokens of training"
    assert f"(samples: {counted}, " in card
    saved, told = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(told.values()) and saved.config.use_cache, "it is there to generate"


def test_a_student_comes_near_to_its_teacher_without_seeing_labels(run, pair, tmp_path):  # noqa: F811
    main(
        [
            *run,
            "--teacher",
            str(pair[1]),
            "--max_steps",
            "60",
            "--learning_rate",
            "0.01",
            "--output_dir",
            str(tmp_path),
        ]
    )
    divergence = history(tmp_path, "divergence")[:, 0]
    assert divergence[-5:].mean() < 0.5 * divergence[:5].mean()
    assert not history(tmp_path, "task_loss").any()


def test_a_teacher_without_a_tokenizer_is_warned_of_and_one_of_other_tokens_refused(
    run,
    teacher_of_equal_width,
    text_file,
    tmp_path,
    caplog,
):
    for name in ("mute", "other"):
        shutil.copytree(teacher_of_equal_width, tmp_path / name)
        for file in (tmp_path / name).glob("*token*"):
            file.unlink()
    train_tokenizer(text_file.read_text()[::-1].splitlines(), 300, 64).save_pretrained(tmp_path / "other")
    run += ["--output_dir", str(tmp_path / "run"), "--teacher"]
    prepare("prepare_training", [*run, str(tmp_path / "mute")])
    assert "mute has no tokenizer; that it reads the student's is not known" in caplog.text
    with pytest.raises(ValueError, match="--teacher: the tokens of .*other are not those of the student's tokenizer"):
        prepare("prepare_training", [*run, str(tmp_path / "other")])


def test_what_cannot_be_is_refused_before_the_work(run, pair, tmp_path, monkeypatch):  # noqa: F811
    other, broken, picture = (tmp_path / name for name in ("other", "broken", "gpt2"))
    monkeypatch.chdir(tmp_path)
    GPT2LMHeadModel(GPT2Config(vocab_size=301, n_embd=8, n_layer=1, n_head=2)).save_pretrained(other)
    model = LlamaForCausalLM.from_pretrained(pair[1])
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = float("nan")
    model.save_pretrained(broken)
    AutoTokenizer.from_pretrained(pair[1]).save_pretrained(broken)
    ViTModel(
        ViTConfig(num_hidden_layers=1, hidden_size=8, num_attention_heads=1, intermediate_size=8)
    ).save_pretrained(picture)
    for arguments, reason in (
        ([], "--teacher is missing"),
        (["--teacher", str(other)], "has 301 tokens, the student 300"),
        (["--teacher", str(broken)], "^--teacher: .*broken has 1 broken weights: .*up_proj"),
        (["--model", str(broken), "--teacher", str(pair[1])], "^--model: LlamaForCausalLM has 1 broken weights"),
        (["--teacher", str(picture)], "^--teacher: .* is a vit, for which there is no AutoModelForCausalLM"),
        (["--teacher", "gpt2"], "^--teacher: gpt2 is a vit, no language model"),  # by that name it is not looked into
        (["--teacher", str(tmp_path / "none")], "--teacher: "),
        (["--teacher", str(pair[1]), "--divergence", "kl"], "--divergence: got 'kl', accepted are forward"),
        (["--teacher", str(pair[1]), "--top_k", "1"], "--top_k: got 1"),
        (["--teacher", str(pair[1]), "--jsd_beta", "1"], "--jsd_beta: got 1"),
        (["--teacher", str(pair[1]), "--temperature", "0"], "--temperature: got 0"),
        (["--teacher", str(pair[1]), "--divergence_weight", "0"], "both are 0"),
        (["--teacher", str(pair[1]), "--divergence_weight", "-1"], "--divergence_weight: got -1"),
        (["--teacher", str(pair[1]), "--label_weight", "-1"], "--label_weight: got -1"),
        (["--teacher", str(pair[1]), "--hidden_states_weight", "-1"], "--hidden_states_weight: got -1"),
        (["--teacher", str(pair[1]), "--teacher_dtype", "int8"], "--teacher_dtype: got 'int8'"),
        (
            ["--teacher", str(pair[1]), "--sorted_submodels", "{half: {num_hidden_layers: 1}}"],
            "^--sorted_submodels: --task language-distillation trains one network; accepted is --task causal-lm",
        ),
    ):
        with pytest.raises((ValueError, OSError), match=reason):
            prepare("prepare_training", [*run, *arguments, "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "layers, of_teacher",
    [
        (3, [1, 2, 3]),
        (3, [2, 4, 6]),
        (2, [3, 6]),
        (3, [2, 3, 5]),  # 5/3 and 10/3 are nearest to 2 and 3
        (4, [2, 4, 5, 7]),  # 7/4, 14/4 (to the even one), 21/4
        (1, [4]),
    ],
)
def test_each_layer_is_compared_with_the_one_as_deep_in_the_teacher(layers, of_teacher):
    """The mean over the student's layers of the mean square over predicted tokens and channels."""
    generator = torch.Generator().manual_seed(0)
    depth = max(of_teacher)
    student = [torch.randn(2, 5, 4, generator=generator) for _ in range(layers + 1)]
    teacher = [torch.randn(2, 5, 4, generator=generator) for _ in range(depth + 1)]  # with what the embedding gives
    labels = torch.tensor([[7, 7, -100, 7, 7], [-100, -100, -100, 7, -100]])
    outputs = SimpleNamespace(hidden_states=student, taught=SimpleNamespace(hidden_states=teacher))
    found = LanguageDistillationTrainer._hidden_states(None, None, {"labels": labels}, outputs)
    places = [(0, 0), (0, 2), (0, 3), (1, 2)]  # before tokens that are labels
    errors = [
        sum(((student[one + 1][at] - teacher[two][at]) ** 2).mean().item() for at in places) / len(places)
        for one, two in enumerate(of_teacher)
    ]
    assert found.item() == pytest.approx(sum(errors) / layers, rel=1e-5)


def test_a_projection_of_each_layer_is_given_what_that_layer_gives():
    torch.manual_seed(0)
    student = LlamaForCausalLM(LlamaConfig(vocab_size=30, num_hidden_layers=3, **SIZES)).eval()
    whole, ids = ProjectedStudent(student, 6), torch.arange(8)[None]
    with torch.no_grad():
        plain, outputs = student(ids, output_hidden_states=True), whole(input_ids=ids, output_hidden_states=True)
        assert len(outputs.projected) == len(whole.projections) == 3
        for number, projected in enumerate(outputs.projected):
            weight = whole.projections[number].weight
            torch.testing.assert_close(projected, plain.hidden_states[number + 1] @ weight.T)
        assert "projected" not in whole(input_ids=ids)
    # And what is compared of them teaches the layers as well as the projections.
    weights = dict(whole.named_parameters())
    sum(each.square().sum() for each in whole(input_ids=ids, output_hidden_states=True).projected).backward()
    found = {name: weight.grad.clone() for name, weight in weights.items() if weight.grad is not None}
    whole.zero_grad()
    states = student(ids, output_hidden_states=True).hidden_states[1:]
    sum((own @ each.weight.T).square().sum() for own, each in zip(states, whole.projections, strict=True)).backward()
    assert found.keys() == weights.keys() - {"student.lm_head.weight"}
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, weights[name].grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_hidden_states_are_projected_in_the_precision_of_the_student(dtype):
    student = LlamaForCausalLM(LlamaConfig(vocab_size=30, num_hidden_layers=2, **SIZES)).to(dtype)
    outputs = ProjectedStudent(student, 6)(input_ids=torch.arange(4)[None], output_hidden_states=True)
    assert [(each.dtype, each.shape) for each in outputs.projected] == [(dtype, (1, 4, 6))] * 2


def test_a_teachers_loss_is_the_mean_over_all_tokens_of_the_evaluation_text():
    """Three blocks, two at a time, the last with one token to predict."""
    torch.manual_seed(0)
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=30, num_hidden_layers=1, **SIZES)).eval()
    ids = torch.arange(18).view(3, 6) * 7 % 30
    labels = ids.clone()
    labels[1, 3:], labels[2, :5] = -100, -100
    entered = []
    trainer = SimpleNamespace(
        teacher=teacher,
        eval_dataset=[{"input_ids": i, "labels": t} for i, t in zip(ids, labels, strict=True)],
        args=SimpleNamespace(per_device_eval_batch_size=2, device="cpu"),
        accelerator=SimpleNamespace(autocast=lambda: entered.append(True) or nullcontext()),
    )
    with torch.no_grad():
        said = teacher(ids).logits.log_softmax(-1)
    predicted = [(n, at) for n in range(3) for at in range(1, 6) if labels[n, at] != -100]
    assert len(predicted) == 5 + 2 + 1
    expected = [-said[n, at - 1, ids[n, at]].item() for n, at in predicted]
    assert task.teacher_loss(trainer) == pytest.approx(sum(expected) / 8, rel=1e-5)
    assert entered == [True] * 2, "each batch in the precision of the training"


@pytest.mark.parametrize("loss, perplexity", [(2.0, math.exp(2.0)), (699.0, math.exp(699.0)), (800.0, math.inf)])
def test_a_teachers_perplexity_stands_beside_the_students(monkeypatch, loss, perplexity):
    monkeypatch.setattr(task, "teacher_loss", lambda trainer: loss)
    for writes in (True, False):
        saved, done = [], []
        trainer = SimpleNamespace(
            drop_projections=lambda done=done: done.append("dropped"),
            args=SimpleNamespace(should_save=writes),
            save_metrics=lambda *given, saved=saved: saved.append(given),
        )

        def report(metrics, done=done, trainer=trainer):
            assert done == ["dropped"], "what is written is the student alone"
            assert trainer.card_facts == {"teacher_perplexity": f"{perplexity:.6g}"}, "and in the card both"
            return {"eval_perplexity": 3.0, "train_loss": metrics["train_loss"]}

        found = task._report(SimpleNamespace(trainer=trainer, report=report), {"train_loss": 1.5})
        measured = {"eval_perplexity": 3.0, "eval_teacher_perplexity": perplexity}
        assert found == {**measured, "train_loss": 1.5}
        assert saved == ([("eval", measured)] if writes else [])


def test_hidden_states_alone_may_teach_and_by_default_what_the_teacher_predicts_does():
    args = LanguageDistillationArguments(teacher="t", divergence_weight=0, hidden_states_weight=0.5)
    assert (args.divergence_weight, args.hidden_states_weight) == (0, 0.5)
    args = LanguageDistillationArguments(teacher="t")
    expected = {"divergence": "forward", "divergence_weight": 1, "temperature": 1, "top_k": None, "jsd_beta": 0.5}
    expected |= {"label_weight": 0, "hidden_states_weight": 0, "teacher_dtype": "auto"}
    assert {name: getattr(args, name) for name in expected} == expected


@pytest.mark.parametrize("states", [0.0, 0.5])
def test_a_teacher_sees_all_that_the_student_sees_but_the_labels(states, monkeypatch):
    """Where documents of a block do not see each other, their places as well; and nothing of it is learnt from."""
    asked = []
    base = LanguageDistillationTrainer.__mro__[1]
    monkeypatch.setattr(base, "task_loss", lambda self, *given: (3.0, SimpleNamespace(given=given)))

    def teacher(**given):
        asked.append((given, torch.is_grad_enabled()))
        return "taught"

    settings = SimpleNamespace(hidden_states_weight=states, label_weight=0.25)
    trainer = bare(LanguageDistillationTrainer, teacher=teacher, distillation=settings, is_in_train=True)
    inputs = {"input_ids": "ids", "position_ids": "places", "attention_mask": "mask"}
    loss, outputs = trainer.task_loss(SimpleNamespace(training=True), {**inputs, "labels": "labels"}, 7)
    assert asked == [({**inputs, "use_cache": False, "output_hidden_states": states > 0}, False)]
    assert loss == 0.75 and outputs.taught == "taught"
    shown = {**inputs, "labels": "labels", **({"output_hidden_states": True} if states else {})}
    assert outputs.given[1:] == (shown, 7)


@pytest.mark.parametrize("divergence, states, width", [(2.0, 0.0, 8), (0.0, 0.5, 8), (2.0, 0.5, 8), (2.0, 0.5, 6)])
def test_losses_with_a_weight_are_added_and_widths_that_differ_are_projected(divergence, states, width, monkeypatch):
    added, projected = [], []
    student = SimpleNamespace(config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(hidden_size=8)))
    base, own = LanguageDistillationTrainer.__mro__[1], LanguageDistillationTrainer
    monkeypatch.setattr(base, "__init__", lambda self, **given: vars(self).update(given, model=student))
    monkeypatch.setattr(own, "add_loss", lambda self, *given: added.append(given))
    monkeypatch.setattr(own, "_project_to", lambda self, width: projected.append(width))
    sizes = {**SIZES, "hidden_size": width, "num_attention_heads": 2}
    teacher = LlamaForCausalLM(LlamaConfig(vocab_size=30, num_hidden_layers=1, **sizes)).train()
    settings = SimpleNamespace(divergence_weight=divergence, hidden_states_weight=states)
    trainer = own(teacher=teacher, distillation=settings, args=SimpleNamespace(device="cpu"))
    assert not teacher.training and not any(weight.requires_grad for weight in teacher.parameters())
    expected = [("divergence", trainer._divergence, 2.0)] if divergence else []
    expected += [("hidden_states", trainer._hidden_states, 0.5)] if states else []
    assert [given[:3] for given in added] == expected
    assert projected == ([6] if states and width == 6 else [])


def test_a_distillation_is_the_students_training_with_the_teacher_it_was_begun_with(monkeypatch):
    calls = Calls()
    trainer = SimpleNamespace(teacher="the network", args=SimpleNamespace(output_dir="output"))
    run = SimpleNamespace(trainer=trainer, config="config", checkpoint="checkpoint")
    student = SimpleNamespace(TRAINING_ARGUMENTS=("A", "B"), prepare_training=calls.of("student", lambda *_: run))
    begun(
        monkeypatch,
        task,
        calls,
        _STUDENT=student,
        TRAINING_ARGUMENTS=(),
        check_place=calls.of("place"),
        FilledReader=lambda *given: ("filled", *given),
        replace=lambda run, **changed: (run, changed),
        _make_trainer=calls.of("make", "made"),
        _report=calls.of("report", "reported"),
    )
    distillation, model = Named("distillation"), Named("model")
    found, changed = task.prepare_training(reader(distillation, model, "text", "args", task="language-distillation"))
    revision = ("--teacher_revision", "distillation.teacher_revision")
    assert calls["place"] == [(("--teacher", "distillation.teacher"), {"revision": revision})]
    [((filled, make), _)] = calls["student"]
    assert filled == ("filled", "language-distillation", (distillation,), [model, "text", "args"])
    assert make(model="m") == "made"
    assert calls["make"] == [((), {"distillation": distillation, "model_args": model, "model": "m"})]
    contents = {"teacher distillation.teacher": ("weights", "the network")}
    assert calls["check_contents"] == [(("config", "checkpoint", "output", contents), {})]
    assert found is run and changed["report"]("metrics") == "reported"
    assert calls["report"] == [((run, "metrics"), {})]


@pytest.mark.parametrize("error", [OSError, ValueError])
def test_a_tokenizer_of_a_teacher_that_cannot_be_read_is_warned_of(error, monkeypatch, caplog):
    def read(name, **_):
        raise error("nothing to read")

    monkeypatch.setattr(task.AutoTokenizer, "from_pretrained", read)
    task._check_tokenizer(SimpleNamespace(teacher="a/teacher"), {}, None)
    assert "a/teacher has no tokenizer; that it reads the student's is not known" in caplog.text


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.9])
def test_a_divergence_between_both_weighs_the_teacher_in_the_mixture_as_asked_for(beta):
    generator = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(1, 4, 6, generator=generator) for _ in range(2))
    settings = SimpleNamespace(divergence="jsd", temperature=2.0, top_k=None, jsd_beta=beta)
    outputs = SimpleNamespace(logits=student, taught=SimpleNamespace(logits=teacher))
    labels = {"labels": torch.tensor([[5, 5, -100, 5]])}
    trainer = SimpleNamespace(distillation=settings)
    found = LanguageDistillationTrainer._divergence(trainer, None, labels, outputs)
    q, p = ((logits[0, [0, 2]].double() / 2).softmax(-1) for logits in (student, teacher))
    m = beta * p + (1 - beta) * q
    expected = beta * (p * (p / m).log()).sum(-1) + (1 - beta) * (q * (q / m).log()).sum(-1)
    assert found.item() == pytest.approx(4 * expected.mean().item(), rel=1e-5)


def test_projections_are_drawn_from_the_seed_and_what_is_drawn_after_them_is_what_it_was():
    def project(before: int) -> torch.Tensor:
        student = LlamaForCausalLM(LlamaConfig(vocab_size=30, num_hidden_layers=2, **SIZES))
        args = SimpleNamespace(device=torch.device("cpu"), seed=3)
        trainer = SimpleNamespace(is_fsdp_enabled=False, is_deepspeed_enabled=False, args=args, model=student)
        torch.manual_seed(before)
        state = torch.get_rng_state()
        LanguageDistillationTrainer._project_to(trainer, 6)
        assert torch.equal(torch.get_rng_state(), state) and trainer.model is trainer.model_wrapped
        return torch.stack([each.weight.detach() for each in trainer.model.projections])

    first, second = project(1), project(2)
    assert torch.equal(first, second) and first.shape == (2, 6, SIZES["hidden_size"])
    assert not torch.equal(first[0], first[1])


def test_a_teacher_is_read_at_its_own_revision_in_the_precision_that_is_asked_for(monkeypatch):
    read = []
    config = SimpleNamespace(get_text_config=lambda: "text")
    monkeypatch.setattr(task.AutoConfig, "from_pretrained", lambda *given, **how: read.append((given, how)) or config)
    monkeypatch.setattr(task, "_check_fit", lambda *given: None)
    monkeypatch.setattr(task, "_check_tokenizer", lambda said, source, words: read.append(({**source}, words)))
    monkeypatch.setattr(task, "load_whole", lambda *given, **how: read.append((given[1:], how)) or "teacher")
    monkeypatch.setattr(task, "LanguageDistillationTrainer", lambda **given: given)
    args = LanguageDistillationArguments(teacher="org/teacher", teacher_revision="v7", teacher_dtype="bfloat16")
    student = SimpleNamespace(config=config)
    asked = SimpleNamespace(token="t", trust_remote_code=True, revision="v1")
    made = task._make_trainer(
        distillation=args, model_args=asked, model=student, processing_class="words", eval_dataset="blocks"
    )
    source = {"revision": "v7", "token": "t", "trust_remote_code": True}
    loaded = {**source, "revision": ("--teacher_revision", "v7"), "dtype": "bfloat16"}
    assert read == [(("org/teacher",), source), (source, "words"), (("--teacher", "org/teacher"), loaded)]
    assert made == {
        "teacher": "teacher", "distillation": args, "model": student, "processing_class": "words",
        "eval_dataset": "blocks",
    }  # fmt: skip
