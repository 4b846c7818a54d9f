"""Every converter refuses a weight of another shape or kind, whichever it is, in the layouts of the parity cases."""

import copy
import random
import re
from importlib import import_module
from pathlib import Path

import pytest
import torch

from hf_effmodels.hub.convert import ConversionError, convert_state_dict
from hf_effmodels.registry import ARCHITECTURES

from .modeling.tiny import tiny_config
from .parity import classification, golden
from .parity.test_parity import FAMILIES

#: Read in a layout of transformers' own and of this project: no case has them.
OWN_LAYOUT = ("cmt", "light_clip")
#: No case has their layouts: tests/modeling/test_tinysam.py, tests/collaboration/test_published_networks.py.
ELSEWHERE = ("tinysam", "coded_classifier", "channel_coded_classifier")

SAYS = re.compile("other shapes?|the shapes|another kind|missing|checkpoint: |expected")
CHANGES = {
    "transposed": lambda w: w.transpose(0, 1) if w.ndim > 1 and 1 < min(w.shape[:2]) < max(w.shape[:2]) else None,
    "flat": lambda w: w.flatten() if w.ndim > 1 and sum(size > 1 for size in w.shape) > 1 else None,
    "halved": lambda w: w.reshape(2, -1, *w.shape[1:]) if w.ndim and w.shape[0] % 2 == 0 else None,
    "no dimensions": lambda w: w.flatten()[0] if w.numel() > 1 else None,
    "one for all": lambda w: w[:1] if w.ndim and w.shape[0] > 1 else None,
    "one short": lambda w: w[:-1] if w.ndim and w.shape[0] > 1 else None,
    "counts": lambda w: w.long() if w.is_floating_point() else w.float(),
    "int8": lambda w: w.to(torch.int8),
    "sparse": lambda w: w.to_sparse() if w.ndim else None,
    "empty": lambda w: w[:0] if w.ndim else None,
}


class Found(Exception):
    """What a family would convert."""


def found(architecture, config, weights):
    raise Found(architecture, config, weights)


def zeros(case: dict, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    counts = re.compile(r"num_batches_tracked$")
    return {
        name: torch.zeros(shape, dtype=torch.int64 if counts.search(name) else torch.float32)
        for name, shape in case["state_dict"].items()
        if golden._rule(case, name, len(shape))["dist"] != "skip"
    }


@pytest.fixture(scope="module")
def layouts() -> dict[str, list]:
    """Model type -> the smallest layout of each kind: configuration and weights."""
    smallest: dict[tuple, tuple] = {}
    with pytest.MonkeyPatch.context() as patch:
        for module in (classification, golden, *FAMILIES.values()):
            for name, instead in (("convert_state_dict", found), ("state_dict", zeros)):
                if hasattr(module, name):
                    patch.setattr(module, name, instead)
        for path in sorted((Path(__file__).parent / "parity" / "cases").rglob("*.json")):
            case = golden.load(path)
            try:
                if case.get("state_dict"):
                    FAMILIES[case["system"]].run(case, torch.float32)
            except Found as error:
                architecture, config, weights = error.args
                encoder = getattr(getattr(config, "backbone_config", None), "model_type", None)
                kind = (architecture.model_type, encoder, any("rbr_reparam" in n for n in weights))
                kind += ("fused" in path.stem,)
                if kind not in smallest or len(weights) < len(smallest[kind][1]):
                    smallest[kind] = config, weights
            except Exception:
                continue  # no converter, and nothing to compute with zeros
    by_type: dict[str, list] = {}
    for (model_type, *_), layout in smallest.items():
        by_type.setdefault(model_type, []).append(layout)
    for model_type in OWN_LAYOUT:
        architecture = ARCHITECTURES[model_type]
        model = architecture.model_class(architecture.tasks[0].auto_class)(tiny_config(architecture))
        prefix = f"{model.base_model_prefix}."
        weights = {name.removeprefix(prefix): value for name, value in model.state_dict().items()}
        by_type[model_type] = [(model.config, weights)]
    return by_type


def refusal(architecture, config, weights: dict) -> str:
    try:
        convert_state_dict(architecture, config, weights)
    except ConversionError as error:
        return str(error)
    return ""


#: What files hold beside the weights, by the architecture; profiling counters of training scripts in all but `BARE`.
BARE = {"adem_vl", "dtop", "pangu_pi", "parameternet_moe", "shufflenetv2"}
COUNTERS = ("total_ops", "total_params", "blocks.0.conv.total_ops", "a.total_params")
TABLES = {
    "light_clip": ("text_model.embeddings.position_ids", "mask_embedding", "fusions.0.bias", "word_projection.weight"),
    "localmim": ("a.relative_position_index", "hog_enc.3.conv.weight"),
    "simmim": ("a.relative_position_index", "a.attn_mask"),
    "spark": ("imn_m", "imn_s", "norm_black", "a.num_batches_tracked"),
    "tinysam": ("image_encoder.norm_head.bias", "image_encoder.head.bias", "a.ab", "a.attention_bias_idxs")
    + ("pixel_mean", "pixel_std"),
    "tinyvit": ("a.ab", "a.attention_bias_idxs"),
    "pangu_pi": ("layers.0.rotary_emb.inv_freq",),
    "parameternet_moe": ("layers.0.rotary_emb.inv_freq",),
}
WEIGHTS = ("subtotal_ops", "total_ops.weight", "a.total_params_", "conv.weight", "head.bias", "hog_enc.3.conv.bias")


@pytest.mark.parametrize("model_type", [name for name in ARCHITECTURES if "coded_classifier" not in name])
def test_counters_and_tables_that_files_hold_are_left_out_and_no_weights_are(model_type):
    ignored = ARCHITECTURES[model_type].conversion_module.IGNORED
    beside = (*TABLES.get(model_type, ()), *(() if model_type in BARE else COUNTERS))
    assert all(ignored.search(name) for name in beside)
    assert not any(ignored.search(name) for name in WEIGHTS + (COUNTERS if model_type in BARE else ()))


@pytest.mark.thorough
@pytest.mark.parametrize("model_type", [name for name in ARCHITECTURES if name not in ELSEWHERE])
def test_a_weight_of_another_shape_or_kind_is_refused(model_type, layouts):
    architecture, draw = ARCHITECTURES[model_type], random.Random(0)
    for config, weights in layouts[model_type]:
        convert_state_dict(architecture, copy.deepcopy(config), dict(weights))
        names = [name for name in weights if not architecture.conversion_module.IGNORED.search(name)]
        for change, changed in CHANGES.items():
            fitting = [name for name in names if changed(weights[name]) is not None]
            for name in draw.sample(fitting, min(4, len(fitting))):
                other = {**weights, name: changed(weights[name])}
                said = refusal(architecture, copy.deepcopy(config), other)
                assert said and SAYS.search(said), (name, change, said)


#: Whose official code counts nothing, or nothing among the weights.
UNCOUNTED = {"adem_vl", "dtop", "light_clip", "pangu_pi", "parameternet_moe", "shufflenetv2", "tinysam"}


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES.keys() - UNCOUNTED - set(ELSEWHERE)))
def test_counters_of_a_profiler_are_no_weights(model_type):
    """Of the whole network and of any part of it, and nothing else of such a name."""
    package = ARCHITECTURES[model_type].package
    ignored = import_module(f"{package}.convert_{package.rpartition('.')[2]}").IGNORED
    for name in ("total_ops", "total_params", "layer1.0.conv.total_ops", "a.total_params"):
        assert ignored.search(name), name
    for name in ("subtotal_ops", "total_ops.weight", "a.total_params2"):
        assert not ignored.search(name), name
