"""What is wrong with a folder's files is said of the file, whoever reads it and however."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from hf_effmodels._model_files import check_model_files
from hf_effmodels._places import reading


def write(folder, name="model.safetensors", **tensors):
    save_file(tensors or {"w": np.ones(3, np.float32), "n": np.array(1)}, folder / name, {"format": "pt"})
    return folder / name


def test_whole_files_are_none_the_worse_for_it(tmp_path):
    write(tmp_path)
    write(tmp_path, "adapter_model.safetensors", w=np.ones(2, np.float16))
    write(tmp_path, "codes.safetensors", w=np.ones(2, np.int32))  # no model's weights
    (tmp_path / "optimizer.safetensors").write_bytes(b"x")
    (tmp_path / "config.json").write_text('{"a": 1}')
    (tmp_path / "generation_config.json").write_text("{")  # libraries have words for it
    (tmp_path / "processor_config.json").write_text("[" * 100_000)
    (tmp_path / "vocab.json").write_text("[]")
    torch.save({"w": torch.ones(3)}, tmp_path / "pytorch_model.bin")
    check_model_files("--model", tmp_path, pickled=True)
    with reading("--model", str(tmp_path)):
        pass


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model-00002-of-00003.safetensors", "diffusion_pytorch_model.safetensors"]
)
def test_weights_that_are_cut_are_named_before_anything_reads_them(name, tmp_path):
    file = write(tmp_path, name)
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OSError, match=rf"^--teacher: {file} is truncated or no safetensors file \(.*\)\.$"):
        with reading("--teacher", str(tmp_path)):
            raise AssertionError("it is not read")


def test_of_a_pipeline_each_part_is_looked_at_and_of_other_folders_none(tmp_path):
    (tmp_path / "unet").mkdir()
    file = write(tmp_path / "unet", "diffusion_pytorch_model.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    check_model_files("MODEL", tmp_path)  # such as a checkpoint of a training that was killed
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(OSError, match=rf"^MODEL: {file} is truncated or no safetensors file"):
        check_model_files("MODEL", tmp_path)


@pytest.mark.parametrize("kind, told", [(np.int32, "I32"), (np.uint8, "U8"), (np.bool_, "BOOL")])
def test_whole_numbers_alone_are_no_weights_and_beside_others_they_are_packed_ones(kind, told, tmp_path):
    write(tmp_path, a=np.ones(2, kind), b=np.ones(2, kind))
    with pytest.raises(OSError, match=rf"^MODEL: .*model.safetensors holds whole numbers alone \({told}\), accepted"):
        check_model_files("MODEL", tmp_path)
    write(tmp_path, a=np.ones(2, kind), scale=np.ones(1, np.float16))
    check_model_files("MODEL", tmp_path)


@pytest.mark.parametrize("held, told", [([], "list"), ("text", "str"), (3, "int"), (None, "NoneType")])
@pytest.mark.parametrize("name", ["config", "preprocessor_config", "processor_config", "tokenizer_config"])
def test_settings_that_are_no_mapping_are_named(name, held, told, tmp_path):
    (tmp_path / f"{name}.json").write_text(json.dumps(held))
    with pytest.raises(OSError, match=rf"^MODEL: {tmp_path}/{name}.json holds a {told}, accepted is a mapping\.$"):
        with reading("MODEL", str(tmp_path)):
            raise AssertionError("it is not read")


def test_a_pickle_that_is_none_is_named_where_it_could_not_be_read(tmp_path):
    (tmp_path / "pytorch_model.bin").write_text("words")
    with pytest.raises(OSError, match=rf"^MODEL: {tmp_path}/pytorch_model.bin is truncated, damaged or no PyTorch"):
        with reading("MODEL", str(tmp_path)):
            raise KeyError(174812789)
    with reading("MODEL", str(tmp_path)):  # such a file may lie beside those that are read
        pass
