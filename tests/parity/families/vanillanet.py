"""VanillaNet: evaluation at several slopes, folding, training, the deployed layout, the activation, the schedules."""

import torch
from torch.nn import functional as F

from hf_effmodels.hub.convert import official_name
from hf_effmodels.modeling.vanillanet.configuration_vanillanet import PRESETS, VanillaNetConfig
from hf_effmodels.modeling.vanillanet.deep_training import act_learn_at
from hf_effmodels.modeling.vanillanet.modeling_vanillanet import SeriesActivation
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.optim.layer_decay import layer_decay_groups
from hf_effmodels.training.optim.schedules import warmup_cosine_schedule

from ..classification import ClassifierCase
from ..golden import inputs, state_dict

SYSTEMS = ("vanillanet",)
_FIELDS = {"dims": "hidden_sizes", "strides": "strides", "act_num": "act_num", "ada_pool": "adaptive_pool_sizes"}
_FIELDS |= {"num_classes": "num_labels", "act_learn": "act_learn", "drop_rate": "classifier_dropout"}


def configuration(published: dict) -> dict:
    """Our configuration's fields for the published settings: a variant's name, single settings, or both."""
    fields = {"num_labels": 1000}
    if "name" in published:
        fields |= PRESETS[published["name"].replace("_", "-").replace("x1-5", "1.5x")].config
    return fields | {ours: published[theirs] for theirs, ours in _FIELDS.items() if theirs in published}


class VanillaNetCase(ClassifierCase):
    def configuration(self) -> dict:
        return configuration(self.case["config"])

    def outputs(self) -> dict[str, torch.Tensor]:
        if "targets" in self.values:
            return self.in_training()
        if not any("/act_learn=" in name for name in self.wanted):
            return super().outputs()
        return self.at_slopes() | self.deployed()

    @torch.no_grad()
    def at_slopes(self) -> dict[str, torch.Tensor]:
        """`logits/act_learn=λ` and `features/act_learn=λ/<module>` for each λ in the case."""
        results = {}
        for slope in sorted({name.split("/")[1] for name in self.wanted if "/act_learn=" in name}):
            self.model.set_act_learn(float(slope.removeprefix("act_learn=")))
            prefix = f"features/{slope}/"
            hooks = [
                self.our_module(name.removeprefix(prefix)).register_forward_hook(self._keep(name))
                for name in self.wanted
                if name.startswith(prefix)
            ]
            results[f"logits/{slope}"] = self.model(self.values["pixel_values"]).logits
            for hook in hooks:
                hook.remove()
        return results | self.features

    @torch.no_grad()
    def deployed(self) -> dict[str, torch.Tensor]:
        self.model.set_act_learn(1)
        self.model.reparameterize()
        logits = self.model(self.values["pixel_values"]).logits
        return {"logits_deploy": logits} | {n: self.weight(n) for n in self.wanted if n.startswith("fused/")}

    def in_training(self) -> dict[str, torch.Tensor]:
        """Losses against soft targets; gradients of the binary cross entropy; running statistics afterwards."""
        targets = self.values["targets"]
        self.watch()
        self.model.train()
        self.model.config.problem_type = "multi_label_classification"
        outputs = self.model(self.values["pixel_values"], labels=targets)
        outputs.loss.backward()
        probabilities = targets / targets.sum(1, keepdim=True)
        results = {
            "logits": outputs.logits,
            "loss_bce": outputs.loss,
            "loss_soft_ce": F.cross_entropy(outputs.logits, probabilities),
        }
        results |= {n: self.weight(n).grad for n in self.wanted if n.startswith("grad/")}
        results |= {n: self.weight(n) for n in self.wanted if n.startswith("buffer_after/")}
        return results | self.features


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if not case["state_dict"]:
        return schedules(case["config"], case["outputs"])
    if "weight" in case["state_dict"]:
        return series_activation(case, dtype)
    return VanillaNetCase(case, dtype).outputs()


@torch.no_grad()
def series_activation(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The activation alone, before and after folding."""
    names = {"weight": "conv.weight", "bn": "norm"}
    weights = state_dict(case, dtype)
    weights = {".".join([names[name.split(".")[0]], *name.split(".")[1:]]): value for name, value in weights.items()}
    config = VanillaNetConfig(act_num=case["config"]["act_num"])
    layer = SeriesActivation(config, case["config"]["dim"]).to(dtype).eval()
    layer.load_state_dict(weights | {"norm.num_batches_tracked": torch.tensor(0)})
    hidden_states = inputs(case, dtype)["hidden_states"]
    output = layer(hidden_states.clone())
    layer.fold()
    return {
        "output": output,
        "output_deploy": layer(hidden_states.clone()),
        "fused/weight": layer.conv.weight,
        "fused/bias": layer.conv.bias,
    }


def schedules(config: dict, wanted: dict) -> dict[str, torch.Tensor]:
    """Slope by epoch, learning rate by iteration, and each parameter's learning-rate factor and decay."""
    epochs = config["decay_epochs"]
    results = {
        f"act_learn_{name}": _float64([act_learn_at(e, epochs, ours) for e in range(epochs + 1)])
        for name, ours in (("linear", "linear"), ("cos", "cosine"))
    }
    architecture = ARCHITECTURES["vanillanet"]
    with torch.device("meta"):
        model_config = architecture.config_class(**configuration(config["model"]))
        model = architecture.model_class("AutoModelForImageClassification")(model_config)
    groups = layer_decay_groups(
        model,
        config["layer_decay"],
        num_layers=config["layer_decay_num_layers"],
        learning_rate=1.0,
        weight_decay=1.0,
    )
    group_of = {id(parameter): group for group in groups for parameter in group["params"]}
    parameters = dict(model.named_parameters())
    ours = [official_name(architecture, name) for name in config["parameter_names"]]
    mine = [group_of[id(parameters.get(name, parameters.get(f"vanillanet.{name}")))] for name in ours]
    results["lr_scale"] = _float64([group["lr"] for group in mine])
    results["decays_weight"] = _float64([group["weight_decay"] for group in mine])

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config["lr"])
    per_epoch = config["iterations_per_epoch"]
    total = config["epochs"] * per_epoch
    schedule = warmup_cosine_schedule(optimizer, config["warmup_epochs"] * per_epoch, total, min_lr=config["min_lr"])
    rates = []
    for _ in range(total):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    results["lr"] = _float64(rates)
    return results


def _float64(values: list[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)
