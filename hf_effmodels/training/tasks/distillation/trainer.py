"""The Trainer with a teacher: student and losses in one model, the teacher outside of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel, TrainerCallback

from ...data.stored_labels import StoredLabels
from ...losses.interface import LOGITS, POOLED, DistillationLoss, Networks
from ...losses.joint_labels import rotated
from ...run.averaging import unique_state
from ...run.trainer import same_random_numbers
from ...run.weights import WeightsError, load_state
from ...task import load_task
from .episodes import INITIAL_SCALE, SCALE_FIELD, Shape, episode_labels
from .model import DistillationModel
from .taps import Taps, dry_run, example_input
from .teacher import Teacher, Teachers, make_teacher

#: In a checkpoint: projectors and memories of the losses. The result of a run has none.
STATE_FILE = "distillation_state.safetensors"
#: Keys of a batch: the samples' numbers, and a random number of each one's own.
_NUMBERS = ("index", "sample_seed")
#: Key of a batch: how much of each sample is its own picture, where batches are mixed.
_OWN_SHARE = "own_share"
#: Prefix of the student's names in the model that is trained.
_STUDENT = "student."
#: In `STATE_FILE`, the scale of the cosines of episodes.
_SCALE = "episodes:scale"

# The student's task is asked by its name; tasks never import each other.
_TASK = load_task("image-classification")
DistillationTrainingArguments = _TASK.ImageClassificationArguments


class DistillationTrainer(_TASK.ImageClassificationTrainer):
    """Trains a student by the task's loss and the weighted sum of `losses`; each is logged under its name.

    The trained model is a `DistillationModel`, so that projectors and memories are trained, spread over processes and
    resumed with the student; what is averaged, evaluated, saved and published is the student alone. The teacher is no
    part of it: it runs in evaluation mode without gradient, in training only.

    Args:
        model: the student, an image classifier.
        teacher: a classifier, or a `Teacher`; several in a list. A classifier is given the student's input as it is,
            unless it comes with `teacher_processor`. `StoredLabels` in its place, for a data set and a collator that
            give `index` and `sample_seed` (the task checks that they are of this very training). None for losses that
            need none.
        losses: the losses, in a list or by the names under which they are logged.
        args: `DistillationTrainingArguments`.
        teacher_processor: the image processor of a teacher that is given as a classifier; with `processing_class`, the
            student's, its input is made of the student's.
        teacher_weights: of several teachers, see `Teachers`.
        student_taps, teacher_taps: paths of the modules that end the stages, instead of those of `stage_taps`.
        sample_labels: class of each training sample by its number, for losses that need them; by default those of the
            training set, where it tells.
        labels_weight: factor of the task's own loss in training.
        episodes: what the training set is made of, whose samples are then an episode's pictures one after the other
            (`episodes.Episodes`). The student's head takes no part.
        kwargs: the Trainer's, such as `train_dataset`, `eval_dataset`, `processing_class`, `data_collator`.

    Raises:
        ValueError: classes that differ, taps that are none, features that a loss cannot use.
    """

    def __init__(
        self,
        model: nn.Module,
        teacher: nn.Module | Teacher | Teachers | StoredLabels | Sequence | None,
        losses: Sequence[DistillationLoss] | Mapping[str, DistillationLoss],
        args: DistillationTrainingArguments,
        *,
        teacher_processor=None,
        teacher_weights: Sequence[float] | None = None,
        student_taps: Sequence[str] | None = None,
        teacher_taps: Sequence[str] | None = None,
        sample_labels: Sequence[int] | None = None,
        labels_weight: float = 1.0,
        episodes: Shape | None = None,
        **kwargs,
    ):
        if not isinstance(args, DistillationTrainingArguments):
            raise ValueError(f"args: got {type(args).__name__}, accepted are DistillationTrainingArguments.")
        losses = _named(losses)
        teachers = _teachers(teacher, teacher_weights, model, teacher_processor, kwargs.get("processing_class"))
        if teachers is None and (needing := [name for name, loss in losses.items() if loss.needs_teacher]):
            raise ValueError(f"teacher: got None, which {', '.join(needing)} cannot do without.")
        dataset = kwargs.get("train_dataset")
        _check_columns(losses, dataset)
        self.episodes, scale = episodes, INITIAL_SCALE
        if episodes is not None:
            _check_episodes(episodes, losses, teachers, dataset, args)
            if teachers is not None:
                scale = getattr(teachers.first.model.config, SCALE_FIELD, INITIAL_SCALE)
        taps = _build(losses, model, teachers, dataset, sample_labels, student_taps, teacher_taps, args)
        if episodes is not None:
            model.get_submodule(taps.sources[POOLED][0]).requires_grad_(False)
        super().__init__(model=DistillationModel(model, losses, taps, episodes, scale), args=args, **kwargs)
        self.label_names, self.labels_weight = ["labels"], labels_weight
        self.teachers = teachers
        self._columns = sorted({column for loss in losses.values() for column in loss.columns})
        for name, loss in losses.items():
            for part in loss.parts or (None,):
                key = f"{name}/{part}" if part else name
                self.add_loss(key, lambda model, inputs, outputs, key=key: outputs["distillation"][key], loss.weight)
        self.add_callback(_EndOfSteps(losses.values()))

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self._model.student

    @property
    def losses(self) -> nn.ModuleDict:
        """The losses, by name."""
        return self._model.losses

    @property
    def cosine_scale(self) -> torch.Tensor:
        """Of the cosines of episodes."""
        return self._model.episodes.scale

    @property
    def _model(self) -> DistillationModel:
        return self.accelerator.unwrap_model(self.model)

    def _get_train_sampler(self, train_dataset=None):
        sampler = super()._get_train_sampler(train_dataset)
        if self.episodes is not None:
            sampler.shuffle = False
        return sampler

    def classification_loss(self, outputs, labels: torch.Tensor, num_items_in_batch=None) -> torch.Tensor:
        loss = super().classification_loss(outputs, labels, num_items_in_batch)
        return self.labels_weight * loss if self.model.training else loss

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        if model.training and self.is_in_train:
            inputs = self._with_teacher(inputs)
        else:  # what is there for the losses is none of the student's business
            inputs = {
                key: value for key, value in inputs.items() if key not in (*_NUMBERS, _OWN_SHARE, *self._columns)
            }
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def _with_teacher(self, inputs: Mapping) -> dict:
        """The batch, with what the losses are computed from."""
        inputs = dict(inputs)
        index, seeds = (inputs.pop(key, None) for key in _NUMBERS)
        if index is not None and seeds is None:
            seeds = index + 1_000_003 * self.state.global_step
        teacher = {}
        if isinstance(self.teachers, StoredLabels):
            epoch = int((self.state.epoch or 0.0) + 1e-6)
            teacher = {LOGITS: self.teachers.logits(epoch, index, seeds)}
        elif self.teachers is not None:
            with self.accelerator.autocast():
                pixels = inputs["pixel_values"]
                teacher = self.teachers(rotated(pixels) if self._model.teacher_rotates else pixels)
        if self.episodes is not None:
            inputs["labels"] = episode_labels(len(inputs["labels"]), self.episodes, inputs["labels"].device)
        inputs["distillation"] = {
            "teacher": teacher,
            "labels": inputs.get("labels"),
            "epoch": self.state.epoch or 0.0,
            "epochs": float(self.state.num_train_epochs if self.args.max_steps > 0 else self.args.num_train_epochs),
            "index": index,
            "seeds": seeds,
            "own_share": inputs.pop(_OWN_SHARE, None),
            "extra": {column: inputs.pop(column) for column in self._columns},
        }
        return inputs

    # The student alone is saved; a checkpoint has the rest in a file of its own.

    def _save(self, output_dir: str | None = None, state_dict=None) -> None:
        if state_dict is not None:
            state_dict = {n.removeprefix(_STUDENT): t for n, t in state_dict.items() if n.startswith(_STUDENT)}
        whole, self.model = self.model, self.network
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.model = whole
        for loss in self.losses.values():
            for name, (module, facts) in loss.kept().items():
                tensors = {n: tensor.detach().clone().contiguous() for n, tensor in unique_state(module).items()}
                file = Path(output_dir or self.args.output_dir) / name
                save_file(tensors, file, metadata={"format": "pt", **facts})

    def _save_checkpoint(self, model, trial) -> None:
        state = self._state_of_losses()
        if state and self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            folder.mkdir(parents=True, exist_ok=True)
            tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
            save_file(tensors, folder / STATE_FILE, metadata={"format": "pt"})
        super()._save_checkpoint(model, trial)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._state_of_losses():
            file = Path(resume_from_checkpoint) / STATE_FILE
            if not file.is_file():
                raise WeightsError(f"{resume_from_checkpoint}: it lacks {STATE_FILE}, the state of the losses.")
            state = load_file(file)
            if self.episodes is not None:
                load_state(self._model.episodes, {"scale": state.pop(_SCALE)}, str(file))
            load_state(self.losses, state, str(file))

    def _state_of_losses(self) -> dict[str, torch.Tensor]:
        """What the losses have learned, and the scale of episodes; none where sharded checkpoints hold it with the
        rest."""
        if not self.loads_weights_itself:
            return {}
        scale = {} if self.episodes is None else {_SCALE: self.cosine_scale}
        return {**unique_state(self.losses), **scale}


class _EndOfSteps(TrainerCallback):
    def __init__(self, losses):
        self.losses = list(losses)

    def on_step_end(self, args, state, control, **kwargs):
        for loss in self.losses:
            loss.end_step()


def _named(losses) -> dict[str, DistillationLoss]:
    if not isinstance(losses, Mapping):
        named: dict[str, DistillationLoss] = {}
        for loss in losses:
            name = getattr(loss, "name", None) or type(loss).__name__
            copies = sum(re.fullmatch(rf"{re.escape(name)}(_\d+)?", known) is not None for known in named)
            named[f"{name}_{copies + 1}" if copies else name] = loss
        losses = named
    for name, loss in losses.items():
        if not isinstance(loss, DistillationLoss):
            raise ValueError(f"losses: got {type(loss).__name__} for {name}, accepted are DistillationLoss modules.")
    return dict(losses)


def _check_episodes(shape: Shape, losses: Mapping[str, DistillationLoss], teachers, dataset, args) -> None:
    for name, loss in losses.items():
        if loss.needs_index or loss.rotates or loss.columns:
            raise ValueError(f"--losses: {name} is of single pictures; it does not go with --episodes_per_epoch.")
    if isinstance(teachers, StoredLabels):
        raise ValueError("--stored_labels: they are of single pictures; with --episodes_per_epoch name a --teacher.")
    if isinstance(teachers, Teachers) and len(teachers.teachers) > 1:
        raise ValueError("--teacher: with --episodes_per_epoch accepted is one.")
    batch = args.per_device_train_batch_size
    if batch % shape.size:
        raise ValueError(
            f"--per_device_train_batch_size: got {batch}, accepted are multiples of an episode's {shape.size} "
            f"pictures (--way {shape.way}, --shot {shape.shot}, --query {shape.query})."
        )
    step = batch * args.gradient_accumulation_steps * args.world_size
    if dataset is not None and len(dataset) % step:
        raise ValueError(
            f"--episodes_per_epoch: got {len(dataset) // shape.size}, accepted are multiples of the "
            f"{step // shape.size} of a step."
        )


def _teachers(teacher, weights, student, processor, student_processor) -> Teachers | None:
    if teacher is None or isinstance(teacher, Teachers | StoredLabels):
        return teacher
    members = list(teacher) if isinstance(teacher, Sequence) else [teacher]
    made = []
    for member in members:
        if not isinstance(member, Teacher):
            if not isinstance(member, PreTrainedModel):
                raise ValueError(f"teacher: got {type(member).__name__}, accepted are classifiers of transformers.")
            member = make_teacher(member, processor, student, student_processor if processor else None)
        made.append(member)
    return Teachers(made, weights)


def _build(
    losses: Mapping[str, DistillationLoss],
    student: nn.Module,
    teachers: Teachers | None,
    dataset,
    sample_labels,
    student_taps: Sequence[str] | None,
    teacher_taps: Sequence[str] | None,
    args,
) -> Taps:
    """Build the losses for what dry runs of both networks show; the student's taps."""
    parameter = next(student.parameters())
    pixels = _example(dataset, student).to(parameter.device, parameter.dtype)
    for name, loss in losses.items():
        if loss.rotates and pixels.shape[-1] != pixels.shape[-2]:
            height, width = pixels.shape[-2:]
            raise ValueError(f"losses: {name} rotates pictures, which have to be square; got {height}×{width}.")
    needed = [POOLED, *(name for loss in losses.values() for name in loss.student_features())]
    run = dry_run(student, pixels)
    if run.num_classes != student.config.num_labels:
        raise ValueError(
            f"model: it gives {run.num_classes} logits for the {student.config.num_labels} of its labels."
        )
    ours = Taps(student, run, needed, student_taps, "--student_taps")
    specs, taught_by, classes = {}, None, ()
    if isinstance(teachers, Teachers):
        needed = [POOLED, *(name for loss in losses.values() for name in loss.teacher_features())]
        seen = pixels.to(args.device)
        for teacher in teachers.teachers[1:]:
            teacher.logits(seen)
        first = teachers.first
        first.tap(first.try_out(seen), needed, teacher_taps, "--teacher_taps")
        specs, taught_by, classes = first.specs, first.model, tuple(first.classes.tolist())
    labels = None
    if any(loss.needs_index for loss in losses.values()):
        labels = _sample_labels(dataset, sample_labels, [n for n, loss in losses.items() if loss.needs_index])
    networks = Networks(
        ours.specs,
        specs,
        run.num_classes,
        labels,
        _column_shapes(losses, dataset),
        student,
        teacher_model=taught_by,
        teacher_classes=classes,
    )
    with same_random_numbers(args.device):  # the student's training draws what it would draw without them
        torch.manual_seed(args.seed)
        for name, loss in losses.items():
            try:
                loss.build(networks)
            except ValueError as error:
                raise ValueError(f"--losses: {name}: {error}") from None
            except KeyError as error:
                if specs:
                    raise
                raise ValueError(f"--losses: {name} needs {error} of a teacher; stored labels are logits.") from None
            loss.to(parameter.device, parameter.dtype)
    return ours


def _check_columns(losses: Mapping[str, DistillationLoss], dataset) -> None:
    """ValueError where the samples lack what a loss reads from them; a stream is not looked into."""
    try:
        keys = dataset[0].keys()
    except (TypeError, KeyError, IndexError, NotImplementedError, AttributeError):
        return
    for name, loss in losses.items():
        lacking = [column for column in loss.columns if column not in keys]
        if lacking:
            raise ValueError(
                f"losses: {name} reads {', '.join(lacking)} from the samples, which hold {', '.join(keys)}."
            )


def _column_shapes(losses: Mapping[str, DistillationLoss], dataset) -> dict[str, tuple[int, ...]]:
    columns = {column for loss in losses.values() for column in loss.columns}
    try:
        return {column: tuple(torch.as_tensor(dataset[0][column]).shape) for column in columns}
    except (TypeError, KeyError, IndexError, NotImplementedError):
        return {}


def _example(dataset, student: nn.Module) -> torch.Tensor:
    """Twice the first picture of the training set; noise where it has none by number."""
    try:
        first = dataset[0]["pixel_values"]
    except (TypeError, KeyError, IndexError, NotImplementedError):
        return example_input(student)
    first = torch.as_tensor(first)
    return torch.stack([first, first])


def _sample_labels(dataset, given, names: Sequence[str]) -> torch.Tensor:
    source = getattr(dataset, "source", None)
    labels = given if given is not None else getattr(source, "labels", None)
    if labels is None and "labels" in (getattr(dataset, "column_names", None) or ()):
        labels = dataset["labels"][:]
    try:
        has_index = "index" in dataset[0]
    except (TypeError, KeyError, IndexError, NotImplementedError):
        has_index = False
    if labels is None or not has_index:
        raise ValueError(
            f"losses: {', '.join(names)} looks up samples by their numbers: the training set must give `index` with "
            "each sample, and tell all labels (sample_labels); a stream cannot."
        )
    return torch.as_tensor(labels)
