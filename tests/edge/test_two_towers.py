"""Two graphs of a model of CLIP's kind answer as the model does, each half on its own."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPConfig, CLIPModel, ViTConfig, ViTForImageClassification

from hf_effmodels import LightClipModel, edge
from hf_effmodels.cli import main
from hf_effmodels.edge_two_towers import _difference, export_two_towers, load_two_towers

from ..modeling.test_light_clip import TEXT, TOWERS, VIT, build, processor

#: An export takes seconds for each layer.
SHORT = {**TEXT, "num_hidden_layers": 1}
TOWER = {**TOWERS["ghostnetv3"][0], "stages": (((3, 8, 8, 0, 2),),), "num_conv_branches": 1}


def test_either_half_gives_the_models_vectors_and_both_its_logits(tmp_path):
    model = build(LightClipModel, vision_config=TOWER, text_config=SHORT, fusion_layers=[0])
    report = export_two_towers(model, tmp_path / "out", "openvino", processor=processor())
    assert report.difference <= 1e-4 and report.batches == (1, 3) and min(report.bytes) > 1000
    assert report.folded and not model.config.reparameterized, "the caller's model was folded"
    exported, both = load_two_towers(tmp_path / "out"), AutoProcessor.from_pretrained(tmp_path / "out")
    images = [Image.linear_gradient("L").convert("RGB"), Image.new("RGB", (50, 40), (200, 30, 60))]
    given = both(images=images, text=["a cat", "the dog is here", "b"], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**given)
    got = exported(**given)
    for part in ("logits_per_image", "logits_per_text", "image_embeds", "text_embeds"):
        torch.testing.assert_close(got[part], expected[part], rtol=1e-3, atol=1e-3)
    alone = exported.get_text_features(given["input_ids"][1:2]).pooler_output
    torch.testing.assert_close(alone, expected.text_embeds[1:2], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match=r"pixel_values: got images of \(16, 32\) pixels, exported for \(32, 32\)"):
        exported.get_image_features(torch.zeros(1, 3, 16, 32))
    with pytest.raises(ValueError, match="filled up in front"):
        exported.get_text_features(given["input_ids"], torch.tensor([[0, 1, 1]]))


def test_images_that_do_not_fit_are_told_before_the_exporters_are_loaded(tmp_path):
    config = CLIPConfig(text_config=SHORT, vision_config={**VIT, "num_hidden_layers": 1}, projection_dim=12)
    model = CLIPModel(config).eval()
    with pytest.raises(ValueError, match=r"image_size: got 48×48; Input image size \(48\*48\) doesn't match"):
        export_two_towers(model, tmp_path / "out", processor=processor(), image_size=48)
    vit = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    classifier = ViTForImageClassification(ViTConfig(**vit, image_size=32)).eval()
    with pytest.raises(ValueError, match=r"image_size: got 48×64; Input image size \(48\*64\) doesn't match"):
        edge.export(classifier, tmp_path / "out", "onnx", image_size=(48, 64))
    assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_the_command_exports_a_clip_of_transformers_and_predicts_with_labels(tmp_path, capsys):
    torch.manual_seed(1)
    model = CLIPModel(CLIPConfig(text_config=SHORT, vision_config={**VIT, "num_hidden_layers": 1}, projection_dim=12))
    model.eval().save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    Image.linear_gradient("L").save(tmp_path / "photo.png")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "edge"), "--format", "onnx"]) == 0
    assert "difference" in capsys.readouterr().out
    said = []
    for folder in ("model", "edge"):
        words = ["--labels", "cat", "dog", "a bird", "--template", "this is {}"]
        assert main(["predict", str(tmp_path / folder), str(tmp_path / "photo.png"), *words]) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and "cat" in said[0] and "a bird" in said[0]
    given = processor()(
        images=Image.open(tmp_path / "photo.png").convert("RGB"),
        text=["this is cat", "this is dog", "this is a bird"],
        padding=True,
        return_tensors="pt",
    )
    with torch.no_grad():
        best = model(**given).logits_per_image.softmax(-1).max()
    assert f"{100 * best:.1f} %" in said[0]


def test_what_cannot_be_exported_or_predicted_is_said_before(tmp_path, capsys):
    model = build(LightClipModel, text_config=SHORT)
    with pytest.raises(ValueError, match="format: got 'executorch', accepted of two towers are 'onnx', 'openvino'"):
        export_two_towers(model, tmp_path / "a", "executorch")
    with pytest.raises(ValueError, match="source: got ResNetModel, accepted are LightCLIP and CLIP"):
        export_two_towers(model.vision_model, tmp_path / "a")
    with pytest.raises(ValueError, match="has no two_towers.json"):
        load_two_towers(tmp_path)
    model.save_pretrained(tmp_path / "model")
    processor().save_pretrained(tmp_path / "model")
    Image.new("RGB", (9, 9)).save(tmp_path / "photo.png")
    model_and_photo = [str(tmp_path / "model"), str(tmp_path / "photo.png")]
    for words, message in (
        (["predict", *model_and_photo], "--labels: of this model name what it is to choose from"),
        (["predict", *model_and_photo, "--labels", "a", "a"], "--labels: got 'a', 'a', accepted are different names"),
        (["predict", *model_and_photo, "--labels", "a", " "], "--labels: got 'a', ' ', accepted are different names"),
        (["demo", model_and_photo[0]], "is for zero-shot-image-classification, of which there is no app"),
        (["predict", *model_and_photo, "--labels", "a", "--template", "photo"], "--template: got 'photo', accepted"),
        (
            ["export", model_and_photo[0], str(tmp_path / "e"), "--format", "onnx", "--precision", "int8"],
            "--precision",
        ),
        (["export", "light_clip-resnet-18", str(tmp_path / "e"), "--format", "onnx"], "are random; train it first"),
    ):
        assert main(words) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize("broken", ["halves", "exported"])
def test_halves_are_compared_for_images_and_texts_of_several_lengths_and_numbers_that_are_none_are_refused(broken):
    asked = []

    def half(off):
        def compute(name, given):
            asked.append((name, tuple(given.shape)))
            vectors = given.float().flatten(1)[:, :2].clone()
            return vectors + off * (name == "text") * (given.shape[1] == 7)

        return compute

    inputs = {"image": torch.rand(3, 3, 2, 2), "text": torch.arange(30).reshape(3, 10)}
    ours, theirs = half(0.0), half(0.25)
    halves = {name: partial(ours, name) for name in ("image", "text")}
    exported = SimpleNamespace(vectors=theirs)
    assert _difference(exported, halves, inputs) == pytest.approx(0.25)
    shapes = [("image", (1, 3, 2, 2)), ("text", (1, 10)), ("text", (1, 7))]
    shapes += [(name, (3, *shape[1:])) for name, shape in shapes]
    assert asked == [each for each in shapes for _ in "ab"]

    def with_a_hole(name, given):
        vectors = ours(name, given)
        vectors[-1, 0] = float("nan")  # one of several
        return vectors

    if broken == "halves":
        halves["image"] = partial(with_a_hole, "image")
    else:
        exported.vectors = with_a_hole
    with pytest.raises(ValueError, match="source: the image half gives what is no number for random input"):
        _difference(exported, halves, inputs)
