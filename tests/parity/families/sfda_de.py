"""SFDA-DE: clustering and the estimated source, the contrastive discrepancy, its schedule, and its ResNet."""

import torch

from hf_effmodels.hub.torchvision_resnet import resnet_from_torchvision
from hf_effmodels.training.adaptation import estimate_source, keep_confident, spherical_clusters
from hf_effmodels.training.losses.contrastive_domain import contrastive_domain_discrepancy
from hf_effmodels.training.optim.schedules import inverse_decay_schedule

from .. import golden

SYSTEMS = ("sfda_de",)


def _clustering(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    v, config = golden.inputs(case, dtype), case["config"]
    truth = v["true_class"].long()
    features = v["scale"] * (config["sep"] * (v["anchors"] + v["domain_shift"])[truth] + v["noise"])
    clusters = spherical_clusters(features, v["anchors"], tolerance=config["eps"])
    kept, classes = keep_confident(
        clusters, threshold=config["distance_threshold"], min_samples=config["min_samples_per_class"]
    )
    options = {"std_factor": config["variance_mult"]}
    estimate = estimate_source(features, clusters.labels, kept, classes, v["anchors"], **options)

    def of_all(values: torch.Tensor) -> torch.Tensor:
        spread = torch.zeros_like(v["anchors"])
        spread[estimate.classes] = values
        return spread

    return {
        "features": features,
        "labels": clusters.labels.double(),
        "centers": clusters.centres,
        "distance_to_centers": clusters.distances,
        "center_change": clusters.change,
        "rounds": torch.tensor(float(clusters.rounds)),
        "kept": kept.double(),
        "kept_classes": classes.double(),
        "class_mean": of_all(estimate.target_mean),
        "class_std": of_all(estimate.target_std),
        "surrogate_mean": of_all(estimate.mean),
        "surrogate_std": of_all(estimate.std),
        "accuracy": (clusters.labels == truth).double().mean(),
    }


def _discrepancy(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    v, config = golden.inputs(case, dtype), case["config"]
    target, logits = v["target_feat"].requires_grad_(), v["target_logits"].requires_grad_()
    layers = {
        "feat": (v["source_feat"], target),
        "probs": (v["source_logits"].softmax(1), logits.softmax(1)),
    }
    found = contrastive_domain_discrepancy(
        [layers[name] for name in config["layers"]],
        config["nums"],
        config["num_classes_total"],
        kernels=config["kernel_num"],
        factor=config["kernel_mul"],
        intra_only=config["intra_only"],
    )
    found["loss"].backward()
    results = {**found, "gamma_ss": found["bandwidths"][0], "grad.target_feat": target.grad}
    results["grad.target_logits"] = logits.grad
    return {name: results[name] for name in case["outputs"]}


def _rates(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": config["base_lr"] * times} for times in (1, 10)]
    schedule = inverse_decay_schedule(torch.optim.SGD(groups), alpha=config["alpha"], beta=config["beta"])
    rates = [
        [base * factor(step) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
        for step in config["iterations"]
    ]
    return {"lr": torch.tensor(rates, dtype=torch.float64)}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    if "nums" in config:
        return _discrepancy(case, dtype)
    if "eps" in config:
        return _clustering(case, dtype)
    if "base_lr" in config:
        return _rates(case, dtype)
    model = resnet_from_torchvision(golden.state_dict(case, dtype))
    with torch.no_grad():
        pixels = golden.inputs(case, dtype)["pixel_values"]
        return {"logits": model(pixels).logits, "features": model.resnet(pixels).pooler_output.flatten(1)}
