"""What a task hands on of its arguments while it prepares a training or an evaluation: each value to what asks for it.

Arguments here are told by their names alone: `args.seed` is the text "args.seed".
"""

from functools import partial
from types import SimpleNamespace

import pytest
import torch

from hf_effmodels.training.tasks.contrastive_language_image import task as two_towers
from hf_effmodels.training.tasks.language_distillation import task as language_distillation
from hf_effmodels.training.tasks.mask_generation import models as sams
from hf_effmodels.training.tasks.mask_generation import task as masks
from hf_effmodels.training.tasks.object_detection import task as detection
from hf_effmodels.training.tasks.semantic_segmentation import task as segmentation
from hf_effmodels.training.tasks.super_resolution import task as super_resolution

from .recorders import Calls, Model, Named, Pictures, begun
from .test_rare_preparations import Stop, patched, reader, stop

# Detection and segmentation


def dense(module, calls: Calls, monkeypatch, **more):
    begun(
        monkeypatch,
        module,
        calls,
        load_data=calls.of("load_data", (Pictures("train"), Pictures("eval"))),
        load_evaluation_data=calls.of("load_evaluation_data", Pictures("eval")),
        numbered_as=calls.of("numbered", lambda source, own, words: source),
        is_loaded=lambda args: True,
        side_of=lambda processor: 96,
        write_results=calls.of("write_results", {"eval_map": 1}),
        held_out_unasked=calls.of("held_out", {"eval_fraction": 0.3}),
        **more,
    )


def collated(samples):
    return {"pixel_values": torch.zeros(1), "labels": torch.zeros(1)}


def prepared_alike(calls: Calls, data_args, seen: list[str]) -> None:
    """All pictures have the model's numbers of classes, bad ones are left out, and the first ones are looked at."""
    numbered = [(given[0].split, given[1]) for given, _ in calls["numbered"]]
    assert numbered == [("train", ["a", "b"]), ("eval", ["a", "b"])]
    assert [given[0].split for given, _ in calls["usable"]] == ["train", "eval"]
    assert all(given[1:] == (given[0].read, data_args) for given, _ in calls["usable"])
    assert sorted(seen) == ["eval", "train"]


def seen_of(seen: list[str]):
    """A data set of one sample, the name of its split, which notes that it is looked at."""

    class Seen(list):
        def __getitem__(self, number):
            seen.append(super().__getitem__(number))
            return seen[-1]

    return lambda source, *_: Seen([source.split])


@pytest.mark.parametrize("taught", [True, False])
def test_a_training_of_a_detector_has_what_its_arguments_say(taught, monkeypatch):
    calls, model, teacher, seen = Calls(), Model(), "a teacher" if taught else None, []
    dense(
        detection,
        calls,
        monkeypatch,
        load_detector=calls.of("load_detector", (model, "processor")),
        _teacher=calls.of("_teacher", teacher),
        DetectionDataset=calls.of("Dataset", seen_of(seen)),
        DetectionCollator=calls.of("Collator", collated),
        DetectionTrainer=calls.of("Trainer", lambda **given: SimpleNamespace(evaluate=lambda: "measured")),
        input_names=lambda model: "inputs",
    )
    monkeypatch.setattr(detection, "DetectionCollator", calls.of("Collator", lambda *_: collated))
    args = Named("args", atss_epochs=0, device="cpu")
    model_args, data_args = Named("model", model_config={}, backbone_config={}), Named("data")
    run = detection.prepare_training(reader(model_args, data_args, Named("augmentation"), args))
    prepared_alike(calls, data_args, seen)
    assert calls["load_data"] == [((data_args, "model.token"), {})] and calls["set_seed"] == [(("args.seed",), {})]
    assert calls["load_detector"] == [((model_args, ("a", "b")), {})]
    assert calls["_teacher"] == [((args, model, "model.token"), {})]
    (train, evaluation) = calls["Dataset"]
    assert [train[0][0].split, evaluation[0][0].split] == ["train", "eval"] and len(evaluation[0]) == 1
    assert train[0][1]._name == "augmentation"
    assert train[0][2:] == (96, "args.num_train_epochs", "seed of the data of args")
    assert calls["Collator"] == [(("processor", "inputs"), {})]
    [(_, trainer)] = calls["Trainer"]
    evaluate = trainer.pop("evaluation")
    assert trainer == {
        "model": model, "args": args, "teacher": teacher, "train_dataset": ["train"], "eval_dataset": ["eval"],
        "processing_class": "processor", "data_collator": collated,
    }  # fmt: skip
    contents = {"training data": "facts of train", "evaluation data": "facts of eval", "model": ("weights", model)}
    contents |= {"teacher args.teacher": ("weights", teacher)} if taught else {}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    monkeypatch.setattr(detection, "measure", calls.of("measure", "measured"))
    assert evaluate("network") == "measured"
    [(given, options)] = calls["measure"]
    assert given == ("network", "processor", ["eval"])
    assert options == {
        "batch_size": "args.per_device_eval_batch_size", "workers": "args.dataloader_num_workers",
        "threshold": "args.eval_threshold", "nms_threshold": "args.eval_nms_threshold",
    }  # fmt: skip
    assert run.report("train metrics") == {"eval_map": 1}
    assert calls["held_out"] == [((data_args, "eval"), {})] and run.evaluation == {"eval_fraction": 0.3}
    [(given, _)] = calls["write_results"]
    assert given[1:] == ("train metrics", "measured", "config", model_args, data_args)


@pytest.mark.parametrize("precision, dtype", [("bfloat16", torch.bfloat16), ("float32", None)])
@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize(
    "module, own",
    [
        (detection, {"threshold": "args.eval_threshold", "nms_threshold": "args.eval_nms_threshold"}),
        (segmentation, {"mode": "args.eval_mode", "stride": "args.eval_stride", "pictures": "args.eval_pictures"}),
    ],
    ids=["detection", "segmentation"],
)
def test_an_evaluation_of_a_dense_model_measures_as_its_arguments_say(
    module, own, main, precision, dtype, monkeypatch
):
    calls, model = Calls(), Model()
    measured = SimpleNamespace(metrics="metrics")
    patched(
        monkeypatch,
        module,
        measure=calls.of("measure", measured),
        write_evaluation=calls.of("write", "written"),
        PartialState=lambda: SimpleNamespace(is_main_process=main),
    )
    args = Named("args", precision=precision)
    names = ("names",) if module is detection else ()
    found = module._evaluate(model, "processor", "dataset", *names, args, "call")
    assert found == ("written" if main else "metrics")
    shared = {"batch_size": "args.per_device_eval_batch_size", "workers": "args.dataloader_num_workers"}
    assert calls["measure"] == [((model, "processor", "dataset"), {**shared, **own, "dtype": dtype})]
    assert calls.get("write", []) == ([((measured, "dataset", *names, args, "call"), {})] if main else [])


@pytest.mark.parametrize(
    "module, kind", [(detection, "Detection"), (segmentation, "Segmentation")], ids=["detection", "segmentation"]
)
def test_pictures_that_a_dense_model_is_measured_on_are_those_that_can_be_used(module, kind, monkeypatch):
    """And the first of them is looked at before the network is asked anything."""
    calls, model, seen = Calls(), Model(), []
    load = {detection: "load_detector", segmentation: "load_segmenter"}[module]
    dense(module, calls, monkeypatch, **{load: calls.of("load", (model, "processor"))})
    patched(
        monkeypatch,
        module,
        usable=calls.of("usable", lambda source, read, data_args: Pictures("usable")),
        **{f"{kind}Dataset": calls.of("Dataset", seen_of(seen))},
    )
    model_args, data_args = Named("model", model_config={}), Named("data")
    args = Named("args", reparameterize=False, check_stride=calls.of("check_stride"))
    found = module.prepare_evaluation(reader(model_args, data_args, args))
    assert calls["load_evaluation_data"] == [((data_args, "model.token"), {})]
    assert calls["load"] == [((model_args, None), {})]
    [(given, _)] = calls["usable"]
    assert (given[0].split, given[1:]) == ("eval", (given[0].read, data_args))
    assert [given[0].split for given, _ in calls["Dataset"]] == seen == ["usable"]
    names = (["a", "b"],) if module is detection else ()
    assert found.func is module._evaluate
    assert found.args == (model, "processor", ["usable"], *names, args, "call")


def test_a_training_of_a_segmenter_has_what_its_arguments_say(monkeypatch):
    calls, model, seen = Calls(), Model(), []
    dense(
        segmentation,
        calls,
        monkeypatch,
        load_segmenter=calls.of("load_segmenter", (model, "processor")),
        check_processor=calls.of("check_processor"),
        takes_labels=lambda model: True,
        SegmentationDataset=calls.of("Dataset", seen_of(seen)),
        SegmentationCollator=calls.of("Collator", lambda *_: collated),
        SegmentationTrainer=calls.of("Trainer", lambda **given: SimpleNamespace(evaluate=lambda: "measured")),
    )
    args = Named("args", device="cpu", check_stride=calls.of("check_stride"))
    model_args, data_args = Named("model", model_config={}, backbone_config={}), Named("data")
    run = segmentation.prepare_training(reader(model_args, data_args, Named("augmentation"), args))
    prepared_alike(calls, data_args, seen)
    assert calls["load_data"] == [((data_args, "model.token"), {})] and calls["set_seed"] == [(("args.seed",), {})]
    assert calls["check_processor"] == [(("--model", "processor"), {})] and calls["check_stride"] == [((96,), {})]
    (train, evaluation) = calls["Dataset"]
    assert [train[0][0].split, evaluation[0][0].split] == ["train", "eval"] and len(evaluation[0]) == 1
    assert train[0][1]._name == "augmentation" and train[0][2:] == (96, "seed of the data of args")
    [(_, trainer)] = calls["Trainer"]
    evaluate = trainer.pop("evaluation")
    assert trainer == {
        "model": model, "args": args, "train_dataset": ["train"], "eval_dataset": ["eval"],
        "processing_class": "processor", "data_collator": collated,
    }  # fmt: skip
    contents = {"training data": "facts of train", "evaluation data": "facts of eval", "model": ("weights", model)}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    monkeypatch.setattr(segmentation, "measure", calls.of("measure", "measured"))
    assert evaluate("network") == "measured"
    [(given, options)] = calls["measure"]
    assert given == ("network", "processor", ["eval"])
    assert options == {
        "batch_size": "args.per_device_eval_batch_size", "workers": "args.dataloader_num_workers",
        "mode": "args.eval_mode", "stride": "args.eval_stride", "pictures": "args.eval_pictures",
    }  # fmt: skip
    assert run.report("train metrics") == {"eval_map": 1}
    assert calls["held_out"] == [((data_args, "eval"), {})] and run.evaluation == {"eval_fraction": 0.3}
    [(given, _)] = calls["write_results"]
    assert given[1:] == ("train metrics", "measured", "config", model_args, data_args)


def test_a_teacher_of_a_detector_is_read_with_the_token_and_learns_nothing(monkeypatch):
    teacher = torch.nn.Linear(2, 2).train()
    config = {"model_type": "gold_yolo", "reg_max": 4, "num_labels": 2, "level_sizes": (1,)}
    teacher.config = SimpleNamespace(**config, id2label={0: "a", 1: "b"})
    calls = Calls()
    monkeypatch.setattr(detection, "load_whole", calls.of("load_whole", lambda *_, **__: teacher))
    args = SimpleNamespace(teacher="some/one", feature_distillation=1.0)
    assert detection._teacher(args, Model(**config), "a token") is teacher
    [(given, options)] = calls["load_whole"]
    assert given[1:] == ("--teacher", "some/one") and options == {"token": "a token"}
    assert not teacher.training and not any(parameter.requires_grad for parameter in teacher.parameters())
    # Sizes of the maps are those of the student where maps are compared, and only there.
    other = Model(**{**config, "level_sizes": (2,)})
    with pytest.raises(ValueError, match="--teacher: its level_sizes is"):
        detection._teacher(args, other, None)
    args.feature_distillation = 0.0
    assert detection._teacher(args, other, None) is teacher


# Promptable segmentation


@pytest.fixture
def sam():
    return SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=64, output_channels=8)))


@pytest.mark.parametrize("cached", [True, False])
def test_a_training_of_a_promptable_model_has_what_its_arguments_say(cached, sam, monkeypatch):
    calls, processor = Calls(), SimpleNamespace(image_mean="the mean", image_std="the deviation")
    begun(
        monkeypatch,
        masks,
        calls,
        load_sam=calls.of("load_sam", (sam, processor)),
        load_photographs=calls.of("photographs", lambda given, split, argument: split),
        photograph_facts=lambda photographs: f"facts of {photographs}",
        Shapes=calls.of("Shapes", lambda photographs, *_, **__: photographs),
        _teacher=calls.of("_teacher", SimpleNamespace(model="taught by")),
        is_loaded=lambda args: False,
        MaskGenerationTrainer=calls.of("Trainer", lambda **given: SimpleNamespace(evaluate=lambda: "measured")),
        write_results=calls.of("write_results", "results"),
    )
    model_args, data, args = Named("model", model_config={}), Named("data"), Named("args")
    teaching = Named("teaching", teacher_cache="a folder" if cached else None)
    run = masks.prepare_training(reader(model_args, data, teaching, args))
    assert calls["set_seed"] == [(("args.seed",), {})]
    assert [given for given, _ in calls["photographs"]] == [
        ("data.photographs", "train", "photographs"),
        ("data.eval_photographs", "evaluation", "eval_photographs"),
    ]
    options = {
        "prompts": "data.prompts_per_picture", "shapes": "data.shapes_per_picture",
        "rounds": "data.hard_prompt_rounds", "mean": "the mean", "deviation": "the deviation",
    }  # fmt: skip
    (train, evaluation), seed = calls["Shapes"], "seed of the data of args"
    names = ("photographs", "count", "size")
    assert [dict(zip(names, given, strict=False)) | more for given, more in (train, evaluation)] == [
        {"photographs": "train", "count": "data.train_pictures", "size": 64, "seed": seed, "fixed": cached} | options,
        {"photographs": "evaluation", "count": "data.eval_pictures", "size": 64} | options,
    ]
    assert calls["_teacher"] == [((teaching, model_args, data, processor, sam, "train", seed), {})]
    contents = {"photographs": "facts of train", "evaluation photographs": "facts of evaluation"}
    contents |= {"teacher teaching.teacher": ("weights", "taught by")}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    [(_, trainer)] = calls["Trainer"]
    assert trainer == {
        "model": sam, "args": args, "weights": teaching, "teacher": SimpleNamespace(model="taught by"),
        "train_dataset": "train", "eval_dataset": "evaluation", "data_collator": masks.collate,
        "compute_metrics": masks.means, "processing_class": processor,
    }  # fmt: skip
    assert args.label_names == ["masks"] and args.remove_unused_columns is False
    assert run.report("train metrics") == "results"
    [(given, _)] = calls["write_results"]
    assert given[1:] == ("train metrics", "measured", "config", model_args, data)


@pytest.mark.parametrize("cached", [True, False])
def test_a_teacher_of_masks_is_read_where_it_is_said_and_its_store_knows_all_that_it_depends_on(
    cached, sam, monkeypatch
):
    calls = Calls()
    own = SimpleNamespace(image_mean=[1.0, 2.0, 3.0], image_std=[4.0, 5.0, 6.0])
    processor = SimpleNamespace(image_mean=[0.1, 0.2, 0.3], image_std=[0.4, 0.5, 0.6])
    patched(
        monkeypatch,
        masks,
        load_teacher=calls.of("load_teacher", sam),
        weights_fingerprint=lambda model: {"weights": "of the teacher"},
        photograph_facts=lambda photographs: {"pictures": f"prints of {photographs}"},
        open_cache=calls.of("open_cache", "the folder"),
    )
    monkeypatch.setattr(masks.AutoImageProcessor, "from_pretrained", calls.of("processor", own))
    teaching = Named("teaching", teacher_cache="a folder" if cached else None)
    student = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(image_size=96, output_channels=8)))
    found = masks._teacher(teaching, Named("model"), Named("data"), processor, student, "photographs", 7)
    assert calls["load_teacher"] == [(("teaching.teacher", "teaching.teacher_revision", "model.token"), {})]
    place = {"revision": "teaching.teacher_revision", "token": "model.token"}
    assert calls["processor"] == [(("teaching.teacher",), place)]
    assert found.model is sam and found.cache == ("the folder" if cached else None)
    values = (found.mean, found.deviation, found.student_mean, found.student_deviation)
    for tensor, expected in zip(
        values, (own.image_mean, own.image_std, processor.image_mean, processor.image_std), strict=True
    ):
        assert tensor.shape == (3, 1, 1) and torch.equal(tensor.flatten(), torch.tensor(expected))
    facts = {
        "teacher": "teaching.teacher", "teacher_revision": "teaching.teacher_revision", "weights": "of the teacher",
        "photographs": "data.photographs", "pictures": "prints of photographs",
        "shapes_per_picture": "data.shapes_per_picture", "image_size": 96, "seed": 7,
    }  # fmt: skip
    assert calls.get("open_cache", []) == ([(("a folder", facts), {})] if cached else [])


@pytest.mark.parametrize("embedding, token, told", [(0.0, 0.0, False), (1.0, 0.0, True), (0.0, 1.0, True)])
def test_a_teacher_of_other_channels_teaches_masks_alone(embedding, token, told, sam, monkeypatch):
    monkeypatch.setattr(masks, "load_teacher", lambda *_: sam)
    monkeypatch.setattr(masks.AutoImageProcessor, "from_pretrained", stop)
    student = SimpleNamespace(config=SimpleNamespace(vision_config=SimpleNamespace(output_channels=4)))
    teaching = SimpleNamespace(
        teacher="x", teacher_revision=None, embedding_weight=embedding, token_weight=token, teacher_cache=None
    )
    message = "--teacher: its embeddings have 8 channels, the student's 4" if told else "(Stop: )"
    with pytest.raises(ValueError if told else OSError, match=message):
        masks._teacher(teaching, Named("model"), None, None, student, None, 0)


def test_an_evaluation_of_a_promptable_model_has_what_its_arguments_say(sam, monkeypatch):
    calls, processor = Calls(), SimpleNamespace(image_mean="the mean", image_std="the deviation")
    sam.eval = lambda: sam
    begun(
        monkeypatch,
        masks,
        calls,
        load_sam=calls.of("load_sam", (sam, processor)),
        load_photographs=calls.of("photographs", "photographs"),
        Shapes=calls.of("Shapes", "pictures"),
    )
    model_args, args = Named("model"), Named("args")
    found = masks.prepare_evaluation(reader(model_args, args))
    assert isinstance(found, partial) and found.args == (sam, "pictures", "model.model", args, "call")
    assert calls["photographs"] == [(("args.eval_photographs", "evaluation", "eval_photographs"), {})]
    assert calls["Shapes"] == [
        (
            ("photographs", "args.eval_pictures", 64),
            {
                "prompts": "args.prompts_per_picture", "shapes": "args.shapes_per_picture", "rounds": 0,
                "mean": "the mean", "deviation": "the deviation",
            },
        )
    ]  # fmt: skip


@pytest.mark.parametrize("name, own", [("some/where", True), ("tinysam", False), ("sam", False)])
def test_a_promptable_model_with_weights_brings_its_image_processor(name, own, sam, monkeypatch):
    """In a folder and on the Hub alike; what is built anew has the preset's, in its size."""
    calls, network = Calls(), SimpleNamespace(config=sam.config, modules=lambda: [])
    patched(
        monkeypatch,
        sams,
        load_whole=calls.of("load_whole", network),
        check_is_sam=lambda *_: None,
        check_fields_of=lambda *_: None,
    )
    monkeypatch.setattr(sams.AutoConfig, "from_pretrained", calls.of("config"))
    monkeypatch.setattr(sams.AutoImageProcessor, "from_pretrained", calls.of("processor", "its own"))
    monkeypatch.setattr(sams.AutoModelForMaskGeneration, "from_config", lambda config: network)
    monkeypatch.setattr(sams.hf_effmodels, "create_model", lambda *_, **__: network)
    monkeypatch.setattr(sams.hf_effmodels, "create_image_processor", calls.of("preset's", "the preset's"))
    args = Named("args", model=name, model_config={}, num_channels=None, image_size=None, ignore_mismatched_sizes=None)
    assert sams.load_sam(args) == (network, "its own" if own else "the preset's")
    place = {"revision": "args.revision", "token": "args.token", "trust_remote_code": "args.trust_remote_code"}
    if own:
        assert calls["processor"] == calls["config"] == [(("some/where",), place)]
        said = {**place, "revision": ("--revision", "args.revision")}
        assert calls["load_whole"][0][0][1:] == ("--model", "some/where") and calls["load_whole"][0][1] == said
    else:
        assert calls["preset's"] == [(("tinysam",), {"image_size": 64})] and "load_whole" not in calls


# Super-resolution


@pytest.mark.parametrize("stage", ["rrdb", "diffusion"])
@pytest.mark.parametrize("preset", [True, False])
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_training_of_super_resolution_has_what_its_arguments_say(stage, preset, checkpointing, monkeypatch):
    calls = Calls()
    network = SimpleNamespace(config=SimpleNamespace(scale=4), enable_gradient_checkpointing=calls.of("checkpoint"))
    complete = SimpleNamespace(condition_encoder="the encoder")
    train, evaluation = Pictures("train"), Pictures("eval")
    begun(
        monkeypatch,
        super_resolution,
        calls,
        load_data=calls.of("load_data", (train, evaluation)),
        _what_is_trained=calls.of("what", (network, complete, "objective", "enlarge")),
        _patch_options=calls.of("options", "options"),
        _checked_data=calls.of("checked", (train, evaluation)),
        PatchDataset=calls.of("Patches", "patches"),
        SuperResolutionTrainer=calls.of("Trainer", lambda **given: SimpleNamespace(evaluate=lambda: "measured")),
        write_results=calls.of("write_results", "results"),
        held_out_unasked=lambda given, split: given is data and split == "eval" and unasked,
    )
    unasked, most = stage == "rrdb", None if preset else 5
    data, args = Named("data", max_eval_samples=most), Named("args", gradient_checkpointing=checkpointing)
    model_args = Named("model", model="srdiff-x4" if preset else "a/folder", stage=stage, model_config={})
    run = super_resolution.prepare_training(reader(model_args, data, args))
    assert calls["load_data"] == [((data, "model.token"), {})] and calls["set_seed"] == [(("args.seed",), {})]
    assert calls["what"] == [((model_args, args), {})]
    assert calls["options"] == [((model_args, args, 4, complete), {})]
    assert calls["checked"] == [((train, evaluation, "options", args, data), {})]
    contents = {"training data": "facts of train", "evaluation data": "facts of eval"}
    contents |= {} if preset else {"model": ("weights", network)}
    contents |= {"encoder": ("weights", "the encoder")} if stage == "diffusion" else {}
    assert calls["check_contents"] == [(("config", "checkpoint", "args.output_dir", contents), {})]
    assert calls["Patches"] == [((train, "options", "seed of the data of args"), {})]
    assert ("checkpoint" in calls) == checkpointing and args.gradient_checkpointing is False
    [(_, trainer)] = calls["Trainer"]
    evaluate = trainer.pop("evaluation")
    assert evaluate.func is super_resolution._evaluate_and_show
    assert evaluate.args == ("enlarge", evaluation, 4, args)
    assert trainer == {
        "model": network, "args": args, "objective": "objective", "complete": complete, "train_dataset": "patches",
        "eval_dataset": evaluation,
    }  # fmt: skip
    assert run.report("train metrics") == "results"
    [(given, _)] = calls["write_results"]
    assert given[1:] == ("train metrics", "measured", "config", model_args, data)
    # As many as were held out, which is another share here; of fewer nobody knows of how many they are.
    assert run.evaluation == ({"eval_holdout": 1} if unasked and preset else {})


@pytest.mark.parametrize("tile", [None, 24])
def test_an_evaluation_of_super_resolution_tells_how_it_has_enlarged(tile, monkeypatch):
    calls = Calls()
    pipe = SimpleNamespace(
        unet=SimpleNamespace(config=SimpleNamespace(scale=8)), to=lambda device: pipe, check_inputs=calls.of("check")
    )
    begun(
        monkeypatch,
        super_resolution,
        calls,
        check_perceptual=calls.of("perceptual"),
        load_evaluation_data=calls.of("load_data", Pictures("some/one/holidays")),
        is_encoder=lambda name: False,
        load_pipeline=calls.of("pipeline", pipe),
        _check_sampling=lambda args, pipe: 17,
        tile_overlap=lambda pipe, size: 12,
        by_pipeline=calls.of("by", "enlarge"),
        _measurable=calls.of("measurable"),
    )
    given = dict.fromkeys(("encoder", "model_config", "legacy_256", "residual_scale"))
    model_args, data = Named("model", **given), Named("data", skip_bad_images=False)
    args = Named("args", tile_size=tile)
    found = super_resolution.prepare_evaluation(reader(model_args, data, args))
    assert calls["perceptual"] == [(("args.metrics",), {})] and calls["load_data"] == [((data, "model.token"), {})]
    assert calls["pipeline"] == [(("model.model", model_args), {})]
    assert calls["by"] == [((pipe, "args.scheduler", "args.num_inference_steps", tile, "args.timesteps"), {})]
    assert calls.get("check", []) == ([(([], None, None, 24, 12, "pil", []), {})] if tile else [])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    source = calls["measurable"][0][0][0]
    assert calls["measurable"] == [
        ((source, 0), {"scale": 8, "size": "args.eval_size", "crop_border": "args.crop_border"})
    ]
    facts = {
        "model": "model.model", "dataset": "data.dataset", "split": "holidays", "scheduler": "args.scheduler",
        "num_inference_steps": 17, "timesteps": "args.timesteps", "seed": "args.seed", "scale": 8,
        "crop_border": "args.crop_border", "eval_size": "args.eval_size", "device": device,
    }  # fmt: skip
    assert found.func is super_resolution._evaluate
    assert found.args == ("enlarge", source, 8, args, facts, device, "call")


# Teachers of captions and of language


def test_a_teacher_of_captions_is_read_with_the_token(monkeypatch):
    calls = Calls()
    monkeypatch.setattr(two_towers, "load_trained", calls.of("load", lambda *_: stop()))
    with pytest.raises(Stop):
        two_towers._teacher(SimpleNamespace(teacher="some/one"), None, None, "a token")
    assert calls["load"] == [(("--teacher", "some/one", {"token": "a token"}), {})]


def test_a_teacher_of_language_is_read_where_and_in_the_precision_that_is_said(monkeypatch):
    calls, configured = Calls(), SimpleNamespace(get_text_config=lambda: SimpleNamespace(vocab_size=5))
    tokenizer = SimpleNamespace(get_vocab=lambda: {"a": 0})
    patched(
        monkeypatch,
        language_distillation,
        load_whole=calls.of("load_whole", "teacher"),
        LanguageDistillationTrainer=calls.of("Trainer", "trainer"),
    )
    monkeypatch.setattr(language_distillation.AutoConfig, "from_pretrained", calls.of("config", configured))
    monkeypatch.setattr(language_distillation.AutoTokenizer, "from_pretrained", calls.of("tokenizer", tokenizer))
    distillation, model = Named("distillation"), SimpleNamespace(config=configured)
    given = {"distillation": distillation, "model_args": Named("model"), "model": model, "args": "its arguments"}
    made = language_distillation._make_trainer(**given, processing_class=tokenizer)
    place = {"token": "model.token", "trust_remote_code": "model.trust_remote_code"}
    revision = "distillation.teacher_revision"
    # The dictionary is changed afterwards: what was asked for counts.
    assert made == "trainer" and calls["config"][0][0] == calls["tokenizer"][0][0] == ("distillation.teacher",)
    assert calls["config"][0][1] == calls["tokenizer"][0][1] == {**place, "revision": revision}
    [(read, options)] = calls["load_whole"]
    assert read[1:] == ("--teacher", "distillation.teacher")
    assert options == {**place, "revision": ("--teacher_revision", revision), "dtype": "distillation.teacher_dtype"}
    [(_, trainer)] = calls["Trainer"]
    assert trainer == {
        "teacher": "teacher", "distillation": distillation, "model": model, "processing_class": tokenizer,
        "args": "its arguments",
    }  # fmt: skip
