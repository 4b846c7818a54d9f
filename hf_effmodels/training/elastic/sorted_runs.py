"""Sub-models in a run of `scripts/train.py`: each is evaluated as the whole is, and saved as a plain checkpoint."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from ..._files import write_json
from ..._written import rewritten
from ...compression.elastic import extract_submodel, recalibrate_batch_norms, submodel
from ..run.averaging import temporarily, unique_state
from ..run.output_folder import SORTED_TRAINING, SUBMODELS, SUBMODELS_TABLE
from ..run.trainer import same_random_numbers
from .arguments import SortedArguments
from .sorted_training import SortedTraining


class SortedRun(SortedTraining):
    """Mix-in of a `RecipeTrainer`: `SortedTraining` whose sub-models have names, are evaluated and saved.

    The whole always takes part. Metrics of a sub-model have its name in front, `eval_half_loss`. Where the network has
    batch norms, the statistics that training leaves are a mixture of all sub-models': each sub-model, and the whole,
    takes its own from the same training samples before it is evaluated or saved.

    Args:
        submodels: name -> sizes.
        calibration_samples: the first so many of the training set.
    """

    def __init__(self, *, submodels: Mapping[str, Mapping], calibration_samples: int = 2048, **options):
        self._stand_in: PreTrainedModel | None = None  # the sub-model that is being evaluated in the whole's place
        self.sizes_by_name = {name: dict(sizes) for name, sizes in submodels.items()}
        super().__init__(submodels=[*submodels.values(), {}], **options)
        self.calibration_samples = calibration_samples
        self._measured: dict[str, dict[str, float]] = {}

    def metric_names(self) -> tuple[str, ...] | None:
        names = super().metric_names()
        parts = [f"{name}_{metric}" for name in self.sizes_by_name for metric in names or ()]
        return None if names is None else (*names, *parts)

    # Evaluation

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ):
        whole = super().evaluation_loop(dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix)
        with super().evaluated_weights():  # each sub-model takes statistics of its own
            for name, sizes in self.sizes_by_name.items():
                prefix = f"{metric_key_prefix}_{name}"
                with self._in_place_of_the_whole(self._submodel(sizes)):
                    part = super().evaluation_loop(
                        dataloader, f"{description} of {name}", prediction_loss_only, ignore_keys, prefix
                    )
                self._measured[name] = {key.removeprefix(f"{prefix}_"): value for key, value in part.metrics.items()}
                whole.metrics.update(part.metrics)
        return whole

    @contextmanager
    def _in_place_of_the_whole(self, smaller: PreTrainedModel) -> Iterator[None]:
        whole = self.model
        self.model = self._stand_in = smaller
        try:
            yield
        finally:
            self.model, self._stand_in = whole, None

    @contextmanager
    def evaluated_weights(self) -> Iterator[None]:
        if self._stand_in is not None:
            yield  # made of such weights
            return
        with super().evaluated_weights():
            statistics = _statistics_of_norms(self.network) if self.is_in_train else {}
            with temporarily(statistics):
                if statistics:
                    self._recalibrate(self.network)
                yield

    def train(self, *arguments, **options):
        trained = super().train(*arguments, **options)
        if _statistics_of_norms(self.network):
            with same_random_numbers(self.args.device):
                self._recalibrate(self.network)
        return trained

    def _submodel(self, sizes: Mapping) -> PreTrainedModel:
        """A sub-model of the present weights, to be evaluated or saved."""
        if not _statistics_of_norms(self.network):
            return submodel(self.network, **sizes).eval()
        smaller = extract_submodel(self.network, **sizes).eval()
        self._recalibrate(smaller)
        return smaller

    def _recalibrate(self, model: PreTrainedModel) -> None:
        recalibrate_batch_norms(model, self._calibration_batches(model.main_input_name))

    def _calibration_batches(self, key: str) -> Iterator[dict[str, torch.Tensor]]:
        """Training samples of the first epoch, in their order, unmixed: the same on every process."""
        number, size = min(self.calibration_samples, len(self.train_dataset)), self.args.per_device_eval_batch_size
        for start in range(0, number, size):
            samples = [self.train_dataset[index] for index in range(start, min(start + size, number))]
            yield {key: torch.stack([sample[key] for sample in samples]).to(self.args.device)}

    # Saving

    def save_submodels(self) -> None:
        """Write each sub-model with its processor into a folder of `submodels`, and what they are, with the metrics of
        the last evaluation, into `submodels.json`; at the end of a run, on every process."""
        output, table = Path(self.args.output_dir), {}
        for name, sizes in self.sizes_by_name.items():
            smaller = self._submodel(sizes)
            table[name] = {**sizes, "parameters": smaller.num_parameters(), **self._measured.get(name, {})}
            if not self.args.should_save:
                continue
            with rewritten(output / SUBMODELS / name, SORTED_TRAINING) as folder:
                smaller.save_pretrained(folder)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(folder)
        if self.args.should_save:
            write_json(output / SUBMODELS_TABLE, table)


def making_sorted(trainer: type[SortedRun], args: SortedArguments) -> Callable:
    """What makes a trainer of sub-models in the place of a task's own.

    Raises:
        ValueError: in the words of the command line, options that change the network's layers, and, when it is called,
            sizes that the network does not have.
    """
    for option, off in (("bitnet", "none"), ("bivit", "none"), ("training_branches", None)):
        if getattr(args, option, off) != off:
            raise ValueError(
                f"--sorted_submodels: it does not go with --{option}, whose layers are not those of the sub-models."
            )

    def make(**options) -> SortedRun:
        try:
            return trainer(
                submodels=args.sorted_submodels,
                submodels_per_step=args.submodels_per_step,
                calibration_samples=args.submodel_calibration_samples,
                **options,
            )
        except ValueError as error:
            raise error if str(error).startswith("--") else ValueError(f"--sorted_submodels: {error}") from error

    return make


def _statistics_of_norms(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Running means and variances of its batch norms, by name."""
    prefixes = tuple(f"{name}." for name, module in model.named_modules() if isinstance(module, _BatchNorm))
    state = unique_state(model) if prefixes else {}
    return {name: state[name] for name in state if name.startswith(prefixes) and "running_" in name}
