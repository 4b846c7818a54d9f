"""What is refused, loaded or done to a model while a training or an evaluation is prepared."""

import json
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from torch import nn
from transformers import ViTConfig
from transformers.trainer_utils import IntervalStrategy

from hf_effmodels.training.elastic import sorted_runs
from hf_effmodels.training.elastic.sorted_runs import SortedRun
from hf_effmodels.training.tasks.image_classification import task as classification
from hf_effmodels.training.tasks.mask_generation import task as masks
from hf_effmodels.training.tasks.object_detection import models as detectors
from hf_effmodels.training.tasks.object_detection import task as detection
from hf_effmodels.training.tasks.semantic_segmentation import models as segmenters
from hf_effmodels.training.tasks.semantic_segmentation import task as segmentation
from hf_effmodels.training.tasks.source_free_adaptation import task as adaptation
from hf_effmodels.training.tasks.super_resolution import task as super_resolution


class Stop(Exception):
    """What comes after is not asked here."""


def stop(*_, **__):
    raise Stop


def patched(monkeypatch, module, **values):
    for name, value in values.items():
        monkeypatch.setattr(module, name, value)


def reader(*arguments, task="a-task"):
    return SimpleNamespace(read=lambda *kinds: arguments, task=task)


class Foldable(nn.Module):
    """A network that counts how often it is folded."""

    def __init__(self, names=("a", "b")):
        super().__init__()
        self.config = SimpleNamespace(id2label=dict(enumerate(names)), num_labels=len(names), num_channels=3)
        self.folded = 0

    def reparameterize(self):
        self.folded += 1


class Plain(Foldable):
    reparameterize = property()  # none to be had


# Classification


def test_sub_models_are_of_a_network_that_is_trained_by_itself(monkeypatch):
    args = SimpleNamespace(sorted_submodels={"half": {}})
    with pytest.raises(ValueError, match="^--sorted_submodels: --task distillation trains one network; accepted is "):
        classification.prepare_training(reader(None, None, None, args, task="distillation"), stop)
    patched(monkeypatch, classification, open_run=stop, making_sorted=lambda kind, args: stop)
    with pytest.raises(Stop):
        classification.prepare_training(reader(None, None, None, args))
    args.sorted_submodels = None
    with pytest.raises(Stop):
        classification.prepare_training(reader(None, None, None, args), stop)


@pytest.mark.parametrize("kind, folds", [(Foldable, True), (Foldable, False), (Plain, True), (Plain, False)])
def test_a_classifier_is_folded_for_its_evaluation_where_it_can_be(kind, folds, monkeypatch):
    model, source = kind(), SimpleNamespace(names=None, read=stop)
    patched(
        monkeypatch,
        classification,
        open_results=lambda *_: None,
        load_evaluation_data=lambda *_: source,
        _blaming=lambda args: nullcontext(),
        load_classifier=lambda args, **_: (model, None),
        check_chosen=lambda *_: None,
        check_labels=lambda *_: None,
        usable=stop,
    )
    arguments = SimpleNamespace(token=None), None, SimpleNamespace(reparameterize=folds, deploy=False)
    if kind is Plain and folds:
        with pytest.raises(ValueError, match="^--reparameterize: Plain has nothing to fold.$"):
            classification.prepare_evaluation(reader(*arguments))
    else:
        with pytest.raises(Stop):
            classification.prepare_evaluation(reader(*arguments))
        assert model.folded == folds


# Detection and segmentation


@pytest.mark.parametrize("folds", [True, False])
def test_a_detector_is_measured_on_as_many_classes_as_it_has_and_folded_on_request(folds, monkeypatch):
    source = SimpleNamespace(names=["a", "b"], read=None)
    patched(
        monkeypatch,
        detection,
        open_results=lambda *_: None,
        load_evaluation_data=lambda *_: source,
        blaming_model_config=lambda *_, **__: nullcontext(),
        numbered_as=lambda source, names, words: source,
        usable=stop,
    )
    settings = SimpleNamespace(token=None, model_config={}, model="folder")
    arguments = reader(settings, None, SimpleNamespace(reparameterize=folds))
    for model in (Foldable(), Foldable(("a", "b", "c"))):
        monkeypatch.setattr(detection, "load_detector", lambda args, names, model=model: (model, None))
        if model.config.num_labels == 3:
            with pytest.raises(ValueError, match="^--model: folder has 3 classes, the data set has 2: it cannot be"):
                detection.prepare_evaluation(arguments)
            continue
        with pytest.raises(Stop):
            detection.prepare_evaluation(arguments)
        assert model.folded == folds and not model.training


def test_a_segmenter_that_computes_no_loss_is_not_trained(monkeypatch):
    source = SimpleNamespace(names=["a", "b"])
    patched(
        monkeypatch,
        segmentation,
        open_run=lambda *_: (None, None),
        load_data=lambda *_: (source, source),
        set_seed=lambda seed: None,
        blaming_model_config=lambda *_, **__: nullcontext(),
        load_segmenter=lambda args, names: (Foldable(), None),
        same_classes=lambda *_: False,
        check_processor=lambda *_: None,
        side_of=stop,
    )
    settings = SimpleNamespace(token=None, model_config={}, backbone_config={})
    arguments = reader(settings, None, None, SimpleNamespace(seed=0))
    monkeypatch.setattr(segmentation, "takes_labels", lambda model: False)
    with pytest.raises(ValueError, match="^--model: Foldable computes no loss and cannot be trained here.$"):
        segmentation.prepare_training(arguments)
    monkeypatch.setattr(segmentation, "takes_labels", lambda model: True)
    with pytest.raises(Stop):
        segmentation.prepare_training(arguments)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("module", [detectors, segmenters])
def test_a_backbone_of_a_folder_brings_its_weights(module, trained, monkeypatch):
    loaded = []
    model = SimpleNamespace(config=SimpleNamespace(image_size=32))
    patched(
        monkeypatch,
        module,
        build_anew=lambda *_: model,
        has_trained_backbone=lambda args: trained,
        load_backbone=lambda *given: loaded.append(given),
    )
    args = SimpleNamespace(
        backbone="folder", token="mine", image_size=None, segmenter="upernet", detector="detr", model_config={}
    )
    if module is segmenters:
        kinds = SimpleNamespace(from_pretrained=lambda name, token: SimpleNamespace(model_type="resnet"))
        patched(monkeypatch, module, AutoConfig=kinds, _load_under_pyramid=stop, _vit_weights=stop)
    else:
        patched(monkeypatch, module, sized=lambda processor, size: processor, _processor_of=lambda kind: None)
    assert module._from_type(args, {})[0] is model
    assert loaded == [(model, "folder", "mine")] * trained


@pytest.mark.parametrize("depth, stages", [(12, [3, 6, 9, 12]), (7, [1, 3, 5, 7]), (4, [1, 2, 3, 4])])
def test_maps_over_a_plain_vit_are_of_the_ends_of_its_quarters(depth, stages):
    vit = ViTConfig(num_hidden_layers=depth, hidden_size=16, num_attention_heads=2, image_size=32, patch_size=8)
    args = SimpleNamespace(image_size=None, backbone_config={})
    found = segmenters._pyramid_over(vit, args)
    assert found.add_fpn and found.image_size == 32 and found.drop_path_rate == 0.0
    assert found.out_features == [f"stage{number}" for number in stages]
    args.backbone_config = {"out_indices": [1, 2, 3, 4], "layer_scale_init_value": 0.5}
    args.image_size = 64
    found = segmenters._pyramid_over(vit, args)
    assert found.out_features == ["stage1", "stage2", "stage3", "stage4"]
    assert (found.layer_scale_init_value, found.image_size) == (0.5, 64)


def test_a_pyramid_is_over_the_vit_that_was_trained():
    """With its sizes and what is dropped of it in training; each away from a BEiT's own."""
    fields = {
        "hidden_size": 24, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 40,
        "hidden_act": "relu", "patch_size": 4, "hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0.125,
        "layer_norm_eps": 1e-3, "initializer_range": 0.5, "num_channels": 1,
    }  # fmt: skip
    args = SimpleNamespace(image_size=None, backbone_config={})
    found = segmenters._pyramid_over(ViTConfig(**fields, image_size=32), args)
    assert {name: getattr(found, name) for name in fields} == fields
    assert found.use_absolute_position_embeddings and found.layer_scale_init_value == 0
    assert not found.use_relative_position_bias and not found.use_shared_relative_position_bias


def test_a_vit_without_four_layers_has_no_four_maps():
    vit = ViTConfig(num_hidden_layers=3, hidden_size=16, num_attention_heads=2, image_size=32, patch_size=8)
    args = SimpleNamespace(image_size=None, backbone_config={}, backbone="folder")
    with pytest.raises(ValueError, match="^--backbone: folder has 3 layers, accepted are ViTs of 4 and more: .* four"):
        segmenters._pyramid_over(vit, args)
    args.backbone_config = {"out_features": ["stem", "stage1", "stage2", "stage3"]}
    assert segmenters._pyramid_over(vit, args).out_features == args.backbone_config["out_features"]


# Masks


def test_without_a_teacher_nobody_teaches():
    assert masks._teacher(SimpleNamespace(teacher=None), None, None, None, None, None, 0) is None


@pytest.mark.parametrize("loaded", [True, False])
def test_a_promptable_model_of_a_folder_is_known_again_by_its_weights(loaded, monkeypatch):
    told = []

    def check(config, checkpoint, folder, contents):
        told.append(contents)
        raise Stop

    vision = SimpleNamespace(image_size=8)
    model = SimpleNamespace(config=SimpleNamespace(vision_config=vision))
    patched(
        monkeypatch,
        masks,
        open_run=lambda *_: (None, None),
        set_seed=lambda seed: None,
        blaming_model_config=lambda *_, **__: nullcontext(),
        load_sam=lambda args: (model, SimpleNamespace(image_mean=0, image_std=1)),
        load_photographs=lambda given, split, option: split,
        Shapes=lambda *_, **__: None,
        _teacher=lambda *_: None,
        photograph_facts=lambda photographs: f"facts of {photographs}",
        is_loaded=lambda args: loaded,
        weights_fingerprint=lambda model: "weights",
        check_contents=check,
    )
    names = ("prompts_per_picture", "shapes_per_picture", "hard_prompt_rounds", "photographs", "eval_photographs")
    data = SimpleNamespace(**dict.fromkeys((*names, "train_pictures")))
    args = SimpleNamespace(seed=0, data_seed=None, output_dir="out")
    settings = SimpleNamespace(model_config={}), data, SimpleNamespace(teacher=None, teacher_cache=None), args
    with pytest.raises(Stop):
        masks.prepare_training(reader(*settings))
    photographs = {"photographs": "facts of train", "evaluation photographs": "facts of evaluation"}
    assert told == [photographs | ({"model": "weights"} if loaded else {})]


# Super-resolution


@pytest.mark.parametrize("skips", [True, False])
def test_pictures_to_enlarge_are_looked_at_one_by_one_and_bad_ones_left_out_on_request(skips, monkeypatch):
    looked = []
    encoder = SimpleNamespace(config=SimpleNamespace(scale=4), eval=lambda: encoder, to=lambda device: encoder)

    class Source(list):
        split = "mine/test"

    def usable(source, measure, data_args):
        return Source(number for number in source if measure(number) is not None)

    def measurable(source, index, scale, size, crop_border):
        looked.append((index, scale, size, crop_border))
        return None if source[index] == 1 else index

    patched(
        monkeypatch,
        super_resolution,
        open_results=lambda *_: None,
        check_perceptual=lambda metrics: None,
        load_evaluation_data=lambda *_: Source([0, 1, 2]),
        is_encoder=lambda name: True,
        trained_encoder=lambda *_: encoder,
        by_encoder=lambda encoder: "enlarge",
        _measurable=measurable,
        usable=usable,
    )
    model = SimpleNamespace(
        model="folder", token=None, encoder=None, model_config=None, legacy_256=None, residual_scale=None
    )
    args = SimpleNamespace(
        metrics=[], num_inference_steps=None, tile_size=None, timesteps=None, crop_border=2, eval_size=16
    )
    data = SimpleNamespace(dataset="mine", skip_bad_images=skips)
    call = super_resolution.prepare_evaluation(reader(model, data, args))
    assert call.args[0] == "enlarge" and call.args[1] == ([0, 2] if skips else [0, 1, 2]) and call.args[2] == 4
    assert looked == [(index, 4, 16, 2) for index in range(3)]


# Adaptation


@pytest.mark.parametrize("best", [True, False])
def test_of_pictures_without_labels_none_is_the_best(best, monkeypatch):
    train = SimpleNamespace(names=None, split="train")
    seen = []

    def prepare(reader, make, load, **_):
        seen.append(load())
        raise Stop

    given = SimpleNamespace(load_data=lambda *_, **__: (train, None), prepare_training=prepare)
    patched(monkeypatch, adaptation, _TASK=given, _own_classes=lambda args: ["a", "b"])
    model = SimpleNamespace(model="folder", token=None, ignore_mismatched_sizes=False)
    args = SimpleNamespace(
        random_weights=False,
        **{"mixup": 0.0, "cutmix": 0.0, "label_smoothing_factor": 0.0, "label_maps": None},
        **{"bitnet": "none", "bivit": "none"},
        repeated_augmentation=1,
        loss="cross_entropy",
        load_best_model_at_end=best,
        eval_strategy=IntervalStrategy.EPOCH,
    )
    settings = reader(SimpleNamespace(), model, None, None, args)
    if best:
        with pytest.raises(ValueError, match="^--load_best_model_at_end: what is best takes labels, and the pictures"):
            adaptation.prepare_training(settings)
        return
    with pytest.raises(Stop):
        adaptation.prepare_training(settings)
    assert args.eval_strategy == IntervalStrategy.NO and seen == [(train, train)]


# Sub-models


@pytest.mark.parametrize("first", [True, False])
def test_sub_models_are_saved_by_the_first_process_with_what_was_measured(first, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(sorted_runs, "rewritten", lambda folder, by: nullcontext(folder))
    run = object.__new__(SortedRun)
    run.args = SimpleNamespace(output_dir=str(tmp_path), should_save=first)
    run.sizes_by_name = {"half": {"depth": 1}, "all": {}}
    run._measured = {"half": {"eval_loss": 3.0}}
    run.processing_class = SimpleNamespace(save_pretrained=lambda folder: saved.append(("processor", folder.name)))
    smaller = SimpleNamespace(
        num_parameters=lambda: 7, save_pretrained=lambda folder: saved.append(("model", folder.name))
    )
    asked = []
    run._submodel = lambda sizes: asked.append(sizes) or smaller
    run.save_submodels()
    assert asked == [{"depth": 1}, {}], "all processes take statistics together"
    if not first:
        assert not saved and not [*tmp_path.iterdir()]
        return
    assert saved == [(what, name) for name in ("half", "all") for what in ("model", "processor")]
    (table,) = tmp_path.glob("*.json")
    expected = {"half": {"depth": 1, "parameters": 7, "eval_loss": 3.0}, "all": {"parameters": 7}}
    assert json.loads(table.read_text()) == expected
