"""A conversation with a language model on the terminal."""

import sys

from .predictor import Source, default_device, find_task, load_network, load_part
from .tasks.continuation import continuation


def talk(source: Source, device: str | None, max_new_tokens: int, temperature: float, seed: int) -> None:
    """Read lines from standard input and answer each, knowing all before, until an empty one or the end."""
    import torch

    source, _ = find_task(source, "text-generation")
    tokenizer = load_part(source, "AutoTokenizer")
    model = load_network(source, "AutoModelForCausalLM", device or default_device())
    how = {"do_sample": True, "temperature": temperature} if temperature else {}
    how["add_special_tokens"] = not getattr(tokenizer, "chat_template", None)
    torch.manual_seed(seed)
    said: list[dict[str, str]] = []
    shows = sys.stdin.isatty()
    while True:
        if shows:
            sys.stdout.write("> ")
            sys.stdout.flush()
        text = sys.stdin.readline().rstrip("\n")
        if not text.strip():
            return
        said.append({"role": "user", "content": text})
        with torch.no_grad():
            answer = continuation(model, tokenizer, as_prompt(tokenizer, said), max_new_tokens, **how)
        said.append({"role": "assistant", "content": answer})
        sys.stdout.write(f"{answer.strip()}\n")
        sys.stdout.flush()


def as_prompt(tokenizer, said: list[dict[str, str]]) -> str:
    """What was said so far, as the model's chat template has it; without one, the texts one after the other."""
    if getattr(tokenizer, "chat_template", None):
        return tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
    return "".join(part["content"] + ("\n" if part["role"] == "assistant" else "") for part in said)
