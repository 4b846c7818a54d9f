"""Folders of pipelines: whose they are by their index, what of them is replaced, and what an edited index is worth."""

import json

import pytest

from hf_effmodels.hub.contents import CARD, MODEL_INDEX
from hf_effmodels.hub.pipelines import (
    is_pipeline_folder,
    pipeline_code,
    pipeline_of,
    weights_of_components,
    write_pipeline,
)
from hf_effmodels.registry import PIPELINES

INDEX = {
    "_class_name": ["pipeline_sam_diffsr", "SamDiffSRPipeline"],
    "condition_encoder": ["modeling_sam_diffsr", "RRDBModel"],
    "unet": ["modeling_sam_diffsr", "SamDiffSRUNet2DModel"],
    "scheduler": ["diffusers", "DDIMScheduler"],
}


class SamDiffSRPipeline:
    """Saves what it is given."""

    def __init__(self, files):
        self.files = files

    def save_pretrained(self, folder):
        fill(folder, self.files)


def fill(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


def read(folder):
    return {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*") if p.is_file()}


OLD = {
    "pipeline_sam_diffsr.py": "old",
    "unet/modeling_sam_diffsr.py": "old",
    "unet/config.json": "{}",
    "thesis.tex": "mine",
    CARD: "old",
}
NEW = {MODEL_INDEX: json.dumps(INDEX), "unet/config.json": '{"new": 1}'}


def test_over_a_pipeline_of_its_class_what_is_ours_goes_and_the_rest_stays(tmp_path):
    fill(tmp_path, OLD | {MODEL_INDEX: json.dumps(INDEX)})
    assert write_pipeline(SamDiffSRPipeline(NEW), tmp_path, "card é", overwrite=True) == tmp_path
    assert read(tmp_path) == NEW | {"thesis.tex": "mine", CARD: "card é"}


@pytest.mark.parametrize(
    "edited",
    [
        {"_class_name": ["pipeline_mine", "SamDiffSRPipeline"]},
        {"unet": ["modeling_mine", "Mine"]},
        {"_class_name": ["x", "pipeline_sam_diffsr", "SamDiffSRPipeline"]},
    ],
)
def test_of_an_index_that_was_edited_by_hand_only_what_is_written_anew_is_replaced(tmp_path, edited):
    fill(tmp_path, OLD | {MODEL_INDEX: json.dumps(INDEX | edited)})
    write_pipeline(SamDiffSRPipeline(NEW), tmp_path, "card", overwrite=True)
    assert read(tmp_path) == OLD | NEW | {CARD: "card"}


@pytest.mark.parametrize("index", [INDEX | {"_class_name": ["pipeline_delvm", "DelvmPipeline"]}, None, "{", "[]", "3"])
def test_what_is_no_pipeline_of_its_class_is_not_written_over(tmp_path, index):
    if index is not None:
        (tmp_path / MODEL_INDEX).write_text(index if isinstance(index, str) else json.dumps(index))
    (tmp_path / "thesis.tex").write_text("mine")
    before = read(tmp_path)
    assert not is_pipeline_folder(tmp_path, "SamDiffSRPipeline")
    with pytest.raises(FileExistsError, match="is not empty"):
        write_pipeline(SamDiffSRPipeline(NEW), tmp_path, "card", overwrite=True)
    assert read(tmp_path) == before


def test_without_leave_to_overwrite_a_folder_is_new_or_empty(tmp_path):
    write_pipeline(SamDiffSRPipeline(NEW), tmp_path / "deep" / "new", "card")
    assert is_pipeline_folder(tmp_path / "deep" / "new", "SamDiffSRPipeline")
    with pytest.raises(FileExistsError, match="is not empty"):
        write_pipeline(SamDiffSRPipeline(NEW), tmp_path / "deep" / "new", "card")


def test_an_index_is_of_a_pipeline_by_its_module_and_nothing_else():
    for name in PIPELINES:
        assert pipeline_of({"_class_name": [f"pipeline_{name}", "Any"]}, "x") == name
    for value in (
        None,
        "SamDiffSRPipeline",
        ["pipeline_sam_diffsr"],
        ["sam_diffsr", "X"],
        ["pipeline_sam_diffsr"] * 3,
    ):
        with pytest.raises(ValueError, match="^x: its model_index.json is of .*, accepted are pipelines of this pack"):
            pipeline_of({"_class_name": value}, "x")


def test_code_goes_beside_the_index_and_beside_each_component_of_ours():
    code = pipeline_code(INDEX, "x")
    entry = PIPELINES["sam_diffsr"]
    beside = {f"{stem}.py" for stem in entry.code}
    assert code.keys() == beside | {f"{part}/modeling_sam_diffsr.py" for part in ("unet", "condition_encoder")}
    assert b"class SamDiffSRPipeline" in code["pipeline_sam_diffsr.py"]
    assert code["unet/modeling_sam_diffsr.py"] == code["condition_encoder/modeling_sam_diffsr.py"]
    assert b"class RRDBModel" in code["unet/modeling_sam_diffsr.py"]
    for module in ("theirs", 3):
        with pytest.raises(ValueError, match="^x: the class of its 'unet' is in .*, accepted are .*diffusers, transf"):
            pipeline_code(INDEX | {"unet": [module, "Net"]}, "x")


def test_each_component_with_weights_names_its_file(tmp_path):
    index = {
        "unet": ["modeling_sam_diffsr", "Net"],
        "text": ["transformers", "Bert"],
        "vae": ["diffusers", "VQModel"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "left_out": [None, None],
    }
    for part in ("unet", "text", "vae"):
        fill(tmp_path, {f"{part}/config.json": "{}"})
    with pytest.raises(ValueError, match="has no configuration of its component 'scheduler'$"):
        weights_of_components(tmp_path, index)
    fill(tmp_path, {"scheduler/scheduler_config.json": "{}"})
    own = "diffusion_pytorch_model.safetensors"
    assert weights_of_components(tmp_path, index) == [f"unet/{own}", "text/model.safetensors", f"vae/{own}"]
