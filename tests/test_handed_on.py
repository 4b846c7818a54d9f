"""What a function is given under a name, it hands on to what it calls that takes it by that name: a seed, a precision,
a revision that is left out there would go by its default without a word."""

import ast
import functools
from collections.abc import Iterator

from . import package_source

PACKAGE = "hf_effmodels"
#: (module, what is called, name) -> why something else than what has this name is meant, or nothing.
ON_PURPOSE = {
    ("cli", "list_models", "task"): "the presets of all tasks",
    ("prediction.predictor", "list_models", "task"): "the presets of all tasks",
    ("prediction.processes", "Processes", "device"): "a process alone leaves the choice to the predictor",
    ("edge", "create_model", "source"): "a preset is built, its name is given",
    ("benchmarking.peers", "count_preset", "folded"): "multiply-adds are those of the network as it is published",
    ("collaboration.splitting.halves", "reading", "revision"): "of what is downloaded, a revision is no mistake",
    ("compression.pruning.structures", "Axis", "layer"): "all layers have one hidden axis",
    ("compression.pruning.structures", "Axis", "shortcut"): "all shortcuts have one hidden axis",
    ("compression.tokenizers.report", "unreachable_ids", "id_map"): "which are counted in the new tokenizer's numbers",
    ("modeling.gold_yolo.assignment_gold_yolo", "_inside", "eps"): "a distance, not the smallest area",
    ("quantization.twin_uniform.published", "TwinUniformConfig", "linears"): "filled as the layers are put in place",
    ("quantization.twin_uniform.published", "TwinUniformConfig", "products"): "filled as the layers are put in place",
    (
        "training.run.dense_models",
        "check_fields_of",
        "argument",
    ): "fields are of --model_config, whatever names the type",
    ("training.tasks.contrastive_language_image.models", "load_whole", "revision"): "--revision is the model's",
    ("training.tasks.semantic_segmentation.models", "load_whole", "revision"): "--revision is the model's",
    (
        "training.tasks.object_detection.evaluation",
        "confusion",
        "threshold",
    ): "boxes that are kept are more than shown",
    ("training.tasks.super_resolution.evaluation", "imresize", "size"): "by the scale; `size` is that of the square",
    ("training.tasks.super_resolution.models", "create_pipeline", "encoder"): "a trained one takes its place",
}


@functools.cache
def _names(module: str) -> dict[str, tuple[str, ast.FunctionDef | ast.ClassDef]]:
    """What functions and classes of the package a module knows by name: name -> where it is defined, and that."""
    own = {node.name: (module, node) for node in package_source.trees()[module].body if _is_definition(node)}
    for node in ast.walk(package_source.trees()[module]):
        if not isinstance(node, ast.ImportFrom):
            continue
        for (target, name, line), alias in zip(_origins(module, node), node.names, strict=False):
            if name and target in package_source.trees() and target != module and line == node.lineno:
                if (found := _names_at(target, name)) is not None:
                    own.setdefault(alias.asname or alias.name, found)
    return own


def _origins(module: str, node: ast.ImportFrom) -> Iterator[tuple[str, str, int]]:
    known = {(name, line): target for target, name, line in package_source.imports(module)}
    return ((known.get((alias.name, node.lineno), ""), alias.name, node.lineno) for alias in node.names)


@functools.cache
def _names_at(module: str, name: str):
    for node in package_source.trees()[module].body:
        if _is_definition(node) and node.name == name:
            return module, node
    for target, imported, _ in package_source.imports(module):
        if imported == name and target in package_source.trees() and target != module:
            return _names_at(target, name)
    return None


def _is_definition(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.ClassDef)


@functools.cache
def _fields(module: str, cls: ast.ClassDef) -> dict[str, bool]:
    """Fields of a dataclass, those of its bases first: name -> whether it has a default."""
    found: dict[str, bool] = {}
    for base in cls.bases:
        if isinstance(base, ast.Name) and base.id in _names(module):
            origin, parent = _names(module)[base.id]
            if isinstance(parent, ast.ClassDef):
                found |= _fields(origin, parent)
    return found | {n.target.id: n.value is not None for n in cls.body if isinstance(n, ast.AnnAssign)}


@functools.cache
def _optional(module: str, node: ast.FunctionDef | ast.ClassDef) -> dict[str, int | None]:
    """Parameters with a default: name -> place, None by keyword alone."""
    if isinstance(node, ast.ClassDef):
        made = next(
            (each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"), None
        )
        if made is None:
            fields = _fields(module, node)
            return {name: place for place, (name, has_default) in enumerate(fields.items()) if has_default}
        arguments, skipped = made.args, 1
    else:
        arguments, skipped = node.args, 0
    places = [*arguments.posonlyargs, *arguments.args][skipped:]
    first = len(places) - len(arguments.defaults)
    found = {each.arg: place for place, each in enumerate(places) if place >= first}
    keywords = zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    return found | {each.arg: None for each, default in keywords if default is not None}


def _passes(module: str) -> list[tuple[int, str, str, bool]]:
    """Calls of optional parameters that the caller has a value of that name for: line, what, name, whether handed on.

    The caller has its own parameters; and fields of a dataclass that it is given, or of itself, where the call takes
    another of these under its name.
    """

    found = []

    def walk(node: ast.AST, given: frozenset, fields: frozenset) -> None:
        for child in ast.iter_child_nodes(node):
            own, known = given, fields
            if isinstance(child, ast.FunctionDef | ast.Lambda):
                arguments = [*child.args.posonlyargs, *child.args.args, *child.args.kwonlyargs]
                own |= {each.arg for each in arguments} - {"self", "cls"}
                for each in arguments:
                    known |= _fields_of_annotation(module, each.annotation)
            elif isinstance(child, ast.ClassDef):
                known |= {*_fields(module, child)}
            elif isinstance(child, ast.Call):
                found.extend(_handed(module, child, own, known))
            walk(child, own, known)

    walk(package_source.trees()[module], frozenset(), frozenset())
    return found


def _fields_of_annotation(module: str, annotation: ast.AST | None) -> set[str]:
    words = [node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)] if annotation else []
    classes = [_names(module)[word] for word in words if word in _names(module)]
    return {name for origin, node in classes if isinstance(node, ast.ClassDef) for name in _fields(origin, node)}


def _handed(module: str, call: ast.Call, own: frozenset, known: frozenset) -> Iterator[tuple[int, str, str, bool]]:
    if not isinstance(call.func, ast.Name) or call.func.id not in _names(module):
        return
    origin, called = _names(module)[call.func.id]
    if any(each.arg is None for each in call.keywords) or any(isinstance(each, ast.Starred) for each in call.args):
        return  # options of a mapping
    if isinstance(called, ast.ClassDef) and origin.startswith(f"{PACKAGE}.modeling."):
        return  # parts of a network have sizes of their own
    keywords = {each.arg: each.value for each in call.keywords}
    same = {name for name, value in keywords.items() if isinstance(value, ast.Attribute) and value.attr == name}
    for name, place in _optional(origin, called).items():
        if name in own or (name in known and (same & known) - {name}):
            yield call.lineno, call.func.id, name, name in keywords or (place is not None and place < len(call.args))


def test_what_is_given_under_a_name_is_handed_on_under_that_name():
    handed, left_out = 0, {}
    for module in package_source.trees():
        for line, called, name, is_handed in _passes(module):
            handed += is_handed
            if not is_handed:
                left_out[(module.removeprefix(f"{PACKAGE}."), called, name)] = line
    assert handed > 300, "the calls are found"
    unknown = [f"{module}:{left_out[module, called, name]}: {called}(… {name}=…)" for module, called, name in left_out
               if (module, called, name) not in ON_PURPOSE]  # fmt: skip
    assert not unknown, "these go by their defaults although the caller has a value of that name"
    assert ON_PURPOSE.keys() <= left_out.keys(), "exceptions that are none"


#: Calls that read from the Hub, or from a folder, under a name that a user may give.
READS = {"from_pretrained", "snapshot_download", "hf_hub_download", "load_whole"}
READS |= {"load_image_processor", "load_vision_tower", "load_tokenizer", "load_backbone"}
#: (module, what the name is read from) -> why it is no place on the Hub.
OWN_FOLDERS = {
    ("training.run.rounds.rounds", "folder"): "what this run has written",
    ("training.run.weights", "folder"): "a checkpoint",
    ("training.tasks.causal_lm.reports", "output"): "what this run has written",
    ("training.tasks.causal_lm.models", "str(folder)"): "a checkpoint",
    ("training.tasks.visual_sequence_modeling.task", "trained"): "a checkpoint",
}


def test_whatever_a_training_reads_from_the_hub_is_read_with_the_token_of_its_user():
    """`--token`: a teacher or an image processor in a private repository could not be found without."""
    without, used = set(), set()
    for module, tree in package_source.trees().items():
        name = module.removeprefix(f"{PACKAGE}.")
        if not name.startswith("training."):
            continue
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
            if called not in READS:
                continue
            texts = [ast.unparse(each) for each in (*call.args, *(keyword.value for keyword in call.keywords))]
            keywords = {keyword.arg for keyword in call.keywords}
            if {"token", None} & keywords or any(text.split(".")[-1] == "token" for text in texts):
                continue
            used.add((name, texts[0])) if (name, texts[0]) in OWN_FOLDERS else without.add((name, ast.unparse(call)))
    assert not without and used == OWN_FOLDERS.keys()


def test_a_place_on_the_hub_is_said_with_its_revision_and_the_token():
    """Where a task says it once for several readers: {"revision": ..., "token": ...}."""
    said = [
        (module, {key.value for key in node.keys if isinstance(key, ast.Constant)}, ast.unparse(node))
        for module, tree in package_source.trees().items()
        if module.startswith(f"{PACKAGE}.training.tasks.")
        for node in ast.walk(tree)
        if isinstance(node, ast.Dict) and None not in node.keys  # which would go on from another one
    ]
    places = [(module, keys, text) for module, keys, text in said if {"revision", "trust_remote_code"} & keys]
    assert len(places) >= 8 and not [(module, text) for module, keys, text in places if "token" not in keys]
