"""Images that cannot be read: named by their file, looked for before training on request, or left out and counted."""

import logging

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, ResNetConfig, ResNetForImageClassification

from hf_effmodels.training import evaluate, main, prepare


@pytest.fixture
def photos(tmp_path):
    """An image folder of two classes with ten images each; the sixth image of the class `b` is cut off."""
    for split, count in (("train", 10), ("test", 2)):
        for number, name in enumerate("ab"):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (20, 20), (20 * i, 200 * number, 0)).save(folder / f"{i}.png")
    file = tmp_path / "photos" / "train" / "b" / "5.png"
    file.write_bytes(file.read_bytes()[:60])
    return tmp_path / "photos"


@pytest.fixture
def run(convnext_folder, photos, tmp_path):
    return [
        *("--model", str(convnext_folder), "--ignore_mismatched_sizes", "true", "--dataset", "imagefolder"),
        *("--data_dir", str(photos), "--cache_dir", str(tmp_path / "cache"), "--num_train_epochs", "1"),
        *("--per_device_train_batch_size", "4", "--disable_tqdm", "true", "--output_dir", str(tmp_path / "run")),
    ]


FILE = r"row 15 of imagefolder/train \(.*train/b/5\.png\)"


def test_without_a_look_the_run_ends_where_it_meets_the_image_and_names_its_file(run, tmp_path):
    with pytest.raises(OSError, match=f"^{FILE}: "):
        main(run)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_a_look_at_all_images_refuses_the_run_before_anything_is_written(run, tmp_path):
    with pytest.raises(ValueError, match=f"--check_images: 1 of the 20 samples of imagefolder/train .*{FILE}: "):
        main([*run, "--check_images", "true"])
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_read_is_left_out_and_counted(run, tmp_path, caplog, convnext_folder):
    with caplog.at_level(logging.WARNING, "hf_effmodels"):
        work = prepare("prepare_training", [*run, "--skip_bad_images", "true"])
    assert "1 of the 20 samples of imagefolder/train cannot be used" in caplog.text and "b/5.png" in caplog.text
    rows = work.trainer.train_dataset.source.rows.tolist()
    assert rows == [row for row in range(20) if row != 15] and len(work.trainer.eval_dataset) == 4
    main([*run, "--skip_bad_images", "true"])
    evaluation = ["--model", str(tmp_path / "run"), *run[4:10], "--eval_split", "train"]
    evaluation += ["--output", str(tmp_path / "evaluation.json")]
    with pytest.raises(OSError, match=f"^{FILE}: "):
        evaluate(evaluation)
    assert evaluate([*evaluation, "--skip_bad_images", "true"])["samples"] == 19


@pytest.mark.parametrize("workers", ["0", "1"])
@pytest.mark.parametrize("broken", ["file", "mode"])
def test_the_program_ends_in_one_line_that_names_the_file(run, photos, broken, workers, monkeypatch, capsys):
    if broken == "mode":  # readable, and yet of no use: a ValueError, where the cut off file is an OSError
        Image.new("F", (20, 20)).save(photos / "train" / "b" / "5.tiff")
        (photos / "train" / "b" / "5.png").unlink()
    monkeypatch.setattr("sys.argv", ["train.py", *run, "--dataloader_num_workers", workers])
    with pytest.raises(SystemExit, match="2"):
        main()
    written = capsys.readouterr().err
    [line] = [line for line in written.splitlines() if "error: " in line]
    assert line.startswith("train.py: error: row ") and "train/b/5." in line and "Traceback" not in written


@pytest.mark.thorough
def test_pictures_whose_shapes_the_processor_keeps_are_measured_one_by_one(tmp_path, caplog):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], layer_type="basic")
    config.id2label, config.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    model, keeping = (
        ResNetForImageClassification(config).eval(),
        CLIPImageProcessorPil(size={"shortest_edge": 8}, do_center_crop=False),
    )
    model.save_pretrained(tmp_path / "model")
    keeping.save_pretrained(tmp_path / "model")
    right = []
    for number, size in enumerate(((8, 12), (12, 8), (8, 8), (8, 12))):
        place = tmp_path / "data" / "test" / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", size, (80 * number, 0, 255 - 80 * number))
        picture.save(place)
        with torch.no_grad():
            logits = model(keeping(picture, return_tensors="pt").pixel_values).logits
        right.append(logits.argmax().item() == number % 2)
    where = ["--dataset", "imagefolder", "--data_dir", str(tmp_path / "data"), "--cache_dir", str(tmp_path / "cache")]
    results = evaluate(["--model", str(tmp_path / "model"), *where])
    assert results["accuracy"] == sum(right) / 4
    assert "the image processor keeps the shapes of pictures: they are measured one by one" in caplog.text
