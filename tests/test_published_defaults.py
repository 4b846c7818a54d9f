"""What is not said is what the paper says: the defaults of settings that users give by hand."""

import inspect
from dataclasses import fields

import pytest

from hf_effmodels import get_config
from hf_effmodels.adapters import AdemConfig
from hf_effmodels.collaboration.codecs.mahppo.configuration_mahppo import ChannelCodedConfig
from hf_effmodels.compression.pruning.vision_widths import search_widths
from hf_effmodels.quantization.adder.configuration_adder import AdderQuantConfig
from hf_effmodels.quantization.bitnet158.configuration_bitnet158 import BitNet158Config
from hf_effmodels.quantization.cbq.configuration_cbq import CbqConfig


@pytest.mark.parametrize(
    "settings, published",
    [
        # 256 visual tokens and 64 of the smaller scale, a tenth of which is dropped.
        (AdemConfig, {"alpha": 0.1, "drop_ratio": 0.1, "num_vision_tokens": 256 + 64}),
        # Windows of two blocks that share one, LoRA-Rounding of rank 5, and how far outliers lie from the quartiles.
        (CbqConfig, {"window": 2, "overlap": 1, "rank": 5, "epochs": 3, "lambda1": 1.5}),
        # Four groups of filters, and a quantile for the range of activations.
        (AdderQuantConfig, {"bits": 8, "n_groups": 4, "keep_ratio": 0.9997}),
        (ChannelCodedConfig, {"bits": 8}),
        # Means of absolute weights, eight bits of activations.
        (BitNet158Config, {"scale": "mean", "activation_bits": 8}),
    ],
)
def test_defaults_are_those_of_the_paper(settings, published):
    assert {f.name: f.default for f in fields(settings) if f.name in published} == published


@pytest.mark.parametrize(
    "preset, rate",
    [
        *(("ghostnet-1.0x", 0.2), ("parameternet-600m", 0.2), ("cmt-small", 0.1)),
        # None in ResNets, and what the official GhostNetV3 is given it does not use.
        *(("adabin-resnet18", 0.0), ("addernet-resnet50", 0.0), ("ghostnetv3-1.0x", 0.0)),
    ],
)
def test_classifiers_learn_with_the_dropout_of_their_official_code(preset, rate):
    assert get_config(preset).classifier_dropout == rate


def test_the_search_of_widths_is_by_default_as_wide_as_the_papers():
    """A hundred draws of shares up to a half, whose costs are within two hundredths of the target."""
    parameters = inspect.signature(search_widths).parameters
    assert [parameters[name].default for name in ("samples", "bound", "tolerance")] == [100, 0.5, 0.02]
