"""Elastic networks: the supernet of MobileNetV3 and its sub-networks, DεpS's schedule, nested language models."""

import re

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels.compression.elastic.recalibration import recalibrate_batch_norms
from hf_effmodels.compression.elastic.submodels import extract_submodel, run_submodel
from hf_effmodels.hub.convert import convert_state_dict, official_name
from hf_effmodels.modeling.ofa_mobilenetv3 import elastic
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.elastic.delayed_shrinking import DelayedShrinking
from hf_effmodels.training.elastic.sandwich import sandwich_backward
from hf_effmodels.training.losses.soft_targets import soft_target_loss

from .. import golden

SYSTEMS = ("elastic",)
ALSO = ("ofa_mobilenetv3",)

_GRADIENTS = {
    "grad_first_conv": "first_conv.conv.weight",
    "grad_block1_expand": "blocks.1.conv.inverted_bottleneck.conv.conv.weight",
    "grad_block1_depthwise": "blocks.1.conv.depth_conv.conv.conv.weight",
    "grad_block2_point": "blocks.2.conv.point_linear.conv.conv.weight",
    "grad_classifier": "classifier.linear.weight",
}


class _Supernet:
    def __init__(self, case: dict, dtype: torch.dtype):
        self.case, self.dtype = case, dtype
        published, widths = case["config"], case["config"]["base_stage_width"]
        self.architecture = ARCHITECTURES["ofa_mobilenetv3"]
        self.config = self.architecture.config_class(
            base_widths=widths[:-2],
            final_size=widths[-2],
            feature_size=widths[-1],
            width_multiplier=published["width_mult"],
            kernel_sizes=published["kernel_sizes"],
            expand_ratios=published["expand_ratios"],
            depths=published["depths"],
            num_labels=published["num_labels"],
        )
        self.values = golden.inputs(case, dtype)
        subnet = published["subnet"]
        self.submodels = {
            "largest": elastic.largest_submodel(self.config),
            "smallest": elastic.smallest_submodel(self.config),
            "subnet": {"kernel_sizes": subnet["ks"], "expand_ratios": subnet["e"], "depths": subnet["d"]},
        }
        self.weights = golden.state_dict(case, dtype)

    def model(self):
        weights = {name: weight.clone() for name, weight in self.weights.items()}  # the model takes them as they are
        return convert_state_dict(self.architecture, self.config, weights)[0]

    def ours(self, official: str) -> str:
        names = {official_name(self.architecture, official): None}
        self.architecture.conversion_module.adapt(names, self.config)
        name = next(iter(names))
        return name if name.startswith("classifier") else f"ofa_mobilenetv3.{name}"

    def logits(self, model, submodel: str):
        return elastic.run_submodel(model, self.submodels[submodel], pixel_values=self.values["pixel_values"]).logits

    def outputs(self) -> dict[str, torch.Tensor]:
        with torch.no_grad():
            return self.evaluated() | self.recalibrated() | self.sorted() | self.distilled() | self.in_training()

    def evaluated(self) -> dict[str, torch.Tensor]:
        model = self.model()
        results = {f"logits_{name}": self.logits(model, name) for name in self.submodels}
        assert torch.equal(model(self.values["pixel_values"]).logits, results["logits_largest"])
        extracted = elastic.extract_submodel(model, self.submodels["subnet"])
        results["logits_extracted_subnet"] = extracted(self.values["pixel_values"]).logits
        assert torch.equal(results["logits_extracted_subnet"], results["logits_subnet"])
        smallest = elastic.extract_submodel(model, self.submodels["smallest"])
        for name, network in (("extracted", extracted), ("smallest", smallest)):
            results[f"{name}_parameters"] = torch.tensor([float(network.num_parameters())])
        block = model.get_submodule(self.ours("blocks.1.conv.depth_conv.conv").removesuffix(".depthwise.conv"))
        channels = smallest.get_submodule("ofa_mobilenetv3.stages.1.blocks.0.depthwise.conv").out_channels
        for size in self.config.kernel_sizes:
            results[f"depthwise_filter_block1_k{size}"] = elastic.kernel_of(block, size, channels)
        official = [n for n in self.case["state_dict"] if not re.search("running_|num_batches", n)]
        fractions = elastic.active_fractions(model, self.submodels["subnet"])
        results["mask_fraction_per_parameter"] = torch.tensor(
            [fractions[self.ours(n)] for n in official], dtype=torch.float64
        )
        return results

    def recalibrated(self) -> dict[str, torch.Tensor]:
        model, results = self.model(), {}
        for name, submodel in self.submodels.items():
            network = elastic.extract_submodel(model, submodel)
            recalibrate_batch_norms(network, [{"pixel_values": v} for v in self.values["calibration_values"]])
            results[f"logits_{name}_recalibrated"] = network(self.values["pixel_values"]).logits
            norm = network.ofa_mobilenetv3.final.norm
            results[f"recalibrated_mean_last_bn_{name}"] = norm.running_mean
            results[f"recalibrated_var_last_bn_{name}"] = norm.running_var
        return results

    def sorted(self) -> dict[str, torch.Tensor]:
        results = {}
        for suffix, keep in (("", 0), ("_keep_stages", len(self.config.expand_ratios) - 2)):
            model = self.model()
            elastic.sort_channels(model, keep)
            block = model.ofa_mobilenetv3.stages[1].blocks[0]
            results[f"block1_point_weight_reordered{suffix}"] = block.project.conv.weight
            results[f"block1_depthwise_weight_reordered{suffix}"] = block.depthwise.conv.weight
            for name in ("largest", "smallest"):
                results[f"logits_{name}_reordered{suffix}"] = self.logits(model, name)
        return results

    def distilled(self) -> dict[str, torch.Tensor]:
        shape = (len(self.values["labels"]), self.config.num_labels)
        student, teacher = (
            torch.from_numpy(np.random.RandomState(self.case["config"][f"logits_seed_{who}"]).standard_normal(shape))
            for who in ("student", "teacher")
        )
        student, teacher = student.to(self.dtype), teacher.to(self.dtype)
        return {f"distillation_loss_T{t}": soft_target_loss(student, teacher, t).reshape(1) for t in (1, 2, 4)}

    @torch.enable_grad()
    def in_training(self) -> dict[str, torch.Tensor]:
        model = self.model().train()
        model.dropout.p = 0.0
        losses = sandwich_backward(
            lambda name: self.logits(model, name), "largest", ["smallest", "subnet"], self.values["labels"]
        )
        gradients = dict(_GRADIENTS)
        if self.case["config"]["kernel_matrix_of_gradient"]:
            gradients["grad_kernel_matrix"] = self.case["config"]["kernel_matrix_of_gradient"]
        results = {name: model.get_parameter(self.ours(official)).grad for name, official in gradients.items()}
        return results | {"sandwich_losses": torch.stack(losses)}


def _nested(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    model = LlamaForCausalLM(LlamaConfig(**config["text_config"], attn_implementation="eager")).to(dtype).eval()
    model.load_state_dict(golden.state_dict(case, dtype))
    inputs = golden.inputs(case, dtype)
    labels = inputs["input_ids"].clone()
    labels[:, : config["ignored_label_positions"]] = -100
    results, losses = {}, []
    for layers in config["sub_models"]:
        outputs = run_submodel(model, {"num_hidden_layers": layers}, {**inputs, "labels": labels})
        extracted = extract_submodel(model, num_hidden_layers=layers)
        assert torch.equal(extracted(**inputs).logits, outputs.logits)
        results[f"logits_{layers}_layers"] = outputs.logits
        losses.append(outputs.loss)
    sum(losses).backward()
    results["losses"] = torch.stack(losses)
    for name in case["outputs"]:
        if name.startswith("sum_grad_"):
            results[name] = model.get_parameter(name.removeprefix("sum_grad_")).grad
    return results


def _schedule(case: dict) -> dict[str, torch.Tensor]:
    results = {}
    for number, settings in enumerate(case["config"]["cases"]):
        schedule = DelayedShrinking(
            epochs=settings["epochs"],
            full_model_epochs=settings["full_model_epochs"],
            warmup_epochs=settings["warmup_epochs"],
            batches_per_epoch=settings["batches_per_epoch"],
            base_lr=settings["base_lr"],
            multiplier=settings["multiplier"],
            lr_at_start=settings["lr_at_start_of_shrinking"],
        )
        points = settings["points"]
        results[f"lr_{number}"] = torch.tensor([schedule.learning_rate(*p) for p in points], dtype=torch.float64)
        results[f"beta_{number}"] = torch.tensor([schedule.weight(*p) for p in points], dtype=torch.float64)
    return results


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if "text_config" in case["config"]:
        return _nested(case, dtype)
    if "cases" in case["config"]:
        return _schedule(case)
    return _Supernet(case, dtype).outputs()


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    """LLaMA's norms compute in single precision, whatever the precision of the model. In float32 what passes through
    batch norms over a batch of few pixels is less exact: gradients, and what was calibrated on such batches."""
    if "text_config" in case["config"]:
        return 1e-5 if dtype == "float64" else 1e-3
    if dtype == "float32" and name.startswith("grad_"):
        return 5e-2
    return 2e-3 if dtype == "float32" and "recalibrated" in name else None
