"""A student with a learnt code in the place of its first layers: `--codec`, and what its run reports."""

from collections.abc import Mapping

import torch
from transformers import PreTrainedModel

from ....collaboration.codecs.entropic_student.modeling_entropic_student import CodedForImageClassification
from ....collaboration.codecs.mahppo.modeling_mahppo import ChannelCodedForImageClassification
from ....collaboration.codecs.measured import measure_coded
from ...losses.coded_features import CodedFeaturesLoss
from .trainer import DistillationTrainer

#: Students with a code.
CODED = (CodedForImageClassification, ChannelCodedForImageClassification)
#: Pictures of the evaluation set whose bytes are counted: the coder is written in Python.
MEASURED = 512


def with_code(model: PreTrainedModel, codec: Mapping | None, seed: int) -> PreTrainedModel:
    """The student that `--codec` asks for; a student that has a code already learns what is its turn.

    Raises:
        ValueError: in the words of the command line.
    """
    if isinstance(model, CODED):
        if codec:
            raise ValueError("--codec: --model has a code already; it goes on without.")
        model.choose_what_learns()
        return model
    if not codec:
        return model
    kind = ChannelCodedForImageClassification if "shrink" in codec else CodedForImageClassification
    try:
        return kind.around(model, **codec, seed=seed)
    except ValueError as error:
        raise ValueError(f"--codec: {error}") from error


def check_turn(model: CodedForImageClassification, losses: Mapping) -> None:
    """ValueError if a code that is fixed is to learn."""
    if model.code_is_fixed and CodedFeaturesLoss.name in losses:
        raise ValueError(
            f"--losses: {CodedFeaturesLoss.name} is of a student whose code learns; that of --model is fixed."
        )


class CodedTrainer(DistillationTrainer):
    """Trains a student with a code. One of several widths takes the sum of all its widths' losses: each runs and is
    differentiated by itself, and the optimizer steps once."""

    _width: int | None = None  # of the present pass

    def training_step(self, model, inputs, num_items_in_batch=None):
        total = 0.0
        for width in self.network.config.widths:
            self._width = width
            try:
                total = total + super().training_step(model, inputs, num_items_in_batch)
            finally:
                self._width = None
        return total

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if self._width is not None:
            inputs = {**inputs, "width": self._width}
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


@torch.no_grad()
def coded_metrics(trainer) -> dict[str, float]:
    """Bytes of an image, those that the prior estimates, and with several widths the accuracy of each."""
    network, dataset = trainer.network, trainer.eval_dataset
    if isinstance(network, ChannelCodedForImageClassification):  # as many for each image
        return {"eval_bytes": network.bytes_sent(dataset[0]["pixel_values"][None].to(network.device))}
    size = trainer.args.per_device_eval_batch_size
    found = {}
    for width in network.config.widths:
        prefix = f"eval_width_{width}_" if len(network.config.widths) > 1 else "eval_"
        measured = measure_coded(network, dataset, width=width, samples=MEASURED, batch=size)
        if len(network.config.widths) == 1:
            measured.pop("accuracy")
        found |= {f"{prefix}{name}": value for name, value in measured.items()}
    return found
