"""Texts are cut to what a model takes of them."""

from types import SimpleNamespace

import pytest
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
)

from hf_effmodels.texts import longest_text, one_length

SIZES = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
ENDLESS = 10**30


def words(model_max_length: int):
    return SimpleNamespace(model_max_length=model_max_length)


@pytest.mark.parametrize("padding", [0, 1, 5])
@torch.no_grad()
def test_a_model_that_counts_its_places_from_behind_the_padding_takes_the_longest_text_and_none_that_is_longer(
    padding,
):
    config = RobertaConfig(**SIZES, vocab_size=9, max_position_embeddings=20, pad_token_id=padding, type_vocab_size=1)
    model = RobertaForSequenceClassification(config).eval()
    longest = longest_text(model, words(ENDLESS))
    assert longest == 20 - padding - 1
    assert model(torch.full((1, longest), 8)).logits.isfinite().all()
    with pytest.raises((IndexError, RuntimeError), match="out of"):
        model(torch.full((1, longest + 1), 8))


@pytest.mark.parametrize("meant, longest", [(ENDLESS, 20), (512, 20), (20, 20), (7, 7)])
def test_a_text_is_no_longer_than_both_model_and_tokenizer_are_made_for(meant, longest):
    config = BertConfig(**SIZES, vocab_size=9, max_position_embeddings=20)
    assert longest_text(BertForSequenceClassification(config), words(meant)) == longest
    # Of an exported program there is only the configuration.
    assert longest_text(SimpleNamespace(config=config), words(meant)) == longest


def test_a_model_of_any_length_takes_what_its_tokenizer_is_made_for():
    model = SimpleNamespace(config=T5Config())
    assert longest_text(model, words(ENDLESS)) is None and longest_text(model, words(512)) == 512
    assert one_length(model, words(ENDLESS)) == {"padding": True, "return_tensors": "pt"}


@pytest.mark.parametrize("places", [0, -1])
def test_places_that_are_no_number_of_them_say_nothing_of_a_text(places):
    """Configurations of models of any length have such a number."""
    model = SimpleNamespace(config=SimpleNamespace(model_type="any", max_position_embeddings=places))
    assert longest_text(model, words(ENDLESS)) is None and longest_text(model, words(512)) == 512
    assert one_length(model, words(512))["max_length"] == 512


@pytest.mark.parametrize("kind, padding, longest", [("clip", True, 77), ("siglip", "max_length", 64)])
def test_texts_of_siglip_are_filled_up_to_64_tokens_and_others_to_the_longest_of_them(kind, padding, longest):
    config = SimpleNamespace(model_type=kind, text_config=SimpleNamespace(max_position_embeddings=77))
    how = {"padding": padding, "truncation": True, "return_tensors": "pt"}
    model = SimpleNamespace(config=config)
    assert one_length(model, words(ENDLESS)) == {**how, "max_length": longest}
    assert one_length(model, words(ENDLESS), 9) == {**how, "max_length": 9}
    assert one_length(model, words(ENDLESS), 999) == {**how, "max_length": longest}, "more than it takes"
