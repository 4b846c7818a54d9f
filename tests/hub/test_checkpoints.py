"""What is in checkpoint files, and what of it are weights."""

import argparse
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels.hub.checkpoints import (
    check_model,
    check_names,
    check_tensors,
    check_values,
    read_checkpoint,
    read_pickled_model,
    stored_arguments,
)
from hf_effmodels.hub.fit import ConversionError, check_fit, entry, naming
from hf_effmodels.hub.pickled_modules import Shell, is_module, shells_for, tensors_of
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
    # A part of that name is no wrapper where others lie beside it.
    both = nn.Sequential(OrderedDict(module=nn.Linear(1, 1), head=nn.Linear(1, 1)))
    torch.save({"model": both}, tmp_path / "both.pt")
    assert read_pickled_model(tmp_path / "both.pt", ALLOWED)[0].keys() == both.state_dict().keys()
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


def test_only_five_of_what_is_wrong_are_named_and_the_rest_counted():
    empty = {f"w{number}": torch.zeros(0) for number in range(7)}
    wrong = {name: torch.tensor([float("nan")]) for name in empty}
    for count, more in ((5, ""), (6, " and 1 more"), (7, " and 2 more")):
        names = [*empty][:count]
        with pytest.raises(ValueError) as told:
            check_tensors({name: empty[name] for name in names})
        named = "; ".join(f"{name} is empty" for name in names[:5])
        assert str(told.value).startswith(f"checkpoint: {named}{more}; accepted are dense tensors of ")
        with pytest.raises(ValueError) as told:
            check_values({name: wrong[name] for name in names})
        named = "; ".join(f"{name} (1 of 1 values are not finite)" for name in names[:5])
        assert str(told.value) == f"{count} broken weights: {named}{more}."
        with pytest.raises(ConversionError) as told:
            check_fit({}, {name: empty[name] for name in names})
        assert str(told.value) == f"{count} missing: {'; '.join(names[:5])}{more}."
    with pytest.raises(ValueError, match="has names that are no texts: 0, 1, 2, 3, 4.$"):
        check_names(dict.fromkeys(range(7)), "it")


def test_other_things_in_a_file_are_named_five_of_them_or_none(tmp_path):
    torch.save({f"n{number}": number for number in range(7)} | {"w": torch.ones(1)}, tmp_path / "mixed.pt")
    with pytest.raises(ValueError, match=r"other things in it: \['n0', 'n1', 'n2', 'n3', 'n4'\]\.$"):
        read_checkpoint(tmp_path / "mixed.pt")
    torch.save({"count": 3}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"none.pt \(the file itself\) .* other things in it: nothing\.$"):
        read_checkpoint(tmp_path / "none.pt", is_ignored="count".__eq__)
    torch.save({"model": {"a": 3}}, tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"none.pt \(model\) is no dictionary of tensors; other .*: \['a'\]\.$"):
        read_checkpoint(tmp_path / "none.pt")


def test_counts_and_weights_without_values_are_neither_broken_nor_of_another_type():
    check_tensors({"w": torch.ones(1).double(), "n": torch.tensor(1), "m": torch.tensor(1).int()})
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        check_tensors({"w": torch.ones(1, dtype=dtype)})
    with pytest.raises(ValueError, match="n is of type int16; accepted are dense tensors of float16, bfloat16, fl"):
        check_tensors({"n": torch.tensor(1).short()})
    check_values({"w": torch.empty(1, device="meta"), "n": torch.tensor([-1]), "b": torch.tensor([-1.0])})
    check_values({"n.running_var": torch.tensor([0.0])})
    for value in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(ValueError, match=r"w \(2 of 3 values are not finite\)"):
            check_values({"w": torch.tensor([value, 1.0, value])})


def test_a_model_with_broken_weights_is_named_by_what_it_was_given_by():
    model = nn.Linear(1, 1)
    check_model("--teacher", model)
    with torch.no_grad():
        model.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match=r"^--teacher: Linear has 1 broken weights: bias \(1 of 1 values"):
        check_model("--teacher", model)


def test_prefixes_of_wrappers_around_wrappers_go(tmp_path):
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        torch.save({f"{prefix}a": torch.ones(1), f"{prefix}module.b": torch.ones(1)}, tmp_path / "file.pt")
        assert read_checkpoint(tmp_path / "file.pt")[0].keys() == {"a", "module.b"}, prefix


@pytest.mark.parametrize("beside", [np.float64(1), np.float32(1), np.int64(1), np.int32(1), np.bool_(True)])
def test_numbers_of_numpy_may_lie_beside_the_weights(beside, tmp_path):
    torch.save({"state_dict": {"w": torch.ones(1)}, "best": beside}, tmp_path / "file.pt")
    assert read_checkpoint(tmp_path / "file.pt")[1] == "state_dict"


def test_arguments_of_a_training_are_read_as_far_as_there_are_some(tmp_path):
    for content, arguments in (
        ({"args": {"lr": 0.5}}, {"lr": 0.5}),
        ({"args": [0.5]}, {}),
        ({"w": torch.ones(1)}, {}),
        ([torch.ones(1)], {}),
    ):
        torch.save(content, tmp_path / "file.pt")
        assert stored_arguments(tmp_path / "file.pt") == arguments


# models that were saved whole


def test_a_safetensors_file_holds_no_whole_model(tmp_path):
    save_file({"w": torch.ones(1)}, tmp_path / "file.safetensors")
    assert read_pickled_model(tmp_path / "file.safetensors", ALLOWED) is None


@pytest.mark.parametrize("prefix", ["module", "_orig_mod", "body"])
def test_what_was_around_a_whole_model_goes_from_its_names_and_attributes(prefix, tmp_path):
    inner = nn.Sequential(OrderedDict(fc=nn.Linear(2, 3), short=nn.Linear(2, 3).bfloat16()))
    inner.register_buffer("seen", torch.tensor([2]))
    inner.register_parameter("none", None)
    torch.save({"net": nn.Sequential(OrderedDict([(prefix, inner)]))}, tmp_path / "file.pt")
    tensors, where, attributes = read_pickled_model(tmp_path / "file.pt", ALLOWED)
    kept = "body." if prefix == "body" else ""
    assert where == "net" and tensors.keys() == {
        f"{kept}{name}" for name in ("seen", "fc.weight", "fc.bias", "short.weight", "short.bias")
    }
    assert tensors[f"{kept}short.bias"].dtype == torch.bfloat16 and tensors[f"{kept}seen"].tolist() == [2]
    assert not tensors[f"{kept}fc.weight"].requires_grad
    assert attributes[f"{kept}fc"]["out_features"] == 3 and attributes[f"{kept}fc"]["training"] is True


def test_a_part_that_is_called_as_a_wrapper_calls_it_stays_beside_others(tmp_path):
    parts = OrderedDict(module=nn.Linear(1, 1), _orig_mod=nn.Linear(1, 1), head=nn.Linear(1, 1))
    torch.save(nn.Sequential(parts), tmp_path / "file.pt")
    tensors, _, attributes = read_pickled_model(tmp_path / "file.pt", ALLOWED)
    assert tensors.keys() == {f"{part}.{name}" for part in parts for name in ("weight", "bias")}
    assert attributes.keys() == {"", *parts}


def test_a_model_without_weights_keeps_the_names_of_its_parts(tmp_path):
    torch.save(nn.Sequential(OrderedDict(module=nn.ReLU())), tmp_path / "file.pt")
    tensors, _, attributes = read_pickled_model(tmp_path / "file.pt", ALLOWED)
    assert tensors == {} and attributes.keys() == {"", "module"}


def test_of_whole_models_an_average_is_read_and_what_is_named_goes_before_it(tmp_path):
    torch.save({"net": nn.Linear(1, 1), "ema": nn.Linear(2, 1), "epoch": 3, "model": None}, tmp_path / "file.pt")
    assert read_pickled_model(tmp_path / "file.pt", ALLOWED)[2][""]["in_features"] == 2
    assert read_pickled_model(tmp_path / "file.pt", ALLOWED, entry="net")[2][""]["in_features"] == 1
    with pytest.raises(ValueError, match=r"has no model 'model', accepted are \['ema', 'net'\]"):
        read_pickled_model(tmp_path / "file.pt", ALLOWED, entry="model")


def test_shells_stand_for_allowed_classes_only():
    allowed = re.compile(r"yolo\..*|addict\..*")
    assert shells_for(["yolo.Net", "builtins.set", "__builtin__.set"], allowed) == [(Shell, "yolo.Net")]
    assert shells_for(["addict.addict.Dict"], allowed) == [(OrderedDict, "addict.addict.Dict")]
    for names in ([], ["builtins.set"], ["yolo.Net", "os.system"], ["my.yolo.Net"], ["yolo"]):
        assert shells_for(names, allowed) is None, names


@pytest.mark.parametrize("more", ["_evil", ".Inner", "2", "\n"])
def test_a_class_whose_name_only_begins_or_ends_as_an_allowed_one_is_refused(more):
    allowed = re.compile(r"models\.Net|models\.(?:Head|Neck)")
    for name in ("models.Net", "models.Neck"):
        assert shells_for([name], allowed) == [(Shell, name)]
        for other in (name + more, more + name):
            assert shells_for([other], allowed) is None and shells_for([name, other], allowed) is None, other
    assert shells_for(["addict.addict.Dict" + more], re.compile(r"addict.*", re.DOTALL)) == [
        (Shell, "addict.addict.Dict" + more)
    ]


def shell(**fields) -> Shell:
    made = Shell("any", argument="at all")
    made.__dict__.update(fields)
    return made


def test_of_a_shell_tensors_and_plain_attributes_are_kept():
    child = shell(_parameters={"w": torch.ones(1), "none": None}, _modules=None, name="x", _hidden=1, sizes=[1])
    whole = shell(_buffers={"b": torch.zeros(1)}, _parameters=None, _modules={"part": child, "gone": None}, eps=0.5)
    tensors, attributes = tensors_of(whole)
    assert tensors.keys() == {"b", "part.w"} and attributes == {"": {"eps": 0.5}, "part": {"name": "x"}}
    assert is_module(whole) and not is_module(child) and not is_module(nn.Linear(1, 1)) and not is_module({})


# sizes that are read from weights


@pytest.mark.parametrize(
    "weights, foreign",
    [
        # Of ten: nine missing are not more than nine tenths, ten are.
        ({"a": 0}, False),
        ({}, True),
        # One of two unexpected is not more than half, two of three are.
        ({"a": 0, "x": 0}, False),
        ({"a": 0, "x": 0, "y": 0}, True),
    ],
)
def test_names_are_foreign_where_most_of_them_are(weights, foreign):
    with pytest.raises(ConversionError) as told:
        check_fit({name: torch.zeros(1) for name in weights}, dict.fromkeys("abcdefghij", torch.zeros(1)))
    assert told.value.names_are_foreign is foreign
    assert ConversionError("else").names_are_foreign is None


def test_counts_where_numbers_are_expected_and_the_other_way_round_are_of_another_kind():
    expected = {"w": torch.zeros(1), "n.num_batches_tracked": torch.tensor(0)}
    with pytest.raises(ConversionError) as told:
        check_fit({"w": torch.tensor([1]), "n.num_batches_tracked": torch.tensor(0.0)}, expected)
    assert str(told.value) == "2 of another kind: w holds counts; n.num_batches_tracked holds numbers."
    assert told.value.names_are_foreign is False


# ResNets of torchvision


def torchvision_names(name: str) -> str:
    """transformers' name of a ResNet's weight as torchvision has it."""
    name = name.replace("resnet.embedder.embedder.convolution", "conv1").replace("classifier.1", "fc")
    name = name.replace("resnet.embedder.embedder.normalization", "bn1")
    name = re.sub(r"resnet\.encoder\.stages\.(\d)\.layers\.", lambda m: f"layer{int(m[1]) + 1}.", name)
    for ours, theirs in (("convolution", "conv"), ("normalization", "bn")):
        name = re.sub(rf"\.layer\.(\d)\.{ours}", lambda m, theirs=theirs: f".{theirs}{int(m[1]) + 1}", name)
    return name.replace("shortcut.convolution", "downsample.0").replace("shortcut.normalization", "downsample.1")


@pytest.mark.parametrize("layer_type, widths", [("basic", [4, 8]), ("bottleneck", [8, 16])])
@pytest.mark.parametrize("head, counters", [("fc", True), ("FC", False)])
def test_a_resnet_of_any_size_is_read_off_its_weights(layer_type, widths, head, counters):
    sizes = {"embedding_size": 4, "hidden_sizes": widths, "depths": [1, 3], "layer_type": layer_type}
    torch.manual_seed(0)
    given = ResNetForImageClassification(ResNetConfig(**sizes, num_channels=2, num_labels=5)).eval()
    weights = {re.sub("^fc", head, torchvision_names(name)): value for name, value in given.state_dict().items()}
    if not counters:
        weights = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    assert {"conv1.weight", "layer2.2.bn2.weight", "layer2.0.downsample.0.weight", f"{head}.bias"} <= weights.keys()
    model = resnet_from_torchvision(weights)
    for name, value in sizes.items():
        assert getattr(model.config, name) == value, name
    assert (model.config.num_channels, model.num_labels, model.training) == (2, 5, False)
    assert not any(value.is_meta for value in model.state_dict().values())
    for name, value in given.state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name
    with pytest.raises(ValueError, match="^state_dict: .*[Mm]issing key.*layers.2.layer.1.normalization.bias"):
        resnet_from_torchvision({name: value for name, value in weights.items() if name != "layer2.2.bn2.bias"})
    with pytest.raises(ValueError, match="^state_dict: .*[Uu]nexpected key.*extra"):
        resnet_from_torchvision(weights | {"extra": torch.ones(1)})
    for lacking in ("conv1.weight", f"{head}.weight"):
        with pytest.raises(ValueError, match="state_dict: it has not the layout of torchvision's ResNets"):
            resnet_from_torchvision({name: value for name, value in weights.items() if name != lacking})
    with pytest.raises(ValueError, match="state_dict: it has not the layout of torchvision's ResNets"):
        resnet_from_torchvision({name: value for name, value in weights.items() if "layer" not in name})


# wrappers


def test_only_what_wraps_is_unwrapped():
    inner = nn.Linear(1, 1)
    holder = nn.Sequential(OrderedDict(module=inner))
    assert unwrap(holder) is holder
    assert unwrap(torch.compile(nn.DataParallel(torch.compile(inner)))) is inner
    names = {"a._orig_mod.b._orig_mod.w": 1, "_orig_mod.c": 2, "d": 3}
    assert plain_names(names) == {"a.b.w": 1, "c": 2, "d": 3}
    compiled = torch.compile(nn.Sequential(nn.Sequential(torch.compile(inner))))
    assert unwrap_parts(compiled) is compiled and [*compiled.state_dict()] == [
        "_orig_mod.0.0.weight",
        "_orig_mod.0.0.bias",
    ]
