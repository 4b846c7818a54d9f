"""What all quantisers of this package have in common."""

import subprocess
import sys
from dataclasses import dataclass, fields
from types import SimpleNamespace

import pytest
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    AutoHfQuantizer,
    AutoQuantizationConfig,
)
from transformers.utils.quantization_config import QuantizationMethod

from hf_effmodels import quantization
from hf_effmodels.quantization.stored import TRAINABLE, quantizer_of

CONFIGS = [getattr(quantization, name) for name in quantization.__all__ if name.endswith("Config")]


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda c: c.__name__)
def test_a_stored_configuration_has_the_fields_of_its_class_and_no_other(config_class):
    method = config_class().quant_method
    assert AUTO_QUANTIZATION_CONFIG_MAPPING[method] is config_class
    stored = config_class().to_dict()
    assert {*stored} == {f.name for f in fields(config_class)}
    assert AutoQuantizationConfig.from_dict(stored) == config_class()
    accepted = ", ".join(sorted(stored))
    for load in (AutoQuantizationConfig.from_dict, AutoHfQuantizer.from_config):
        with pytest.raises(
            ValueError, match=f"^shift: {config_class.__name__} has no field of this .* has {accepted}.$"
        ):
            load({**stored, "shift": 1})
    config, rest = config_class.from_dict(stored, return_unused_kwargs=True, elsewhere=2)
    assert config == config_class() and rest == {"elsewhere": 2}


@pytest.mark.parametrize("config_class", CONFIGS, ids=lambda c: c.__name__)
def test_all_are_saved_and_those_of_full_precision_are_trained_on(config_class):
    config = config_class()
    trained = config.quant_method in TRAINABLE
    made = AUTO_QUANTIZER_MAPPING[config.quant_method](config)
    assert made.is_serializable() and (made.is_trainable, made.is_qat_trainable) == (trained, trained)


@dataclass
class Stored:
    quant_method: object


def as_mapping(method) -> dict:
    return {"quant_method": method}


class Part:
    """A configuration, of a model with a text model or of one alone."""

    def __init__(self, stored=None, text=None):
        self.text = text
        if stored is not None:
            self.quantization_config = stored

    def get_text_config(self):
        return self.text or self


@pytest.mark.parametrize("stored", [as_mapping, Stored])
def test_a_model_is_quantised_as_it_says_or_else_as_its_text_model_says(stored):
    ours, stock = stored("cbq"), stored(QuantizationMethod.GPTQ)
    for config, expected in (
        (Part(), None),
        (Part(ours), "cbq"),
        (Part(stock), "gptq"),
        (Part(None, Part(ours)), "cbq"),
        (Part(ours, Part(stock)), "cbq"),
        (Part(stock, Part(ours)), "gptq"),
        (Part(None, Part()), None),
        (SimpleNamespace(quantization_config=ours), "cbq"),
        (SimpleNamespace(), None),
    ):
        assert quantizer_of(config) == expected


@pytest.mark.thorough
def test_a_configuration_can_be_the_first_that_is_imported():
    """Quantisers are registered while transformers' are imported."""
    subprocess.run([sys.executable, "-c", "from hf_effmodels.quantization import CbqConfig"], check=True)
