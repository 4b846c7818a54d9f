"""What `--model` names: a preset or a type of model, which start from random weights, or weights somewhere."""

import pytest

from hf_effmodels.training.run.presets import names_preset

OURS = ["ghostnet-1.0x", "ghostnetv3-1.0x"]


def test_presets_and_types_of_models_start_from_random_weights():
    assert names_preset("ghostnet-1.0x", None, OURS) and names_preset("vit", None, OURS, ["vit", "swin"])
    for name in ("ghostnet-1.0x", "vit"):
        with pytest.raises(ValueError, match=f"--revision: got 'v2', .* {name} starts from random weights"):
            names_preset(name, "v2", OURS, ["vit"])


def test_folders_and_ids_of_the_hub_hold_weights(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    assert not names_preset("folder", None, OURS)
    for revision in (None, "v2"):
        assert not names_preset("org/model", revision, OURS)


def test_a_folder_that_is_called_like_a_type_of_model_is_told_of(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "vit").mkdir()
    assert names_preset("vit", None, OURS, ["vit"]) and not caplog.messages
    (tmp_path / "vit" / "config.json").write_text("{}")
    assert names_preset("vit", None, OURS, ["vit"]) and not names_preset("./vit", None, OURS, ["vit"])
    assert caplog.messages == ["--model: vit starts from random weights; the folder of this name is ./vit."]


def test_other_names_are_answered_with_what_comes_near():
    with pytest.raises(ValueError, match="--model: unknown preset 'ghostnet1x', .*nearest: ghostnet"):
        names_preset("ghostnet1x", None, OURS)
    with pytest.raises(ValueError, match="--model: unknown preset 'xyzzy', and no such folder; hf-effmodels list"):
        names_preset("xyzzy", None, OURS)
    with pytest.raises(ValueError, match="--model: gold-yolo-n is a preset for object-detection"):
        names_preset("gold-yolo-n", None, OURS)
