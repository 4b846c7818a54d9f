"""What a card tells of a model that something else is made of."""

import pytest
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels.hub.card_text import About, write_card
from hf_effmodels.hub.made_of import MadeOf, made_of, told, with_origin


def card(folder, **facts):
    about = About(title="My *net*", introduction="A net.", library="transformers", task="image-classification")
    (folder / "README.md").write_text(str(write_card(about, **facts)))
    return str(folder)


class Loaded:
    def __init__(self, place):
        self.name_or_path = place


def test_licence_source_and_numbers_of_a_card_are_told_of_what_is_made_of_the_model(tmp_path):
    measured = [
        {"metric": "accuracy", "value": 0.9275, "dataset": "uoft-cs/cifar10", "split": "test"},
        {"metric": "perplexity", "value": 12.5, "dataset": "mine"},
    ]
    folder = card(tmp_path, license="mit", base_model="org/large", results=measured)
    assert told(Loaded(folder)).splitlines() == [
        "## The model that it was made of",
        "",
        "- Source: [org/large](https://huggingface.co/org/large)",
        "- Licence of the weights: mit",
        "- accuracy on uoft-cs/cifar10, test: 92.75 %",
        "- perplexity on mine: 12.5",
    ]
    assert with_origin("Here.\n", Loaded(folder)) == f"Here.\n\n{told(Loaded(folder))}"
    assert made_of(folder).licence == {"license": "mit", "license_name": None, "license_link": None}


def test_a_licence_of_its_own_is_told_by_name_and_of_none_that_there_is_none(tmp_path):
    folder = card(tmp_path, license="other", license_name="Ours", license_link="https://a.b/c")
    assert told(Loaded(folder)).endswith("- Licence of the weights: Ours (https://a.b/c)\n")
    folder = card(tmp_path, results={"accuracy": 0.5}, dataset="digits")
    assert "- Source: My \\*net\\*\n- Licence of the weights: none stated: not for redistribution\n" in told(
        Loaded(folder)
    )


@pytest.mark.parametrize("content", [None, "---\n- a\n---\n", "---\n{\n---\n"])
def test_of_a_model_without_a_card_and_of_a_broken_card_nothing_is_told(content, tmp_path):
    if content is not None:
        (tmp_path / "README.md").write_text(content)
    assert told(Loaded(str(tmp_path))) == "" and made_of(str(tmp_path)) == MadeOf()
    assert with_origin("Here.\n", Loaded(str(tmp_path))) == "Here.\n"


def test_a_model_that_was_never_saved_has_no_source_and_one_of_the_hub_has():
    small = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 8)
    config = LlamaConfig(**small, num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1)
    assert told(LlamaForCausalLM(config)) == told(Loaded(None)) == told(object()) == ""
    assert told(Loaded("org/net")).endswith("- Source: [org/net](https://huggingface.co/org/net)\n")
