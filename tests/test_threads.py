"""Whatever answers calls is shared between threads by a test: nothing registered can be left out."""

from pkgutil import iter_modules

import pytest
import torch

from hf_effmodels import adapters, quantization
from hf_effmodels.compression import tokens
from hf_effmodels.quantization import convert_to_bitlinear, convert_to_bivit, quantize_adder, quantize_promptable
from hf_effmodels.registry import ARCHITECTURES, PIPELINES, TASK_PIPELINES

from .adapters import test_adem
from .collaboration import test_codec_training
from .compression.tokens import test_pyramid_drop
from .modeling import (
    test_adem_vl,
    test_causal_lm_common,
    test_devit,
    test_dtop,
    test_gold_yolo,
    test_light_clip,
    test_masked_images_threads,
    test_spark,
    test_tinysam,
    test_vision_common,
)
from .pipelines.delvm import test_pipeline as test_delvm
from .pipelines.hierarchical_mask_generation import test_predictor
from .pipelines.sam_diffsr import test_pipeline as test_sam_diffsr
from .quantization import test_adder
from .quantization.bitnet158 import test_conversion
from .quantization.cbq import test_formats
from .quantization.packed_binary import test_packed_binary
from .quantization.twin_uniform import test_twin_uniform
from .threads import run_together

#: Of those with a common suite: what the suite runs over, and its test.
COMMON = (
    (test_vision_common.VISION, test_vision_common.test_threads_do_not_see_each_others_images),
    (test_causal_lm_common.DECODERS, test_causal_lm_common.test_threads_do_not_see_each_others_texts),
)
MASKED = test_masked_images_threads.test_threads_do_not_see_each_others_images_and_masks
CODED = test_codec_training.test_threads_do_not_see_each_others_images_and_codes
#: Of all others: model type, pipeline, adapter, quantiser -> its test.
OWN = {
    "adem_vl": test_adem_vl.test_threads_see_their_own_images,
    "devit": test_devit.test_attention_kernels_sizes_batches_and_threads_do_not_matter,
    "dtop": test_dtop.test_threads_do_not_see_each_others_images,
    "gold_yolo": test_gold_yolo.test_threads_do_not_see_each_others_images,
    "light_clip": test_light_clip.test_threads_share_a_model,
    "spark": test_spark.test_threads_do_not_see_each_others_masks,
    "tinysam": test_tinysam.test_threads_share_a_model,
    **dict.fromkeys(("fastmim", "localmim", "simmim"), MASKED),
    **dict.fromkeys((a.model_type for a in ARCHITECTURES.values() if a.in_halves), CODED),
    "delvm": test_delvm.test_threads_share_a_pipeline,
    "sam_diffsr": test_sam_diffsr.test_threads_share_a_pipeline_and_get_what_they_would_get_alone,
    "hierarchical-mask-generation": test_predictor.test_threads_share_an_image_and_a_predictor,
    "adem": test_adem.test_threads_see_their_own_images,
    "pyramid_drop": test_pyramid_drop.test_threads_do_not_see_each_others_images,
    "cbq": test_formats.test_threads_share_a_packed_model,
    "packed_binary": test_packed_binary.test_threads_and_copies_see_the_same,
}


def adder():
    model = quantize_adder(test_adder.build(), test_adder.BATCHES)
    return model, [{"pixel_values": batch} for batch in test_adder.BATCHES], "logits"


def ternary():
    import transformers

    auto, fields, _, _ = test_conversion.MODELS["qwen2"]
    torch.manual_seed(0)
    model = getattr(transformers, auto).from_config(transformers.AutoConfig.for_model("qwen2", **fields)).eval()
    convert_to_bitlinear(model)
    return model, [{"input_ids": (torch.arange(12) * (seed + 3) % 47)[None]} for seed in range(3)], "logits"


def binary():
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    model = ViTForImageClassification(ViTConfig(**sizes, image_size=16, patch_size=8)).eval()
    return convert_to_bivit(model), [{"pixel_values": torch.randn(2, 3, 16, 16)} for _ in range(3)], "logits"


def promptable():
    model, given = test_twin_uniform.tinysam(), test_twin_uniform.samples(4)
    quantize_promptable(model, given[:1], rounds=1)
    return model, given[1:], "pred_masks"


#: Of quantisers that need no more than a model: model, inputs, what is looked at.
QUANTIZED = {"adder": adder, "bitnet158": ternary, "bivit": binary, "twin_uniform": promptable}


@pytest.mark.parametrize("name", QUANTIZED)
def test_threads_share_a_quantised_model(name):
    model, inputs, field = QUANTIZED[name]()

    def ask(given):
        with torch.no_grad():  # a thread has a mode of its own
            return model(**given)[field]

    alone = [ask(given) for given in inputs]
    assert not torch.equal(alone[0], alone[1]) and not torch.equal(alone[1], alone[2])
    together = run_together(model, [lambda given=given: ask(given) for given in inputs])
    torch.testing.assert_close(together, alone)


def test_nothing_is_registered_that_no_test_shares_between_threads():
    common = {architecture.model_type for architectures, _ in COMMON for architecture in architectures}
    folders = {m.name for room in (adapters, quantization, tokens) for m in iter_modules(room.__path__) if m.ispkg}
    registered = ARCHITECTURES.keys() | PIPELINES.keys() | TASK_PIPELINES.keys() | folders
    assert common | OWN.keys() | QUANTIZED.keys() == registered
