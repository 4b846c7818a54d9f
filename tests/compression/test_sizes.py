"""Counts are those of the built networks; suggestions have the size that was asked for."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from hf_effmodels import PanguPiConfig
from hf_effmodels.compression import (
    count_parameters,
    list_shapes,
    suggest_config,
)


@pytest.mark.parametrize("model_type", ["llama", "pangu_pi"])
@pytest.mark.parametrize("options", [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}])
def test_counts_are_those_of_the_network(model_type, options):
    config = suggest_config(2e6, 512, model_type=model_type, kv_groups=2, **options)
    assert config.num_key_value_heads * 2 == config.num_attention_heads
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    count = count_parameters(config)
    assert count.total == sum(weight.numel() for weight in model.parameters())
    matrices = {id(m.weight): m.weight.numel() for m in (model.get_input_embeddings(), model.get_output_embeddings())}
    assert count.embedding_share == sum(matrices.values()) / count.total
    assert 1.9e6 <= count.total <= 2.1e6


def test_the_paper_s_shape_is_suggested_for_its_size():
    config = suggest_config(1e9, 48_000)  # PanGu-π-1B Pro
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (1792, 21, 4864)
    assert config.num_attention_heads == 14


def test_depth_goes_before_width_and_every_alternative_has_the_size():
    deep, wide = (list_shapes(60e6, 8192, depth_first) for depth_first in (True, False))
    assert deep[0].config.num_hidden_layers > wide[0].config.num_hidden_layers
    assert {shape.config.hidden_size for shape in deep} == {shape.config.hidden_size for shape in wide}
    assert all(abs(shape.parameters.total / 60e6 - 1) <= 0.05 for shape in deep)
    assert deep[0].config.num_hidden_layers <= 22


def test_the_recommended_shape_is_the_deepest_allowed_or_that_of_llama_s_proportion():
    shapes = list_shapes(7e9, 32_000)
    depths = [shape.config.num_hidden_layers for shape in shapes]
    assert depths[0] == max(depth for depth in depths if depth <= 32) == 31, "22 · (7 / 1.5)^¼ = 32.3"
    few = list_shapes(7e9, 32_000, max_layers=12)
    tied = [shape.config.hidden_size for shape in few if shape.config.num_hidden_layers == 12]
    assert few[0].config.num_hidden_layers == 12 and few[0].config.hidden_size == min(tied) < max(tied)
    wide = list_shapes(7e9, 32_000, depth_first=False)
    aspects = [shape.config.hidden_size / shape.config.num_hidden_layers for shape in wide]
    assert abs(aspects[0] - 128) == min(abs(aspect - 128) for aspect in aspects) < 4


@pytest.mark.parametrize(
    "parameters, vocabulary, options, message",
    [
        (1e6, 100_000, {}, "no llama with 100000 tokens has 1e\\+06 parameters"),
        (0, 100, {}, "target_params: got 0"),
        (1e6, 100, {"model_type": "gpt2"}, "model_type: got 'gpt2'"),
    ],
)
def test_impossible_sizes_are_named(parameters, vocabulary, options, message):
    with pytest.raises(ValueError, match=message):
        suggest_config(parameters, vocabulary, **options)


def test_other_architectures_are_not_counted_wrongly():
    config = PanguPiConfig()
    config.model_type = "gpt2"
    with pytest.raises(ValueError, match="got 'gpt2'"):
        count_parameters(config)
