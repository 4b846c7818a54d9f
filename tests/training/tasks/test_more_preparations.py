"""What further tasks hand on of their arguments, see `test_preparations`."""

from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_effmodels.training.tasks.causal_lm import task as causal_lm
from hf_effmodels.training.tasks.contrastive_language_image import task as two_towers
from hf_effmodels.training.tasks.data_free_distillation import task as data_free
from hf_effmodels.training.tasks.distillation import task as distillation
from hf_effmodels.training.tasks.distillation import teacher as teachers
from hf_effmodels.training.tasks.image_classification import task as classification
from hf_effmodels.training.tasks.image_classification.mixing import Collator as MixingCollator
from hf_effmodels.training.tasks.image_text_to_text import task as questions
from hf_effmodels.training.tasks.masked_image_modeling import task as masked_images

from .recorders import Calls, Model, Named, Pictures, begun
from .test_rare_preparations import Stop, patched, reader, stop

# Classification


class Labelled(Pictures):
    def __init__(self, split: str, labels=(0, 1)):
        super().__init__(split)
        self.tables, self.labels = None, labels

    def renumbered(self, table, own):
        self.tables = (table, own)
        return self


@pytest.mark.parametrize("maps", [True, False])
@pytest.mark.parametrize("device, side", [("cpu", (5, 5)), ("meta", None)])
def test_a_training_of_a_classifier_has_what_its_arguments_say(maps, device, side, monkeypatch):
    """Pictures whose shapes are kept are evaluated one by one."""
    calls, laid = Calls(), []
    train, evaluation = Labelled("train"), Labelled("eval (held out)", (1,))

    class Network(Model):
        def to(self, place=None, memory_format=None):
            laid.append(memory_format)
            return self

        def __call__(self, pixel_values):
            tried.append((pixel_values.device.type, tuple(pixel_values.shape)))

    model, tried = Network(num_channels=1), []
    found = SimpleNamespace(facts=lambda: "facts of the maps") if maps else None

    def dataset(source, transform, *_, **__):
        return {0: {"pixel_values": torch.zeros(len(source.split))}, "of": source.split}

    def trainer(**given):
        measured = calls.of("predict", "measured")
        return SimpleNamespace(**given, predict=measured, network=model, save_submodels=calls.of("save_submodels"))

    begun(
        monkeypatch,
        classification,
        calls,
        load_classifier=calls.of("load_classifier", (model, "processor")),
        class_names=lambda config: ["b", "a"],
        model_classes=lambda names, own: ("numbers of", tuple(names), tuple(own)),
        check_classes=calls.of("check_classes"),
        check_labels=calls.of("check_labels"),
        add_branches=calls.of("add_branches"),
        make_ternary=calls.of("make_ternary"),
        make_blocks_binary=calls.of("make_blocks_binary"),
        add_warm_start=calls.of("add_warm_start"),
        check_processor=calls.of("check_processor"),
        size_of_all=lambda processor, channels: side if (processor, channels) == ("processor", 1) else "another",
        load_label_maps=calls.of("maps", found),
        EvaluationTransform=lambda processor: f"for {processor}",
        TrainingTransform=calls.of("transform", "training transform"),
        Normalization=SimpleNamespace(of=lambda processor, channels: f"{processor}, {channels}"),
        ImageClassificationDataset=calls.of("Dataset", dataset),
        _mixed_epochs=lambda args: "epochs that are mixed",
        write_results=calls.of("write_results", "results"),
        fold_training_branches=calls.of("fold"),
        multiply_adds=lambda model, pixels: None,
        class_facts=lambda words, labels, own: (words, labels, own),
        class_warnings=lambda *given: list(given),
        _blaming=lambda args: nullcontext(),
    )
    loading = calls.of("load", (train, evaluation))
    args = Named("args", sorted_submodels=None, device=torch.device(device))
    model_args, data_args = Named("model", model="a/folder"), Named("data", eval_fraction=None, eval_holdout=None)
    augmentation = Named("augmentation")
    run = classification.prepare_training(
        reader(model_args, data_args, augmentation, args), calls.of("Trainer", trainer), loading, new_head="a new head"
    )
    assert calls["load"] == [((data_args, "model.token"), {})] and calls["set_seed"] == [(("args.seed",), {})]
    options = {"from_scratch": "args.random_weights", "new_head": "a new head"}
    assert calls["load_classifier"] == [((model_args, ("a", "b"), True), options)]
    assert train.tables == evaluation.tables == (("numbers of", ("a", "b"), ("b", "a")), ["b", "a"])
    assert calls["add_branches"] == [((model, model_args, args), {})]
    assert calls["make_ternary"] == calls["make_blocks_binary"] == [((model, args), {})]
    assert calls["check_classes"] == [((train,), {"makes_them": False})]
    assert laid == ([torch.channels_last] if device == "cpu" else [])
    assert [given for given, _ in calls["check_labels"]] == [(train, 2), (evaluation, 2)]
    assert all(each[1].keywords == {"num_channels": 1} and each[2] is data_args for each, _ in calls["usable"])
    place = ("augmentation.train_crop", "data.cache_dir", "model.token")
    assert calls["maps"] == [((args, train, ["b", "a"], *place), {})]
    contents = {"training data": "facts of train", "evaluation data": "facts of eval (held out)"}
    contents |= {"model": ("weights", model), **({"label maps": "facts of the maps"} if maps else {})}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    assert calls["transform"] == [(("for processor", "processor, 1", augmentation), {})]
    trained = {"label_maps": found, "label_map_weight": "args.label_map_weight"}
    assert calls["Dataset"] == [
        (
            (train, "training transform", 1, "seed of the data of args"),
            {**trained, "mixed_epochs": "epochs that are mixed"},
        ),
        ((evaluation, "for processor", 1), {}),
    ]
    assert tried == [(device, (1, 5)), (device, (1, 15))]  # what fails for the first fails before anything is written
    [(_, given)] = calls["Trainer"]
    [((warmed, of), _)] = calls["add_warm_start"]
    assert warmed.train_dataset is given["train_dataset"] and of is args
    assert given["train_dataset"]["of"] == "train" and given["eval_dataset"]["of"] == "eval (held out)"
    assert given["data_collator"] == MixingCollator(
        num_labels=2, mixup="args.mixup", cutmix="args.cutmix", probability="args.mix_probability",
        switch_probability="args.mix_switch_probability", smoothing="args.label_smoothing_factor",
    )  # fmt: skip
    assert (given["model"], given["args"], given["processing_class"]) == (model, args, "processor")
    assert args.per_device_eval_batch_size == ("args.per_device_eval_batch_size" if side else 1)
    assert given["compute_metrics"] is classification.compute_metrics
    assert given["preprocess_logits_for_metrics"] is classification.ranked_classes
    assert run.facts == [
        ("training on train", (0, 1), ["b", "a"]),
        ("evaluating on eval (held out)", (1,), ["b", "a"]),
    ]
    assert run.warnings == [(0, 1), (1,), ["b", "a"]]
    assert run.evaluation == {"eval_fraction": 0.1}  # said to the evaluation by itself, which would take all of it
    assert run.report("train metrics") == "results" and calls["fold"] == [((model,), {})]
    assert calls["predict"] == [((given["eval_dataset"],), {"metric_key_prefix": "eval"})]
    [(written, _)] = calls["write_results"]
    assert written[1:] == ("train metrics", "measured", "config", model_args, data_args)
    assert "save_submodels" not in calls


@pytest.mark.parametrize("own, makes", [(10, True), (1000, False)])
def test_numbers_are_classes_up_to_the_largest_of_either_split(own, makes, monkeypatch):
    """Few of many are refused of a model that gets a class for each, and not of one that has its own."""
    calls = Calls()
    train, evaluation = Labelled("train"), Labelled("test")
    for source, numbers in ((train, [0, 7]), (evaluation, [2, 9])):
        source.names, source.numbers = None, np.array(numbers)
    patched(
        monkeypatch,
        classification,
        open_run=lambda *_: (None, None),
        set_seed=lambda seed: None,
        _blaming=lambda args: nullcontext(),
        load_classifier=calls.of("load", (Model(num_labels=own), None)),
        check_classes=calls.of("check"),
        add_branches=stop,
    )
    for sources in ((train, evaluation), (evaluation, train)):
        with pytest.raises(Stop):
            classification.prepare_training(
                reader(Named("model"), Named("data"), None, Named("args", sorted_submodels=None)),
                load=lambda *given, sources=sources: sources,
            )
        [((_, names, named), _)] = calls.pop("load")
        assert names == [str(number) for number in range(10)] and not named
        assert calls.pop("check") == [((sources[0],), {"makes_them": makes})]


@pytest.mark.parametrize(
    "model, fresh, keeps", [("vanillanet-5", False, False), ("a/folder", True, False), ("a/folder", False, True)]
)
def test_branches_begin_at_nothing_beside_trained_weights_alone(model, fresh, keeps, monkeypatch):
    calls = Calls()
    monkeypatch.setattr(classification, "with_training_branches", calls.of("branches"))
    args = SimpleNamespace(training_branches=3, fsdp=[], deepspeed=None, random_weights=fresh)
    classification.add_branches("network", SimpleNamespace(model=model), args)
    assert calls["branches"] == [(("network", 3), {"keeps_function": keeps})]


@pytest.mark.parametrize(
    "split, given, said",
    [
        ("eval (held out)", {}, True),
        ("test", {}, False),
        ("eval (held out)", {"eval_fraction": 0.2}, False),
        ("eval (held out)", {"eval_holdout": 5}, False),
    ],
)
def test_an_evaluation_holds_out_what_the_training_held_out_without_being_asked(split, given, said, monkeypatch):
    calls, model = Calls(), Model()
    model.to = lambda *_, **__: model
    begun(
        monkeypatch,
        classification,
        calls,
        load_classifier=lambda *_, **__: (model, None),
        class_names=lambda config: ["a", "b"],
        model_classes=lambda names, own: [0, 1],
        **{name: lambda *_, **__: None for name in (
            "check_classes", "check_labels", "add_branches", "make_ternary", "make_blocks_binary", "add_warm_start",
            "check_processor", "load_label_maps", "EvaluationTransform", "TrainingTransform", "multiply_adds",
            "class_facts", "class_warnings",
        )},
        size_of_all=lambda *_: (1, 1),
        Normalization=SimpleNamespace(of=lambda *_: None),
        ImageClassificationDataset=lambda *_, **__: [{"pixel_values": torch.zeros(1)}],
        _mixed_epochs=lambda args: None,
        _blaming=lambda args: nullcontext(),
    )  # fmt: skip
    args = Named("args", sorted_submodels=None, device=torch.device("cpu"))
    args.mixup = args.cutmix = args.label_smoothing_factor = 0.0
    data = Named("data", **{"eval_fraction": None, "eval_holdout": None, **given})
    run = classification.prepare_training(
        reader(Named("model", model="a/folder"), data, Named("augmentation"), args),
        lambda **given: SimpleNamespace(**given),
        lambda *_: (Labelled("train"), Labelled(split)),
    )
    assert run.evaluation == ({"eval_fraction": 0.1} if said else {})


@pytest.mark.parametrize("names", [("a", "b"), None])
@pytest.mark.parametrize("side, folds", [((5, 5), False), (None, True)])
def test_an_evaluation_of_a_classifier_is_prepared_as_its_arguments_say(names, side, folds, monkeypatch):
    """Nothing that the model lacks is made up, and what cannot be measured is said before it is."""
    calls, source = Calls(), Labelled("test")
    source.names = names

    class Network(Model):
        device = "cpu"

        def reparameterize(self):
            calls.of("fold")()

        def __call__(self, pixel_values):
            calls.of("tried")(tuple(pixel_values.shape))

    model = Network(num_channels=1)
    begun(
        monkeypatch,
        classification,
        calls,
        load_evaluation_data=calls.of("data", source),
        load_classifier=calls.of("load", (model, "processor")),
        class_names=lambda config: ["b", "a"],
        model_classes=lambda names, own: ("numbers of", tuple(names), tuple(own)),
        check_chosen=calls.of("chosen"),
        check_labels=calls.of("labels"),
        _deploy=calls.of("deploy"),
        size_of_all=lambda processor, channels: side if (processor, channels) == ("processor", 1) else "another",
        EvaluationTransform=lambda processor: f"for {processor}",
        ImageClassificationDataset=calls.of("Dataset", [{"pixel_values": torch.zeros(7)}]),
        _blaming=lambda args: nullcontext(),
        _blaming_image_size=lambda args: nullcontext(),
    )
    model_args, data = Named("model"), Named("data")
    args = Named("args", reparameterize=folds, deploy=folds)
    found = classification.prepare_evaluation(reader(model_args, data, args))
    assert calls["data"] == [((data, "model.token"), {})]
    assert calls["load"] == [((model_args,), {"names": None, "new_head": False})]
    assert calls["chosen"] == [((source, data, ["b", "a"]), {})] and calls["labels"] == [((source, 2), {})]
    assert source.tables == ((("numbers of", names, ("b", "a")), ["b", "a"]) if names else None)
    [((used, read, of), _)] = calls["usable"]
    assert used is source and read.keywords == {"num_channels": 1} and of is data
    assert calls["Dataset"] == [((source, "for processor", 1), {})] and calls["tried"] == [(((1, 7),), {})]
    assert len(calls.get("fold", [])) == folds and calls.get("deploy", []) == [((model,), {})] * folds
    assert args.per_device_eval_batch_size == ("args.per_device_eval_batch_size" if side else 1)
    assert found.func is classification._evaluate
    assert found.args == (model, [{"pixel_values": found.args[1][0]["pixel_values"]}], args, "call")


def test_an_evaluation_of_a_classifier_computes_as_its_arguments_say(monkeypatch):
    calls = Calls()
    trainer = SimpleNamespace(
        predict=calls.of("predict", "measured"), accelerator=SimpleNamespace(end_training=calls.of("end"))
    )
    patched(
        monkeypatch,
        classification,
        ImageClassificationTrainer=calls.of("Trainer", lambda **given: trainer),
        ImageClassificationArguments=calls.of("Arguments", "its arguments"),
        write_evaluation=calls.of("write", "written"),
    )
    model, args = Model(), Named("args")
    model.is_quantized = True
    assert classification._evaluate(model, "dataset", args, "call") == "written" and not model.is_quantized
    [(_, settings)] = calls["Arguments"]
    assert settings.pop("output_dir")
    assert settings == {
        "per_device_eval_batch_size": "args.per_device_eval_batch_size", "bf16": "args.bf16",
        "dataloader_num_workers": "args.dataloader_num_workers",
    }  # fmt: skip
    [(_, given)] = calls["Trainer"]
    assert given == {
        "model": model, "args": "its arguments", "eval_dataset": "dataset", "data_collator": MixingCollator(2),
        "compute_metrics": classification.compute_metrics,
        "preprocess_logits_for_metrics": classification.ranked_classes,
    }  # fmt: skip
    assert calls["predict"] == [(("dataset",), {"metric_key_prefix": "eval"})] and len(calls["end"]) == 1
    assert calls["write"] == [((trainer, "measured", args, "call"), {})]


# Distillation


@pytest.mark.parametrize("taught_by", ["teachers", "labels", "nobody"])
def test_a_distillation_hands_on_who_teaches_and_how(taught_by, monkeypatch):
    calls, stored = Calls(), "stored labels" if taught_by == "labels" else None
    patched(
        monkeypatch,
        distillation,
        with_code=calls.of("with_code", lambda model, codec, seed: model),
        load_teacher=calls.of("load_teacher", lambda name, *_, **__: f"{name}, loaded"),
        Teachers=calls.of("Teachers", "the teachers"),
        DistillationTrainer=calls.of("Trainer", "trainer"),
    )
    asked = Named(
        "distillation", episodes_per_epoch=None, teachers={"one": 2.0, "two": 1.0} if taught_by == "teachers" else {}
    )
    given = {
        "distillation": asked, "losses": {}, "model_args": Named("model"), "stored": stored, "texts": None,
        "model": "student", "processing_class": "processor", "data_collator": MixingCollator(3), "args": Named("args"),
        "train_dataset": "pictures",
    }  # fmt: skip
    assert distillation._make_trainer(**given) == "trainer"
    assert calls["with_code"] == [(("student", "distillation.codec", "args.seed"), {})]
    options = {
        "revision": "distillation.teacher_revision", "dtype": "distillation.teacher_dtype",
        "compiled": "distillation.teacher_compile", "token": "model.token",
        "trust_remote_code": "model.trust_remote_code",
    }  # fmt: skip
    names = ("one", "two") if taught_by == "teachers" else ()
    assert calls.get("load_teacher", []) == [((name, "student", "processor"), options) for name in names]
    if names:
        assert calls["Teachers"] == [((["one, loaded", "two, loaded"], [2.0, 1.0]), {})]
    [(_, made)] = calls["Trainer"]
    keep = ("index", "sample_seed") if stored else ()
    assert made == {
        "model": "student", "teacher": "the teachers" if names else stored, "losses": {},
        "student_taps": "distillation.student_taps", "teacher_taps": "distillation.teacher_taps",
        "labels_weight": "distillation.labels_weight", "episodes": None, "processing_class": "processor",
        "data_collator": MixingCollator(3, keep=keep), "args": given["args"], "train_dataset": "pictures",
    }  # fmt: skip


@pytest.mark.parametrize("compiled", [True, False])
def test_a_teacher_is_read_at_its_revision_in_its_type_and_compiled_on_request(compiled, monkeypatch):
    calls = Calls()
    loaded = SimpleNamespace(config="its configuration")
    patched(
        monkeypatch,
        teachers,
        load_whole=calls.of("load_whole", loaded),
        load_image_processor=calls.of("processor", "its processor"),
        make_teacher=calls.of("make", "teacher"),
    )
    place = {"token": "a token", "trust_remote_code": True}
    found = teachers.load_teacher(
        "some/one", "student", "the student's", revision="v2", compiled=compiled, dtype="bfloat16", **place
    )
    assert found == "teacher"
    [(given, options)] = calls["load_whole"]
    assert given[1:] == ("--teacher", "some/one")
    said = {"revision": ("--teacher_revision", "v2"), "hint": teachers.UNTRAINED, "dtype": "bfloat16"}
    assert options == {**said, **place}
    assert calls["processor"] == [(("some/one", "its configuration"), {"revision": "v2", **place})]
    names = {"name": "some/one", "compiled": compiled}
    assert calls["make"] == [((loaded, "its processor", "student", "the student's"), names)]


# Two towers


def test_a_training_of_two_towers_has_what_its_arguments_say(monkeypatch):
    calls = Calls()

    class Source(Pictures):
        def all_texts(self):
            return f"texts of {self.split}"

    train, evaluation, classes = Source("train", [0, 1]), Source("eval", [0, 1]), Source("classes", [0])
    model, processor = (
        "model",
        SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=7), image_processor="image processor"),
    )
    dataset = SimpleNamespace(source="what is evaluated on")
    begun(
        monkeypatch,
        two_towers,
        calls,
        load_image_texts=calls.of("load", (train, evaluation)),
        load_zero_shot=calls.of("load_zero_shot", classes),
        _check_sizes=calls.of("sizes"),
        load_two_towers=calls.of("towers", (model, processor)),
        _teacher=calls.of("_teacher", (SimpleNamespace(model="taught by"), "its encoder", 9)),
        encoder=lambda tokenizer, length: (tokenizer, length),
        _length=lambda data_args, model: 33,
        _masking=lambda *given: ("masks", *given),
        ImageTextDataset=calls.of("Dataset", lambda source, *_: dataset),
        Collator=lambda *given: ("collator", *given),
        ContrastiveTrainer=calls.of("Trainer", lambda **given: SimpleNamespace(**given, evaluate=lambda: "measured")),
        _try_out=calls.of("try"),
        write_results=calls.of("write_results", "results"),
    )
    model_args, data, parts, args = Named("model"), Named("data"), Named("parts"), Named("args")
    run = two_towers.prepare_training(reader(model_args, data, parts, args))
    assert calls["load"] == calls["load_zero_shot"] == [((data, "model.token"), {})]
    assert calls["set_seed"] == [(("args.seed",), {})] and calls["sizes"] == [((train, evaluation, args), {})]
    assert calls["towers"] == [((model_args, "texts of train"), {})]
    assert calls["_teacher"] == [((args, model, processor, "model.token"), {})]
    contents = {"training data": "facts of train", "evaluation data": "facts of eval"}
    contents |= {"zero-shot data": "facts of classes", "model": ("weights", model)}
    contents |= {"teacher args.teacher": ("weights", "taught by")}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    encode, images = (processor.tokenizer, 33), "image processor"
    masks = ("masks", args, model, processor.tokenizer)
    assert [given for given, _ in calls["Dataset"]] == [
        (classes, images, encode),
        (train, images, encode, parts, masks, "its encoder", "seed of the data of args"),
        (evaluation, images, encode),
    ]
    [(_, given)] = calls["Trainer"]
    assert given == {
        "model": model, "args": args, "teacher": SimpleNamespace(model="taught by"), "zero_shot": dataset,
        "train_dataset": dataset, "eval_dataset": dataset, "data_collator": ("collator", 7, 9),
        "processing_class": processor,
    }  # fmt: skip
    assert calls["try"][0][0][1:] == (model_args, 33)
    assert run.example.args == ("what is evaluated on",) and run.report("train metrics") == "results"
    assert calls["write_results"][0][0][1:] == ("train metrics", "measured", "config", model_args, data)


def test_an_evaluation_of_two_towers_has_what_its_arguments_say(monkeypatch):
    calls = Calls()
    pairs, classes = Pictures("pairs", [0, 1]), Pictures("classes")
    model, processor = Model(), SimpleNamespace(tokenizer=SimpleNamespace(pad_token_id=7), image_processor="images")
    begun(
        monkeypatch,
        two_towers,
        calls,
        load_evaluation_image_texts=calls.of("load", pairs),
        load_zero_shot=calls.of("load_zero_shot", classes),
        load_trained=calls.of("load_trained", (model, processor)),
        encoder=lambda tokenizer, length: (tokenizer, length),
        _length=lambda data_args, model: 33,
        ImageTextDataset=calls.of("Dataset", lambda source, *_: [source.split]),
        Collator=lambda *given: ("collator", *given),
    )
    model_args = Named("model", tokenizer=None, image_tower=None, image_size=None)
    data, args = Named("data"), Named("args")
    found = two_towers.prepare_evaluation(reader(model_args, data, args))
    assert calls["load"] == calls["load_zero_shot"] == [((data, "model.token"), {})]
    place = {"revision": "model.revision", "token": "model.token", "trust_remote_code": "model.trust_remote_code"}
    assert calls["load_trained"] == [(("--model", "model.model", place), {})]
    encode = (processor.tokenizer, 33)
    assert [given for given, _ in calls["Dataset"]] == [(pairs, "images", encode), (classes, "images", encode)]
    sets, collate = [["pairs"], ["classes"]], ("collator", 7)
    assert found.args == (model, sets, collate, "model.model", "data.dataset", args, "call")


# Masked images


@pytest.mark.parametrize("asked, side", [(None, 32), (48, 48)])
def test_masked_images_are_evaluated_in_the_size_that_is_asked_for_or_the_models_own(asked, side, monkeypatch):
    calls, model = Calls(), Model(num_channels=1, image_size=32)
    begun(
        monkeypatch,
        masked_images,
        calls,
        load_evaluation_pictures=calls.of("load", Pictures("eval")),
        load_masked_model=calls.of("load_model", lambda args: (model, "processor")),
        _blaming=lambda args: nullcontext(),
        _dataset=calls.of("_dataset", ["sample"]),
    )
    model_args = Named("model", image_size=asked, method=None)
    data, args = Named("data"), Named("args")
    found = masked_images.prepare_evaluation(reader(model_args, data, args))
    assert calls["load"] == [((data, "model.token"), {})] and model_args.image_size is None
    [(given, options)] = calls["_dataset"]
    assert options == {} and given[1:3] == (model, "processor") and len(given) == 5
    assert (given[4].sizes, given[4].batch_sizes, given[4].starts) == ((side,), (1,), (0,))
    assert given[3] == masked_images.CropArguments()
    assert found.args == (model, ["sample"], "model.model", "data.dataset", args, "call")
    monkeypatch.setattr(masked_images, "_dataset", lambda *_: [])
    with pytest.raises(IndexError):  # the first image is looked at
        masked_images.prepare_evaluation(reader(model_args, data, args))


def test_a_training_of_masked_images_has_what_its_arguments_say(monkeypatch):
    calls, model = Calls(), Model(num_channels=1, image_size=32, scale_weights=[0.25, 0.75])
    model.one_mask_per_batch = True
    stages = SimpleNamespace(batch_sizes=(8, 4))
    train, evaluation = Pictures("train"), Pictures("eval")
    begun(
        monkeypatch,
        masked_images,
        calls,
        load_pictures=calls.of("load", (train, evaluation)),
        load_masked_model=calls.of("load_model", lambda args: (model, "processor")),
        _blaming=lambda args: nullcontext(),
        check_processor=calls.of("check_processor"),
        _dataset=calls.of("_dataset", lambda source, *_: source.split),
        MaskedImageTrainer=calls.of("Trainer", lambda **given: SimpleNamespace(evaluate=lambda: "measured")),
        _try_out=calls.of("try"),
        write_results=calls.of("write_results", "results"),
        held_out_unasked=calls.of("held_out", {"eval_fraction": 0.3}),
    )
    crop = Named("crop", stages=calls.of("stages", stages))
    model_args, data = Named("model"), Named("data")
    args = Named("args", max_steps=-1, num_train_epochs=3.0)
    run = masked_images.prepare_training(reader(model_args, data, crop, args))
    assert calls["load"] == [((data, "model.token"), {})] and calls["set_seed"] == [(("args.seed",), {})]
    assert calls["stages"] == [((32, "args.per_device_train_batch_size"), {})]
    assert args.per_device_train_batch_size == 8
    contents = {"training data": "facts of train", "evaluation data": "facts of eval", "model": ("weights", model)}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    assert calls["_dataset"] == [
        ((train, model, "processor", crop, stages, "seed of the data of args"), {}),
        ((evaluation, model, "processor", crop, stages), {}),
    ]
    [(_, given)] = calls["Trainer"]
    collator, metrics = given.pop("data_collator"), given.pop("compute_metrics")
    assert collator.one_mask and metrics.keywords == {"weights": [0.25, 0.75]}
    assert given == {
        "model": model, "args": args, "stages": stages, "train_dataset": "train", "eval_dataset": "eval",
        "processing_class": "processor",
    }  # fmt: skip
    assert calls["try"][0][0][1:] == (model_args, stages) and run.report("train metrics") == "results"
    assert calls["write_results"][0][0][1:] == ("train metrics", "measured", "config", model_args, data)
    assert calls["held_out"] == [((data, "eval"), {})] and run.evaluation == {"eval_fraction": 0.3}
    # An epoch of another length for each batch size: parts of epochs are none.
    for epochs, steps, refused in ((2.5, -1, True), (2.5, 9, False), (2.0, -1, False)):
        args = Named("args", max_steps=steps, num_train_epochs=epochs)
        if refused:
            with pytest.raises(ValueError, match="--num_train_epochs: got 2.5, accepted with --progressive_batch_siz"):
                masked_images.prepare_training(reader(model_args, data, crop, args))
        else:
            masked_images.prepare_training(reader(model_args, data, crop, args))


# Questions about pictures


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize("kind", ["questions", "instructions"])
def test_a_training_of_answers_has_what_its_arguments_say(augmented, kind, monkeypatch):
    calls, model = Calls(), Model(vision_config=SimpleNamespace(image_size=24))

    class Texts(Pictures):
        read_image = None

        def without_images(self):
            return f"questions of {self.split}"

    train, evaluation = Texts("train"), Texts("eval")
    tokenizer = SimpleNamespace(pad_token_id=5)
    processor = SimpleNamespace(tokenizer=tokenizer, image_processor="images", use_cls_token=False)
    begun(
        monkeypatch,
        questions,
        calls,
        load_data=calls.of("load", (train, evaluation)),
        load_model=calls.of("load_model", (model, processor)),
        set_trained_weights=calls.of("trained"),
        _saves_adapters_only=calls.of("adapters", "adapters only"),
        CaptionAugmentation=lambda side: f"augmented to {side}",
        Encoder=lambda processor, length: f"encoder of {length}",
        Pixels=lambda *given: ("pixels", *given),
        _check_room=calls.of("room"),
        ImageTextToTextDataset=calls.of("Dataset", lambda source, *_: source.split),
        ImageTextToTextTrainer=calls.of("Trainer", lambda **given: SimpleNamespace(evaluate=lambda: {"eval_loss": 2})),
        _try_out=calls.of("try"),
        resolve_format=lambda data_args: kind,
        generate_answers=calls.of("answer", "answers"),
        score=calls.of("score", {"accuracy": 0.5}),
        write_results=calls.of("write_results", "results"),
        NEW_TOKENS={kind: 11},
        held_out_unasked=calls.of("held_out", {"eval_fraction": 0.3}),
        weights_fingerprint=lambda model, chosen: [name for name, weight in weights.items() if chosen(name, weight)],
    )
    weights = {name: SimpleNamespace(requires_grad=name == "learns") for name in ("frozen", "learns")}
    model_args = Named("model", model="a/folder", base_precision="float32")
    data, args = Named("data", max_new_tokens=None), Named("args", augmentation="captions" if augmented else "none")
    run = questions.prepare_training(reader(model_args, data, args))
    assert calls["load"] == [((data, "model.token"), {})] and calls["set_seed"] == [(("args.seed",), {})]
    assert calls["load_model"] == [((model_args, train), {})]
    assert calls["trained"] == [((model, "args.train", "float32"), {})]
    assert calls["adapters"] == [((model_args, args), {})]
    encoder = "encoder of data.max_length"
    pixels = ("pixels", "images", "augmented to 24" if augmented else None)
    assert [given for given, _ in calls["Dataset"]] == [
        (train, encoder, pixels, "seed of the data of args"),
        (evaluation, encoder, pixels),
    ]
    [(_, given)] = calls["Trainer"]
    collator = given.pop("data_collator")
    assert (collator.pad_token_id, collator.with_mask) == (5, True)
    assert given == {
        "model": model, "args": args, "adapter_only": "adapters only", "train_dataset": "train",
        "eval_dataset": "eval", "processing_class": processor,
    }  # fmt: skip
    contents = {"training data": "facts of train", "evaluation data": "facts of eval", "frozen parts": ["frozen"]}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    assert run.report("train metrics") == "results"
    asked, metrics = [], {"eval_loss": 2}
    if kind == "questions":
        options = {"batch_size": "args.per_device_eval_batch_size", "max_new_tokens": 11, "bf16": "args.bf16"}
        asked = [((model, evaluation, encoder, pixels), {**options, "log": questions.logger.info})]
        assert calls["score"] == [(("questions", "questions of eval", "answers"), {})]
        metrics["eval_accuracy"] = 0.5
    assert calls.get("answer", []) == asked
    assert calls["held_out"] == [((data, "eval"), {})] and run.evaluation == {"eval_fraction": 0.3}
    assert calls["write_results"][0][0][1:] == ("train metrics", metrics, "config", model_args, data)


@pytest.mark.parametrize("given, used", [(None, 11), (4, 4)])
def test_as_many_words_are_answered_as_are_asked_for_or_as_the_format_has(given, used, monkeypatch):
    calls = Calls()
    patched(
        monkeypatch,
        questions,
        resolve_format=lambda data_args: "questions",
        NEW_TOKENS={"questions": 11},
        generate_answers=calls.of("answer", "answers"),
    )
    encoder = SimpleNamespace(check_room=calls.of("room"))
    data = Named("data", max_new_tokens=given)
    questions._check_room(encoder, data)
    assert questions._answers("model", "samples", encoder, "pixels", data, Named("args")) == "answers"
    assert calls["room"] == [((used,), {})] and calls["answer"][0][1]["max_new_tokens"] == used


# Language models


@pytest.mark.parametrize("separate", [True, False])
@pytest.mark.parametrize("streaming", [True, False])
def test_blocks_of_text_are_made_as_the_arguments_say(separate, streaming, monkeypatch):
    calls, counts = Calls(), SimpleNamespace(log=lambda name: logged.append(name))
    logged = []
    patched(
        monkeypatch,
        causal_lm,
        Separators=SimpleNamespace(of=lambda tokenizer: f"separators of {tokenizer}"),
        Block=lambda *given: SimpleNamespace(given=given, separators=given[1]),
        Encoder=lambda *given: ("encoder", *given),
        PackedStream=calls.of("stream", SimpleNamespace(check=calls.of("check"))),
        PackedBlocks=calls.of("blocks", SimpleNamespace(counts=counts)),
        data_seed=lambda args: f"seed of the data of {args._name}",
        evaluated_split=lambda args, texts: f"split of {texts}",
    )
    text = Named("text", streaming=streaming, document_attention="separate" if separate else "full")
    causal_lm._training_blocks("texts", "tokenizer", text, Named("args"))
    causal_lm.evaluation_blocks("other texts", "tokenizer", text)
    encoder, block = (
        ("encoder", "tokenizer", "separators of tokenizer"),
        ("text.block_size", "separators of tokenizer"),
    )
    of_training = calls["stream" if streaming else "blocks"][0]
    of_evaluation = calls["blocks"][-1]
    for texts, (given, _) in (("texts", of_training), ("other texts", of_evaluation)):
        assert given[:2] == (texts, encoder) and given[2].given == (*block, separate)
    if streaming:
        assert of_training[1] == {"window": "text.shuffle_blocks", "seed": "seed of the data of args"}
        assert len(calls["check"]) == 1
    else:
        assert of_training[1] == {"num_workers": "text.preprocessing_num_workers", "name": "the training text"}
    assert of_evaluation[1] == {
        "keep_tail": True, "num_workers": "text.preprocessing_num_workers", "name": "the evaluation text",
        "split": "split of other texts",
    }  # fmt: skip
    assert logged == ["evaluation"] if streaming else ["training", "evaluation"]


def test_a_language_model_is_evaluated_as_the_arguments_say(monkeypatch):
    calls, model = Calls(), object()
    begun(
        monkeypatch,
        causal_lm,
        calls,
        load_evaluation_texts=calls.of("load", ["a text"]),
        find_tokenizer=calls.of("tokenizer", "tokenizer"),
        load_language_model=calls.of("model", lambda *_, **__: model),
        evaluation_blocks=calls.of("blocks", "blocks"),
        read=lambda texts: ("read", texts),
        CausalLMArguments=calls.of("Arguments", "its arguments"),
        write_evaluation=calls.of("write", "written"),
    )
    trainer = SimpleNamespace(evaluate=lambda: "measured", accelerator=SimpleNamespace(end_training=calls.of("end")))
    monkeypatch.setattr(causal_lm, "CausalLMTrainer", calls.of("Trainer", lambda **given: trainer))
    model_args, text, args = Named("model", model_config={}), Named("text"), Named("args")
    found = causal_lm.prepare_evaluation(reader(model_args, text, args))
    assert calls["load"] == [((text, "model.token"), {})]
    [((of, texts, length), _)] = calls["tokenizer"]
    assert (of, texts(), length) == (model_args, ("read", ["a text"]), "text.block_size")
    assert calls["model"] == [((model_args, "tokenizer", "text.block_size"), {"to_be_trained": False})]
    assert calls["blocks"] == [((["a text"], "tokenizer", text), {})]
    assert isinstance(found, partial) and found() == "written"
    [(_, settings)] = calls["Arguments"]
    assert settings.pop("output_dir")
    assert settings == {"per_device_eval_batch_size": "args.per_device_eval_batch_size", "bf16": "args.bf16"}
    [(_, given)] = calls["Trainer"]
    assert given == {
        "model": model, "args": "its arguments", "eval_dataset": "blocks", "processing_class": "tokenizer"
    }  # fmt: skip
    assert calls["write"] == [((trainer, "measured", "args.output", "call"), {})] and len(calls["end"]) == 1


# Without data


@pytest.mark.parametrize("few, measured", [(0, True), (3, True), (0, False)])
def test_what_is_measured_on_and_learnt_from_without_data_is_what_the_arguments_say(few, measured, monkeypatch):
    calls = Calls()

    class Source(Labelled):
        def evenly(self, number):
            self.asked = number
            return self

    train, evaluation = Source("train"), Source("eval")
    train.extend(range(8))
    of_task = SimpleNamespace(
        load_data=calls.of("load_data", (train, evaluation)),
        load_evaluation_data=calls.of("load_evaluation", evaluation),
        class_names=lambda config: ["b", "a"],
        check_labels=calls.of("check_labels"),
        EvaluationTransform=lambda processor: f"for {processor}",
    )
    patched(
        monkeypatch,
        data_free,
        _TASK=of_task,
        usable=calls.of("usable", lambda source, read, args: source),
        model_classes=lambda names, own: [1, 0],
        EvaluationImages=calls.of("Images", lambda source, *_: [source.split]),
    )
    data = Named("data", dataset="some/thing" if measured else None)
    model = Model(num_channels=1)
    settings = SimpleNamespace(real_samples=few)
    found = data_free._real_images(data, Named("model"), settings, model, "processor")
    if not measured:
        assert found == (None, None) and not calls
        return
    assert [*found] == [["eval"], ["train"] if few else None]
    assert (("load_data" in calls), ("load_evaluation" in calls)) == (bool(few), not few)
    assert calls["load_data" if few else "load_evaluation"] == [((data, "model.token"), {})]
    sources = [evaluation, train] if few else [evaluation]
    assert calls["Images"] == [((source, "for processor", 1), {}) for source in sources]
    assert all(source.tables == ([1, 0], ["b", "a"]) for source in sources)
    assert calls["check_labels"] == [((source, 2), {}) for source in sources]
    assert all(given[1].keywords == {"num_channels": 1} and given[2] is data for given, _ in calls["usable"])
    if few:
        assert train.asked == 3
        settings.real_samples = len(train) + 1
        with pytest.raises(ValueError, match="--real_samples: got 10, train has 9 images"):
            data_free._real_images(data, Named("model"), settings, model, "processor")


@pytest.mark.parametrize(
    "given, size, made",
    [(None, 64, "small"), (None, 65, "large_normalized"), ("large", 32, "large"), ("small", 128, "small")],
)
def test_small_images_have_a_small_generator_unless_another_is_asked_for(given, size, made, monkeypatch):
    calls = Calls()
    monkeypatch.setattr(data_free, "DataFreeGenerator", calls.of("Generator", "generator"))
    settings = Named("distillation", generator=given)
    of = SimpleNamespace(size=size, num_channels=2)
    assert data_free._generator(settings, of) == "generator"
    assert calls["Generator"] == [((made, size, "distillation.latent_size", 2), {})]
