"""`suggest-config`: a shape for a number of parameters."""

from pathlib import Path

from ..._option_types import count, finite, number
from ...training.run.source import keys_of
from ..pruning.choices import check_choice


def add(command) -> None:
    sub = command(
        "suggest-config", _suggest_config, str, "Shapes for a number of parameters, the recommended one first."
    )
    sub.add_argument("--params", required=True, type=number, help="such as 1e9, 15M or 1.5B, embeddings included")
    sub.add_argument("--vocab", required=True, type=number, help="number of tokens, such as 48000 or 48k")
    sub.add_argument("--model-type", default="llama", help="llama or pangu_pi")
    sub.add_argument("--width-first", action="store_true", help="recommend LLaMA's proportions instead of depth")
    sub.add_argument("--tie", action="store_true", help="the head is the embedding")
    sub.add_argument("--tolerance", type=finite, default=0.05, help="share by which the number may be missed")
    sub.add_argument("--max-layers", type=count, help="deepest recommended network")
    sub.add_argument("--head-dim", type=count, help="width of a head (default: 128, of small networks 64 or 32)")
    sub.add_argument("--kv-groups", type=count, default=1, help="query heads for each key and value head")
    sub.add_argument("--output", help="folder for the recommended config.json; it must have none yet")
    sub.add_argument("--overwrite", action="store_true", help="replace the config.json in the folder")


def _suggest_config(arguments):
    check_choice("model_type", arguments.model_type, keys_of("CONFIGS", Path(__file__).parents[1] / "sizes.py"))
    if arguments.output is not None:
        _check_free(Path(arguments.output), arguments.overwrite)
    from ..sizes import list_shapes, table

    options = {"tie_word_embeddings": True} if arguments.tie else {}
    shapes = list_shapes(
        arguments.params,
        arguments.vocab,
        not arguments.width_first,
        model_type=arguments.model_type,
        tolerance=arguments.tolerance,
        max_layers=arguments.max_layers,
        head_dim=arguments.head_dim,
        kv_groups=arguments.kv_groups,
        **options,
    )
    if arguments.output is not None:
        shapes[0].config.save_pretrained(arguments.output)
    return [shape.row() for shape in shapes] if arguments.json else table(shapes)


def _check_free(output: Path, overwrite: bool) -> None:
    if output.exists() and not output.is_dir():
        raise ValueError(f"--output: {output} is a file, accepted is a folder.")
    if (output / "config.json").exists() and not overwrite:
        raise ValueError(
            f"--output: {output} has a config.json; choose another folder, or replace it with --overwrite."
        )
