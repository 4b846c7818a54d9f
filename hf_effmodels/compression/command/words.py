"""What the steps share: results as text, and errors in the words of the command."""

from collections.abc import Collection

from ... import _command_line


def as_table(result: dict) -> str:
    width = max(map(len, result), default=0)
    shown = {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in result.items()}
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown.items() if value is not None)


def as_yaml(result: dict) -> str:
    return "\n".join(
        f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}" for name, value in result.items()
    )


#: What functions call an argument -> what this command calls it.
OPTIONS = {
    "num_hidden_layers": "layers",
    "num_attention_heads": "heads",
    "num_key_value_heads": "key_value_heads",
    "target_params": "params",
    "vocab_size": "vocab",
    "tie_word_embeddings": "tie",
    "train_split": "split",
    "seed": "draw_seed",
}


def in_words_of_the_command(message: str, options: dict, places: Collection[str] = ()) -> str:
    """An error of the functions behind a step with its option: `vocab_size: ...` -> `--vocab-size: ...`; what stands
    at one of its `places`, without an option, is in capitals: `MODEL: ...`."""
    if message.startswith(("layers: got '", "layers: got [")) and "select_layers" in options:
        message = f"select_{message}"  # which layers stay, and not how many
    own = {name: name.upper() if name in places else "--" + name.replace("_", "-") for name in options}
    renamed = {name: own[ours] for name, ours in OPTIONS.items() if ours in own and name not in own}
    return _command_line.in_words_of_the_command(message, own | renamed)
