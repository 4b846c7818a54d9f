"""What is in checkpoint files, and what of it are weights."""

import argparse
import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from hf_effmodels.hub.checkpoints import (
    check_names,
    check_tensors,
    check_values,
    read_checkpoint,
    read_pickled_model,
    stored_arguments,
)
from hf_effmodels.hub.fit import ConversionError, check_fit, entry, naming
from hf_effmodels.hub.torchvision_resnet import resnet_from_torchvision
from hf_effmodels.hub.wrappers import plain_names, unwrap, unwrap_parts

ALLOWED = re.compile(r"torch\.nn\.modules\..*|collections\.OrderedDict")


def wrapped() -> nn.Module:
    """A model of half precision inside of a wrapper's `module`, with plain attributes."""
    inner = nn.Sequential(OrderedDict(fc=nn.Linear(2, 3), norm=nn.BatchNorm1d(3, eps=0.5)))
    return nn.Sequential(OrderedDict(module=inner)).half()


def test_a_model_that_was_saved_whole_is_read_without_its_wrapper(tmp_path):
    model = wrapped()
    torch.save({"ema": wrapped(), "model": model, "epoch": 3}, tmp_path / "whole.pt")
    tensors, where, attributes = read_pickled_model(tmp_path / "whole.pt", ALLOWED, entry="model")
    expected = {name.removeprefix("module."): value for name, value in model.state_dict().items()}
    assert where == "model" and tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], value.to(tensors[name].dtype)) for name, value in expected.items())
    assert tensors["fc.weight"].dtype == torch.float32 and tensors["norm.num_batches_tracked"].dtype == torch.int64
    assert attributes["fc"]["in_features"] == 2 and attributes["norm"]["eps"] == 0.5
    assert not any(name.startswith("_") for of in attributes.values() for name in of)
    assert read_pickled_model(tmp_path / "whole.pt", ALLOWED)[1] == "ema", "an average goes first"
    with pytest.raises(ValueError, match=r"entry: .*whole.pt has no model 'net', accepted are \['ema', 'model'\]"):
        read_pickled_model(tmp_path / "whole.pt", ALLOWED, entry="net")
    torch.save(wrapped(), tmp_path / "alone.pt")
    assert read_pickled_model(tmp_path / "alone.pt", ALLOWED)[1] == "the file itself"


def test_what_is_no_whole_model_is_left_to_be_read_as_tensors(tmp_path):
    torch.save({"weight": torch.zeros(1)}, tmp_path / "plain.pt")
    torch.save({"other": nn.Linear(1, 1)}, tmp_path / "other.pt")
    (tmp_path / "empty.pt").touch()
    for name in ("plain.pt", "other.pt", "empty.pt", "none.pt", "x.safetensors"):
        assert read_pickled_model(tmp_path / name, ALLOWED) is None
    assert read_pickled_model(tmp_path / "other.pt", re.compile("only.this")) is None
    with pytest.raises(ValueError, match="entry: .*other.pt has no model 'model', accepted are none"):
        read_pickled_model(tmp_path / "other.pt", ALLOWED, entry="model")


def test_the_entry_that_is_named_is_read_and_no_other(tmp_path):
    content = {"state_dict_ema": {"a": torch.ones(1)}, "raw": {"module.a": torch.zeros(1)}, "epoch": 3}
    torch.save(content, tmp_path / "two.pt")
    weights, where = read_checkpoint(tmp_path / "two.pt", entry="raw")
    assert where == "raw" and weights.keys() == {"a"} and weights["a"] == 0
    for name, file in (("epoch", content), ("a", {"a": torch.ones(1)})):
        torch.save(file, tmp_path / "file.pt")
        accepted = r"\['state_dict_ema'\]" if name == "epoch" else "none: it is flat"
        with pytest.raises(ValueError, match=f"entry: .*file.pt has no entry '{name}', accepted are {accepted}"):
            read_checkpoint(tmp_path / "file.pt", entry=name)
    torch.save({"a": torch.ones(1), "count": 3}, tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"is no dictionary of tensors; other things in it: \['count'\]"):
        read_checkpoint(tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt", is_ignored="count".__eq__)[0].keys() == {"a"}
    torch.save([torch.ones(1)], tmp_path / "file.pt")
    with pytest.raises(ValueError, match="checkpoint: .*file.pt holds a list, expected a dictionary of tensors"):
        read_checkpoint(tmp_path / "file.pt")
    torch.save({"weight": torch.ones(1), "args": argparse.Namespace(lr=0.5)}, tmp_path / "file.pt")
    assert stored_arguments(tmp_path / "file.pt") == {"lr": 0.5}
    torch.save({"weight": torch.ones(1), "args": 7}, tmp_path / "file.pt")
    assert stored_arguments(tmp_path / "file.pt") == {}


def test_problems_of_tensors_are_listed_five_at_a_time():
    empty = {f"w{number}": torch.zeros(0) for number in range(6)}
    with pytest.raises(ValueError, match="w0 is empty; .*w4 is empty and 1 more; accepted are dense tensors of fl"):
        check_tensors(empty)
    with pytest.raises(ValueError, match="a is sparse; b is of type bool; c is without values; d is quantized; "):
        check_tensors({
            "a": torch.eye(2).to_sparse(), "b": torch.tensor([True]), "c": torch.zeros(1, device="meta"),
            "d": torch.quantize_per_tensor(torch.ones(1), 1.0, 0, torch.qint8),
        })  # fmt: skip
    with pytest.raises(ValueError, match=r"float32 \(2, such as a\), float16 \(1, such as c\); accepted is one"):
        check_tensors({"a": torch.ones(1), "b": torch.ones(1), "c": torch.ones(1).half(), "n": torch.tensor(1)})
    broken = {f"w{number}": torch.tensor([1.0, float("inf")]) for number in range(6)}
    with pytest.raises(ValueError, match=r"^6 broken weights: w0 \(1 of 2 values are not finite\); .* and 1 more\.$"):
        check_values(broken)
    with pytest.raises(ValueError, match=r"^1 broken weights: n.running_var \(a variance of -2\)\.$"):
        check_values({"n.running_var": torch.tensor([1.0, -2.0]), "n.running_mean": torch.tensor([-2.0])})
    with pytest.raises(ValueError, match="checkpoint: it has names that are no texts: 3"):
        check_names({"a": 1, 3: 2}, "it")


def test_what_does_not_fit_is_listed_by_what_is_wrong_with_it():
    expected = {name: torch.zeros(2, 3) for name in "abcdefg"} | {"n.num_batches_tracked": torch.tensor(0)}
    with pytest.raises(ConversionError) as told:
        check_fit(
            {"a": torch.zeros(3, 2), "b": torch.zeros(2, 3).long(), "x": torch.zeros(1)}, expected, "<{}>".format
        )
    assert str(told.value) == (
        "5 missing: c; d; e; f; g. 1 unexpected: <x>. 1 of another shape: <a> is (3, 2), expected (2, 3). "
        "1 of another kind: <b> holds counts."
    )
    assert told.value.names_are_foreign is False
    for weights, foreign in (({"x": torch.zeros(1), "y": torch.zeros(1), "a": torch.zeros(2, 3)}, True), ({}, False)):
        with pytest.raises(ConversionError) as told:
            check_fit(weights, dict.fromkeys("abcdefghij", torch.zeros(2, 3)))
        assert told.value.names_are_foreign is (foreign or not weights)
    check_fit({name: torch.ones(2, 3) for name in "abcdefg"}, expected)
    with pytest.raises(ConversionError, match="file.pth is no checkpoint of net. 1 missing: w."):
        with naming("file.pth", "net"):
            entry({}, "w", 2)
    with pytest.raises(ConversionError, match=r"1 of another shape: w is \(2,\), expected 1 dimension$|2 dimensions"):
        entry({"w": torch.zeros(2)}, "w", 2)
    with pytest.raises(ConversionError, match=r"w is \(0,\), expected 1 dimension\."):
        entry({"w": torch.zeros(0)}, "w", 1)
    with pytest.raises(ConversionError, match="1 of another kind: w holds counts"):
        entry({"w": torch.zeros(2).long()}, "w", 1)
    weight = torch.zeros(2)
    assert entry({"w": weight}, "w", 1) is weight


def test_a_resnet_whose_stage_begins_in_its_middle_is_refused():
    names = ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer2.1.conv1.weight", "fc.weight")
    with pytest.raises(ValueError, match="state_dict: a stage of its ResNet has no first block, or another"):
        resnet_from_torchvision({name: torch.zeros(2, 2, 1, 1) for name in names})


def test_models_come_out_of_what_is_around_them():
    plain = nn.Sequential(OrderedDict(body=nn.Sequential(nn.Linear(1, 1)), head=nn.Linear(1, 1)))
    names = [*plain.state_dict()]
    body, inner = plain.body, plain.body[0]
    plain.body[0] = torch.compile(inner)
    plain.body = torch.compile(plain.body)
    assert [*plain_names(plain.state_dict())] == names != [*plain.state_dict()]
    assert unwrap(plain.body) is body and unwrap(nn.DataParallel(torch.compile(inner))) is inner
    assert unwrap(7) == 7 and unwrap(plain) is plain
    assert unwrap_parts(plain) is plain and [*plain.state_dict()] == names
    assert plain.body is body and plain.body[0] is inner
