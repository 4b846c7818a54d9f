"""What the steps of compression refuse, and what they make of the rare: one head, no heads, three axes."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, LlamaConfig, LlamaForCausalLM

from hf_effmodels.cli import main
from hf_effmodels.compression.command import models, prune_vision, tokenizers
from hf_effmodels.compression.elastic.submodels import _head_fields
from hf_effmodels.compression.pruning import hsic, inheritance, vision, vision_widths
from hf_effmodels.compression.tokenizers import sentencepiece_bpe, tokenizer_compression
from hf_effmodels.compression.tokenizers.embedding_compression import _check_special
from hf_effmodels.compression.tokens.pyramid_drop import staged
from hf_effmodels.hub import whole

PACKAGES = ["compression", "compression.elastic", "quantization", "collaboration.splitting"]


@pytest.mark.parametrize("name", [*PACKAGES, "collaboration.offloading"])
def test_a_package_has_what_it_lists_and_nothing_else(name):
    package = importlib.import_module(f"hf_effmodels.{name}")
    assert package.__all__ and all(getattr(package, each) is not None for each in package.__all__)
    with pytest.raises(AttributeError, match=f"^module 'hf_effmodels.{name}' has no attribute 'nothing'$"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize("kind", [RuntimeError, AssertionError, NotImplementedError])
def test_a_device_on_which_torch_cannot_compute_is_named(monkeypatch, kind):
    models.check_device("cpu")

    def zeros(size, device):
        assert device == "cuda:3"
        raise kind("not here\nand more")

    monkeypatch.setattr(torch, "zeros", zeros)
    with pytest.raises(
        ValueError, match="^device: got 'cuda:3', where torch cannot compute here .*not here.; accepted"
    ):
        models.check_device("cuda:3")


@pytest.mark.parametrize(
    "architecture, auto",
    [("ViTForImageClassification", AutoModelForImageClassification), ("ViTModel", AutoModel), ("ViTForMasked", None)],
)
def test_networks_to_prune_are_classifiers_or_have_no_head(monkeypatch, tmp_path, architecture, auto):
    loaded = []
    monkeypatch.setattr(models, "load_config", lambda *_: SimpleNamespace(architectures=[architecture]))
    monkeypatch.setattr(whole, "load_whole", lambda *given, **how: loaded.append((*given, how)) or given[0])
    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", lambda name: "processor")
    if auto is None:
        with pytest.raises(
            ValueError, match=f"^model: {tmp_path} is a ViTForMasked, accepted are classifiers and netw"
        ):
            prune_vision._load(str(tmp_path))
        monkeypatch.setattr(models, "load_config", lambda *_: SimpleNamespace(architectures=None))
        with pytest.raises(ValueError, match="is a model of unknown class, accepted are"):
            prune_vision._load(str(tmp_path))
        return
    assert prune_vision._load(str(tmp_path)) == (auto, "processor")
    assert loaded == [(auto, "model", str(tmp_path), {"dtype": "auto"})]


def test_relevance_needs_a_target_for_each_of_two_samples():
    for features, targets in (((1, 3), (1, 2)), ((4, 3), (3, 2)), ((2, 4, 3), (2, 2))):
        count = features[-2]
        with pytest.raises(
            ValueError, match=f"^features: got {count} samples for the targets' {targets[0]}, accepted"
        ):
            hsic.relevance(torch.randn(features), torch.randn(targets))
    assert hsic.relevance(torch.randn(2, 3), torch.randn(2, 2)).shape == ()
    with pytest.raises(ValueError, match="^pixel_values: got 1 images, accepted are 2 and more.$"):
        hsic.score_part(None, torch.zeros(1, 3, 4, 4))


def test_one_head_by_itself_has_its_relevance_and_no_redundancy():
    outputs, chances = torch.randn(6, 5, 1, 4), torch.randn(6, 3).softmax(-1)
    found = hsic.head_scores(outputs, chances, redundancy_weight=9.0)
    torch.testing.assert_close(found, hsic.relevance(outputs.double().mean(-1).permute(2, 0, 1), chances.double()))
    two = torch.cat([outputs, torch.randn(6, 5, 1, 4)], 2)
    alone = hsic.head_scores(two, chances, redundancy_weight=0.0)
    shared = hsic.redundancy(*two.double().mean(-1).permute(2, 0, 1))
    torch.testing.assert_close(hsic.head_scores(two, chances, 0.5), alone - 0.5 * shared)


def test_scores_of_one_size_are_all_nought_and_of_equal_ones_the_first_stay():
    assert hsic._from_0_to_1(torch.full((3,), 7.0)).tolist() == [0.0] * 3
    assert hsic._from_0_to_1(torch.tensor([1.0, 3.0, 2.0])).tolist() == [0.0, 1.0, 0.5]
    assert hsic.highest(torch.tensor([1.0, 2.0, 1.0, 2.0]), 3) == [0, 1, 3]
    assert hsic.kept_of(torch.tensor([3.0, 1.0, 2.0]), 0.0) == [0, 1, 2]
    assert hsic.kept_of(torch.tensor([3.0, 1.0, 2.0]), 0.5) == [0]
    for ratio in (-0.1, 0.7, 1):
        with pytest.raises(ValueError, match=f"^ratio: got {ratio} of 3, accepted are ratios from 0 that leave 1 and"):
            hsic.kept_of(torch.zeros(3), ratio)


def test_formulas_of_widths_take_as_many_shares_of_heads_as_of_neurons():
    with pytest.raises(ValueError, match="^head_ratios: got 1, accepted are as many as neuron_ratios, 2.$"):
        vision_widths.complexity([0.1, 0.2], [0.1])
    assert vision_widths.complexity([0.1, 0.2]) == vision_widths.complexity([0.1, 0.2], [0.0, 0.0])


@pytest.mark.parametrize("wrong", [{"bound": 0}, {"bound": 1}, {"tolerance": -0.1}, {"samples": 0}, {"depth": 0}])
def test_settings_of_a_search_that_are_none_are_refused(wrong):
    settings = {"depth": 1, "bound": 0.5, "tolerance": 0.1, "samples": 1} | wrong
    with pytest.raises(
        ValueError, match="^bound: got .*; accepted are a bound between 0 and 1, a tolerance from 0, sa"
    ):
        vision_widths.search_widths(None, None, 1.0, **settings)


def test_weights_that_pruning_does_not_know_or_cut_otherwise_are_named():
    with pytest.raises(
        ValueError, match="^model: a layer has a weight 'gate.weight', which a layer of a ViT does not"
    ):
        vision._axes_of("gate.weight")
    model = LlamaForCausalLM(tiny_llama())
    weights = inheritance._weights(model)
    name = "model.layers.0.mlp.up_proj.weight"
    with pytest.raises(ValueError, match=f"^model: {name} does not fit LlamaForCausalLM of the smaller sizes.$"):
        inheritance._build(model, {}, {key: weight for key, weight in weights.items() if key != name})
    assert inheritance._build(model, {}, weights).config.intermediate_size == 24


def tiny_llama(**changed):
    sizes = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return LlamaConfig(**sizes | {"num_attention_heads": 2} | changed)


def test_models_without_a_number_of_heads_have_nothing_that_follows_from_it():
    config = SimpleNamespace(num_attention_heads=[1, 2], hidden_size=8)
    assert _head_fields(config, {"hidden_size": 4}) == {}
    assert _head_fields(SimpleNamespace(hidden_size=8), {"hidden_size": 4}) == {}
    assert _head_fields(tiny_llama(), {"intermediate_size": 4}) == {}
    assert _head_fields(tiny_llama(), {"num_attention_heads": 1})["num_key_value_heads"] == 1


def test_positions_of_a_decoder_of_three_axes_are_told_for_each(monkeypatch):
    states = torch.zeros(2, 3, 8)
    for three, given, expected in (
        (False, None, ([[4, 5, 6]], [[4, 5, 6]])),
        (True, None, ([[[4, 5, 6]] * 2] * 3, None)),
        (True, torch.tensor([[7, 8, 9]]), ([[[7, 8, 9]] * 2] * 3, None)),
    ):
        monkeypatch.setattr(staged, "_three_axes", lambda decoder, three=three: three)
        found = [part if part is None else part.tolist() for part in staged._positions(None, given, states, 4)]
        assert tuple(found) == expected
    own = torch.arange(24).reshape(4, 2, 3)
    axes, text = staged._positions(None, own, states, 0)
    assert torch.equal(axes, own[1:]) and torch.equal(text, own[0])
    axes, text = staged._positions(None, own[:3], states, 0)
    assert torch.equal(axes, own[:3]) and text is None


def test_ids_of_every_kind_of_post_processor_are_found_and_none_is_of_none():
    template = {"type": "TemplateProcessing", "special_tokens": {"a": {"ids": [5, 6]}, "b": {"ids": [7]}}}
    bert = {"type": "BertProcessing", "sep": ["s", 1], "cls": ["c", 2]}
    roberta = {"type": "RobertaProcessing", "sep": ["s", 3], "cls": ["c", 4]}
    both = {"type": "Sequence", "processors": [template, {"type": "ByteLevel"}, bert, roberta]}
    assert tokenizer_compression._post_processor_ids(None) == []
    assert tokenizer_compression._post_processor_ids(both) == [5, 6, 7, 1, 2, 3, 4]
    assert bert["sep"] == ["s", 1]
    tokenizer_compression._map_post_processor(both, lambda number: number + 10)
    assert template["special_tokens"]["a"]["ids"] == [15, 16] and roberta["cls"] == ["c", 14]


def test_a_model_without_settings_of_generation_has_no_special_ids_to_lose():
    assert _check_special(None, None) is None


def test_a_file_of_sentencepiece_is_read_as_one_and_needs_protobuf(monkeypatch, tmp_path):
    file = tmp_path / "a.model"
    file.write_bytes(b"1")
    model = SimpleNamespace(to_fast=lambda: "fast")
    with monkeypatch.context() as patch:
        patch.setattr(sentencepiece_bpe.SentencePieceBPE, "load", lambda name: model if name == str(file) else None)
        assert tokenizers._load_tokenizer(str(file)) == (model, "fast")
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", lambda name: f"of {name}")
    (tmp_path / "b.model").mkdir()
    assert tokenizers._load_tokenizer(str(tmp_path / "b.model")) == (None, f"of {tmp_path / 'b.model'}")
    monkeypatch.setitem(sys.modules, "transformers.utils.sentencepiece_model_pb2_new", None)
    # Where another test has read such a file before, its package knows it as well.
    monkeypatch.delattr("transformers.utils.sentencepiece_model_pb2_new", raising=False)
    with pytest.raises(ImportError, match="SentencePiece models are read with protobuf: pip install protobuf.$"):
        sentencepiece_bpe._read(file)


@pytest.mark.parametrize(
    "content, said",
    [
        (None, "--next-config: "),
        ("task: causal-lm\nblok_size: 3\n", "later.yaml: unknown key 'blok_size'"),
        ("task: causal-lm\nblock_size: 1\n", "error: --block_size: got 1"),
    ],
)
def test_what_is_wrong_with_the_later_rounds_is_said_before_the_first(monkeypatch, tmp_path, capsys, content, said):
    from hf_effmodels.training.run.rounds import rounds

    monkeypatch.setattr(rounds, "train_rounds", lambda *_, **__: pytest.fail("the first round begins"))
    if content is not None:
        (tmp_path / "later.yaml").write_text(content)
    recipe = ["--model", str(tmp_path / "model"), "--dataset", "pydoc_topics", "--tokenizer", str(tmp_path / "model")]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "llama"}')
    how = ["--output_dir", str(tmp_path / "out"), "--next-config", str(tmp_path / "later.yaml")]
    assert main(["tiny-lm", "train-rounds", *how, *recipe]) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()
