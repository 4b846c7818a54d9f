"""Runs a case of an image classifier through the package's converter and model, whatever the architecture."""

import torch
from torch.nn import functional as F

from hf_effmodels.hub.convert import convert_state_dict, official_name
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.losses.soft_targets import soft_target_loss

from . import golden


class ClassifierCase:
    """One case; the families say how the published settings become our configuration."""

    def __init__(self, case: dict, dtype: torch.dtype):
        self.case = case
        self.dtype = dtype
        self.wanted = case["outputs"].keys()
        self.architecture = ARCHITECTURES[self.model_type()]
        self.values = golden.inputs(case, dtype)
        self.model = self.converted()
        self.features: dict[str, torch.Tensor] = {}

    def model_type(self) -> str:
        return self.case["system"]

    def configuration(self) -> dict:
        """Our configuration's fields for the case's published settings."""
        raise NotImplementedError

    def feature(self, path: str, outputs) -> torch.Tensor | None:
        """Value of the official module `path` where it is no output of one of our modules."""
        return None

    def converted(self):
        config = self.architecture.config_class(**self.configuration())
        weights = golden.state_dict(self.case, self.dtype)
        model, _ = convert_state_dict(self.architecture, config, weights)
        return model

    def our_module(self, path: str):
        """Our module whose output is that of the official module `path`."""
        ours = official_name(self.architecture, path)
        return self.named(ours, self.model.get_submodule)

    def named(self, ours: str, get):
        """What `get` finds under `ours`, in the head or in the base model."""
        try:
            return get(ours)
        except AttributeError:
            return get(f"{self.model.base_model_prefix}.{ours}")

    def watch(self) -> None:
        for name in self.wanted:
            if name.startswith("features/"):
                path = name.removeprefix("features/")
                try:
                    module = self.our_module(path)
                except AttributeError:
                    continue
                module.register_forward_hook(self._keep(name))

    def _keep(self, name: str):
        # Cloned at once: the next layer may work in place.
        return lambda module, args, output: self.features.__setitem__(name, output.detach().clone())

    def forward(self):
        base_outputs = {}
        handle = self.model.base_model.register_forward_hook(lambda m, a, output: base_outputs.update(value=output))
        outputs = self.model(self.values["pixel_values"])
        handle.remove()
        outputs.hidden_states_of_base = base_outputs["value"]
        for name in self.wanted:
            if name.startswith("features/"):
                value = self.feature(name.removeprefix("features/"), outputs)
                if value is not None:
                    self.features[name] = value.detach().clone()
        return outputs

    def outputs(self) -> dict[str, torch.Tensor]:
        self.watch()
        if "labels" in self.values:
            return self.in_training()
        with torch.no_grad():
            results = {"logits": self.forward().logits, **self.features}
            if any(name.startswith(("logits_fused", "fused/")) for name in self.wanted):
                self.model.reparameterize()
                results["logits_fused"] = self.model(self.values["pixel_values"]).logits
                results |= {n: self.weight(n) for n in self.wanted if n.startswith("fused/")}
        return self.shaped(results)

    def in_training(self) -> dict[str, torch.Tensor]:
        """Losses, gradients, and running statistics after one forward pass in training mode."""
        self.model.train()
        logits = self.forward().logits
        labels = self.values["labels"]
        smoothing = self.case["config"].get("label_smoothing", 0.0)
        losses = {"loss_ce": F.cross_entropy(logits, labels, label_smoothing=smoothing)}
        loss = losses["loss_ce"] * self.case["config"].get("ori_loss_weight", 1.0)
        if "teacher_logits" in self.values:
            losses["loss_kd"] = soft_target_loss(logits, self.values["teacher_logits"])
            loss = loss + losses["loss_kd"] * self.case["config"].get("kd_loss_weight", 1.0)
        loss.backward()
        results = {"logits": logits, "loss": loss, **losses, **self.features}
        results |= {n: self.weight(n).grad for n in self.wanted if n.startswith("grad/")}
        results |= {n: self.weight(n) for n in self.wanted if n.startswith("buffer_after/")}
        return self.shaped(results)

    def weight(self, output: str):
        """Our parameter or buffer behind an output such as `grad/<official name>`."""
        ours = official_name(self.architecture, output.split("/", 1)[1])
        module, _, attribute = ours.rpartition(".")
        return getattr(self.named(module, self.model.get_submodule), attribute)

    def shaped(self, results: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Linear layers on pooled features are 1×1 convolutions in the official code: same values, more dimensions."""
        for name, expected in self.case["outputs"].items():
            got = results.get(name)
            if got is not None and list(got.shape) != expected["shape"]:
                if [n for n in expected["shape"] if n != 1] == [n for n in got.shape if n != 1]:
                    results[name] = got.reshape(expected["shape"])
        return results
