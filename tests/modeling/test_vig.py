"""What is ViG's own."""

import itertools
import math

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import hf_effmodels
from hf_effmodels.hub.convert import ConversionError, convert_state_dict
from hf_effmodels.modeling.vig import knn_graph
from hf_effmodels.modeling.vig.configuration_vig import PyramidVigConfig, VigConfig
from hf_effmodels.modeling.vig.convert_vig import entry_names
from hf_effmodels.modeling.vig.graph_convolutions import GRAPH_CONVOLUTIONS, gather, max_over_neighbors
from hf_effmodels.modeling.vig.knn_graph import KnnGraph, nearest_neighbors
from hf_effmodels.modeling.vig.modeling_vig import PyramidVigForImageClassification, VigForImageClassification
from hf_effmodels.modeling.vig.position_encodings import interpolate_position_embedding, relative_position_bias
from hf_effmodels.registry import ARCHITECTURES

from . import by_hand
from .tiny import tiny_config

TINY = {"hidden_sizes": (8, 8, 16), "depths": (1, 2), "stage_strides": (1, 2), "reduction_ratios": (2, 1)}
TINY |= {"num_neighbors": 4, "classifier_hidden_size": 16, "image_size": 48, "num_labels": 3}


def tiny(**overrides) -> PyramidVigForImageClassification:
    return PyramidVigForImageClassification(PyramidVigConfig(**{**TINY, **overrides})).eval()


def test_neighbours_are_the_nearest_by_brute_force(monkeypatch):
    x, y = torch.randn(2, 30, 6, dtype=torch.float64), torch.randn(2, 12, 6, dtype=torch.float64)
    y[0, 3] = 0  # a node without features is as far from all, not nearest or farthest
    bias = torch.randn(30, 12, dtype=torch.float64)
    distances = torch.cdist(F.normalize(x, dim=-1), F.normalize(y, dim=-1)) ** 2 + bias
    expected = distances.argsort(-1)
    assert torch.equal(nearest_neighbors(x, y, 12, bias), expected)
    assert torch.equal(KnnGraph(3, 4)(x, y, bias), expected[..., ::4])
    # In parts of two rows.
    monkeypatch.setattr(knn_graph, "MAX_DISTANCES", 24)
    assert torch.equal(nearest_neighbors(x, y, 5, bias), expected[..., :5])


def test_edges_are_clamped_to_the_nodes_there_are():
    for k, dilation, keys, expected in ((9, 3, 49, (9, 3)), (9, 3, 20, (9, 2)), (9, 3, 9, (9, 1)), (9, 5, 4, (4, 1))):
        assert knn_graph.clamp_neighbors(k, dilation, keys) == expected
        edges = KnnGraph(k, dilation)(torch.randn(1, 5, 8), torch.randn(1, keys, 8))
        assert edges.shape == (1, 5, expected[0])
        assert all(len(row.unique()) == expected[0] for row in edges[0])
    assert tiny()(torch.randn(1, 3, 5, 9)).logits.isfinite().all()
    # A map of one row, narrower than the window that it is pooled by.
    assert tiny()(torch.randn(1, 3, 4, 20)).logits.isfinite().all()


def test_random_dilation_draws_among_all_ranks_the_same_for_all_nodes_and_only_in_training():
    x = torch.randn(2, 20, 8)
    graph = KnnGraph(3, 4, random_rate=1.0)
    ranked = nearest_neighbors(x, x, 12)
    drawn = torch.zeros(12, dtype=torch.int64)
    for _ in range(60):
        edges = graph.train()(x, x)
        ranks = (ranked[..., None, :] == edges[..., None]).int().argmax(-1)
        assert (ranks == ranks[0, 0]).all()
        assert ranks[0, 0].unique().numel() == 3
        drawn[ranks[0, 0]] += 1
    # Each of the k·d = 12 nearest in a quarter of the draws; none never and none always.
    assert drawn.min() >= 4 and drawn.max() <= 30
    assert torch.equal(graph.eval()(x, x), ranked[..., ::4])


def test_random_dilation_happens_at_its_rate():
    x = torch.randn(1, 20, 8)
    graph = KnnGraph(3, 4, random_rate=0.3).train()
    model = tiny(random_dilation_rate=0.3)
    assert {module.random_rate for module in model.modules() if isinstance(module, KnnGraph)} == {0.3}
    regular = nearest_neighbors(x, x, 12)[..., ::4]
    changed = sum(not torch.equal(graph(x, x), regular) for _ in range(200))
    assert 35 < changed < 85


@pytest.mark.parametrize("kind", ["edge", "sage"])
def test_statistics_in_training_are_those_of_the_edges(kind):
    """A key counts as often as it is a neighbour: not once for each node, and not once for each key."""
    conv = GRAPH_CONVOLUTIONS[kind](8, 16, momentum=0.5).double().train()
    nodes, keys = torch.randn(2, 12, 8, dtype=torch.float64), torch.randn(2, 6, 8, dtype=torch.float64) * 2 + 1
    edges = KnnGraph(4)(nodes, keys)
    conv(nodes, keys, edges, (3, 4))
    features = torch.stack([keys[image][edges[image]] for image in range(2)])  # (B, N, k, C)
    layer = conv.message.linear if kind == "sage" else conv.update.linear
    if kind == "edge":
        centres = nodes[:, :, None].expand_as(features)
        features = torch.cat((centres, features - centres), dim=-1)
    values = layer.conv(features.permute(0, 3, 1, 2)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(layer.norm.running_mean, 0.5 * values.mean(1))
    torch.testing.assert_close(layer.norm.running_var, 0.5 + 0.5 * values.var(1))


def test_distances_stay_exact_under_autocast():
    x = torch.randn(1, 200, 16)
    exact = nearest_neighbors(x, x, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(nearest_neighbors(x, x, 9), exact)


def test_largest_neighbours_and_their_gradients_are_those_of_all_edges():
    keys = torch.randn(2, 10, 4, dtype=torch.float64, requires_grad=True)
    neighbors = torch.stack([torch.stack([torch.randperm(10)[:3] for _ in range(7)]) for _ in range(2)])
    weights = torch.randn(2, 7, 4, dtype=torch.float64)
    expected = gather(keys, neighbors).amax(2)
    (wanted,) = torch.autograd.grad((expected * weights).sum(), keys)
    got = max_over_neighbors(keys, neighbors)
    (gradient,) = torch.autograd.grad((got * weights).sum(), keys)
    assert torch.equal(got, expected)
    torch.testing.assert_close(gradient, wanted)
    with torch.no_grad():
        assert torch.equal(max_over_neighbors(keys, neighbors), expected)


def test_of_equally_large_neighbours_the_first_learns():
    keys = torch.tensor([[[1.0], [5.0], [5.0], [2.0]]], requires_grad=True)
    for neighbors, winner in (([0, 1, 2], 1), ([2, 1, 3], 2)):
        largest = max_over_neighbors(keys, torch.tensor([[neighbors]]))
        (gradient,) = torch.autograd.grad(largest.sum(), keys)
        assert largest.item() == 5 and gradient.flatten().tolist() == [float(number == winner) for number in range(4)]


@pytest.mark.parametrize("kind", GRAPH_CONVOLUTIONS)
def test_every_graph_convolution_trains_and_folds(kind):
    model = tiny(graph_convolution=kind).double()
    pixels, labels = torch.randn(4, 3, 48, 48, dtype=torch.float64), torch.tensor([0, 1, 2, 0])
    model.train()(pixels, labels=labels).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    for norm in model.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.normal_()
    with torch.no_grad():
        before = model.eval()(pixels).logits
        torch.testing.assert_close(model.reparameterize()(pixels).logits, before, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", ["edge", "sage"])
@torch.no_grad()
def test_edges_one_neighbour_at_a_time_or_all_at_once_are_the_same(kind):
    """In evaluation nothing of the size of all edges is made; training needs it for the norms' statistics."""
    conv = GRAPH_CONVOLUTIONS[kind](8, 16).double().eval()
    for norm in (m for m in conv.modules() if isinstance(m, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_()
    nodes, keys = torch.randn(2, 12, 8, dtype=torch.float64), torch.randn(2, 6, 8, dtype=torch.float64)
    edges = KnnGraph(4)(nodes, keys)
    expected = conv(nodes, keys, edges, (3, 4))
    conv.training = True  # the layer's own way to go, with norms that stay in evaluation
    torch.testing.assert_close(conv(nodes, keys, edges, (3, 4)), expected)


@torch.no_grad()
def test_graph_lists_the_edges_of_each_block():
    model = tiny()
    pixels = torch.randn(2, 3, 48, 64)
    assert model(pixels).graph is None
    graph = model(pixels, output_graph=True).graph
    assert [tuple(edges.shape) for edges in graph] == [(2, 12 * 16, 4), (2, 6 * 8, 4), (2, 6 * 8, 4)]
    assert [int(edges.max()) < keys for edges, keys in zip(graph, (6 * 8, 6 * 8, 6 * 8), strict=True)] == [True] * 3
    # Nodes are their own nearest neighbour where there is no pooling and no bias of positions.
    plain = VigForImageClassification(
        VigConfig(hidden_sizes=(8, 8), depths=(2,), stage_strides=(1,), reduction_ratios=(1,), num_neighbors=3)
    ).eval()
    for edges in plain(pixels, output_graph=True).graph:
        assert torch.equal(edges[0, :, 0], torch.arange(3 * 4))


@torch.no_grad()
def test_largest_tensors_grow_with_nodes_times_keys_not_with_features():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            output = function(*args, **(kwargs or {}))
            for value in output if isinstance(output, (tuple, list)) else (output,):
                if isinstance(value, torch.Tensor):
                    self.elements = max(self.elements, value.untyped_storage().nbytes() // value.element_size())
            return output

    nodes, channels, k = 400, 32, 9
    x = torch.randn(1, nodes, channels)
    conv = GRAPH_CONVOLUTIONS["max_relative"](channels, 2 * channels).eval()
    with Largest() as largest:
        conv(x, x, KnnGraph(k)(x, x), (20, 20))
    assert largest.elements == nodes * nodes  # the distances; all edges' features would be less only here
    keys = x[:, :16]
    with Largest() as largest:
        conv(x, keys, KnnGraph(k)(x, keys), (20, 20))
    assert largest.elements <= 2 * nodes * channels < nodes * k * channels


@torch.no_grad()
def test_encodings_follow_the_size_of_the_image():
    model = tiny()
    model.base_model.stem.position_embedding.normal_()
    stem = model.base_model.stem
    stem.layers.register_forward_hook(lambda *a: None)
    for size, grid in (((48, 48), (12, 12)), ((96, 64), (24, 16)), ((50, 33), (13, 9))):
        hidden = model(torch.randn(1, 3, *size), output_hidden_states=True).hidden_states
        assert tuple(hidden[0].shape[-2:]) == grid
    # Same place: about -1, the smallest of the row; farther away it grows.
    table = relative_position_bias(32, 8, 8, 1)
    assert torch.equal(table.argmin(-1), torch.arange(64))
    torch.testing.assert_close(table.diagonal(), torch.full((64,), -1.0))
    assert table[0, 1] < table[0, 9] < table[0, 27]
    # Interpolated in full precision, whatever the network's.
    learned = torch.randn(1, 4, 6, 6, generator=torch.Generator().manual_seed(1)).bfloat16()
    expected = F.interpolate(learned.float(), size=(9, 5), mode="bicubic", align_corners=False)
    assert torch.equal(interpolate_position_embedding(learned, 9, 5), expected.bfloat16())
    assert interpolate_position_embedding(learned, 6, 6) is learned


def official_weights(model) -> dict:
    """The tiny network in the official layout."""
    names = {"stem.position_embedding": "pos_embed"}
    entries = ["stages.0.blocks.0", "stages.1", "stages.1.blocks.0", "stages.1.blocks.1"]
    parts = {"grapher.project_in": "0.fc1", "grapher.project_out": "0.fc2", "feed_forward.expand": "1.fc1"}
    parts |= {"feed_forward.reduce": "1.fc2", "grapher.convolution.update.linear": "0.graph_conv.gconv.nn"}
    parts["downsample"] = "conv"
    layers = {"conv": 0, "norm": 1}
    for position in range(3):
        names |= {f"stem.layers.{position}.{kind}": f"stem.convs.{3 * position + i}" for kind, i in layers.items()}
    for index, entry in enumerate(entries):
        for ours, theirs in parts.items():
            names |= {f"{entry}.{ours}.{kind}": f"backbone.{index}.{theirs}.{i}" for kind, i in layers.items()}
    names |= {"head.linear": "prediction.0", "head.norm": "prediction.1", "classifier": "prediction.4"}
    weights = {}
    for name, value in model.state_dict().items():
        name = name.removeprefix("pyramidvig.")
        for ours in sorted(names, key=len, reverse=True):
            if name == ours or name.startswith(f"{ours}."):
                theirs = names[ours] + name[len(ours) :]
                weights[theirs] = value[..., None, None] if value.ndim == 2 else value
                break
        else:
            assert name.endswith("relative_position"), name
    tables = {0: (0,), 1: (2, 3)}
    for stage, blocks in tables.items():
        for block in blocks:
            table = model.base_model.stages[stage].relative_position
            weights[f"backbone.{block}.0.relative_pos"] = table[None].clone()
    return weights


@pytest.mark.parametrize("strides, named", [((1, 1, 1), []), ((1, 2, 1), [1]), ((2, 1, 2), [0, 2])])
def test_entries_of_the_official_list_are_blocks_and_what_halves_the_map(strides, named):
    """A ViG has stages of one stride, with nothing between them."""
    config = VigConfig(hidden_sizes=(8,) * 4, depths=(2, 1, 1), stage_strides=strides, reduction_ratios=(1,) * 3)
    expected = []
    for stage, blocks in enumerate(((0, 1), (0,), (0,))):
        expected += [f"stages.{stage}"] if stage in named else []
        expected += [f"stages.{stage}.blocks.{number}" for number in blocks]
    assert entry_names(config) == expected


def converted(weights: dict) -> PyramidVigForImageClassification:
    return convert_state_dict(ARCHITECTURES["pyramidvig"], PyramidVigConfig(**TINY), weights)[0]


@torch.no_grad()
def test_tables_of_a_checkpoint_are_used_as_they_are(tmp_path):
    """One for each stage where its blocks have the same, else one for each block; computed where there is none."""
    model, pixels = tiny(), torch.randn(2, 3, 48, 48)
    weights = official_weights(model)
    tables = {name: value for name, value in weights.items() if name.endswith("relative_pos")}
    assert [tuple(table.shape) for table in tables.values()] == [(1, 144, 36), (1, 36, 36), (1, 36, 36)]
    same = converted(weights)
    assert not same.config.relative_position_per_block
    torch.testing.assert_close(same(pixels).logits, model(pixels).logits)
    without = converted({name: value for name, value in weights.items() if name not in tables})
    assert torch.equal(without.base_model.stages[1].relative_position, model.base_model.stages[1].relative_position)

    # Other values than the computed ones, the same in all blocks of a stage: one table.
    shifted = converted(weights | {name: table + 0.5 for name, table in tables.items()})
    assert not shifted.config.relative_position_per_block
    assert torch.equal(shifted.base_model.stages[0].relative_position, tables["backbone.0.0.relative_pos"][0] + 0.5)

    # Other ones in every block.
    trained = weights | {name: torch.randn_like(table) for name, table in tables.items()}
    own = converted(trained)
    assert own.config.relative_position_per_block
    seen = []
    for stage in own.base_model.stages:
        for block in stage.blocks:
            block.grapher.graph.register_forward_pre_hook(lambda module, args: seen.append(args[2]))
    expected = own(pixels).logits
    assert all(torch.equal(got, trained[name][0]) for got, name in zip(seen, tables, strict=True))
    assert not torch.allclose(expected, same(pixels).logits)
    own.save_pretrained(tmp_path)
    torch.testing.assert_close(PyramidVigForImageClassification.from_pretrained(tmp_path)(pixels).logits, expected)
    # Built anew, and at another size, where each is interpolated.
    fresh = PyramidVigForImageClassification(own.config).base_model.stages[1]
    assert torch.equal(fresh.relative_position, model.base_model.stages[1].relative_position.expand(2, -1, -1))
    assert own(torch.randn(1, 3, 64, 40)).logits.isfinite().all()
    assert seen[-1].shape == (8 * 5, 8 * 5)
    with pytest.raises(ConversionError, match=r"relative_pos: got a table of shape \(1, 25, 25\), .*image_size=48"):
        converted(weights | {"backbone.3.0.relative_pos": torch.zeros(1, 25, 25)})
    with pytest.raises(ConversionError, match=r"relative_pos: got a table of shape \(1, 72, 18\), .*image_size=48"):
        converted(weights | {"backbone.3.0.relative_pos": torch.zeros(1, 72, 18)})


@pytest.mark.parametrize("model_type", ["vig", "pyramidvig"])
def test_exported_programs_take_any_batch_and_say_that_the_size_is_fixed(model_type, monkeypatch):
    """transformers' own exporter marks all sizes as free."""
    from transformers.exporters.exporter_dynamo import DynamoConfig, DynamoExporter

    from hf_effmodels.modeling.vig import modeling_vig

    said = []
    monkeypatch.setattr(modeling_vig.logger, "warning_once", said.append)
    architecture = ARCHITECTURES[model_type]
    shape = {"hidden_sizes": (8, 8), "depths": (1,), "stage_strides": (1,), "reduction_ratios": (2,)}
    config = tiny_config(architecture, num_labels=3, **shape)
    model = architecture.model_class("AutoModelForImageClassification")(config).eval()
    program = DynamoExporter().export(
        model, {"pixel_values": torch.randn(2, 3, 64, 64)}, config=DynamoConfig(dynamic=True)
    )
    assert len(said) == 1 and "images of 64×64 pixels only" in said[0]
    for batch in (1, 3):
        pixels = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            torch.testing.assert_close(program(pixel_values=pixels)["logits"], model(pixels).logits)
    with pytest.raises(Exception, match=r"size\(\)\[2\] == 64"):
        program(pixel_values=torch.randn(2, 3, 96, 64))


def test_dilations_and_neighbours_are_the_published_ones():
    blocks = [block for stage in hf_effmodels.get_config("vig-ti").blocks for block in stage]
    assert [b["num_neighbors"] for b in blocks] == [9, 9, 10, 11, 12, 13, 13, 14, 15, 16, 17, 18]
    assert [b["dilation"] for b in blocks] == [1] * 4 + [2] * 4 + [3] * 4
    blocks = [block for stage in hf_effmodels.get_config("vig-s").blocks for block in stage]
    assert [b["num_neighbors"] for b in blocks] == [9, 9, 10, 10, 11, 12, 12, 13, 13, 14, 15, 15, 16, 16, 17, 18]
    blocks = [block for stage in hf_effmodels.get_config("pyramidvig-b").blocks for block in stage]
    assert {b["num_neighbors"] for b in blocks} == {9}
    assert [b["dilation"] for b in blocks] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4 + [5] * 8


@pytest.mark.parametrize(
    "overrides, message",
    [
        ({"graph_convolution": "attention"}, "graph_convolution: got 'attention', accepted are 'max_relative'"),
        ({"depths": (1, 1, 1)}, r"hidden_sizes: got \[8, 8, 16\], accepted are 4 numbers"),
        ({"stage_strides": (1, 1)}, r"stage_strides: got \[1, 1\]"),
        ({"hidden_sizes": (8, 8, 18)}, "multiples of num_groups=4"),
        ({"stem_stride": 6}, "stem_stride: got 6, accepted are powers of two"),
        ({"num_neighbors": 0}, "num_neighbors: got 0"),
        ({"num_neighbors": (4, 0)}, r"num_neighbors: got \(4, 0\)"),
        ({"num_neighbors": [4, 5, 6]}, r"num_neighbors: got \[4, 5, 6\]"),
        ({"stage_strides": (3, 2)}, r"stage_strides: got \[3, 2\]"),
        ({"hidden_sizes": (8, 8, 6)}, r"hidden_sizes: got \[8, 8, 6\]"),
        ({"depths": (1, 0)}, r"depths: got \[1, 0\]"),
        ({"reduction_ratios": (0, 1)}, r"reduction_ratios: got \[0, 1\]"),
        ({"max_dilation": 0}, "max_dilation: got 0"),
        ({"mlp_ratio": 0}, "mlp_ratio: got 0"),
        ({"num_groups": 0}, "num_groups: got 0"),
        ({"classifier_hidden_size": 0}, "classifier_hidden_size: got 0"),
        ({"hidden_act": "tanh"}, "hidden_act: got 'tanh', accepted are 'gelu'"),
        ({"drop_path_rate": 1.0}, "drop_path_rate: got 1.0"),
        ({"random_dilation_rate": 1.1}, "random_dilation_rate: got 1.1"),
        ({"stem_stride": 1}, "stem_stride: got 1"),
        ({"stem_stride": 32, "num_groups": 1}, "hidden_sizes: got 8 for the stem"),
    ],
)
def test_bad_settings_are_refused_by_name(overrides, message):
    with pytest.raises(ValueError, match=message):
        hf_effmodels.get_config("pyramidvig-ti", **{**TINY, **overrides})


def test_neighbours_are_drawn_where_they_are():
    from hf_effmodels.modeling.vig.visualization import plot_neighbors

    image = Image.new("RGB", (80, 60))
    edges = torch.zeros(12, 2, dtype=torch.int64)
    edges[5] = torch.tensor([1, 0])  # node (1, 1) of a 3×4 grid, neighbours of a 1×2 grid
    ax = plot_neighbors(image, edges, (1, 1), grid=(3, 4), reduction=2)
    corners = [tuple(patch.get_xy()) + (patch.get_width(), patch.get_height()) for patch in ax.patches]
    assert corners == [(39.5, -0.5, 40.0, 40.0), (-0.5, -0.5, 40.0, 40.0)]
    star = ax.lines[-1]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (29.5, 29.5)
    # Lines from the node to the middle of each neighbour, the nearest one drawn strongest; the whole image is seen.
    ends = [(list(line.get_xdata()), list(line.get_ydata())) for line in ax.lines[:-1]]
    assert ends == [([29.5, 59.5], [29.5, 19.5]), ([29.5, 19.5], [29.5, 19.5])]
    assert [line.get_alpha() for line in ax.lines[:-1]] == [patch.get_alpha() for patch in ax.patches] == [1, 0.65]
    assert (ax.get_xlim(), ax.get_ylim(), ax.axison) == ((-0.5, 79.5), (59.5, -0.5), False)
    # A map of one row is pooled by what it has.
    low = plot_neighbors(image, torch.ones(4, 1, dtype=torch.int64), 0, grid=(1, 4), reduction=2)
    (patch,) = low.patches
    assert (patch.get_xy(), patch.get_width(), patch.get_height()) == ((39.5, -0.5), 40.0, 60.0)
    # A square grid unless told otherwise, on the axes that are given.
    square = torch.zeros(9, 1, dtype=torch.int64) + 5
    same = plot_neighbors(image, square, 7, ax=plot_neighbors(image, square, 0))
    assert [patch.get_xy() for patch in same.patches] == [pytest.approx((160 / 3 - 0.5, 19.5))] * 2
    assert len(same.lines) == 4
    with pytest.raises(ValueError, match=r"grid: got \(4, 4\)"):
        plot_neighbors(image, edges, 5, grid=(4, 4))
    with pytest.raises(
        ValueError, match=r"neighbors: got shape \(1, 12, 2\), accepted is \(nodes, k\): one image's ed"
    ):
        plot_neighbors(image, edges[None], 5)
    for outside in ((3, 0), (0, 4), (-1, 0), (0, -1), -1):
        with pytest.raises(ValueError, match="node: got .*, accepted are the nodes of a 3×4 grid"):
            plot_neighbors(image, edges, outside, grid=(3, 4))
    with pytest.raises(ValueError, match="node: got 12"):
        plot_neighbors(image, edges, 12, grid=(3, 4))
    with pytest.raises(ValueError, match="reduction: got 3, which leaves 1 nodes"):
        plot_neighbors(image, edges, 5, grid=(3, 4), reduction=3)


@pytest.mark.parametrize("grid", [(3, 5), (5, 3)])
def test_a_node_is_numbered_row_by_row_in_whatever_grid(grid):
    """The star is where the row and the column are, and the neighbour that of this node."""
    from matplotlib.figure import Figure

    from hf_effmodels.modeling.vig.visualization import plot_neighbors

    height, width = grid
    image = Image.new("RGB", (10 * width, 10 * height))
    edges = torch.arange(14, -1, -1)[:, None]  # of the first the last one, and so on
    places = list(itertools.product(range(height), range(width)))
    for node in (0, 4, 7, 11, 14):
        row, column = places[node]
        ax = plot_neighbors(image, edges, node, grid=grid, ax=Figure().subplots())
        (star,) = (line for line in ax.lines if line.get_marker() == "*")
        assert (star.get_xdata()[0], star.get_ydata()[0]) == (10 * column + 4.5, 10 * row + 4.5)
        # The grid turned upside down.
        (neighbour,) = ax.patches
        assert neighbour.get_xy() == (10 * (width - 1 - column) - 0.5, 10 * (height - 1 - row) - 0.5)
    with pytest.raises(ValueError, match=f"node: got 15, accepted are the nodes of a {height}×{width} grid"):
        plot_neighbors(image, edges, 15, grid=grid)


# The network, by hand


def vig_by_hand(weights, config, pixels):
    """Section 3 of the paper: a graph of the nearest neighbours, a convolution along its edges, feed-forward."""
    eps, groups = config.batch_norm_eps, config.num_groups
    act = {
        "gelu": lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2,
        "relu": lambda x: x.clamp(min=0),
        "leaky_relu": lambda x: torch.where(x > 0, x, 0.2 * x),
        "hardswish": lambda x: x * (x + 3).clamp(0, 6) / 6,
        "silu": lambda x: x * x.sigmoid(),
    }[config.hidden_act]

    def update(name, features, groups=groups):
        return act(by_hand.conv_norm(weights, f"{name}.linear", features, eps, groups=groups))

    def graph_convolution(name, nodes, keys, edges, height, width):
        def as_map(values):  # (B, N, C, ...) -> (B, C, H, W) or (B, C, N, k)
            return (
                values.permute(0, 2, 1).unflatten(2, (height, width))
                if values.ndim == 3
                else values.permute(0, 3, 1, 2)
            )

        neighbors = torch.stack([keys[image][edges[image]] for image in range(len(nodes))])  # (B, N, k, C)
        if config.graph_convolution == "max_relative":
            relative = (neighbors - nodes[:, :, None]).amax(2)
            return update(f"{name}.update", as_map(torch.stack((nodes, relative), -1).flatten(2)))
        if config.graph_convolution == "edge":
            centres = nodes[:, :, None].expand_as(neighbors)
            messages = update(f"{name}.update", as_map(torch.cat((centres, neighbors - centres), -1)))
            return messages.amax(3).unflatten(2, (height, width))
        if config.graph_convolution == "sage":
            largest = update(f"{name}.message", as_map(neighbors)).amax(3).transpose(1, 2)
            return update(f"{name}.update", as_map(torch.cat((nodes, largest), -1)))
        summed = (1 + weights[f"{name}.eps"]) * nodes + neighbors.sum(2)
        return update(f"{name}.update", as_map(summed))

    layers = config.stem_stride.bit_length()
    hidden = pixels
    for index in range(layers):
        hidden = by_hand.conv_norm(weights, f"stem.layers.{index}", hidden, eps, stride=2 if index < layers - 1 else 1)
        hidden = act(hidden) if index < layers - 1 else hidden
    hidden = hidden + weights["stem.position_embedding"]
    total, number = sum(config.depths), 0
    first, last = config.num_neighbors
    for stage, depth in enumerate(config.depths):
        if config.stage_strides[stage] == 2:
            hidden = by_hand.conv_norm(weights, f"stages.{stage}.downsample", hidden, eps, stride=2)
        for index in range(depth):
            name, reduction = f"stages.{stage}.blocks.{index}", config.reduction_ratios[stage]
            features = by_hand.conv_norm(weights, f"{name}.grapher.project_in", hidden, eps)
            height, width = features.shape[2:]
            nodes = features.flatten(2).transpose(1, 2)
            keys = F.avg_pool2d(features, reduction).flatten(2).transpose(1, 2)
            distances = torch.cdist(F.normalize(nodes, dim=-1), F.normalize(keys, dim=-1)) ** 2
            if config.relative_position:
                distances = distances + weights[f"stages.{stage}.relative_position"]
            k = int(first + (last - first) * number / (total - 1))
            dilation = min(number // 4 + 1, config.max_dilation, keys.shape[1] // k)
            edges = distances.argsort(-1)[..., : k * dilation : dilation]
            features = graph_convolution(f"{name}.grapher.convolution", nodes, keys, edges, height, width)
            hidden = hidden + by_hand.conv_norm(weights, f"{name}.grapher.project_out", features, eps)
            features = act(by_hand.conv_norm(weights, f"{name}.feed_forward.expand", hidden, eps))
            assert features.shape[1] == config.mlp_ratio * hidden.shape[1]
            hidden = hidden + by_hand.conv_norm(weights, f"{name}.feed_forward.reduce", features, eps)
            number += 1
    features = by_hand.linear(weights, "head.linear", hidden.mean((2, 3)))
    assert features.shape[1] == config.classifier_hidden_size
    return by_hand.linear(weights, "classifier", act(by_hand.norm(weights, "head.norm", features, eps)))


@torch.no_grad()
@pytest.mark.parametrize(
    "hidden_act, graph_convolution",
    [
        ("gelu", "max_relative"),
        ("leaky_relu", "edge"),
        ("hardswish", "sage"),
        ("silu", "gin"),
        ("relu", "max_relative"),
    ],
)
@pytest.mark.parametrize("relative_position", [False, True])
def test_the_network_is_the_published_formula_with_any_setting(hidden_act, graph_convolution, relative_position):
    config = PyramidVigConfig(
        num_channels=2,
        image_size=(37, 54),
        stem_stride=4,
        hidden_sizes=(8, 8, 12),
        depths=(2, 5),
        stage_strides=(1, 2),
        num_neighbors=(3, 5),
        max_dilation=2,
        reduction_ratios=(2, 1),
        relative_position=relative_position,
        graph_convolution=graph_convolution,
        num_groups=2,
        mlp_ratio=3,
        hidden_act=hidden_act,
        classifier_hidden_size=20,
        batch_norm_eps=0.05,
        num_labels=3,
    )
    model = PyramidVigForImageClassification(config).eval().double()
    pixels = torch.randn(2, 2, 37, 54, dtype=torch.float64)
    expected = vig_by_hand(by_hand.weights_of(model), config, pixels)
    torch.testing.assert_close(model(pixels).logits, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.reparameterize()(pixels).logits, expected, rtol=1e-6, atol=1e-6)


def test_branches_are_dropped_more_often_the_deeper_they_lie():
    model = tiny(drop_path_rate=0.6, depths=(2, 3)).train()
    blocks = [block for stage in model.base_model.stages for block in stage.blocks]
    for part in ("grapher", "feed_forward"):
        rates = [getattr(block, part).drop_path.rate for block in blocks]
        assert rates == pytest.approx([0, 0.15, 0.3, 0.45, 0.6])


def test_weights_start_as_the_official_codes():
    torch.manual_seed(0)
    model = VigForImageClassification(VigConfig(graph_convolution="gin"))
    block = model.vig.stages[0].blocks[0]
    # Normal with a gain of √2: deviation √(2 / fan-in).
    for module, fan_in in (
        (block.feed_forward.expand.conv, 192),
        (block.grapher.convolution.update.linear.conv, 192 / 4),
        (model.vig.stem.layers[-1].conv, 192 * 9),
        (model.head.linear, 192),
    ):
        assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05)
        assert module.weight.abs().max() > 3 * (2 / fan_in) ** 0.5
        assert module.bias.abs().max() == 0
    assert model.vig.stem.position_embedding.abs().max() == 0
    assert block.grapher.convolution.eps.item() == 0


def test_relative_positions_are_the_similarities_of_sines_and_cosines():
    channels, height, width = 8, 3, 2

    def encoding(row, column):
        angles = [place / 10000 ** (i / 2) for place in (column, row) for i in range(2)]
        halves = [angles[:2], angles[2:]]
        return torch.tensor([f(angle) for half in halves for f in (math.sin, math.cos) for angle in half])

    table = torch.stack([encoding(row, column) for row in range(height) for column in range(width)])
    expected = -(2 / channels) * table @ table.T
    torch.testing.assert_close(relative_position_bias(channels, height, width, 1), expected)
