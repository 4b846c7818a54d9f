"""ViG and Pyramid ViG: classifiers in evaluation and training, and their parts alone.

Which neighbours are nearest is a discrete choice: in float32 a near-tie may fall the other way, in the official code
as here, and change the features visibly. So a float32 run must find nearly all of the edges itself, and is then
compared with the edges of the float64 run, as closely as anything else.
"""

from functools import partial

import torch
from torch.nn import functional as F

from hf_effmodels.hub.convert import official_name
from hf_effmodels.modeling.vig.configuration_vig import PyramidVigConfig
from hf_effmodels.modeling.vig.convert_vig import RULES, entry_names
from hf_effmodels.modeling.vig.graph_convolutions import GRAPH_CONVOLUTIONS
from hf_effmodels.modeling.vig.knn_graph import KnnGraph
from hf_effmodels.modeling.vig.modeling_vig import Grapher
from hf_effmodels.modeling.vig.position_encodings import interpolate_relative_position, relative_position_bias

from .. import golden
from ..classification import ClassifierCase

SYSTEMS = ("vig",)
GRAPH_CONVOLUTION_NAMES = {"mr": "max_relative", "edge": "edge", "sage": "sage", "gin": "gin"}
#: official name of a published network -> blocks of each stage, channels of each stage
PUBLISHED = {
    "vig_ti_224_gelu": ((12,), (192,)),
    "vig_s_224_gelu": ((16,), (320,)),
    "vig_b_224_gelu": ((16,), (640,)),
    "pvig_ti_224_gelu": ((2, 2, 6, 2), (48, 96, 240, 384)),
    "pvig_s_224_gelu": ((2, 2, 6, 2), (80, 160, 400, 640)),
    "pvig_m_224_gelu": ((2, 2, 16, 2), (96, 192, 384, 768)),
    "pvig_b_224_gelu": ((2, 2, 18, 2), (128, 256, 512, 1024)),
}


class VigCase(ClassifierCase):
    @property
    def is_pyramid(self) -> bool:
        return self.case["config"]["arch"].startswith(("pvig", "pyramid"))

    def model_type(self) -> str:
        return "pyramidvig" if self.is_pyramid else "vig"

    def configuration(self) -> dict:
        published = self.case["config"]
        if published["arch"] in PUBLISHED:
            depths, channels = PUBLISHED[published["arch"]]
        elif self.is_pyramid:
            depths, channels = published["blocks"], published["channels"]
        else:
            depths, channels = (published["n_blocks"],), (published["channels"],)
        k = published.get("k", 9)
        configuration = {
            "depths": depths,
            "hidden_sizes": (channels[0], *channels),
            "num_labels": published["num_classes"],
            "graph_convolution": GRAPH_CONVOLUTION_NAMES[published.get("conv", "mr")],
            "num_neighbors": k if self.is_pyramid else (k, 2 * k),
            "max_dilation": 49 // k if self.is_pyramid else 196 // (2 * k),
        }
        if not self.is_pyramid:
            configuration |= {"stage_strides": (1,), "reduction_ratios": (1,)}
        return configuration

    def ours(self, official: str) -> str:
        """Our name in the base model or the head, with the entry of the official list as stage and block."""
        name = official_name(self.architecture, official)
        parts = name.split(".")
        if parts[0] == "backbone":
            name = ".".join([entry_names(self.model.config)[int(parts[1])], *parts[2:]])
        return name

    def watch(self) -> None:
        for name in self.wanted:
            if name == "stem":
                # Before the position embedding.
                self.model.base_model.stem.layers[-1].register_forward_hook(self._keep(name))
            elif name.startswith("backbone.") and not name.endswith(".neighbours"):
                self.entry(name).register_forward_hook(self._keep(name))

    def outputs(self) -> dict[str, torch.Tensor]:
        if self.dtype == torch.float32:
            self.use_exact_edges()
        return super().outputs()

    @torch.no_grad()
    def use_exact_edges(self) -> None:
        """Let each graph be that of the float64 run, provided it finds nearly all of the edges itself."""
        exact = VigCase(self.case, torch.float64)
        exact.model.train("labels" in self.values)
        expected = exact.model(exact.values["pixel_values"], output_graph=True).graph

        def replace(module, args, output, edges):
            found = (output[..., None] == edges[..., None, :]).any(-1).double().mean()
            assert found > 0.99, f"only {found:.2%} of the edges are right in float32"
            return edges

        graphs = [module for module in self.model.modules() if isinstance(module, KnnGraph)]
        for graph, edges in zip(graphs, expected, strict=True):
            graph.register_forward_hook(partial(replace, edges=edges), prepend=True)

    def entry(self, name: str):
        module = self.model.base_model.get_submodule(self.ours(name))
        return getattr(module, "downsample", module)

    def forward(self):
        outputs = self.model(self.values["pixel_values"], output_graph=True)
        blocks = [name for name in entry_names(self.model.config) if ".blocks." in name]
        for name in self.wanted:
            if name.endswith(".neighbours"):
                self.features[name] = outputs.graph[blocks.index(self.ours(name.removesuffix(".neighbours")))]
        return outputs

    def in_training(self) -> dict[str, torch.Tensor]:
        self.model.train()
        logits = self.forward().logits
        loss = F.cross_entropy(logits, self.values["labels"])
        loss.backward()
        results = {"logits": logits, "loss": loss, **self.features}
        for name in self.wanted:
            kind, _, official = name.partition(".")
            if kind in ("grad", "after"):
                module, _, attribute = self.ours(official).rpartition(".")
                value = getattr(self.named(module, self.model.get_submodule), attribute)
                results[name] = value.grad if kind == "grad" else value
        return self.shaped(results)


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if "arch" in case["config"]:
        return VigCase(case, dtype).outputs()
    parts = {
        "fn_knn_graph": _knn_graph,
        "fn_relative_pos": _relative_position,
        "fn_graph_convs": _graph_convolutions,
        "fn_graph_convs_reduced": _graph_convolutions,
        "fn_grapher_other_size": _grapher,
    }
    return parts[case["variant"]](case, dtype)


def _nodes(value: torch.Tensor) -> torch.Tensor:
    return value.flatten(2).transpose(1, 2)


def _knn_graph(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, k, dilation = golden.inputs(case, dtype), case["config"]["k"], case["config"]["dilation"]
    x, y = _nodes(values["x"]), _nodes(values["y"])
    own, cross = values["relative_pos_self"][0], values["relative_pos_cross"][0]
    dilated = KnnGraph(k, dilation)
    results = {
        "self.dilation1": KnnGraph(k)(x, x),
        "self.dilated": dilated(x, x),
        "self.dilated.relative_pos": dilated(x, x, own),
        "cross.dilated": dilated(x, y),
        "cross.dilated.relative_pos": dilated(x, y, cross),
    }
    # The official edges name the node itself, too; here it is their first index.
    batch, nodes = x.shape[:2]
    results["centre"] = torch.arange(nodes)[None, :, None].expand(batch, nodes, k)
    return results


def _relative_position(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    results = {}
    for channels, nodes, reduction in case["config"]["items"]:
        side = round(nodes**0.5)
        name = f"C{channels}_n{nodes}_r{reduction}"
        table = relative_position_bias(channels, side, side, reduction)
        results[name] = table[None]
        for resized in (n for n in case["outputs"] if n.startswith(f"{name}_to_")):
            height, width = map(int, resized.rsplit("_", 1)[1].split("x"))
            keys = (height // reduction) * (width // reduction)
            results[resized] = interpolate_relative_position(table.to(dtype), height * width, keys)[None]
    return results


def _renamed(weights: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Official names of a part of a network as ours: completed to names of a network, renamed, cut again."""

    class Convertible:
        class conversion_module:
            pass

    Convertible.conversion_module.RULES = RULES
    start = official_name(Convertible, prefix)
    return {
        official_name(Convertible, f"{prefix}.{name}").removeprefix(f"{start}."): value
        for name, value in weights.items()
    }


def _graph_convolutions(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values = case["config"], golden.inputs(case, dtype)
    weights, results = golden.state_dict(case, dtype), {}
    for kind, ours in GRAPH_CONVOLUTION_NAMES.items():
        conv = GRAPH_CONVOLUTIONS[ours](config["in_channels"], config["out_channels"], activation=config["act"])
        own = {n.removeprefix(f"{kind}.gconv."): v for n, v in weights.items() if n.startswith(f"{kind}.")}
        conv.to(dtype).load_state_dict(_renamed(own, "backbone.0.0.graph_conv.gconv"), strict=False)
        assert len(own) == len([n for n in conv.state_dict() if not n.endswith("num_batches_tracked")])

        x = values["x"].clone().requires_grad_()
        keys = _nodes(F.avg_pool2d(x, config["r"], config["r"])) if config["r"] > 1 else _nodes(x)
        neighbors = KnnGraph(config["k"], config["dilation"])(_nodes(x), keys)
        output = conv.eval()(_nodes(x), keys, neighbors, x.shape[-2:])
        (output * values["grad_out"]).sum().backward()
        results |= {f"{kind}.out": output, f"{kind}.grad_x": x.grad}
    return results


@torch.no_grad()
def _grapher(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, x = case["config"], golden.inputs(case, dtype)["x"]
    side, channels, reduction = round(config["n"] ** 0.5), config["channels"], config["r"]
    block = {"num_neighbors": config["k"], "dilation": config["dilation"], "drop_path_rate": 0.0}
    grapher = Grapher(PyramidVigConfig(), channels, block, reduction).to(dtype).eval()
    weights = _renamed(golden.state_dict(case, dtype), "backbone.0.0")
    missing, unexpected = grapher.load_state_dict(weights, strict=False)
    assert not unexpected and all(name.endswith("num_batches_tracked") for name in missing)
    results = {}
    grapher.graph.register_forward_hook(lambda module, args, output: results.update(neighbours=output))
    height, width = x.shape[-2:]
    table = relative_position_bias(channels, side, side, reduction).to(dtype)
    keys = (height // reduction) * (width // reduction)
    results["out"] = grapher(x, interpolate_relative_position(table, height * width, keys))
    return results
