"""What the model does not go with is said before training starts, and not by a traceback after it."""

from contextlib import suppress

from torch import nn
from transformers.utils import is_liger_kernel_available

from ...hub.ids import first_line


def check_trainable(trainer) -> None:
    """Refuse arguments that this trainer's model or optimizer cannot follow.

    Args:
        trainer: a `RecipeTrainer` with its model and arguments.

    Raises:
        ValueError: names the argument. ImportError: it needs a library that is not there.
    """
    args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
    name = type(model).__name__
    if args.neftune_noise_alpha is not None and not _has_embedding(model):
        raise ValueError(f"--neftune_noise_alpha: {name} has no embedding of tokens, whose output gets the noise.")
    if args.gradient_checkpointing and not getattr(model, "supports_gradient_checkpointing", False):
        raise ValueError(f"--gradient_checkpointing: {name} does not support it.")
    if args.use_liger_kernel and not is_liger_kernel_available():
        raise ImportError("--use_liger_kernel needs the library liger-kernel: pip install liger-kernel")
    takes_tokens = getattr(model, "main_input_name", None) == "input_ids"
    for precision in ("bf16_full_eval", "fp16_full_eval"):
        if getattr(args, precision) and not takes_tokens:
            raise ValueError(f"--{precision}: {name} would be given pictures in float32; --bf16 true computes so.")
    if args.include_num_input_tokens_seen != "no" and not takes_tokens:
        raise ValueError(f"--include_num_input_tokens_seen: {name} is given pictures, and no tokens to count.")
    _check_batch(args, trainer.train_dataset)
    _check_metric(args, trainer.metric_names())
    _try_optimizer(trainer)


def _has_embedding(model: nn.Module) -> bool:
    with suppress(NotImplementedError, AttributeError):
        return isinstance(model.get_input_embeddings(), nn.Embedding)
    return False


def _check_batch(args, dataset) -> None:
    if not args.dataloader_drop_last or not hasattr(dataset, "__len__"):
        return
    together = args.per_device_train_batch_size * args.world_size
    if len(dataset) < together:
        processes = f" and {args.world_size} processes" if args.world_size > 1 else ""
        raise ValueError(
            f"--per_device_train_batch_size: got {args.per_device_train_batch_size}{processes}, but there are "
            f"{len(dataset)} training samples and --dataloader_drop_last true leaves out what is no whole batch; "
            "accepted are smaller batches, more samples, or --dataloader_drop_last false."
        )


def _check_metric(args, known: tuple[str, ...] | None) -> None:
    name = args.metric_for_best_model
    if name is None or known is None or name.removeprefix("eval_") in known:
        return
    raise ValueError(f"--metric_for_best_model: got {name!r}, accepted are {', '.join(known)}.")


def _try_optimizer(trainer) -> None:
    """Make the optimizer, for what is said then, and forget it: it is made again when the model is where it trains."""
    if trainer.optimizer is not None or trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        return
    optim = getattr(trainer.args.optim, "value", trainer.args.optim)
    try:
        trainer.create_optimizer()
    except ImportError as error:
        raise ImportError(f"--optim: {optim} cannot be used here ({first_line(error)}).") from error
    except Exception as error:
        said = first_line(error)
        if said.startswith("--"):
            raise ValueError(str(error)) from error
        others = {name: getattr(trainer.args, name) for name in ("layer_decay", "optim_args", "optim_target_modules")}
        given = "".join(f", --{name} {value}" for name, value in others.items() if value)
        raise ValueError(f"--optim {optim}{given}: no optimizer can be made of it for this model ({said}).") from error
    finally:
        trainer.optimizer = None
