"""What is read of a text and compared, at its ends; and what a program of a language model is given and gives."""

import logging
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import DynamicCache, MistralConfig
from transformers.cache_utils import DynamicLayer

from hf_effmodels import edge_language, edge_text
from hf_effmodels.edge_files import summed_up


def with_a_beginning(text, verbose):
    """A tokenizer that begins each text with a token of its own, empty ones too."""
    return {"input_ids": [1, *map(ord, text)]}


def test_as_few_tokens_as_are_needed_are_enough_and_empty_texts_have_none():
    text = edge_text.read_text(["", "a" * 63, ""], with_a_beginning, 21)
    # Of 64 tokens in rows of 21 one is left over, after which nothing is to be foreseen.
    assert [row.tolist() for row in text.rows] == [[[1, *[97] * 20]], [[97] * 21], [[97] * 21]]
    with pytest.raises(ValueError, match="^calibration: the text has 63 tokens, accepted are 64 or more.$"):
        edge_text.read_text(["a" * 62], with_a_beginning, 21)
    longer = edge_text.read_text(["a" * 300], with_a_beginning, 4096)
    assert [row.shape for row in longer.rows] == [(1, 128), (1, 128), (1, 45)], "no model is asked for more than 128"


def test_no_more_documents_are_read_than_could_fill_the_rows(monkeypatch):
    monkeypatch.setattr(edge_text, "_DOCUMENTS", 40)
    read = []

    def documents():
        for number in range(1000):
            read.append(number)
            yield "a" if number < 70 else pytest.fail("of many short ones the first are enough")

    assert sum(row.shape[1] for row in edge_text.read_text(documents(), with_a_beginning, 10).rows) == 80
    assert len(read) == 40


class Speaker:
    """Says logits, goes on with a token of its own, and keeps what it was asked."""

    def __init__(self, value=0.0, token=7):
        self.value, self.token, self.asked = value, token, []

    def __call__(self, input_ids, attention_mask):
        logits = torch.zeros(*input_ids.shape, 10)
        logits[..., 0] = self.value
        return SimpleNamespace(logits=logits)

    def generate(self, **options):
        self.asked.append(options)
        count = options["max_new_tokens"]
        return torch.cat([options["input_ids"], torch.full((1, count), self.token)], dim=1)


def test_both_go_on_by_the_likeliest_from_the_first_half_of_a_row_or_sixteen_tokens():
    rows = [torch.full((1, count), 3) for count in (40, 6, 33, 2, 50)]
    program, model = Speaker(), Speaker()
    found = edge_text.compare(model, program, edge_text.Text("a text", rows))
    assert found.continued == 1 and found.tokens == 39 + 5 + 32 + 1 + 49
    expected = [(16, 16), (3, 3), (16, 16), (1, 1)]  # of the first four rows
    for one in (program, model):
        assert [(o["input_ids"].shape[1], o["max_new_tokens"]) for o in one.asked] == expected
        for options in one.asked:
            assert options["min_new_tokens"] == options["max_new_tokens"], "no end of a text ends it early"
            assert (options["do_sample"], options["num_beams"]) == (False, 1)
            assert options["attention_mask"].eq(1).all() and options["attention_mask"].shape[1] in (16, 3, 1)
    other = edge_text.compare(Speaker(token=2), program, edge_text.Text("a text", rows))
    assert other.continued == 0


def test_a_text_that_is_not_foreseen_at_all_has_a_number_of_its_own():
    """e to the power of so many has none in double precision: it is told as the largest that has."""
    rows = [torch.full((1, 5), 3)]
    found = edge_text.compare(Speaker(), Speaker(1e6), edge_text.Text("a text", rows))
    assert found.perplexity == math.exp(700) and found.perplexity_in_pytorch == pytest.approx(10)
    with pytest.raises(ValueError, match="^the exported program's logits of a text are not finite; nothing was writ"):
        edge_text.compare(Speaker(), Speaker(float("nan")), edge_text.Text("a text", rows))


def test_a_program_begins_with_nothing_kept_and_says_logits_in_float32():
    """Also of a model whose own cache would keep a window, and where a cache without tokens is given."""
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = MistralConfig(**sizes, vocab_size=9, num_key_value_heads=1, sliding_window=4)
    given = []

    def program(**inputs):
        given.append(inputs)
        logits = torch.ones(*inputs["input_ids"].shape, 9, dtype=torch.float16)
        return SimpleNamespace(logits=logits, past_key_values="kept")

    program.config, program.runners = config, {}
    program.device, program.dtype = torch.device("cpu"), torch.float32
    model = edge_language.LanguageProgram(program, [[[1, 8], [1, 6]], [[1, 8], [1, 6]]])
    ids = torch.ones(2, 3, dtype=torch.long)
    for cache in (None, DynamicCache(config=config)):
        found = model(ids, past_key_values=cache)
        assert found.logits.dtype == torch.float32 and found.past_key_values == "kept"
        layers = given[-1]["past_key_values"].layers
        assert [type(layer) for layer in layers] == [DynamicLayer] * 2
        assert [(tuple(layer.keys.shape), tuple(layer.values.shape)) for layer in layers] == [
            ((2, 1, 0, 8), (2, 1, 0, 6))
        ] * 2
        assert "logits_to_keep" not in given[-1]
    cache = DynamicCache()
    for number in range(2):
        cache.update(torch.zeros(2, 1, 5, 8), torch.zeros(2, 1, 5, 6), number)
    model(ids, past_key_values=cache)
    assert given[-1]["past_key_values"] is cache and given[-1]["position_ids"].tolist() == [[5, 6, 7]] * 2
    assert given[-1]["attention_mask"].shape == (2, 8)


@pytest.mark.parametrize("handlers", ["some", "none"])
def test_warnings_of_loggers_that_are_made_meanwhile_are_kept_back_and_long_ones_cut(handlers, monkeypatch, capsys):
    """Where nobody has set up any logging, too: there is a handler of last resort."""
    shown = []
    heard = logging.Handler()
    heard.emit = lambda record: shown.append(record.getMessage())
    monkeypatch.setattr(logging.root, "handlers", [heard] if handlers == "some" else [])
    with summed_up() as said:
        for name in ("torch.made_meanwhile", "of_a_file_alone"):
            monkeypatch.delitem(logging.root.manager.loggerDict, name, raising=False)
            logging.getLogger(name).warning("%s: %s", name, "x" * 300)
    assert said == [f"{name}: {'x' * 300}"[:200] for name in ("torch.made_meanwhile", "of_a_file_alone")]
    assert not [text for text in shown if "xxx" in text and "exporters warn" not in text]
    assert capsys.readouterr().err == ""
    logging.getLogger("of_a_file_alone").warning("afterwards")
    assert (shown or capsys.readouterr().err.split())[-1:] == ["afterwards"]
