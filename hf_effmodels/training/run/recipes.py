"""Recipes: YAML files of arguments, by system, that come with the package and are found by name."""

import difflib
from pathlib import Path

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
    if path.is_file():
        return path
    wanted = name.removesuffix(".yaml")
    if wanted in known:
        return RECIPES / f"{wanted}.yaml"
    if path.is_dir():
        raise FileNotFoundError(f"--config: {name!r} is a folder, accepted is a file or a recipe's name.")
    near = [recipe for recipe in known if wanted in recipe.split("/")]
    near = near or difflib.get_close_matches(wanted, known, n=3, cutoff=0.5)
    hint = f"nearest: {', '.join(near)}" if near else f"the recipes are {', '.join(known)}"
    raise FileNotFoundError(f"--config: there is no file {name!r} and no recipe of that name; {hint}.")
