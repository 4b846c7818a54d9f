"""The card of what a step has made out of another model: from what, how, its numbers, and what comes next."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

_PACKAGE = __name__.partition(".")[0]
_AGAIN = {
    "text-generation": "hf-effmodels train --task causal-lm --model . --dataset corpus.txt --output_dir trained",
    "image-classification": "hf-effmodels train --task image-classification --model . --dataset photos "
    "--output_dir trained",
}
_PREDICT = {
    "text-generation": 'hf-effmodels predict . "The beginning of a text"',
    "image-classification": "hf-effmodels predict . photo.jpg",
}


def card_of_smaller(
    model: Any, processor: Any, source: str, what: str, rows: Iterable[tuple[str, str]], task: str
) -> str:
    """The card of a smaller model.

    Args:
        model, processor: as they are written; the image processor or the tokenizer.
        source: the model that it was made of, a Hub id or a folder.
        what: has been done, a sentence.
        rows: name and value of what is told of it beside its size.
        task: the Hub's name of what it is for.
    """
    from ...hub.card import inputs_and_outputs, parameters
    from ...hub.stock_card import stock_usage

    name = type(model).__name__
    library = _PACKAGE if type(model).__module__.startswith(f"{_PACKAGE}.") else "transformers"
    facts = [("Type", f"{name} ({model.config.model_type})"), *parameters(model), *rows]
    usage = stock_usage(task, library)
    if commands := [known[task] for known in (_PREDICT, _AGAIN) if task in known]:
        put = "photo.jpg and photos stand for your own" if "image" in task else "corpus.txt stands for your own text"
        usage += f"\n\nWhat comes next ({put}):\n\n```bash\n" + "\n".join(commands) + "\n```"
    facts += inputs_and_outputs(model, processor)
    return _card(source, f"A smaller `{name}`. {what}", library, task, tuple(facts), usage)


def card_of_tokenizer(source: str, rows: Iterable[tuple[str, str]]) -> str:
    """The card of a compressed tokenizer without a model."""
    from ...hub.usage import snippet

    lines = ["from transformers import AutoTokenizer", "", 'tokenizer = AutoTokenizer.from_pretrained(".")']
    usage = "## Usage\n\nIn this folder:\n\n" + snippet([*lines, 'print(tokenizer("The beginning of a text"))'])
    return _card(source, f"A smaller tokenizer. {COMPRESSED}", "transformers", None, tuple(rows), usage)


#: What `compress-tokenizer` has done.
COMPRESSED = (
    "`hf-effmodels tiny-lm compress-tokenizer` has dropped rare tokens of a larger vocabulary; `id_map.json` tells "
    "the old id of each."
)


def _card(source: str, introduction: str, library: str, task: str | None, facts, usage: str) -> str:
    from ...hub.card_text import About, check_license, code, is_local, write_card
    from ...hub.made_of import made_of, told

    known = made_of(source)
    licence = known.licence
    try:
        check_license(*licence.values())
    except ValueError:  # of a card that somebody has written
        licence = {}
    name = Path(source).name if is_local(source) else source
    about = About(
        title=f"{Path(name).name}, smaller",
        introduction=introduction,
        library=library,
        task=task,
        tags=("hf_effmodels",),
        facts=(("Made of", code(name)), *facts),
        usage="\n\n".join(filter(None, (usage, told(source).strip()))),
    )
    return str(write_card(about, base_model=known.base_model, **licence))
