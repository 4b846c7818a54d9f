"""What sequences of images, trainings without data and distillations hand on, see `test_preparations`."""

from types import SimpleNamespace

import pytest
import torch

from hf_effmodels.training.tasks.contrastive_language_image import trainer as two_towers
from hf_effmodels.training.tasks.data_free_distillation import task as data_free
from hf_effmodels.training.tasks.distillation import task as distillation
from hf_effmodels.training.tasks.distillation.teacher import Teachers
from hf_effmodels.training.tasks.visual_sequence_modeling import task as sequences

from .recorders import Calls, Named, begun
from .test_rare_preparations import patched, reader


class Pairs(list):
    """Pairs of a task; what is read of them is noted."""

    def __init__(self, task: str, number: int):
        super().__init__(range(number))
        self.task, self.seen, self.limit = task, [], "all"

    def read(self, number):
        self.seen.append(number)

    def evenly(self, limit):
        self.limit = limit
        return self


@pytest.mark.parametrize(
    "packing, pairs, packed_length, places, longest, fitting",
    [
        ("drawn", 4, 5, 64, 40, 4),  # two images of five tokens each, four times
        ("packed", 4, 24, 24, 24, 2),  # cut to what is packed; two whole pairs fit
        ("packed", 4, 7, 24, 10, 2),  # one pair at least
        ("packed", 2, 99, 64, 20, 2),
    ],
)
@pytest.mark.parametrize("anew", [True, False])
def test_a_training_of_sequences_has_what_its_arguments_say(
    anew, packing, pairs, packed_length, places, longest, fitting, monkeypatch
):
    calls = Calls()
    train, evaluation = [Pairs("pose", 17), Pairs("segment", 3)], [Pairs("pose", 2), Pairs("segment", 16)]
    codes = torch.zeros(2, 2)
    tokenizer = SimpleNamespace(tokens_per_image=5, codebook=codes, vqvae="a network", image_size=16)
    teacher = SimpleNamespace(image_tokenizer=SimpleNamespace(codebook=codes), language_model="taught by")
    model = SimpleNamespace(config=SimpleNamespace(max_position_embeddings=places))
    trainer = SimpleNamespace(
        evaluate=lambda: {"eval_loss": 2.0}, is_world_process_zero=lambda: True, pipeline=lambda: "pipeline",
        eval_dataset="sentences to evaluate on",
    )  # fmt: skip
    begun(
        monkeypatch,
        sequences,
        calls,
        open_run=lambda *_: ("config", None),
        check_license=calls.of("license"),
        is_table=lambda dataset: False,
        load_pairs=calls.of("pairs", (train, evaluation)),
        _limited=calls.of("limited", lambda tasks, limits: tasks),
        read_expansion=calls.of("expansion"),
        _image_tokenizer=calls.of("tokenizer", tokenizer),
        load_pipeline=calls.of("pipeline", teacher),
        load_language_model=calls.of("model", model),
        _tokens=calls.of("tokens", ("train tokens", "eval tokens")),
        _facts=lambda tokens: f"facts of {tokens}",
        fingerprint=lambda parts: "0123456789abcdefgh",
        DrawnSentences=calls.of("sentences", lambda tokens, *_, **__: f"sentences of {tokens}"),
        joined_sentences=calls.of("joined", [[1, 2], [3]]),
        PackedSentences=calls.of("packed", "packs"),
        PackedDataset=lambda packs: f"data of {packs}",
        VisualSequenceTrainer=calls.of("Trainer", lambda **given: trainer),
        answer=calls.of("answer", ({"pose_psnr": 9.0}, "rows")),
        write_results=calls.of("write_results", "results"),
    )
    model_args = Named("model", model="llama" if anew else "a/folder", model_config={}, trains_tokenizer="it is")
    data = Named("data", packing=packing, pairs_per_sentence=pairs, packed_length=packed_length)
    args = Named("args", answered_images=3)
    run = sequences.prepare_training(reader(model_args, data, args))
    assert calls["license"] == [(("args.license",), {})] and calls["pairs"] == [(("data.dataset",), {})]
    assert calls["limited"] == [((train, "data.task_samples"), {})]
    assert [task.limit for task in (*train, *evaluation)] == ["all"] * 2 + ["data.max_eval_samples"] * 2
    assert calls["expansion"] == [(("--expand", "data.expand", ["pose", "segment"]), {})]
    # Of few all are looked at, of many the first and the last.
    assert train[0].seen == [0, 16] and train[1].seen == [0, 1, 2] and evaluation[1].seen == [*range(16)]
    assert calls["tokenizer"] == [((model_args, data, args, (train, evaluation), None), {})]
    assert calls["pipeline"] == [(("--teacher", "model.teacher", "model.token"), {})]
    assert calls["set_seed"] == [(("args.seed",), {})]
    assert calls["model"] == [((model_args, tokenizer, longest), {})]
    seed = "seed of the data of args"
    assert calls["tokens"] == [((tokenizer, data, seed, (train, evaluation)), {})]
    contents = {"training data": "facts of train tokens", "evaluation data": "facts of eval tokens"}
    contents |= {"image tokenizer": {"codes": "0123456789abcdef"}, **({} if anew else {"model": ("weights", model)})}
    assert calls["check_contents"] == [(("config", None, "args.output_dir", contents), {})]
    assert calls["sentences"] == [
        (("train tokens", pairs), {"seed": seed}),
        (("eval tokens", fitting), {"prompts": "train tokens"}),
    ]
    if packing == "packed":
        assert calls["joined"] == [(("train tokens", pairs), {})]
        assert calls["packed"] == [(([[1, 2], [3]], [2, 1], packed_length, min(packed_length, places)), {})]
    [(_, given)] = calls["Trainer"]
    assert given.pop("data_collator") is sequences.default_data_collator
    assert given == {
        "model": model, "args": args, "vqvae": "a network", "image_size": 16, "keeps_tokenizer": "it is",
        "teacher": "taught by", "eval_dataset": "sentences of eval tokens",
        "train_dataset": "data of packs" if packing == "packed" else "sentences of train tokens",
    }  # fmt: skip
    assert run.report("train metrics") == "results"
    assert calls["answer"] == [(("pipeline", "sentences to evaluate on", 3), {})]
    measured = {"eval_loss": 2.0, "eval_pose_psnr": 9.0}
    assert calls["write_results"][0][0][1:] == ("train metrics", measured, "rows", "config", data)


def test_a_teacher_of_sequences_has_the_codes_of_the_student(monkeypatch):
    calls, tokenizer = Calls(), SimpleNamespace(codebook=torch.zeros(2, 2))
    other = SimpleNamespace(image_tokenizer=SimpleNamespace(codebook=torch.ones(2, 2)))
    begun(
        monkeypatch,
        sequences,
        calls,
        open_run=lambda *_: ("config", None),
        check_license=lambda license: None,
        is_table=lambda dataset: True,
        _image_tokenizer=lambda *_: tokenizer,
        load_pipeline=lambda *_: other,
    )
    with pytest.raises(ValueError, match="--teacher: model.teacher has another codebook; distil with its --image_tok"):
        sequences.prepare_training(reader(Named("model"), Named("data"), Named("args")))


@pytest.mark.parametrize("measured", [True, False])
@pytest.mark.parametrize("few", [True, False])
def test_a_training_without_data_has_what_its_arguments_say(measured, few, monkeypatch):
    calls = Calls()

    class Images(list):
        def __init__(self, split):
            super().__init__([0, 1])
            self.source = SimpleNamespace(split=split, facts=lambda: f"facts of {split}")

    class Network:
        config = SimpleNamespace(num_channels=1)

        def to(self, memory_format):
            calls.of("layout")(self, memory_format)

    networks = {name: Network() for name in ("teacher", "student", "generator")}
    loaded = [SimpleNamespace(name="one", model=networks["teacher"])]
    evaluation, real = Images("test") if measured else None, Images("train") if few else None
    given = SimpleNamespace(num_channels=1, size=4)
    taught = [SimpleNamespace(model=networks["teacher"])]
    begun(
        monkeypatch,
        data_free,
        calls,
        _check=calls.of("check"),
        load_teachers=calls.of("load", loaded),
        student_processor=calls.of("processor", "processor"),
        input_of=calls.of("input", given),
        _student=calls.of("student", networks["student"]),
        teachers_for=calls.of("teachers", taught),
        _generator=calls.of("generator", networks["generator"]),
        _try_out=calls.of("try"),
        _real_images=calls.of("real", (evaluation, real)),
        DataFreeTrainer=calls.of("Trainer", "trainer"),
        multiply_adds=lambda model, pixels: f"{tuple(pixels.shape)}",
        _TASK=SimpleNamespace(compute_metrics="metrics", ranked_classes="ranked"),
    )
    # Batch norms are asked for where their statistics count.
    asked = Named("distillation", statistics_weight=0.1 if measured else 0.0)
    model_args = Named("model", model="a/folder")
    data, args = Named("data"), Named("args", device=torch.device("cpu"))
    run = data_free.prepare_training(reader(asked, model_args, data, args))
    assert calls["check"] == [((asked, data, args), {})] and calls["set_seed"] == [(("args.seed",), {})]
    assert calls["load"] == [(("distillation.teachers", "model.token", "model.trust_remote_code", measured), {})]
    assert calls["processor"] == [((loaded, "model.image_size"), {})] and calls["input"] == [(("processor", 1), {})]
    assert calls["student"] == [((model_args, asked, loaded, given), {})]
    assert calls["teachers"] == [((loaded, given), {})] and calls["generator"] == [((asked, given), {})]
    assert calls["try"] == [((networks["student"], taught, given, asked, args), {})]
    assert calls["real"] == [((data, model_args, asked, networks["student"], "processor"), {})]
    assert {each[0][0] for each in calls["layout"]} == {*networks.values()}
    contents = {"teacher one": ("weights", networks["teacher"])}
    contents |= {"evaluation data": "facts of test"} if measured else {}
    contents |= {"real samples": "facts of train"} if few else {}
    contents |= {"model": ("weights", networks["student"])}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    [(_, made)] = calls["Trainer"]
    assert made.pop("data_collator") is data_free.default_data_collator
    assert made == {
        "model": networks["student"], "args": args, "teachers": taught, "generator": networks["generator"],
        "distillation": asked, "given": given, "eval_dataset": evaluation, "processing_class": "processor",
        "compute_metrics": "metrics", "preprocess_logits_for_metrics": "ranked",
    }  # fmt: skip
    *told, pixels = run.report.args
    assert told == ["trainer", real, "config", model_args, data, asked] and pixels.shape == (1, 4, 4)
    evaluating = ["evaluating on 2 images of test"] if measured else []
    assert run.facts == ["taught by one (Network); no data set", *evaluating, "(1, 4, 4)"]
    assert run.evaluation == ({} if measured else {"dataset": "DATASET"}) and (run.example is None) == (not measured)


@pytest.mark.parametrize("kind, reads", [("teachers", False), ("labels", False), ("teachers", True)])
def test_a_distillation_is_the_students_training_whose_teachers_are_known_again(kind, reads, monkeypatch):
    """With embeddings of texts, and new classes to tell, these too."""
    calls = Calls()
    texts = SimpleNamespace(facts=lambda: "facts of texts") if reads else None
    novel = SimpleNamespace(source=SimpleNamespace(facts=lambda: "facts of new classes")) if reads else None
    teachers = object.__new__(Teachers)
    teachers.teachers = [SimpleNamespace(model="network one"), SimpleNamespace(model="network two")]
    trainer = SimpleNamespace(
        teachers=teachers if kind == "teachers" else "stored",
        args=SimpleNamespace(output_dir="out"),
        train_dataset="pictures",
    )
    run = SimpleNamespace(trainer=trainer, config="config", checkpoint="checkpoint")
    student = SimpleNamespace(prepare_training=calls.of("student", run))
    patched(
        monkeypatch,
        distillation,
        _STUDENT=student,
        make_losses=calls.of("losses", {}),
        check_place=calls.of("place"),
        table_folder=calls.of("folder", "a folder"),
        StoredLabels=calls.of("Stored", SimpleNamespace(check=calls.of("check"))),
        stored_settings=lambda trainer, arguments: "settings",
        epochs_of=lambda trainer: 7,
        weights_fingerprint=lambda model: ("weights", model),
        check_contents=calls.of("contents"),
        _text_embeddings=calls.of("texts", texts),
        _check_labels=calls.of("labels"),
        _check_for_episodes=calls.of("episodes"),
        _check_for_stored=calls.of("stored"),
        _novel_classes=calls.of("novel", novel),
        replace=lambda run, report: report,
    )
    asked = Named(
        "distillation",
        teachers={"one": 1.0, "two": 2.0} if kind == "teachers" else {},
        stored_labels="a table" if kind == "labels" else None,
    )
    model, data, args = Named("model"), Named("data"), Named("args")
    report = distillation.prepare_training(reader(asked, model, data, "augmentation", args))
    given = [model, data, "augmentation", args]
    assert calls["losses"] == [(("distillation.losses",), {})]
    assert calls["texts"] == [((asked, {}, given), {})] and calls["labels"] == [(({}, args), {})]
    assert calls["episodes"] == [((asked, args), {})] and calls["novel"] == [((asked, trainer, given), {})]
    [((_, make), _)] = calls["student"]
    stored = calls["Stored"] and make.keywords["stored"] if kind == "labels" else None
    assert make.keywords == {
        "distillation": asked, "losses": {}, "model_args": model, "stored": stored, "texts": texts
    }  # fmt: skip
    assert report.args == (run, novel, asked)
    if kind == "teachers":
        revision = {
            "revision": ("--teacher_revision", "distillation.teacher_revision"),
            "hint": distillation.UNTRAINED,
        }
        assert calls["place"] == [(("--teacher", name), revision) for name in ("one", "two")]
        contents = {f"teacher {name}": ("weights", f"network {name}") for name in ("one", "two")}
        if reads:
            contents |= {"text embeddings": "facts of texts", "few-shot data": "facts of new classes"}
        assert calls["contents"] == [(("config", "checkpoint", "out", contents), {})] and "folder" not in calls
        return
    options = {"argument": "--stored_labels", "made_by": "soft-labels"}
    options |= {"cache_dir": "data.cache_dir", "token": "model.token"}
    assert calls["folder"] == [(("a table",), options)] and calls["stored"] == [(({}, given), {})]
    assert calls["Stored"] == [(("a folder", "data.cache_dir"), {})]
    assert calls["check"] == [(("settings", "pictures", 7), {})] and "contents" not in calls


def test_batches_of_a_step_lie_below_each_other_filled_up_with_nothing():
    """Texts of another length, and sums, which are added."""
    rows = [torch.ones(2, 3, 2), torch.full((1, 5, 2), 2.0)]
    joined = two_towers._joined(rows)
    assert joined.shape == (3, 5, 2) and joined[:2, :3].eq(1).all() and joined[:2, 3:].eq(0).all()
    assert joined[2].eq(2).all()
    assert two_towers._joined([torch.tensor(2.0), torch.tensor(5.0)]).item() == 7
    assert two_towers._joined([torch.tensor([1, 2]), torch.tensor([3])]).tolist() == [1, 2, 3]
    masks = [torch.ones(1, 2, dtype=torch.uint8), torch.ones(1, 3, dtype=torch.uint8)]
    assert two_towers._joined(masks).tolist() == [[1, 1, 0], [1, 1, 1]]


def test_statistics_of_norms_are_what_they_were_though_the_pass_fails():
    norm = torch.nn.BatchNorm1d(2).train()
    before = {name: buffer.clone() for name, buffer in norm.named_buffers()}

    def fails():
        with two_towers._same_buffers(norm):
            norm(torch.randn(4, 2))
            assert not torch.equal(norm.running_mean, before["running_mean"])
            raise RuntimeError("in the midst")

    with pytest.raises(RuntimeError, match="in the midst"):
        fails()
    assert all(torch.equal(buffer, before[name]) for name, buffer in norm.named_buffers())
