"""transformers' own common tests (ModelTesterMixin, BackboneTesterMixin, ConfigTester) over every architecture here.

SUITE=transformers bash scripts/test.sh

They come from the source distribution, which is unpacked at run time (it holds part of `tests/`, a wheel none of it),
and run with the tiny networks of `tests/modeling/tiny`. `BY_DESIGN` lists what fails on purpose, with the reason.
"""

import importlib.util
import os
import sys
import unittest
from pathlib import Path
from types import ModuleType

import torch

from hf_effmodels.registry import ARCHITECTURES

# Here `tests` is the folder of the unpacked distribution, not this project's.
sys.modules["tests"] = ModuleType("tests")
sys.modules["tests"].__path__ = [os.environ["TRANSFORMERS_TESTS"]]
# The distribution leaves out its sub-folders: generation and export are not tested by these, but by tests/.
for module, names in {
    "exporters.test_export": {"ExportTesterMixin": type("ExportTesterMixin", (), {})},
    "generation.test_utils": {"GenerationTesterMixin": type("GenerationTesterMixin", (), {})},
    "utils.test_configuration_utils": {"config_common_kwargs": {}},
}.items():
    folder = module.partition(".")[0]
    for name in (folder, module):
        sys.modules[f"tests.{name}"] = ModuleType(f"tests.{name}")
        sys.modules[f"tests.{name}"].__path__ = []
    vars(sys.modules[f"tests.{module}"]).update(names)

from tests.test_backbone_common import BackboneTesterMixin  # noqa: E402
from tests.test_configuration_common import ConfigTester  # noqa: E402
from tests.test_modeling_common import ModelTesterMixin, floats_tensor, ids_tensor  # noqa: E402

OURS = Path(__file__).resolve().parents[2] / "tests"
BATCH, LENGTH = 3, 7

_NO_ATTENTION = "convolutions: there is no attention to return or to choose an implementation of"
_NO_EMBEDDINGS = "images: there are no token embeddings"
_INITIALISED = (
    "starts from the official initialisation, which is none of those the test knows (checked by parity cases)"
)
_REENTRANT = "refused: reentrant checkpoints would update the statistics of batch norms twice in a step"
_NO_BOXES = "the tests have no boxes to learn: tests/modeling/test_gold_yolo.py, tests/training/tasks/object_detection"
#: Test -> why it fails, or would test nothing, by design; `vision` and `text` say for which models, or a model's type.
BY_DESIGN = {
    "vision": {
        "test_attention_outputs": _NO_ATTENTION,
        "test_retain_grad_hidden_states_attentions": _NO_ATTENTION,
        "test_model_get_set_embeddings": _NO_EMBEDDINGS,
        "test_inputs_embeds": _NO_EMBEDDINGS,
        "test_inputs_embeds_matches_input_ids": _NO_EMBEDDINGS,
        "test_resize_tokens_embeddings": _NO_EMBEDDINGS,
        "test_resize_embeddings_untied": _NO_EMBEDDINGS,
        "test_num_layers_is_small": "a network of fewer stages lacks kinds of layers",
        "test_training_gradient_checkpointing_use_reentrant_true": _REENTRANT,
        "test_can_init_all_missing_weights": _INITIALISED,
        "test_init_weights_can_init_buffers": _INITIALISED,
        "test_hidden_states_output": "hidden states are maps, (batch, channels, height, width); tests/modeling has it",
    },
    "text": {
        "test_can_init_all_missing_weights": _INITIALISED,
        "test_generation_tester_mixin_inheritance": "the distribution leaves out the generation tests",
    },
    "addernet": {
        "test_can_load_ignoring_mismatched_shapes": "the logits have a batch norm, as long as there are labels",
    },
    "dtop": {
        "test_correct_missing_keys": "the encoder is no model of its own: heads stand in its midst",
        "test_model_outputs_equivalence": "takes the difference of booleans (which tokens are decided where); "
        "tests/modeling/test_dtop.py compares the two",
    },
    "gold_yolo": {
        "test_training": _NO_BOXES,
        "test_training_gradient_checkpointing": _NO_BOXES,
        "test_training_gradient_checkpointing_use_reentrant_false": _NO_BOXES,
    },
}
#: The same of the tests of backbones.
BACKBONES_BY_DESIGN = {
    "gold_yolo": {"test_config": "the maps of the neck have names, too, after those of the stages"},
    "ofa_mobilenetv3": {"test_config": "`depths` are those that each stage may have, not one for each"},
}

#: Task -> why models for it are not given to these tests.
OF_THEIR_OWN = {
    "image-text-to-text": "two towers and what joins them: tests/modeling/test_adem_vl.py",
    "zero-shot-image-classification": "two towers, given images and texts: tests/modeling/test_light_clip.py",
    "masked-image-modeling": "any encoder is pre-trained, none is theirs: tests/modeling/test_simmim.py, ...",
}


def tiny():
    """`tests/modeling/tiny` of this package; the name `tests` is transformers' here."""
    spec = importlib.util.spec_from_file_location(
        "tiny",
        OURS / "modeling" / "tiny" / "__init__.py",
        submodule_search_locations=[str(OURS / "modeling" / "tiny")],
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny"] = module
    spec.loader.exec_module(module)
    return module


TINY = tiny()


class Inputs:
    """What the mixins ask of a model: its tiny configuration and a batch for it."""

    is_training = True

    def __init__(self, parent, architecture, kind):
        self.parent, self.architecture, self.kind, self.batch_size = parent, architecture, kind, BATCH
        config = self.get_config()
        self.seq_length = LENGTH
        self.hidden_size = getattr(config, "hidden_size", None)
        self.num_hidden_layers = getattr(config, "num_hidden_layers", None)
        self.num_attention_heads = getattr(config, "num_attention_heads", None)

    def get_config(self):
        return TINY.tiny_config(self.architecture)

    def prepare_config_and_inputs_for_common(self):
        config = self.get_config()
        if self.kind == "vision":
            side = config.image_size
            return config, {"pixel_values": floats_tensor([BATCH, 3, side, side])}
        ids = ids_tensor([BATCH, LENGTH], config.vocab_size)
        return config, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def prepare_config_and_inputs(self):
        config, inputs = self.prepare_config_and_inputs_for_common()
        return (config, *inputs.values())


def _skipped(reason: str):
    def test(self):
        self.skipTest(reason)

    return test


def _test_class(model_type: str, architecture, kind: str) -> type:
    classes = tuple(architecture.model_class(auto) for auto in architecture.auto_classes if auto != "AutoBackbone")

    def set_up(self):
        self.model_tester = Inputs(self, architecture, kind)
        self.config_tester = ConfigTester(
            self, config_class=architecture.config_class, has_text_modality=kind == "text", common_properties=[]
        )

    def test_config(self):
        self.config_tester.create_and_test_config_to_json_string()
        self.config_tester.create_and_test_config_to_json_file()
        self.config_tester.create_and_test_config_from_and_save_pretrained()
        self.config_tester.create_and_test_config_with_num_labels()

    body = {
        "all_model_classes": classes,
        "has_attentions": kind == "text",
        "test_resize_embeddings": kind == "text",
        "is_encoder_decoder": False,
        "setUp": set_up,
        "test_config": test_config,
    }
    by_design = BY_DESIGN[kind] | BY_DESIGN.get(model_type, {})
    body |= {name: _skipped(reason) for name, reason in by_design.items() if hasattr(ModelTesterMixin, name)}
    return type(f"Test_{model_type}", (ModelTesterMixin, unittest.TestCase), body)


def _backbone_class(model_type: str, architecture) -> type:
    def set_up(self):
        self.model_tester = Inputs(self, architecture, "vision")

    return type(
        f"TestBackbone_{model_type}",
        (BackboneTesterMixin, unittest.TestCase),
        {
            "all_model_classes": (architecture.model_class("AutoBackbone"),),
            "config_class": architecture.config_class,
            "has_attentions": False,
            "setUp": set_up,
            **{name: _skipped(reason) for name, reason in BACKBONES_BY_DESIGN.get(model_type, {}).items()},
        },
    )


TESTED = {t: a for t, a in ARCHITECTURES.items() if not {task.name for task in a.tasks} & OF_THEIR_OWN.keys()}

for model_type, architecture in TESTED.items():
    found = _test_class(
        model_type, architecture, "text" if "AutoModelForCausalLM" in architecture.auto_classes else "vision"
    )
    globals()[found.__name__] = found
    if "AutoBackbone" in architecture.auto_classes:
        found = _backbone_class(model_type, architecture)
        globals()[found.__name__] = found


def test_every_architecture_is_here():
    names = {name for name in globals() if name.startswith("Test_")}
    if names != {f"Test_{name}" for name in TESTED} or len(TESTED) < 20:
        raise AssertionError(names)
