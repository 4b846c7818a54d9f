"""Models that are to be what they were trained to be: loaded with all of their weights, or not at all."""

from collections.abc import Iterable

from .checkpoints import check_values
from .ids import reading


def load_whole(
    loader,
    argument: str,
    name: str,
    *,
    revision: tuple[str, str | None] | None = None,
    spared: Iterable[str] = (),
    hint: str = "",
    **options,
):
    """What `loader.from_pretrained` gives. transformers fills in random weights for those that a checkpoint lacks, and
    logs it: a teacher, or a tower that is begun with, would be partly noise.

    Args:
        loader: a class or an Auto class of transformers.
        argument, name: what the model is called by, a folder or an id on the Hub.
        revision: the argument that says it, and what it says.
        spared: beginnings of the names of weights that may be lacking, since nothing here uses them.
        hint: what else is said of one that is not there.
        options: go to `from_pretrained`.

    Raises:
        OSError: it cannot be found, reached or read. ValueError: weights are lacking or not finite.
    """
    if revision is not None:
        options["revision"] = revision[1]
    with reading(argument, name, revision=revision, hint=hint):
        model, found = loader.from_pretrained(name, output_loading_info=True, **options)
    check_complete(argument, name, model, found, spared)
    try:
        check_values(model.state_dict())
    except ValueError as error:
        raise ValueError(f"{argument}: {name} has {error}") from None
    return model


def check_complete(argument: str, name: str, model, found: dict, spared: Iterable[str] = ()) -> None:
    """ValueError of a model that was loaded without some of its weights; counters of batch norms are none.

    Args:
        found: what `from_pretrained` says with `output_loading_info`.
        spared: as for `load_whole`.
    """
    shapes = (key if isinstance(key, str) else key[0] for key in found.get("mismatched_keys", ()))
    lacking = {key for key in {*found.get("missing_keys", ()), *shapes} if not key.startswith(tuple(spared))}
    missing = sorted(key for key in lacking if not key.endswith(".num_batches_tracked"))
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ValueError(
            f"{argument}: {name} lacks weights of {type(model).__name__}: {', '.join(missing[:3])}{more}."
        )
