"""Detectors and segmenters as a recipe asks for them: built anew with any backbone, or trained."""

import logging
import os
from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn
from transformers import AutoBackbone, AutoConfig, AutoImageProcessor, PreTrainedModel

import hf_effmodels

from ...hub.ids import reading
from ...hub.whole import check_complete
from ..data.classes import is_generic, same_classes, shown
from .arguments import ModelArguments, check_fields_of

logger = logging.getLogger(__name__)


def label_fields(args: ModelArguments, names: Sequence[str] | None, kind: str) -> dict:
    """The fields of a configuration that say the classes `names`; none without.

    Args:
        kind: what the models are called in messages, such as "detectors".

    Raises:
        ValueError: `--model_config` says the classes, or `--num_channels` is not 3.
    """
    if args.num_channels not in (None, 3):
        raise ValueError(f"--num_channels: got {args.num_channels}, {kind} here take 3 (RGB).")
    if names is None:
        return {}
    for name in ("id2label", "label2id", "num_labels"):
        if name in args.model_config:
            raise ValueError(f"--model_config: {name} comes from the data set.")
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def build_anew(
    args: ModelArguments,
    argument: str,
    known: Collection[str],
    auto_class,
    labels: dict,
    adjust: Callable[[dict], None] = lambda fields: None,
) -> PreTrainedModel:
    """A model of the type that `args.<argument>` names, with random weights but for those of a trained `--backbone`.

    Args:
        args: with the fields `argument`, `backbone` and `backbone_config`.
        known: the model types that have such a head.
        auto_class: the Auto class of the head.
        labels: of `label_fields`.
        adjust: changes the fields of the configuration in place, those of the backbone among them.

    Raises:
        ValueError: another model type, or a field that its configuration does not have.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    model_type, fields = getattr(args, argument), dict(args.model_config)
    if model_type not in known or model_type not in CONFIG_MAPPING:
        raise ValueError(f"--{argument}: got {model_type!r}, accepted are {', '.join(sorted(known))}.")
    config_class = CONFIG_MAPPING[model_type]
    check_fields_of(config_class(), fields)  # one that is given fields has them, whatever they are
    if args.backbone is not None:
        fields["backbone_config"] = _backbone_config(args)
    adjust(fields)
    config = config_class(**fields, **labels)
    model = auto_class.from_config(config)
    _start_batch_norms(model)
    return model


def _start_batch_norms(model: PreTrainedModel) -> None:
    """Batch norms whose scales were drawn about zero start at one; scales that are zero by design stay.

    transformers draws those of RT-DETR's encoder from N(0, 0.01), the published code starts at one: a map that is
    scaled by 0.01 in each of many layers says nothing at the end of them, and a training from random weights crawls.
    """
    for module in model.modules():
        scale = getattr(module, "weight", None) if isinstance(module, nn.BatchNorm2d) else None
        if scale is not None and scale.std() > scale.mean().abs():
            nn.init.ones_(scale)


def has_trained_backbone(args: ModelArguments) -> bool:
    """Whether `--backbone` is a folder or an id, which has weights, and no preset."""
    return args.backbone is not None and (
        os.path.exists(args.backbone) or args.backbone not in hf_effmodels.list_models()
    )


def is_loaded(args: ModelArguments) -> bool:
    """Whether the model, or its backbone, has weights from a folder or the Hub."""
    return args.model not in (None, *hf_effmodels.list_models()) or has_trained_backbone(args)


def _backbone_config(args: ModelArguments):
    if not has_trained_backbone(args):
        return hf_effmodels.get_config(args.backbone, **args.backbone_config)
    with reading("--backbone", args.backbone):
        return AutoConfig.from_pretrained(args.backbone, token=args.token, **args.backbone_config)


def load_backbone(model: PreTrainedModel, source: str, token: str | None) -> None:
    """Trained weights of a backbone, from a folder or an id, into a model that was built with it."""
    config = model.config.backbone_config
    kind = type(AutoBackbone.from_config(config))
    with reading("--backbone", source):
        how = {"dtype": torch.float32, "token": token, "output_loading_info": True}
        trained, found = kind.from_pretrained(source, config=config, **how)
    check_complete("--backbone", source, trained, found, to_be_trained=True)
    next(module for module in model.modules() if isinstance(module, kind)).load_state_dict(trained.state_dict())


def load_pretrained(args: ModelArguments, auto_class, labels: dict) -> tuple[PreTrainedModel, object]:
    """A trained model and its image processor, from a folder or an id; without `labels` with its own head.

    Raises:
        OSError: they cannot be found or reached.
        ValueError: a field that the configuration does not have, a head for another number of classes, or weights
            that are lacking.
    """
    if "/" not in args.model and not os.path.exists(args.model):
        hf_effmodels.get_config(args.model)  # says which presets come near
    source = {"revision": args.revision, "token": args.token, "trust_remote_code": args.trust_remote_code}
    with reading("--model", args.model, revision=("--revision", args.revision)):
        config = AutoConfig.from_pretrained(args.model, **source)
        processor = AutoImageProcessor.from_pretrained(args.model, **source)
    check_fields_of(config, args.model_config)
    to_be_trained = bool(labels)
    if labels:
        names, own = list(labels["id2label"].values()), class_names(config)
        count = len(names)
        if same_classes(names, own):
            labels = {}  # the data set's classes are going to be numbered as the head's, whose weights go on
        elif count == config.num_labels and not is_generic(own):
            logger.warning(
                "--model: the head of %s is for other classes (%s), as many as the data set has (%s): its weights are "
                "where theirs begin.",
                *(args.model, shown(own), shown(names)),
            )
        if count != config.num_labels and not args.ignore_mismatched_sizes:
            raise ValueError(
                f"--model: {args.model} has a head for {config.num_labels} classes, the data set has {count}. With "
                "--ignore_mismatched_sizes true a new head is trained."
            )
    source |= {"ignore_mismatched_sizes": args.ignore_mismatched_sizes, "output_loading_info": True}
    source["dtype"] = torch.float32  # as in `load_whole`
    model, found = auto_class.from_pretrained(args.model, **args.model_config, **labels, **source)
    check_complete("--model", args.model, model, found, to_be_trained=to_be_trained)
    return model, sized(processor, args.image_size)


def class_names(config) -> list[str]:
    """Names of a model's classes, by number."""
    return [config.id2label[number] for number in range(config.num_labels)]


def sized(processor, side: int | None):
    """The image processor for square inputs of this side; as it is without."""
    if side is None:
        return processor
    return type(processor)(**{**processor.to_dict(), "size": {"height": side, "width": side}})
