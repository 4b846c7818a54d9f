"""What a model on the Hub is made of: the one allow-list, for exporting, publishing and `--push_to_hub`.

Everything else that may lie in a folder (keys, notes, checkpoints, optimizer states, pickles, other people's code) is
not needed by the model, and so is neither published nor replaced.
"""

import json
import re
from pathlib import Path

from .._exported import CARD, CONFIG, FIGURES, MODEL_INDEX

PROCESSOR = "processor_config.json"
IMAGE_PROCESSOR = "preprocessor_config.json"

#: Besides code and weights, what transformers' models, processors, tokenizers and peft's adapters are saved as.
SETTINGS = frozenset(
    f"""{CONFIG} {CARD} {PROCESSOR} {IMAGE_PROCESSOR} generation_config.json adapter_config.json
    tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json chat_template.jinja
    tokenizer.model spiece.model sentencepiece.bpe.model vocab.json vocab.txt merges.txt""".split()
)
_TOKENIZER = frozenset(
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json chat_template.jinja".split()
)
_VOCABULARIES = frozenset(
    "tokenizer.model spiece.model sentencepiece.bpe.model vocab.json vocab.txt merges.txt".split()
)
#: What the licence of the weights may ask for.
LICENCE = frozenset("LICENSE LICENSE.md LICENSE.txt NOTICE NOTICE.md NOTICE.txt".split())

_CHAT_TEMPLATE = re.compile(r"additional_chat_templates/[\w-]+\.jinja")
_SHARD = r"(-\d{5}-of-\d{5})?"
_WEIGHTS = re.compile(rf"(adapter_)?model(\.(fp16|bf16|fp32))?{_SHARD}\.safetensors|model\.safetensors\.index\.json")
_COMPONENT = re.compile(r"([a-z][a-z0-9_]*)/((generation_|scheduler_)?config\.json)")
_COMPONENT_WEIGHTS = re.compile(
    rf"[a-z][a-z0-9_]*/(diffusion_pytorch_)?model(\.(fp16|bf16|fp32))?{_SHARD}\.safetensors"
    r"|[a-z][a-z0-9_]*/(diffusion_pytorch_)?model\.safetensors\.index(\.(fp16|bf16|fp32))?\.json"
)


def is_weights(name: str) -> bool:
    """Whether a file of a folder (by its name in it, with `/`) holds weights, or the index of weights in shards."""
    return bool(_WEIGHTS.fullmatch(name) or _COMPONENT_WEIGHTS.fullmatch(name))


def is_model_file(name: str) -> bool:
    """Whether a file is part of a model or a pipeline; its code, which content tells, apart."""
    return (
        name in SETTINGS
        or name == MODEL_INDEX
        or is_weights(name)
        or bool(_CHAT_TEMPLATE.fullmatch(name) or _COMPONENT.fullmatch(name))
    )


def model_files(folder: str | Path) -> list[str]:
    """The names of the files in `folder` that belong on the Hub, code apart, in order.

    A name of the list is not enough: what the model in the folder, its processor and its tokenizer do not read (a
    `vocab.json` beside a classifier, an adapter beside whole weights) was put there by somebody else.

    Raises:
        ValueError: one of them is a link (what it points to may lie anywhere), weights are there twice, or an index
            or a configuration cannot be read.
    """
    folder = Path(folder)
    names = _needed_of_pipeline(folder) if (folder / MODEL_INDEX).is_file() else _needed_of_model(folder)
    for name in names:
        refuse_link(folder, name)
    names = [name for name in names if not is_weights(name) or name in needed_weights(folder, name)]
    for name in names:
        if name.endswith(".json"):
            read_json(folder, name)
    return names


def own_files(folder: str | Path) -> set[str]:
    """The same of a folder that a model is to be written into again: which of its files may be replaced. Of what is in
    disorder none."""
    folder = Path(folder)
    try:
        names = _needed_of_pipeline(folder) if (folder / MODEL_INDEX).is_file() else _needed_of_model(folder)
        return {name for name in names if not is_weights(name) or name in needed_weights(folder, name)} - LICENCE
    except (ValueError, OSError):
        return set()


def _names_in(folder: Path) -> list[str]:
    found = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    names = [path.relative_to(folder).as_posix() for path in found]
    return [name for name in names if is_model_file(name) or name in LICENCE or name in FIGURES]


def _needed_of_pipeline(folder: Path) -> list[str]:
    """Beside the index and the card, what the components read in their folders."""
    parts = components(read_json(folder, MODEL_INDEX))
    needed = []
    for name in _names_in(folder):
        part, _, file = name.partition("/")
        is_scheduler = "Scheduler" in str(parts.get(part, ["", ""])[1])
        is_read = file == "scheduler_config.json" if is_scheduler else file != "scheduler_config.json"
        if file == "generation_config.json" or file.startswith("model."):  # diffusers has other names
            is_read = parts.get(part, [""])[0] == "transformers"
        if name in (MODEL_INDEX, CARD, *LICENCE) or part in parts and file and is_read:
            needed.append(name)
    return needed


def _needed_of_model(folder: Path) -> list[str]:
    """What transformers (or peft) reads of a folder when its model, processor and tokenizer are loaded."""
    names = [name for name in _names_in(folder) if "/" not in name or _CHAT_TEMPLATE.fullmatch(name)]
    is_adapter = not (folder / CONFIG).is_file()  # peft writes none of its own
    weights = {name for name in names if _WEIGHTS.fullmatch(name) and name.startswith("adapter_") == is_adapter}
    needed = {CARD, *LICENCE, "adapter_config.json" if is_adapter else CONFIG} | weights | _figures(folder)
    model_class = _model_class(folder)
    takes = getattr(model_class, "input_modalities", None)  # None: not known, anything
    takes = {takes} if isinstance(takes, str) else set(takes or ("image", "text"))
    generates = model_class is None or model_class.can_generate()
    if generates:
        needed.add("generation_config.json")
    if takes != {"text"}:
        needed.add("preprocessor_config.json")
    if model_class is None or _has_processor(folder):
        needed.add(PROCESSOR)
    if "text" in takes or generates:
        needed |= _tokenizer_files(folder, names)
    return [name for name in names if name in needed]


def _figures(folder: Path) -> set[str]:
    """The charts that the card shows; others were put there by somebody else."""
    try:
        card = (folder / CARD).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    return {name for name in FIGURES if f"]({name})" in card}


def _model_class(folder: Path) -> type | None:
    """The class of the model in a folder; None where the class is not known, or there is no configuration (an
    adapter's base is elsewhere)."""
    import transformers

    from ..registry import ARCHITECTURES

    if not (folder / CONFIG).is_file():
        return None
    config = read_json(folder, CONFIG)
    architecture = ARCHITECTURES.get(str(config.get("model_type")))
    for name in config.get("architectures") or ():
        if architecture is not None:
            for auto, known in architecture.auto_classes.items():
                if known == name:
                    return architecture.model_class(auto)
        elif isinstance(found := getattr(transformers, str(name), None), type):
            return found if issubclass(found, transformers.PreTrainedModel) else None
    return None


def _has_processor(folder: Path) -> bool:
    """Whether the models of this type have a processor of their own, beyond an image processor or a tokenizer."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    from ..registry import ARCHITECTURES

    model_type = str(read_json(folder, CONFIG).get("model_type"))
    architecture = ARCHITECTURES.get(model_type)
    return model_type in PROCESSOR_MAPPING_NAMES if architecture is None else architecture.takes == "image+text"


def _tokenizer_files(folder: Path, names: list[str]) -> set[str]:
    """What a tokenizer is read from: its one file, or without that the vocabulary that its class names."""
    import transformers

    needed = _TOKENIZER | set(filter(_CHAT_TEMPLATE.fullmatch, names))
    if "tokenizer.json" in names:
        return needed
    settings = read_json(folder, "tokenizer_config.json") if "tokenizer_config.json" in names else {}
    files = getattr(getattr(transformers, str(settings.get("tokenizer_class")), None), "vocab_files_names", {})
    return needed | (_VOCABULARIES & set(files.values()) or _VOCABULARIES)


def components(index: dict) -> dict[str, list[str]]:
    """Of a pipeline's index, name of a component -> its module and its class; those left out (None) apart."""
    return {
        name: value
        for name, value in index.items()
        if re.fullmatch(r"[a-z][a-z0-9_]*", name) and isinstance(value, list) and len(value) == 2 and value[0]
    }


def read_json(folder: Path, name: str) -> dict:
    """The object in a JSON file; ValueError if it cannot be read or holds something else."""
    try:
        content = json.loads((folder / name).read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"folder_or_model: {folder / name} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"folder_or_model: {folder / name} holds a {type(content).__name__}, expected an object")
    return content


def refuse_link(folder: Path, name: str) -> None:
    """ValueError if a file, or a folder on the way to it, is a link: what is published lies in the folder itself."""
    path = folder
    for part in Path(name).parts:
        path = path / part
        if path.is_symlink():
            raise ValueError(
                f"folder_or_model: {path} is a link to {path.readlink()}; accepted are files, so that nothing from "
                "elsewhere is published. Put a copy of the file there"
            )
        if path.exists() and not path.is_file() and not path.is_dir():
            raise ValueError(f"folder_or_model: {path} is neither a file nor a folder")


def needed_weights(folder: Path, name: str) -> set[str]:
    """Of the weights that `name` belongs to, those a loader reads: one file, or an index and the shards it names."""
    beside, _, file = name.rpartition("/")
    beside = f"{beside}/" if beside else ""
    stem = re.match(r"adapter_model|model|diffusion_pytorch_model", file)[0]
    variant = re.search(r"\.(fp16|bf16|fp32)(-|\.safetensors|\.json)", file)
    variant = f".{variant[1]}" if variant else ""
    whole = f"{beside}{stem}{variant}.safetensors"
    index = f"{beside}{stem}.safetensors.index{variant}.json"
    if not (folder / index).is_file():
        return {whole}
    if (folder / whole).is_file():
        raise ValueError(f"folder_or_model: {folder} holds both {whole} and {index}; delete the one that is not meant")
    try:
        shards = set(json.loads((folder / index).read_bytes())["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"folder_or_model: {folder / index} is no index of weights ({error!r})") from error
    named = {shard for shard in shards if isinstance(shard, str) and "/" not in shard}
    wrong = sorted(str(shard) for shard in shards if shard not in named or not is_weights(f"{beside}{shard}"))
    if wrong:
        raise ValueError(f"folder_or_model: {folder / index} names {wrong[0]!r}, accepted are weights beside it")
    return {index, *(f"{beside}{shard}" for shard in shards)}


def reference_fields(config_class: type) -> dict[str, str]:
    """Part of a configuration -> the field that says where that part's own weights are, of models that may be saved
    without them: `<part>_model_name_or_path` beside `<part>_config`."""
    fields = getattr(config_class, "__dataclass_fields__", {})
    parts = (name.removesuffix("_config") for name in getattr(config_class, "sub_configs", {}))
    named = {f"{part}_config": f"{part}_model_name_or_path" for part in parts}
    return {part: field for part, field in named.items() if field in fields}
