"""Detectors and segmenters of a recipe: what of their classes, fields and sizes is taken, and what is refused."""

import json
import logging
import types

import pytest
import torch
from torch import nn
from transformers import (
    AutoImageProcessor,
    AutoModelForObjectDetection,
    AutoModelForSemanticSegmentation,
    DetrImageProcessorPil,
    ResNetBackbone,
    ResNetConfig,
    ResNetForImageClassification,
    UperNetConfig,
    UperNetForSemanticSegmentation,
)

from hf_effmodels.training.run import dense_models
from hf_effmodels.training.run.dense_models import (
    build_anew,
    class_names,
    has_trained_backbone,
    is_loaded,
    label_fields,
    load_backbone,
    load_pretrained,
    sized,
)

YOLOS = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}


def asked(**given):
    settings = {"model": None, "model_config": {}, "num_channels": None, "backbone": None, "backbone_config": {}}
    settings |= {"revision": None, "token": None, "trust_remote_code": False, "ignore_mismatched_sizes": False}
    return types.SimpleNamespace(**{**settings, "image_size": None, "detector": None, **given})


def test_the_classes_are_those_of_the_data():
    assert label_fields(asked(), None, "detectors") == label_fields(asked(num_channels=3), None, "detectors") == {}
    found = label_fields(asked(), ["cat", "dog"], "detectors")
    assert found == {"id2label": {0: "cat", 1: "dog"}, "label2id": {"cat": 0, "dog": 1}}
    with pytest.raises(ValueError, match=r"^--num_channels: got 1, detectors here take 3 \(RGB\).$"):
        label_fields(asked(num_channels=1), None, "detectors")
    for name in ("id2label", "label2id", "num_labels"):
        with pytest.raises(ValueError, match=f"^--model_config: {name} comes from the data set.$"):
            label_fields(asked(model_config={name: 1}), ["cat"], "detectors")
        assert label_fields(asked(model_config={name: 1}), None, "detectors") == {}


def test_a_network_is_built_with_the_fields_that_its_type_has():
    args = asked(detector="yolos", model_config={**YOLOS, "num_detection_tokens": 4})
    labels, seen = label_fields(args, ["cat", "dog"], "detectors"), []

    def adjust(fields):
        seen.append(dict(fields))
        fields["image_size"] = [32, 32]

    config = build_anew(args, "detector", {"yolos", "detr"}, AutoModelForObjectDetection, labels, adjust).config
    assert (config.num_detection_tokens, config.image_size, config.label2id) == (4, [32, 32], {"cat": 0, "dog": 1})
    assert seen == [args.model_config] and "image_size" not in args.model_config
    for kind in ("vit", "nothing"):
        with pytest.raises(ValueError, match=f"^--detector: got '{kind}', accepted are detr, nothing, yolos.$"):
            build_anew(asked(detector=kind), "detector", {"yolos", "nothing", "detr"}, None, {})
    with pytest.raises(ValueError, match="^--model_config: YolosConfig has no field 'width'.$"):
        build_anew(asked(detector="yolos", model_config={"width": 3}), "detector", {"yolos"}, None, {})


def test_norms_that_were_drawn_about_zero_start_at_one():
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.BatchNorm2d(8) for _ in range(3)), nn.Conv2d(8, 8, 1))
    nn.init.normal_(network[0].weight, std=0.01)
    nn.init.zeros_(network[1].weight)
    kernel = network[3].weight.clone()
    dense_models._start_batch_norms(network)
    assert [norm.weight.unique().tolist() for norm in network[:3]] == [[1.0], [0.0], [1.0]]
    assert torch.equal(network[3].weight, kernel)


def test_a_backbone_that_is_no_preset_has_weights(tmp_path, monkeypatch):
    assert not has_trained_backbone(asked()) and not has_trained_backbone(asked(backbone="vanillanet-5"))
    assert has_trained_backbone(asked(backbone=str(tmp_path))) and has_trained_backbone(asked(backbone="some/one"))
    assert not is_loaded(asked()) and not is_loaded(asked(model="gold-yolo-n"))
    assert is_loaded(asked(model="some/detector")) and is_loaded(asked(backbone="some/one"))
    assert dense_models._backbone_config(asked(backbone="vanillanet-5"))
    (tmp_path / "vanillanet-5").mkdir()
    monkeypatch.chdir(tmp_path)
    assert has_trained_backbone(asked(backbone="vanillanet-5"))  # a folder of that name


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 8], "depths": [1, 1], "layer_type": "basic"}
    torch.manual_seed(1)
    ResNetForImageClassification(ResNetConfig(**sizes)).save_pretrained(folder / "resnet")
    backbone = ResNetConfig(**sizes, out_features=["stage1", "stage2"])
    heads = {"hidden_size": 8, "auxiliary_in_channels": 8, "auxiliary_channels": 8}
    names = {"id2label": {0: "sky", 1: "sea"}, "label2id": {"sky": 0, "sea": 1}}
    torch.manual_seed(2)
    segmenter = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, **heads, **names))
    segmenter.save_pretrained(folder / "upernet")
    DetrImageProcessorPil(size={"height": 64, "width": 64}).save_pretrained(folder / "upernet")
    return folder


def test_a_trained_backbones_weights_are_those_of_its_folder(folders):
    model = UperNetForSemanticSegmentation.from_pretrained(folders / "upernet")
    trained = ResNetBackbone.from_pretrained(folders / "resnet", config=model.config.backbone_config)
    wanted, head = trained.state_dict(), {name: w.clone() for name, w in model.decode_head.state_dict().items()}
    assert not all(torch.equal(wanted[name], w) for name, w in model.backbone.state_dict().items())
    load_backbone(model, str(folders / "resnet"), None)
    assert all(torch.equal(wanted[name], w) for name, w in model.backbone.state_dict().items())
    assert all(torch.equal(head[name], w) for name, w in model.decode_head.state_dict().items())
    with pytest.raises(OSError, match="^--backbone: "):
        load_backbone(model, str(folders / "nowhere"), None)


def load(folders, names, caplog, **given):
    args = asked(**{"model": str(folders / "upernet"), **given})
    caplog.clear()
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        model, processor = load_pretrained(
            args, AutoModelForSemanticSegmentation, label_fields(args, names, "segmenters")
        )
    return model, processor, [record.getMessage() for record in caplog.records if "hf_effmodels" in record.name]


def test_a_trained_head_goes_on_where_the_classes_are_its_own_and_begins_where_they_are_as_many(folders, caplog):
    model, processor, said = load(folders, None, caplog)
    assert class_names(model.config) == ["sky", "sea"] and processor.size["height"] == 64 and not said
    model, processor, said = load(folders, ["sea", "sky"], caplog, image_size=32)
    assert class_names(model.config) == ["sky", "sea"] and not said
    assert (processor.size["height"], processor.size["width"]) == (32, 32)
    model, _, (said,) = load(folders, ["cat", "dog"], caplog)
    assert class_names(model.config) == ["cat", "dog"] and "is for other classes (sky, sea), as many as" in said
    for names in (["cat", "dog", "cow"], ["cat"]):
        said = f"/upernet has a head for 2 classes, the data set has {len(names)}. With --ignore_mism"
        with pytest.raises(ValueError, match=said):
            load(folders, names, caplog)
    model, _, _ = load(folders, ["cat", "dog", "cow"], caplog, ignore_mismatched_sizes=True)
    assert class_names(model.config) == ["cat", "dog", "cow"]


def test_fields_and_names_that_a_trained_model_does_not_have_are_told(folders, caplog):
    model, _, _ = load(folders, None, caplog, model_config={"auxiliary_loss_weight": 0.2})
    assert model.config.auxiliary_loss_weight == 0.2
    with pytest.raises(ValueError, match="^--model_config: UperNetConfig has no field 'width'.$"):
        load(folders, None, caplog, model_config={"width": 1})
    with pytest.raises(ValueError, match="unknown preset 'gold-yolo-nn'; nearest: gold-yolo-n"):
        load(folders, None, caplog, model="gold-yolo-nn")
    with pytest.raises(OSError, match="^--model: "):
        load(folders, None, caplog, model=str(folders / "upernett"))


def test_a_processor_is_for_squares_where_a_side_is_given(folders):
    processor = AutoImageProcessor.from_pretrained(folders / "upernet")
    assert sized(processor, None) is processor
    assert json.loads(sized(processor, 16).to_json_string())["size"] == {"height": 16, "width": 16}


def test_a_backbone_is_read_with_the_token_and_the_fields_that_are_said(monkeypatch):
    asked = []

    class Kind(nn.Module):
        @classmethod
        def from_pretrained(cls, source, **options):
            asked.append((source, options))
            return cls(), {}

    kind = Kind()
    monkeypatch.setattr(dense_models.AutoConfig, "from_pretrained", lambda name, **how: asked.append((name, how)))
    monkeypatch.setattr(dense_models.hf_effmodels, "get_config", lambda name, **how: asked.append((name, how)))
    monkeypatch.setattr(dense_models.AutoBackbone, "from_config", lambda config: kind)
    monkeypatch.setattr(dense_models, "check_complete", lambda *given, **how: asked.append((given[:2], how)))
    args = types.SimpleNamespace(backbone="org/net", backbone_config={"depth": 3}, token="hf_mine")
    dense_models._backbone_config(args)
    args.backbone = dense_models.hf_effmodels.list_models()[0]
    dense_models._backbone_config(args)
    model = nn.ModuleList([kind])
    model.config = types.SimpleNamespace(backbone_config="its own")
    dense_models.load_backbone(model, "org/net", "hf_mine")
    assert asked == [
        ("org/net", {"token": "hf_mine", "depth": 3}),
        (args.backbone, {"depth": 3}),
        ("org/net", {"config": "its own", "dtype": torch.float32, "token": "hf_mine", "output_loading_info": True}),
        (("--backbone", "org/net"), {"to_be_trained": True}),
    ]


def test_configuration_and_processor_of_a_model_are_of_the_same_revision(monkeypatch):
    asked = []

    def processor(name, **how):
        asked.append((name, how))
        raise OSError("it is enough")

    monkeypatch.setattr(dense_models.AutoConfig, "from_pretrained", lambda name, **how: asked.append((name, how)))
    monkeypatch.setattr(dense_models.AutoImageProcessor, "from_pretrained", processor)
    args = types.SimpleNamespace(model="org/net", revision="v1", token="hf_mine", trust_remote_code=True)
    with pytest.raises(OSError, match="it is enough"):
        dense_models.load_pretrained(args, None, {})
    assert asked == [("org/net", {"revision": "v1", "token": "hf_mine", "trust_remote_code": True})] * 2
