"""Each task's app answers over HTTP what the model computes."""

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForSequenceClassification,
    SegformerForSemanticSegmentation,
    YolosForObjectDetection,
    YolosImageProcessorPil,
)

from hf_effmodels.images import read_image
from hf_effmodels.modeling.tinysam.modeling_tinysam import TinySamModel
from hf_effmodels.pipelines.hierarchical_mask_generation.predictor import MaskPredictor

from ..hub.test_vision_language import parts  # noqa: F401
from ..pipelines.sam_diffsr.tiny import tiny_pipeline
from ..prediction.test_predict import greedy
from ..training.tasks.image_text_to_text.conftest import bases  # noqa: F401

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'hf_effmodels[demo]'")


@pytest.fixture
def upload(picture):
    from gradio_client import handle_file

    return handle_file(str(picture))


def scores_of(label: dict) -> dict[str, float]:
    return {one["label"]: one["confidence"] for one in label["confidences"]}


def test_a_classifier_and_its_folded_twin_say_what_the_model_does(client, models, tiny, picture, upload):  # noqa: F811
    as_trained, folded, told = client(models["image-classification"]).predict(upload, api_name="/classify")
    with torch.no_grad():
        logits = tiny.model(**tiny.processor(read_image(picture), return_tensors="pt")).logits[0].double()
    expected = dict(zip(("cat", "dog", "owl"), (logits.exp() / logits.exp().sum()).tolist(), strict=True))
    assert scores_of(as_trained) == pytest.approx(expected, abs=1e-5)
    assert scores_of(folded) == pytest.approx(expected, abs=1e-4)
    assert as_trained["label"] == max(expected, key=expected.get)
    first, second = told.split(" · ")
    assert first.startswith("as trained ") and second.startswith("folded ") and "ms" in second


def test_what_is_no_picture_is_said_and_nothing_breaks(client, models, upload, tmp_path):
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    app = client(models["image-classification"])
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    Image.new("F", (8, 8), 0.5).save(tmp_path / "floats.tiff")
    for file, message in ((None, "Choose a picture"), (handle_file(str(tmp_path / "floats.tiff")), "cannot be read")):
        with pytest.raises(AppError, match=message):
            app.predict(file, api_name="/classify")
    with pytest.raises(AppError):  # gradio's own check comes first
        app.predict(handle_file(str(tmp_path / "broken.png")), api_name="/classify")
    assert app.predict(upload, api_name="/classify")[0]["label"]


def test_texts_go_on_as_long_and_as_wild_as_asked(client, models, language):  # noqa: F811
    _, model, tokenizer = language
    app = client(models["text-generation"])
    answer, told = app.predict("on the", 5, 0, api_name="/generate")
    assert answer == greedy(model, tokenizer, "on the", 5) and told.startswith("5 tokens, ")
    drawn = {app.predict("on the", 8, 2, api_name="/generate")[0] for _ in range(3)}
    assert len(drawn) > 1  # one of 300 tokens each time, eight times


def test_texts_get_their_classes(client, models, language):  # noqa: F811
    model = AutoModelForSequenceClassification.from_pretrained(models["text-classification"])
    label, _ = client(models["text-classification"]).predict("the cat", api_name="/classify")
    with torch.no_grad():
        first, second = model(**language[2]("the cat", return_tensors="pt")).logits[0].softmax(-1).tolist()
    assert scores_of(label) == pytest.approx({"good": first, "bad": second}, abs=1e-5)


def test_a_picture_is_enlarged_beside_the_bicubic_one(client, models, picture, upload):
    both, told = client(models["super-resolution"]).predict(upload, 2, 30, api_name="/enlarge")
    small = read_image(picture)
    small.thumbnail((30, 30))
    expected = tiny_pipeline()(small, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    before, after = (Image.open(file).convert("RGB") for file in both)
    assert after.size == (120, 80) and told.startswith("30 x 20 to 120 x 80 pixels")
    np.testing.assert_array_equal(np.asarray(before), np.asarray(small.resize((120, 80), Image.Resampling.BICUBIC)))
    np.testing.assert_array_equal(np.asarray(after), np.asarray(expected))


def test_questions_about_a_picture_are_answered(client, parts, picture, upload, tmp_path):  # noqa: F811
    model, processor = parts
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    answer = client(tmp_path).predict(upload, "Which colour is it?", 4, api_name="/ask")
    content = [{"type": "image", "image": read_image(picture)}, {"type": "text", "text": "Which colour is it?"}]
    options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "add_generation_prompt": True}
    inputs = processor.apply_chat_template([{"role": "user", "content": content}], **options)
    with torch.no_grad():
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert answer == processor.decode(tokens, skip_special_tokens=True).strip()


def test_boxes_above_the_threshold_are_drawn(client, models, picture, upload):
    model = YolosForObjectDetection.from_pretrained(models["object-detection"]).eval()
    processor = YolosImageProcessorPil.from_pretrained(models["object-detection"])
    with torch.no_grad():
        outputs = model(**processor(Image.open(picture), return_tensors="pt"))
    scores, labels = outputs.logits[0].softmax(-1)[:, :2].max(-1)
    middle = float(scores.sort().values[1:3].mean())
    drawn, told = client(models["object-detection"]).predict(upload, middle, api_name="/detect")
    kept = scores[scores > middle].sort(descending=True)
    expected = [f"{model.config.id2label[int(labels[scores == s])]} {100 * s:.0f} %" for s in kept.values]
    assert [one["label"] for one in drawn["annotations"]] == expected and len(expected) == 2
    assert told.startswith("2 boxes · ")
    x, y, width, height = outputs.pred_boxes[0, int(scores.argmax())].tolist()
    rows, columns = np.nonzero(np.asarray(Image.open(drawn["annotations"][0]["image"]))[..., 3])
    corners = [(x - width / 2) * 60, (y - height / 2) * 40, (x + width / 2) * 60, (y + height / 2) * 40]
    np.testing.assert_allclose([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], corners, atol=2)


def test_every_pixel_gets_its_class_and_names_that_stand_twice_are_told_apart(client, models, picture, upload):
    folder = models["image-segmentation"]
    model = SegformerForSemanticSegmentation.from_pretrained(folder).eval()
    drawn, _ = client(folder).predict(upload, api_name="/segment")
    from transformers import AutoImageProcessor

    with torch.no_grad():
        inputs = AutoImageProcessor.from_pretrained(folder)(Image.open(picture), return_tensors="pt")
        classes = torch.nn.functional.interpolate(model(**inputs).logits, (40, 60), mode="bilinear").argmax(1)[0]
    names, found = ("sky", "sea (1)", "sea (2)"), classes.unique().tolist()
    if {1, 2} - {*found}:
        names = ("sky", "sea", "sea")
    assert {one["label"] for one in drawn["annotations"]} == {names[number] for number in found}
    for one in drawn["annotations"]:
        covered = np.asarray(Image.open(one["image"]))[..., 3] > 0
        assert any((covered == (classes == number).numpy()).all() for number in found)


def test_three_clicks_encode_the_picture_once(client, models, picture, upload, monkeypatch):
    folder, calls = models["mask-generation"], []
    own = TinySamModel.get_image_embeddings
    monkeypatch.setattr(TinySamModel, "get_image_embeddings", lambda *args: calls.append(1) or own(*args))
    app = client(folder)
    points = [[10, 10], [40, 20], [50, 35]]
    for count in range(4):
        drawn, told = app.predict(upload, points[:count], api_name="/cut_out")
    assert len(calls) == 1
    from transformers import AutoImageProcessor, AutoModelForMaskGeneration

    predictor = MaskPredictor(
        AutoModelForMaskGeneration.from_pretrained(folder).eval(), AutoImageProcessor.from_pretrained(folder)
    )
    expected = np.asarray(predictor.encode(picture).predict(points=points).best)
    assert told.startswith(f"3 points, {expected.sum()} pixels, ")
    for one in drawn["annotations"]:
        assert ((np.asarray(Image.open(one["image"]))[..., 3] > 0) == expected).all()
    from gradio_client.exceptions import AppError

    with pytest.raises(AppError, match="accepted are x to 60 and y to 40"):
        app.predict(upload, [[61, 0]], api_name="/cut_out")
