"""The Trainer of SFDA-DE (https://arxiv.org/abs/2204.11257): labels, estimates and steps, round after round."""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...adaptation import SourceEstimate, estimate_source, keep_confident, spherical_clusters
from ...data.seeded import data_seed
from ...linear_head import linear_head, seen_by
from ...losses.contrastive_domain import contrastive_domain_discrepancy
from ...optim.module_rates import scale_rates
from ...run.sampling import EpochSampler
from ...run.weights import WeightsError
from ...task import load_task
from .arguments import AdaptationArguments
from .data import Targets, plan_round

logger = logging.getLogger(__name__)

_TASK = load_task("image-classification")
#: In a checkpoint: the labels and the estimate of the round that is under way, and what all rounds have reported.
ROUND_FILE = "round.safetensors"
_NORMS = (_BatchNorm, nn.LayerNorm, nn.GroupNorm)


class AdaptationTrainer(_TASK.ImageClassificationTrainer):
    """Adapts all of a classifier but its linear head.

    At the start of an epoch it labels all pictures by clustering their features from the head's rows, and estimates
    where the source's features were. A step's loss is that of all its pictures together, wherever they are: of
    accumulated batches and other processes the features are gathered first, and each batch is then trained on its
    share of the gradient.

    Args:
        adaptation: how.
        kwargs: as of an image classifier's trainer. The labels of `train_dataset` are not read.
    """

    def __init__(self, *, adaptation: AdaptationArguments, model, args, train_dataset, data_collator, **kwargs):
        self.adaptation = adaptation
        batch = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        if batch % adaptation.samples_per_class or batch // adaptation.samples_per_class < 2:
            raise ValueError(
                f"--samples_per_class: got {adaptation.samples_per_class}, accepted are numbers that divide a step's "
                f"{batch} pictures into two classes or more."
            )
        classes = model.config.num_labels
        if len(train_dataset) < classes:
            raise ValueError(
                f"{train_dataset.source.split} has {len(train_dataset)} pictures, the model {classes} classes: to "
                "cluster them takes as many pictures as classes."
            )
        self._unaugmented = kwargs["eval_dataset"].transform
        self.head = linear_head(model, train_dataset[0]["pixel_values"][None].to(next(model.parameters()).device))
        self.head.requires_grad_(False)
        targets = Targets(train_dataset, adaptation.steps_per_round, batch)
        self.round: dict | None = None
        self.rounds: list[dict] = []
        self._step_gradients: dict[str, torch.Tensor] = {}
        super().__init__(
            model=model,
            args=args,
            train_dataset=targets,
            data_collator=replace(data_collator, keep=("step", "place")),
            **kwargs,
        )

    def _get_train_sampler(self, train_dataset=None) -> EpochSampler:
        sampler = super()._get_train_sampler(train_dataset)
        sampler.shuffle = False  # the plan of a round has an order
        return sampler

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        factor = self.adaptation.norm_learning_rate_factor
        if factor != 1 and self.optimizer is None:
            model = model or self.model
            norms = [p for m in model.modules() if isinstance(m, _NORMS) for p in m.parameters()]
            optimizer = super().create_optimizer(model)
            scale_rates(optimizer, dict.fromkeys(norms, factor))
            return optimizer
        return super().create_optimizer(model)

    # A round

    def begin_epoch(self, epoch: int) -> None:
        super().begin_epoch(epoch)
        if self.round is None or int(self.round["epoch"]) != epoch:
            self.round = self._label(epoch)
        labels, kept, classes = (self.round[name].cpu().numpy() for name in ("labels", "kept", "classes"))
        adaptation, targets = self.adaptation, self.train_dataset
        targets.pictures, targets.classes = plan_round(
            labels,
            kept,
            classes,
            steps=targets.steps_per_round,
            batch_size=targets.batch_size,
            samples_per_class=adaptation.samples_per_class,
            seed=(data_seed(self.args), 1, epoch),
        )

    @torch.no_grad()
    def _label(self, epoch: int) -> dict[str, torch.Tensor]:
        adaptation, rows = self.adaptation, self.head.weight.detach().float()
        features = self.features(epoch if adaptation.augmented_features else None)
        clusters = spherical_clusters(features, rows, tolerance=adaptation.cluster_tolerance)
        kept, classes = keep_confident(
            clusters, threshold=adaptation.distance_threshold, min_samples=adaptation.min_samples_per_class
        )
        if len(classes) < 2:
            raise ValueError(
                f"--distance_threshold: got {adaptation.distance_threshold}, within which {len(classes)} classes have "
                f"--min_samples_per_class {adaptation.min_samples_per_class} pictures or more, in round {epoch + 1}; "
                "two are needed."
            )
        measured = self.features(epoch, again=True) if adaptation.augmented_features else features
        estimate = estimate_source(measured, clusters.labels, kept, classes, rows, std_factor=adaptation.std_factor)
        if len(estimate.classes) < 2:
            raise ValueError(
                f"--model: in round {epoch + 1} the mean features of {len(classes) - len(estimate.classes)} of "
                f"{len(classes)} classes are next to zero and have no direction; two that have one are needed."
            )
        mean = estimate.mean if adaptation.estimate_source else estimate.target_mean
        report = {
            "kept": float(kept.float().mean()),
            "classes": len(estimate.classes),
            "centre_change": float(clusters.change),
        }
        if self.round is not None:
            report["labels_changed"] = float((clusters.labels != self.round["labels"]).float().mean())
        self.rounds.append({"round": epoch + 1, **report})
        logger.info("round %d: %s", epoch + 1, ", ".join(f"{name} {value:.4g}" for name, value in report.items()))
        missing = sorted(set(range(len(rows))) - set(estimate.classes.tolist()))
        if missing:
            logger.warning("round %d: left out, without enough near pictures: classes %s", epoch + 1, missing)
        return {
            "epoch": torch.tensor(epoch),
            "labels": clusters.labels,
            "kept": kept,
            "classes": estimate.classes,
            "mean": mean.contiguous(),
            "std": estimate.std.contiguous(),
        }

    @torch.no_grad()
    def features(self, epoch: int | None = None, again: bool = False) -> torch.Tensor:
        """(pictures, width), float32, what the head is given of each picture, in evaluation.

        Args:
            epoch: of augmented pictures, whose random numbers depend on it; None for pictures as they are evaluated.
            again: other random numbers.
        """
        targets, size = self.train_dataset, self.args.per_device_eval_batch_size
        model, device = self.accelerator.unwrap_model(self.model), self.args.device
        count = len(targets.source)
        starts = range(0, count, size)
        own, found = starts[self.args.process_index :: self.args.world_size], {}
        mode = model.training
        model.eval()
        try:
            for start in own:
                pixels = []
                for number in range(start, min(start + size, count)):
                    picture = targets.source.read(number, targets.num_channels)
                    if epoch is None:
                        pixels.append(self._unaugmented(picture))
                    else:
                        rng = np.random.default_rng((data_seed(self.args), 2 + again, epoch, number))
                        pixels.append(targets.transform(picture, rng))
                with seen_by(self.head) as seen, self.accelerator.autocast():
                    model(pixel_values=torch.stack(pixels).to(device))
                found[start] = seen[0].float()
        finally:
            model.train(mode)
        whole = torch.zeros(count, self.head.in_features, device=device)
        for start, values in found.items():
            whole[start : start + len(values)] = values
        return self.accelerator.reduce(whole, "sum") if self.args.world_size > 1 else whole

    # A step

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, count = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._step_gradients = {}
        if len(batches) > 1 or self.args.world_size > 1:
            self._step_gradients = self._gradients_of_step(batches)
        return batches, count

    def task_loss(self, model, inputs, num_items_in_batch=None):
        if not (model.training and self.is_in_train):
            return super().task_loss(model, inputs, num_items_in_batch)
        step, place = int(inputs["step"][0]), inputs["place"]
        with seen_by(self.head) as seen:
            outputs = model(pixel_values=inputs["pixel_values"])
        features, logits = seen[0].float(), outputs.logits.float()
        if not self._step_gradients:
            return self._loss_of_step(step, features, logits), outputs
        # The value of the step's loss, by shares; the gradient of the whole with respect to what this batch has of it.
        known = self._step_gradients
        linear = (features * known["features"][place]).sum() + (logits * known["logits"][place]).sum()
        share = known["loss"] * len(place) / self.train_dataset.batch_size
        return (share + linear - linear.detach()) * self.args.world_size, outputs

    def _loss_of_step(self, step: int, features: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Of a whole step, whose pictures are in the order of the plan."""
        found, counts = np.unique(self.train_dataset.classes[step], return_counts=True)
        order = self.train_dataset.classes[step]
        present = list(dict.fromkeys(order.tolist()))
        counts = [int(counts[np.flatnonzero(found == number)[0]]) for number in present]
        estimate = SourceEstimate(
            self.round["classes"], self.round["mean"], self.round["std"], self.round["mean"], self.round["std"]
        )
        epoch = int(self.round["epoch"])
        seed = np.random.SeedSequence((data_seed(self.args), 4, epoch, step)).generate_state(1)[0]
        generator = torch.Generator().manual_seed(int(seed))
        source = torch.cat([estimate.sample([c], n, generator) for c, n in zip(present, counts, strict=True)])
        source = source.to(features)
        with torch.no_grad():
            source_logits = nn.functional.linear(source, self.head.weight.float(), _float(self.head.bias))
        layers = [(source, features), (source_logits.softmax(1), logits.softmax(1))]
        loss = contrastive_domain_discrepancy(layers, counts, self.model.config.num_labels)["loss"]
        return self.adaptation.discrepancy_weight * loss

    def _gradients_of_step(self, batches: list[Mapping]) -> dict[str, torch.Tensor]:
        """The loss of a step that lies in several batches, and its gradient with respect to features and logits."""
        model, size = self.accelerator.unwrap_model(self.model), self.train_dataset.batch_size
        device, width, labels = self.args.device, self.head.in_features, self.head.out_features
        model.train()
        features, logits = torch.zeros(size, width, device=device), torch.zeros(size, labels, device=device)
        step = int(batches[0]["step"][0])
        with torch.no_grad(), _kept_statistics(model), self._same_random_numbers():
            for batch in batches:
                with seen_by(self.head) as seen, self.accelerator.autocast():
                    outputs = model(pixel_values=batch["pixel_values"].to(device))
                place = batch["place"].to(device)
                features[place], logits[place] = seen[0].float(), outputs.logits.float()
        if self.args.world_size > 1:
            features, logits = (self.accelerator.reduce(values, "sum") for values in (features, logits))
        features.requires_grad_()
        logits.requires_grad_()
        with torch.enable_grad():
            loss = self._loss_of_step(step, features, logits)
            gradients = torch.autograd.grad(loss, (features, logits))
        return {"loss": loss.detach(), "features": gradients[0], "logits": gradients[1]}

    @contextmanager
    def _same_random_numbers(self) -> Iterator[None]:
        """The second pass drops out what the first one does."""
        with torch.random.fork_rng([self.args.device] if self.args.device.type == "cuda" else []):
            yield

    # Checkpoints

    def _save_checkpoint(self, model, trial) -> None:
        if self.args.should_save and self.round is not None:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            save_file(
                {name: value.detach().cpu() for name, value in self.round.items()},
                folder / ROUND_FILE,
                metadata={"format": "pt", "rounds": json.dumps(self.rounds)},
            )
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        file = Path(resume_from_checkpoint) / ROUND_FILE
        if not file.is_file():
            raise WeightsError(f"{resume_from_checkpoint}: it lacks {ROUND_FILE}, the labels of its round.")
        with safe_open(file, "pt") as opened:
            self.round = {name: opened.get_tensor(name).to(self.args.device) for name in opened.keys()}
            self.rounds = json.loads((opened.metadata() or {}).get("rounds", "[]"))


@contextmanager
def _kept_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norms measure their batch as in training, and remember nothing of it."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, counter) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, counter


def _float(bias: torch.Tensor | None) -> torch.Tensor | None:
    return None if bias is None else bias.float()
