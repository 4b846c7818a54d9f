"""How lists of layers name them."""

import re


def is_named(name: str, pattern: str) -> bool:
    """Whether `pattern` is the layer's name, its end after a dot, the name of something it is in, or, after `re:`, a
    regular expression that its name begins with (as compressed-tensors writes them)."""
    if pattern.startswith("re:"):
        return re.match(pattern[3:], name) is not None
    return name == pattern or name.endswith(f".{pattern}") or f".{pattern}." in f".{name}."
