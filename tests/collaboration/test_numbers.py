"""Numbers of everything public here: what is none is named at once, whatever it is for."""

import functools
import math
import re
from dataclasses import MISSING, fields, is_dataclass

import numpy as np
import pytest
import torch

from hf_effmodels.collaboration.assignment import Device, Need
from hf_effmodels.collaboration.codecs.entropic import EntropicBottleneck
from hf_effmodels.collaboration.codecs.gdn import DivisiveNorm
from hf_effmodels.collaboration.codecs.hyperprior import HyperPrior
from hf_effmodels.collaboration.codecs.pointwise import PointwiseCodec, quantize_code
from hf_effmodels.collaboration.codecs.prior import FactorizedPrior
from hf_effmodels.collaboration.codecs.slimmable import SlimmableBottleneck
from hf_effmodels.collaboration.codecs.wire import ChannelCodec, UniformCodec
from hf_effmodels.collaboration.decomposition import (
    assemble,
    check_class_groups,
    keep_classes,
    split_classes,
    take_part,
)
from hf_effmodels.collaboration.offloading import (
    PROFILES,
    OffloadingActor,
    OffloadingCritic,
    OffloadingEnvironment,
    OffloadingSettings,
    SplitProfile,
)
from hf_effmodels.collaboration.offloading.training import OffloadingAgents, OffloadingTraining
from hf_effmodels.collaboration.shrinking import shrink
from hf_effmodels.collaboration.splitting import FusedClassifier, SplitClassifier, split_points
from hf_effmodels.collaboration.splitting.measure import PointCost, measure_split, profile_of
from hf_effmodels.collaboration.splitting.service import ServiceLimits
from hf_effmodels.modeling.devit.configuration_devit import DeViTConfig, part_sizes
from hf_effmodels.modeling.devit.modeling_devit import DeViTForImageClassification

#: What is no number where one above nought is expected.
WRONG = ("1e6", math.nan, -1, True, [2], None)


@functools.cache
def part() -> DeViTForImageClassification:
    sizes = {"image_size": 16, "patch_size": 8, "num_labels": 3}
    return DeViTForImageClassification(DeViTConfig(**sizes, parts=[part_sizes(8, 1, 2)]))


def numbers_of(kind) -> dict:
    """The fields of a dataclass that are numbers, and a right value of each."""
    found = {}
    for f in fields(kind):
        if f.type in (int, float) or str(f.type) in ("int | None", "float | None"):
            found[f.name] = 1 if f.default in (MISSING, None) else f.default
    return found


SETTINGS = (ServiceLimits, OffloadingSettings, OffloadingTraining, Device, Need)
PICTURES, LABELS = torch.zeros(6, 3, 16, 16), torch.zeros(6)
#: What is called, and right values of all its numbers.
CALLS = {
    **{kind: (kind, numbers_of(kind)) for kind in SETTINGS},
    "client": (
        lambda **given: SplitClassifier(object(), "http://127.0.0.1:1", **given),
        {"timeout": 1.0, "bandwidth": 1e6, "patience": 1.0},
    ),
    "latency": (PointCost("x", 8, 0.1, 0.1).latency, {"bandwidth": 1e6}),
    "measure": (
        lambda **given: measure_split(None, **given),
        {"repeats": 1, "device_slowdown": 1.0, "shrink": 2},
    ),
    "watts": (lambda **given: profile_of([PointCost("image", 8, 0.0, 1.0)] * 2, **given), {"watts": 2.0}),
    "uniform": (UniformCodec, {"bits": 8}),
    "channels": (ChannelCodec, {"channels": 4, "shrink": 2, "bits": 8}),
    "pointwise": (PointwiseCodec, {"channels": 4, "shrink": 2, "bits": 8}),
    "quantize": (lambda **given: quantize_code(torch.arange(4.0), **given), {"bits": 8}),
    "entropic": (EntropicBottleneck, {"channels": 2, "target_channels": 4, "hyper_channels": 2}),
    "slimmable": (lambda **given: SlimmableBottleneck([2], **given), {"target_channels": 4, "hyper_channels": 2}),
    "hyperprior": (HyperPrior, {"channels": 2, "hyper_channels": 2}),
    "factorized": (FactorizedPrior, {"channels": 2}),
    "norm": (DivisiveNorm, {"channels": 2}),
    "actor": (OffloadingActor, {"observation_size": 4, "points": 3, "channels": 2, "max_power": 1.0}),
    "critic": (OffloadingCritic, {"observation_size": 4}),
    "agents": (lambda **given: OffloadingAgents(OffloadingSettings(), **given), {"points": 3}),
    "groups": (split_classes, {"num_classes": 10, "parts": 2}),
    "part": (lambda **given: take_part(part(), **given), {"part": 0}),
    "assemble": (lambda **given: assemble([part()], **given), {"num_labels": 3, "fusion_hidden_size": 8}),
    "shrink": (lambda **given: shrink(part(), PICTURES, LABELS, **given), {"macs": 1, "score_images": 2}),
}
#: May be left out.
OPTIONAL = {("client", "bandwidth"), ("measure", "shrink"), ("pointwise", "bits"), ("assemble", "fusion_hidden_size")}
OPTIONAL |= {(OffloadingSettings, "max_slots")}


@pytest.mark.parametrize("name", CALLS, ids=lambda name: getattr(name, "__name__", name))
def test_what_is_no_number_is_named(name):
    call, right = CALLS[name]
    assert right
    if is_dataclass(call):
        call(**right)
    for argument in right:
        # Without end waits only who asks for that.
        more = () if (name, argument) == ("client", "patience") else (math.inf,)
        for wrong in (*WRONG, *more):
            if wrong is None and (name, argument) in OPTIONAL:
                continue
            with pytest.raises(ValueError, match=rf"{argument}\b.*: got .*, accepted"):
                call(**{**right, argument: wrong})


def test_lists_of_numbers_are_looked_at_too():
    costs = {"bits": (8.0, 0.0), "seconds": (0.0, 1.0), "watts": (0.0, 1.0), "joules": (0.0, 1.0)}
    for name in costs:
        for wrong in (("8", 0.0), (math.nan, 0.0), (0.0, -1.0), "80", 8.0, None):
            with pytest.raises(ValueError, match=f"{name}: got"):
                SplitProfile(**{**costs, name: wrong})
    for wrong in ("1", 0, math.nan):
        with pytest.raises(ValueError, match="time_scale: got"):
            SplitProfile(**costs, time_scale=wrong)
    for wrong in (("1", "2"), "12", (1.0,), 5.0, (1.0, math.inf), (2.0, 1.0)):
        with pytest.raises(ValueError, match="distances: got"):
            OffloadingSettings(distances=wrong)
    for wrong in ("24", 8, [2, "3"], [True], []):
        with pytest.raises(ValueError, match="widths: got"):
            SlimmableBottleneck(wrong)
    for wrong in ("32", (32,), (32, 0), (32, "32"), 0, 3.5, math.nan):
        with pytest.raises(ValueError, match="image_size: got"):
            split_points(part(), wrong)
    for wrong in (["0", 1], [0, 1.0], [0, None]):
        with pytest.raises(ValueError, match="classes: got"):
            keep_classes(part(), wrong)
    for wrong in ([["cat"], ["dog"]], [0, 1], [[0, 1.0]], ["01"]):
        with pytest.raises(ValueError, match="class_groups: got .*, accepted is for each part a list of numbers"):
            check_class_groups(wrong, 2)


def test_a_cell_of_something_else_and_actions_that_are_none_are_named():
    for given, message in (
        ({"profile": PROFILES}, "profile: got .*, accepted are those of the class SplitProfile"),
        ({"settings": {"devices": 2}}, "settings: got .*, accepted are those of the class OffloadingSettings"),
    ):
        with pytest.raises(ValueError, match=message):
            OffloadingEnvironment(**given)
    cell = OffloadingEnvironment(settings=OffloadingSettings(devices=2))
    cell.reset()
    for action, message in (
        (([0, 1], [0, 1]), "action: got"),
        (3, "action: got"),
        ((["a", "b"], [0, 1], [0.1, 0.1]), "points: got .*, accepted are numbers"),
        (([0, 1], [0, 1], [0.1, math.nan]), "powers: got"),
    ):
        with pytest.raises(ValueError, match=message):
            cell.step(action)
    for given, message in (({"seed": -1}, "seed: got -1"), ({"distances": "far"}, "distances: got 'far'")):
        with pytest.raises(ValueError, match=message):
            cell.reset(**given)
    with pytest.raises(ValueError, match="distances: got"):
        cell.reset(distances=[1.0, math.inf])


def test_clients_of_what_is_no_head_and_of_no_address_are_named_at_once():
    for url in ("http://exa mple:80", "http://x\n", None, 8000, b"http://x", "http://"):
        with pytest.raises(ValueError, match=re.escape(f"url: got {url!r}")):
            SplitClassifier(object(), url)
    for head in (object(), None, part()):
        with pytest.raises(ValueError, match=f"head: got {type(head).__name__}, accepted are a SplitHead"):
            SplitClassifier(head, "http://127.0.0.1:1")
    with pytest.raises(ValueError, match="model: got NoneType, accepted are DeViTs"):
        FusedClassifier(None, [])
    with pytest.raises(ValueError, match="urls: got"):
        FusedClassifier(part(), "h")


def test_numbers_of_numpy_choose_and_count_as_those_of_python():
    check_class_groups([range(2), np.arange(2, 4)], 4)
    check_class_groups(np.arange(4).reshape(2, 2), 4)
    with pytest.raises(ValueError, match="class_groups: got"):
        check_class_groups([[0, 1], [2, np.float64(3.5)]], 4)
    pixels = torch.linspace(-1, 1, 3 * 16**2).view(1, 3, 16, 16)
    with torch.no_grad():
        logits, kept = part().eval()(pixels).logits, keep_classes(part(), np.array([2, 0])).eval()(pixels).logits
    torch.testing.assert_close(kept, logits[:, [2, 0]])
    assert take_part(part(), np.int64(0)).config.parts == part().config.parts
    cells = [OffloadingEnvironment("resnet18").reset(seed=seed)[0] for seed in (3, np.int64(3))]
    assert np.array_equal(*cells)
