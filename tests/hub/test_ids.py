from importlib.metadata import PackageNotFoundError

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModel, ResNetConfig

import hf_effmodels
from hf_effmodels.hub import build_card
from hf_effmodels.hub.card_text import About, write_card
from hf_effmodels.hub.ids import hub_id, reading
from hf_effmodels.pipelines.sam_diffsr.export import build_card as pipeline_card


def own_card(dataset):
    model = hf_effmodels.create_model("ghostnetv3-0.5x", num_labels=2)
    return build_card(model, license="apache-2.0", dataset=dataset)


def foreign_card(dataset):
    about = About(title="ResNet", introduction="A ResNet.", library="transformers", task="image-classification")
    return write_card(about, license="apache-2.0", dataset=dataset)


def super_resolution_card(dataset):
    config = {"unet": {"hidden_size": 8, "dim_mults": [1, 2]}, "encoder": {"hidden_size": 8, "num_blocks": 1}}
    pipe = hf_effmodels.create_model("sam-diffsr-x4", **config)
    return pipeline_card(pipe, license="apache-2.0", dataset=dataset)


@pytest.mark.parametrize("write", [own_card, foreign_card, super_resolution_card])
def test_a_card_names_a_data_set_of_the_hub_and_no_folder_of_this_machine(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "photos").mkdir(parents=True)
    for dataset, named in (("uoft-cs/cifar10", ["uoft-cs/cifar10"]), ("data/photos", None), ("imagefolder", None)):
        assert ModelCard(str(write(dataset))).data.to_dict().get("datasets") == named


@pytest.mark.parametrize(
    "name, expected",
    [
        ("org/name", "org/name"),
        ("ILSVRC/imagenet-1k", "ILSVRC/imagenet-1k"),
        *((name, None) for name in ("./photos", "../photos", "/data", "a/b/c", "photos/", "~/photos", "a b/c", "")),
        *((name, None) for name in (None, "digits", "C:\\a/b", "org/na--me", "org/name.git")),
    ],
)
def test_an_id_has_two_parts_that_the_hub_takes(name, expected):
    assert hub_id(name) == expected


def test_what_exists_here_is_no_id(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert hub_id("org/name") == "org/name"
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "name").touch()
    assert hub_id("org/name") is None


@pytest.mark.parametrize(
    "files, words",
    [
        (["split.json"], "holds a half of a split model; accepted are whole models"),
        (["head/split.json", "tail/split.json"], "holds both halves of a split model; accepted are whole models"),
        (["halves.json"], "holds exported halves, which edge_halves.load_halves runs"),
        (["parts.json"], "holds the parts of a model, a folder each: name one of them, such as part0"),
        (["config.json", "export.json"], "holds an exported program, no weights; name the model that it was made of"),
        (["config.json"], r"cannot be found or reached \(there are no weights in it\)"),
    ],
)
def test_what_a_command_wrote_that_is_no_model_is_called_by_its_name(files, words, tmp_path):
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("{}")
    if "config.json" in files:
        ResNetConfig().save_pretrained(tmp_path)
    with pytest.raises(OSError, match=f"MODEL: .*{words}"), reading("MODEL", str(tmp_path)):
        AutoModel.from_pretrained(tmp_path)


def test_of_a_program_something_else_may_be_missing(tmp_path):
    (tmp_path / "export.json").write_text("{}")
    with pytest.raises(OSError, match=r"cannot be found or read \(no tokenizer\)"):
        with reading("MODEL", str(tmp_path)):
            raise ValueError("no tokenizer")


def test_a_package_that_a_model_needs_is_named_in_a_sentence(tmp_path):
    with pytest.raises(ImportError, match=r"MODEL: .* needs a package: pip install optimum$") as found:
        with reading("MODEL", str(tmp_path)):
            raise PackageNotFoundError("optimum")
    assert type(found.value) is ImportError  # the other kind says its sentence in the place of a package's name
