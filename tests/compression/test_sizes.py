"""Counts are those of the built networks; suggestions have the size that was asked for."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from hf_effmodels import PanguPiConfig
from hf_effmodels.compression import (
    count_parameters,
    list_shapes,
    suggest_config,
)
from hf_effmodels.compression.sizes import ParameterCount, Shape, _head_dim, _widths, feed_forward_size, table


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


@pytest.mark.parametrize("model_type", ["llama", "pangu_pi"])
def test_norms_of_a_suggested_shape_are_those_of_llama_2_unless_others_are_asked_for(model_type):
    assert {shape.config.rms_norm_eps for shape in list_shapes(2e6, 512, model_type=model_type)} == {1e-5}
    assert suggest_config(2e6, 512, model_type=model_type, rms_norm_eps=1e-6).rms_norm_eps == 1e-6


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
        (1e6, 0, {}, "vocab_size: got 0"),
        (float("inf"), 100, {}, "target_params: got inf"),
        (1e6, 100, {"kv_groups": 0}, "kv_groups: got 0"),
        (1e6, 100, {"tolerance": 0}, "tolerance: got 0"),
        (1e6, 100, {"tolerance": 1}, "tolerance: got 1"),
        (1e6, 100, {"head_dim": 0}, "head_dim: got 0, accepted are even numbers"),
        (1e6, 100, {"head_dim": 7}, "head_dim: got 7"),
        (1e6, 100, {"head_dim": -2}, "head_dim: got -2"),
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


def test_shapes_are_told_as_rows_and_as_a_table_that_marks_too_large_embeddings():
    shapes = list_shapes(60e6, 8192, head_dim=64, kv_groups=2, tie_word_embeddings=True)
    for shape, line in zip(shapes, table(shapes).splitlines()[1:], strict=True):
        config, row = shape.config, shape.row()
        share = 8192 * config.hidden_size / row["parameters"]
        assert row == {
            **{name: getattr(config, name) for name in row if name not in ("parameters", "embedding_share")},
            "parameters": count_parameters(config).total,
            "embedding_share": share,
        }
        assert config.num_attention_heads == 2 * config.num_key_value_heads == config.hidden_size // 64
        assert line.startswith("* " if shape is shapes[0] else "  ") and line.endswith("above 20 %") == (share >= 0.2)
        told = [config.num_hidden_layers, config.hidden_size, config.intermediate_size, config.num_attention_heads]
        assert [int(word) for word in line.removeprefix("*").split()[1:5]] == told
    assert {len(line) for line in table(shapes).splitlines() if not line.endswith("above 20 %")} == {
        len(table(shapes).splitlines()[0])
    }


@pytest.mark.parametrize(
    "hidden, feed_forward", [(32, 96), (192, 512), (224, 608), (256, 768), (768, 2048), (4096, 11008)]
)
def test_feed_forwards_are_eight_thirds_wide_rounded_up(hidden, feed_forward):
    """LLaMA's own 11008 at 4096; below a width of 256 in steps of 32."""
    assert feed_forward_size(hidden) == feed_forward


def test_a_wider_tolerance_finds_more_shapes_within_it():
    near, far = (list_shapes(3e6, 512, tolerance=share) for share in (0.02, 0.4))
    off = [abs(shape.parameters.total / 3e6 - 1) for shape in far]
    assert len(near) == sum(share <= 0.02 for share in off) < len(far) and 0.05 < max(off) <= 0.4


@pytest.mark.parametrize("hidden, head", [(32, 32), (224, 32), (256, 64), (992, 64), (1024, 128), (4096, 128)])
def test_heads_are_as_wide_as_the_network_allows(hidden, head):
    assert _head_dim(hidden, None) == head and _head_dim(hidden, 16) == 16


def test_heads_of_two_are_the_narrowest():
    assert {shape.config.head_dim for shape in list_shapes(2e6, 512, head_dim=2)} == {2}


def test_a_network_may_be_a_single_layer_and_no_more_than_four_times_as_deep_as_asked():
    # Embedding and head of 100 tokens; four matrices of 64 × 64, three of 64 × 192; three norms of 64.
    one = 2 * 100 * 64 + 4 * 64 * 64 + 3 * 64 * 192 + 3 * 64
    (shape,) = list_shapes(one, 100, tolerance=1e-9)
    assert (shape.config.hidden_size, shape.config.num_hidden_layers) == (64, 1)
    # Widths of 160 and above have up to six layers at two millions, that of 128 nine.
    assert [s.config.num_hidden_layers for s in list_shapes(2e6, 512, max_layers=2)] == [2, 6, 4, 3]
    assert [s.config.num_hidden_layers for s in list_shapes(2e6, 512, max_layers=1)] == [2, 4, 3]
    assert 1 not in [s.config.num_hidden_layers for s in list_shapes(2e6, 512)]
    assert list_shapes(2e6, 512, False, max_layers=1)[0].config.num_hidden_layers == 2


def test_the_deepest_that_is_recommended_has_at_most_22_layers_and_the_others_follow_by_depth():
    depths = [shape.config.num_hidden_layers for shape in list_shapes(60e6, 8192)]
    assert depths[0] == max(depth for depth in depths if depth <= 22)
    assert depths[1:] == sorted((depth for depth in depths if depth != depths[0]), reverse=True)


def test_widths_are_those_that_whole_groups_of_heads_fill():
    assert {s.config.hidden_size % 96 for s in list_shapes(2e6, 512, num_attention_heads=3)} == {0}, "of three heads"
    for heads, groups in ((48, 1), (16, 4), (32, 2)):
        found = list_shapes(2e6, 512, head_dim=heads, kv_groups=groups, tolerance=0.2)
        assert len(found) > 2 and all(shape.config.hidden_size % (heads * groups) == 0 for shape in found)
    assert min(shape.config.hidden_size for shape in list_shapes(2e5, 64, tolerance=0.3)) == 32
    # Twelve times the square of the width is the least of a layer: none is wider than 16384 is asked for.
    assert max(_widths(12 * 1024**2, None, 1)) == 1024 and max(_widths(1e13, None, 1)) == 16384


@pytest.mark.parametrize(
    "options, ways",
    [
        ({}, "a smaller vocabulary, a wider tolerance or tie_word_embeddings=True"),
        ({"tie_word_embeddings": True}, "a smaller vocabulary or a wider tolerance"),
        (
            {"kv_groups": 2, "tie_word_embeddings": True},
            "a smaller vocabulary, a wider tolerance or heads of another width or in other groups",
        ),
        (
            {"head_dim": 64},
            "a smaller vocabulary, a wider tolerance, heads of another width or in other groups "
            "or tie_word_embeddings=True",
        ),
    ],
    ids=["plain", "tied", "groups", "heads"],
)
def test_a_size_that_nothing_has_is_answered_with_what_else_to_ask_for(options, ways):
    with pytest.raises(ValueError, match=f"within 1 %; take {ways}.$"):
        list_shapes(1e5, 90_000, tolerance=0.01, **options)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=12),
        LlamaConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=1, attention_bias=True),
        LlamaConfig(hidden_size=32, num_attention_heads=4, mlp_bias=True, tie_word_embeddings=True),
        MistralConfig(hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=12),
        PanguPiConfig(hidden_size=32, num_attention_heads=4, augmented_shortcut_reduction=4),
        PanguPiConfig(hidden_size=32, num_attention_heads=4, series_activations=["silu"], num_augmented_shortcuts=3),
    ],
    ids=["wide heads", "attention biases", "mlp biases", "mistral", "pangu_pi", "pangu_pi of one activation"],
)
def test_each_part_of_a_network_is_counted(config):
    config.num_hidden_layers, config.vocab_size, config.intermediate_size = 3, 50, 40
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    count = count_parameters(config)
    layers = [sum(weight.numel() for weight in layer.parameters()) for layer in model.model.layers]
    assert layers == [count.layer] * 3 and count.layers == sum(layers) and count.embedding == 50 * 32
    assert count.head == (0 if config.tie_word_embeddings else 50 * 32)
    assert count.total == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("embedding, head, marked", [(20, 0, True), (10, 10, True), (19, 0, False), (5, 14, False)])
def test_a_fifth_is_too_much_for_embedding_and_head(embedding, head, marked):
    config = LlamaConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=2)
    parameters = ParameterCount(embedding, head, 40, 80 - 1, 100)
    (line,) = table([Shape(config, parameters)]).splitlines()[1:]
    assert line.endswith("above 20 %") == marked and f"{embedding + head:.2f} %" in line
