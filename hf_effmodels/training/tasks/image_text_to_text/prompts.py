"""What the model is asked and what it answers, word for word as the paper's code has it."""

import re
from collections.abc import Sequence

OPTIONS = "ABCDE"
#: What ScienceQA prompts end with in evaluation: the model goes on with one token, the letter.
SCIENCE_QA_START = "The answer is"
#: Captions are asked for like this in training; in evaluation without the blank at the end.
CAPTION_PROMPT = "a picture of "
CAPTION_WORDS = 30
_REMOVED_FROM_CAPTIONS = re.compile(r"[.!\"()*#:;~]")


def instruction(question: str) -> str:
    """The prompt of instruction tuning and of MME; the chat template writes the same."""
    return f"Instruction: {question}\nResponse:"


def science_qa_prompt(
    question: str, choices: Sequence[str], hint: str = "", caption: str = "", order: str = "CQM-A"
) -> str:
    """Context, question and options in the order of `order`: `"CQM-A"`, or `"QCM-A"` for the question first."""
    context = f"Context: {' '.join([hint, caption]).strip() or 'N/A'}\n"
    asked = f"Question: {question}\n"
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(OPTIONS, choices, strict=False))
    start = context + asked if order == "CQM-A" else asked + context
    # One pass, as there: of three blanks two stay.
    return f"{start}Options: {options}\nResponse:".replace("  ", " ").strip()


def science_qa_answer(answer: int) -> str:
    """What is learned for the option of this number, without a blank before it."""
    return f"{SCIENCE_QA_START} {OPTIONS[answer]}."


def science_qa_choice(generated: str) -> int | None:
    """The option that a generated text names by its first capital letter, None where there is none."""
    letters = re.findall("[A-Z]", generated)
    return OPTIONS.index(letters[0]) if letters and letters[0] in OPTIONS else None


def clean_caption(caption: str) -> str:
    """Lower case, without most punctuation, at most 30 words."""
    text = re.sub(r"\s{2,}", " ", _REMOVED_FROM_CAPTIONS.sub(" ", caption.lower())).rstrip("\n").strip(" ")
    return " ".join(text.split(" ")[:CAPTION_WORDS])


def caption_of(generated: str) -> str:
    """What follows the phrase that captions are learned with, up to the end of the line; all of it without one."""
    found = re.search("picture of (.+)", generated)
    return (found[1] if found else generated).strip()
