"""How a language model goes on."""

from collections.abc import Sequence

import torch

from ...texts import longest_text
from ..predictor import Options, Predictor, Source, load_network, load_part


def load(task: str, source: Source, options: Options, device: str) -> Predictor:
    tokenizer = load_part(source, "AutoTokenizer")
    model = load_network(source, "AutoModelForCausalLM", device)

    @torch.no_grad()
    def answer(texts: Sequence[str]) -> list[dict]:
        return [{"text": continuation(model, tokenizer, text, options.max_new_tokens)} for text in texts]

    return Predictor(task, "text", answer, lambda said: said["text"], lambda said: [{"text": said["text"]}])


def continuation(
    model, tokenizer, text: str, max_new_tokens: int, add_special_tokens: bool = True, **generation
) -> str:
    """The likeliest continuation of a text, without the text; `generation` are options of `generate`.

    `add_special_tokens`: False for what a chat template has made, which writes them itself.
    """
    inputs = tokenizer(text, return_tensors="pt", return_token_type_ids=False, add_special_tokens=add_special_tokens)
    if inputs["input_ids"].shape[1] == 0:
        raise ValueError("an empty text: this model has nothing to go on from")
    inputs = inputs.to(model.device)
    options = {"do_sample": False, "pad_token_id": tokenizer.pad_token_id or tokenizer.eos_token_id, **generation}
    try:
        tokens = model.generate(**inputs, max_new_tokens=max_new_tokens, **options)
    except (IndexError, RuntimeError) as error:
        # Of models that learned a vector for each place; others go on beyond what they were trained on.
        count, longest = inputs["input_ids"].shape[1], longest_text(model, tokenizer)
        if longest is None or count + max_new_tokens <= longest:
            raise
        raise ValueError(
            f"INPUT: a text has {count} tokens, and {max_new_tokens} more may follow (--max-new-tokens), but the "
            f"model takes {longest}."
        ) from error
    return tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
