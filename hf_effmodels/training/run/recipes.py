"""Recipes: YAML files of arguments, by system, that come with the package and are found by name."""

import difflib
import os
from collections.abc import Hashable
from pathlib import Path

import yaml

from .values import check_value

#: `<system>/<data set>.yaml`, `quickstart/<task>.yaml`; `accelerate/` has the configurations of its launcher.
RECIPES = Path(__file__).resolve().parents[2] / "recipes"


def list_recipes() -> list[str]:
    """Names of the recipes, such as `"ghostnetv3/imagenet"`."""
    names = (file.relative_to(RECIPES).with_suffix("").as_posix() for file in RECIPES.glob("*/*.yaml"))
    return sorted(name for name in names if not name.startswith("accelerate/"))


def find_recipe(name: str) -> Path:
    """The file of a recipe.

    Args:
        name: a path, or the name of a recipe of this package, with or without `.yaml`.

    Raises:
        FileNotFoundError: neither a file nor a recipe; the message has the recipes that come near.
    """
    path, known = Path(name), list_recipes()
    if os.path.isfile(path):
        return path
    wanted = name.removesuffix(".yaml")
    if wanted in known:
        return RECIPES / f"{wanted}.yaml"
    if os.path.isdir(path):
        raise FileNotFoundError(f"--config: {name!r} is a folder, accepted is a file or a recipe's name.")
    near = [recipe for recipe in known if wanted in recipe.split("/")]
    near = near or difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"the recipes are {', '.join(known)}"
    raise FileNotFoundError(f"--config: there is no file {name!r} and no recipe of that name; {hint}.")


def read_recipe(file: Path) -> dict:
    """Argument -> value of a recipe.

    Raises:
        ValueError: not YAML, no mapping, a key that is no text or stands twice, a value that no argument can have.
        OSError: the file cannot be read.
    """
    try:
        recipe = read_yaml(file.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"--config: {file} is not a text in UTF-8 ({error}).") from None
    except ValueError as error:
        raise ValueError(f"--config: {file} {error}") from None
    if not isinstance(recipe, dict):
        holds = "is empty" if recipe is None else f"holds a {type(recipe).__name__}"
        raise ValueError(f"--config: {file} {holds}, accepted is a mapping of arguments to values.")
    for key, value in recipe.items():
        if not isinstance(key, str):
            raise ValueError(f"--config: {file} has the key {key!r}, which is no text and no argument's name.")
        check_value(key, value, accepts=None, whole=False)
    return recipe


def read_yaml(text: str):
    """What a YAML text says: texts, numbers, truth values, None, lists and mappings.

    Raises:
        ValueError: not YAML, a key that stands twice, an anchor that would unfold without end, or anything else than
            the above (dates are taken as texts).
    """
    try:
        return _plain(yaml.load(text, _StrictLoader), budget=[_MOST_VALUES])
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        # The last three: yaml's own, for tags whose text is not what they say, such as !!int ''.
        raise ValueError(f"is not valid YAML: {_problem(error)}") from None


def _problem(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        # Without yaml's picture of the line, which may have a token in it.
        return " ".join(filter(None, (error.context, error.problem, f"(line {error.problem_mark.line + 1})")))
    return " ".join(str(error).split())


#: Values in a recipe, counted where they are used: a few anchors can stand for billions.
_MOST_VALUES = 100_000


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader takes the last of two equal keys without a word, and reads a date as one."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":  # <<: what comes from there may be said otherwise here
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise ValueError(f"the key {key!r} stands twice (line {key_node.start_mark.line + 1}).")
                seen.add(key)
        return super().construct_mapping(node, deep)


_StrictLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _plain(value, budget: list[int]):
    budget[0] -= 1
    if budget[0] < 0:
        raise ValueError(f"it has more than {_MOST_VALUES} values.")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str | int):
                raise ValueError(f"the key {key!r} is neither a text nor a whole number.")
        return {key: _plain(inner, budget) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner, budget) for inner in value]
    if isinstance(value, int) and value.bit_length() > 1024:
        raise ValueError("it has a number of more than 300 digits.")
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError(f"{value!r} is neither a text, a number, a truth value, a list nor a mapping.")
    return value
