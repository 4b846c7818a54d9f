"""Which folders may be a model's, by the names of their files."""

import pytest
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels import cli, edge_halves
from hf_effmodels._model_place import check_model
from hf_effmodels.collaboration.splitting import split


@pytest.mark.parametrize(
    "files",
    [
        ["config.json", "model.safetensors"],
        ["model_index.json", "unet/config.json"],
        ["adapter_config.json"],
        ["head/split.json", "tail/split.json"],
        ["README.md", "tail/config.json"],
    ],
    ids=["a model", "a pipeline", "an adapter", "halves", "one half"],
)
def test_a_folder_with_settings_in_it_or_in_its_parts_may_be_a_models(files, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    check_model("MODEL", str(tmp_path))


@pytest.mark.parametrize("files", [[], ["model.safetensors", "README.md"], ["head/head.safetensors"], ["a/b/c.json"]])
def test_a_folder_without_settings_is_no_models(files, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / file).write_text("{}")
    with pytest.raises(OSError, match=f"^--teacher: {tmp_path} is no model's folder: it has no config.json.$"):
        check_model("--teacher", str(tmp_path))


def test_the_folder_of_both_halves_that_split_writes_is_exported(tmp_path, monkeypatch):
    sizes = {"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "image_size": 32, "num_labels": 5}
    network = ResNetForImageClassification(ResNetConfig(**sizes, layer_type="basic")).eval()
    for half in split(network, "stages.0"):
        half.save_pretrained(tmp_path / "halves" / half.half)
    exported = []
    monkeypatch.setattr(edge_halves, "export_halves", lambda *given, **_: exported.append(given) or {"graphs": "two"})
    assert not cli.main(["export", str(tmp_path / "halves"), str(tmp_path / "edge"), "--format", "onnx"])
    ((head, tail, folder, format),) = exported
    assert (head.half, tail.half, folder, format) == ("head", "tail", str(tmp_path / "edge"), "onnx")
