"""Peers that are made of a form or of losses, layers, compiled networks and what a data set needs."""

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_effmodels.benchmarking import accuracy, layers, peers, workloads


def test_a_peer_of_another_module_is_looked_for_when_it_is_built(monkeypatch):
    asked = []
    module = SimpleNamespace(make=lambda *given: asked.append(given) or "network")
    build = peers._of("nowhere", "make")
    monkeypatch.setitem(sys.modules, "hf_effmodels.benchmarking.nowhere", module)
    assert build("x", True, {"a": 1}) == "network" and asked == [("x", True, {"a": 1})]


def test_binary_layers_in_a_form_are_of_the_folded_network_and_losses_of_it_as_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(peers, "ours", lambda *given: given)
    binary = SimpleNamespace(Layers=lambda *given: given, unpacked="the form")
    monkeypatch.setitem(sys.modules, "hf_effmodels.benchmarking.binary_layers", binary)
    monkeypatch.setattr("hf_effmodels.benchmarking.binary_layers", binary, raising=False)
    distilled = SimpleNamespace(Distilled=lambda *given: given)
    monkeypatch.setitem(sys.modules, "hf_effmodels.benchmarking.distilled", distilled)
    monkeypatch.setattr("hf_effmodels.benchmarking.distilled", distilled, raising=False)
    assert peers._binary_layers("unpacked")("x", False, {"a": 1}) == (("x", True, {"a": 1}), "the form")
    assert peers._distilled("at", "kd")("x", False, {}) == (("x", False, {}), ("at", "kd"))


def test_layers_are_those_that_their_names_say():
    """Filters, values of a filter and positions of adders; channels and side of binary ones."""
    assert layers.LAYERS
    for name, layer in layers.LAYERS.items():
        kind, _, sizes = name.partition("-")
        if kind == "adder":
            filters, values, positions = map(int, sizes.split("x"))
            assert (layer.kind, layer.modes) == ("adder_layer", ("infer", "train")), name
            assert layer.out_channels == filters and layer.in_channels * layer.kernel_size**2 == values, name
            assert layer.images * layer.side**2 == positions, name
        else:
            assert (layer.kind, layer.modes) == ("binary_layer", ("infer",)), name
            assert sizes == f"{layer.out_channels}x{layer.side}" and layer.in_channels == layer.out_channels, name
            assert (layer.kernel_size, layer.images) == (3, 1), name


def test_a_network_is_compiled_where_that_is_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda model: asked.append(model) or (lambda pixels: pixels.shape))
    network = nn.Identity()
    row = {"image_size": 4, "batch": 2, "channels": 1, "mode": "infer", "peer": "ours", "backend": "compile"}
    assert workloads._images(network, row)() == (2, 1, 4, 4) and asked == [network]
    assert workloads._images(network, row | {"backend": "eager"})().shape == (2, 1, 4, 4) and len(asked) == 1


def test_accuracy_needs_the_library_of_data_sets(monkeypatch):
    monkeypatch.setattr(accuracy, "is_place", lambda name: True)
    monkeypatch.setattr(accuracy, "task_of_place", lambda name: "image-classification")
    monkeypatch.setitem(sys.modules, "hf_effmodels.training.tasks.image_classification.data", None)
    nothing = dict.fromkeys(accuracy.OPTIONS) | {"presets": ["out"]}
    assert accuracy.accuracies(SimpleNamespace(**nothing)) == {}
    with pytest.raises(ValueError, match="^--eval_split goes with --dataset.$"):
        accuracy.accuracies(SimpleNamespace(**nothing | {"eval_split": "test"}))
    with pytest.raises(ImportError, match="--dataset needs an extra: pip install 'hf_effmodels.train.'.$"):
        accuracy.accuracies(SimpleNamespace(**nothing | {"dataset": "digits"}))
    monkeypatch.setattr(accuracy, "task_of_place", lambda name: "text-generation")
    with pytest.raises(ValueError, match="^--dataset: accuracy is of image classifiers with weights, .*; got out.$"):
        accuracy.accuracies(SimpleNamespace(**nothing | {"dataset": "digits"}))
