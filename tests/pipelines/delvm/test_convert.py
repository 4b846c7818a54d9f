"""Official files become stock models: layouts and options that no parity case has, and what is refused."""

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import ANY

import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from hf_effmodels.cli import main
from hf_effmodels.hub import convert
from hf_effmodels.hub.convert import ConversionError
from hf_effmodels.pipelines import DelvmPipeline
from hf_effmodels.pipelines.delvm import convert_delvm as convert_module
from hf_effmodels.pipelines.delvm.configuration_delvm import PRESETS
from hf_effmodels.pipelines.delvm.convert_delvm import (
    _read,
    is_training_layout,
    join_pipeline_shards,
    language_model_of,
    vq_model_of,
)
from hf_effmodels.pipelines.delvm.convert_delvm import convert as convert_delvm
from hf_effmodels.pipelines.delvm.factorized_embedding import FactorizedEmbedding, factorize_embedding, fold_embedding
from hf_effmodels.pipelines.delvm.image_tokenizer_delvm import DelvmImageTokenizer
from tests.parity.golden import state_dict

CASES = Path(__file__).parents[2] / "parity" / "cases" / "delvm"


def official(name: str) -> dict[str, torch.Tensor]:
    return state_dict(json.loads((CASES / f"{name}.json").read_text()), torch.float32)


def without(weights: dict, *parts: str) -> dict:
    return {name: value for name, value in weights.items() if not any(part in name for part in parts)}


def test_the_only_attention_of_a_stage_is_never_run():
    weights = without(official("vqgan_tiny_attn"), "encoder.down.0.block.1", "encoder.down.1.block.1", "down.1.attn.1")
    weights = without(weights, "up.0.block.2", "up.1.block.2", "up.1.attn.2")
    model = vq_model_of(weights)
    assert model.config.down_block_types == ["DownEncoderBlock2D"] * 2 and model.config.layers_per_block == 1
    assert model.config.up_block_types == ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]  # two there: they run
    pixels = torch.rand(1, 3, 16, 16)
    plain = vq_model_of(without(weights, "down.1.attn"))
    torch.testing.assert_close(model(pixels).sample, plain(pixels).sample, rtol=0, atol=0)


def test_stages_without_convolutions_between_them_pool_and_repeat():
    model = vq_model_of(without(official("vqgan_tiny"), "downsample", "upsample"))
    maps = torch.randn(2, 32, 6, 10)
    expected = F.avg_pool2d(maps, 2)
    torch.testing.assert_close(model.encoder.down_blocks[0].downsamplers[0](maps), expected)
    maps = torch.randn(2, 64, 3, 5)
    expected = F.interpolate(maps, scale_factor=2, mode="nearest")
    torch.testing.assert_close(model.decoder.up_blocks[0].upsamplers[0](maps), expected)


def test_a_training_checkpoint_holds_the_tokenizer_too():
    tokenizer, language = official("vqgan_tiny"), official("lm_training_layout")
    codebook = torch.randn(96, 10)
    inside = {f"embedding.vq_model.{name}": value for name, value in tokenizer.items()}
    both = {**inside, **without(language, "codebook"), "embedding.vq_model.quantize.embedding.weight": codebook}
    expected = language_model_of(
        {**language, "embedding.vq_model.quantize.embedding.weight": codebook}, num_attention_heads=2
    )
    found = language_model_of(both, num_attention_heads=2)
    ids = torch.arange(12).reshape(1, 12)
    torch.testing.assert_close(found(ids).logits, expected(ids).logits, rtol=0, atol=0)
    whole = {f"model.{name}": value for name, value in {**inside, **without(language, "vq_model")}.items()}
    assert torch.equal(vq_model_of(whole).quantize.embedding.weight, tokenizer["quantize.embedding.weight"])


def test_names_of_wrappers_and_plain_embeddings_are_known_and_rotary_tables_are_none():
    weights = official("lm_training_layout")
    options = {"num_attention_heads": 2}
    expected = language_model_of(weights, **options)
    plain = without(weights, "vq_model", "embed_proj")
    for name in ("embedding.weight", "embedding.word_embeddings.weight"):
        named = {f"model.{key}": value for key, value in plain.items()}
        named[f"model.{name}"] = expected.model.embed_tokens.weight.detach()
        assert is_training_layout(named)
        found = language_model_of(named, **options).state_dict()
        assert all(torch.equal(found[key], value) for key, value in expected.state_dict().items())
    released = official("lm_hf_layout")
    with_tables = {**released, "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}
    found = language_model_of(with_tables, num_attention_heads=4)
    assert torch.equal(found.lm_head.weight, released["lm_head.weight"])


def test_files_of_several_devices_count_their_blocks_on():
    weights = official("lm_training_layout")
    first = without(weights, "blocks.1.", "head.", "norm.weight") | {
        name: value for name, value in weights.items() if name.startswith("blocks.0.")
    }
    second = {n.replace("blocks.1.", "blocks.0."): v for n, v in weights.items() if n not in first}
    joined = join_pipeline_shards([first, second])
    assert joined.keys() == weights.keys() and all(torch.equal(joined[name], weights[name]) for name in weights)


def test_no_id_of_an_image_ends_it():
    model = language_model_of(official("lm_hf_layout"), num_attention_heads=4)
    for config in (model.config, model.generation_config):
        assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (None, None, None)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.weight.data[2] = 1.0  # LLaMA's own end of a text
    model.model.norm.weight.data.abs_()
    ids = torch.zeros(1, 4, dtype=torch.long)
    assert model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=9).shape == (1, 13)


@pytest.mark.parametrize("end", [1e-6, 1e-2])
def test_epsilon_and_base_of_the_positions_can_be_said(end):
    model = language_model_of(official("lm_hf_layout"), num_attention_heads=4, rms_norm_eps=end, rope_theta=500.0)
    assert model.model.norm.variance_epsilon == end
    expected = 500.0 ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)


def test_folding_gives_what_codebook_and_projection_give():
    model = language_model_of(official("lm_hf_layout"), num_attention_heads=4)
    codebook = torch.randn(80, 6)
    factorize_embedding(model, codebook, std=0.5)
    projection = model.model.embed_tokens.projection.weight
    assert [name for name, _ in model.model.embed_tokens.named_parameters()] == ["projection.weight"]
    expected = codebook[torch.tensor([5, 79])] @ projection.T
    fold_embedding(model)
    torch.testing.assert_close(model.model.embed_tokens(torch.tensor([5, 79])), expected)
    assert type(model.model.embed_tokens) is torch.nn.Embedding


def test_what_does_not_fit_is_refused_by_name():
    weights = official("lm_hf_layout")
    with pytest.raises(ConversionError, match=r"1 missing: model\.norm\.weight"):
        language_model_of(without(weights, "model.norm"), num_attention_heads=4)
    with pytest.raises(ConversionError, match="1 unexpected: model.other"):
        language_model_of({**weights, "model.other": torch.ones(2)}, num_attention_heads=4)
    with pytest.raises(ConversionError, match="num_attention_heads: got 0, accepted are divisors of 64"):
        language_model_of(weights)  # 128 channels are more than the model has
    with pytest.raises(ConversionError, match="factorized: got True"):
        language_model_of(weights, num_attention_heads=4, factorized=True)
    trained = official("lm_training_layout")
    (projection,) = (name for name in trained if "embed_proj" in name)
    with pytest.raises(ConversionError, match="The codebook and its projection belong together, and one of them is m"):
        language_model_of(without(trained, "embed_proj"), num_attention_heads=2)
    with pytest.raises(ConversionError, match="The codebook and its projection belong together, and one of them is m"):
        language_model_of({projection: trained[projection], **without(trained, "vq_model")}, num_attention_heads=2)
    twice = {**trained, f"model.{projection}": trained[projection]}
    assert language_model_of(twice, num_attention_heads=2) is not None  # one name, with its wrapper and without
    plain = without(trained, "vq_model", "embed_proj") | {"embedding.weight": trained[projection]}
    with pytest.raises(ConversionError, match="'embedding.*' and 'embedding.*' are meant for the same weight"):
        language_model_of({**plain, "embedding.word_embeddings.weight": trained[projection]}, num_attention_heads=2)
    with pytest.raises(ConversionError, match="Two of the files have 'norm.weight'"):
        join_pipeline_shards([{"norm.weight": torch.ones(2)}, {"model.norm.weight": torch.ones(2)}])
    with pytest.raises(ConversionError, match="It is no VQGAN"):
        vq_model_of(weights)
    tokenizer = official("vqgan_tiny")
    with pytest.raises(ConversionError, match=r"1 of another shape: encoder\.conv_in\.bias is \(7,\)"):
        vq_model_of({**tokenizer, "encoder.conv_in.bias": torch.ones(7)})
    attention = official("vqgan_tiny_attn")
    name = "encoder.mid.attn_1.q.weight"
    with pytest.raises(ConversionError, match=rf"1 of another shape: {re.escape(name)} is \(64, 64, 3, 3\)"):
        vq_model_of({**attention, name: torch.randn(64, 64, 3, 3)})
    with pytest.raises(ValueError, match="codebook: it has 3 codes, the model a vocabulary of 80"):
        factorize_embedding(language_model_of(weights, num_attention_heads=4), torch.ones(3, 2))


#: Weights that sizes are read from or that are computed with before the rest is compared.
READ = [("vqgan_tiny", name) for name in ("encoder.conv_in.weight", "quantize.embedding.weight")]
READ += [("vqgan_tiny", name) for name in ("encoder.conv_out.weight", "encoder.down.1.block.0.conv1.weight")]
READ += [("lm_training_layout", f"embedding.{n}") for n in ("vq_model.quantize.embedding.weight", "embed_proj.weight")]
READ += [("lm_training_layout", "blocks.1.mixer.Wqkv.weight"), ("lm_hf_layout", "model.embed_tokens.weight")]
READ += [("lm_hf_layout", "model.layers.0.mlp.gate_proj.weight"), ("lm_hf_layout", "model.norm.weight")]


@pytest.mark.parametrize("change", ["no dimensions", "flat", "one more", "counts", "empty", "one column"])
@pytest.mark.parametrize("layout, name", READ)
def test_a_weight_of_another_shape_or_kind_is_refused_wherever_it_is_used_first(layout, name, change):
    weights = official(layout)
    value = weights[name]
    weights[name] = {
        "no dimensions": value.flatten()[0],
        "flat": value.flatten()[1:],
        "one more": value[None],
        "counts": value.long(),
        "empty": value[:0],
        "one column": value[:, :1] if value.ndim == 2 else value[:1],
    }[change]
    with pytest.raises(
        ConversionError, match="another shape|another kind|is empty|expected the rows|as many columns|stand for no"
    ):
        vq_model_of(weights) if layout == "vqgan_tiny" else language_model_of(weights, num_attention_heads=2)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda value: value.to_sparse(), "is sparse; accepted are dense tensors"),
        (lambda value: value.to("meta"), "is without values"),
        (
            lambda value: value.half(),
            "its weights are of several types: float.*; accepted is one for all",
        ),
    ],
)
@pytest.mark.parametrize("layout, name", READ[::4])
def test_tensors_that_nothing_can_be_computed_with_are_refused(layout, name, change, message):
    weights = official(layout)
    weights[name] = change(weights[name])
    with pytest.raises(ConversionError, match=message):
        vq_model_of(weights) if layout == "vqgan_tiny" else language_model_of(weights, num_attention_heads=2)


def test_a_converted_tokenizer_is_saved_and_loaded_as_a_stock_one(tmp_path):
    model = vq_model_of(official("vqgan_tiny_attn"), 16)
    model.save_pretrained(tmp_path)
    tokenizer = DelvmImageTokenizer.from_pretrained(tmp_path)
    pixels = torch.rand(3, 3, 16, 16)
    assert torch.equal(tokenizer.encode(pixels), DelvmImageTokenizer(model, 16).encode(pixels))
    assert (tokenizer.grid, tokenizer.tokens_per_image, tokenizer.vocab_size) == (8, 64, 64)


# whole pipelines


@pytest.fixture
def small_preset(monkeypatch):
    sizes = {"vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    config = {
        "vqvae": {"num_vq_embeddings": 96, "vq_embed_dim": 12},
        "language_model": {**sizes, "num_attention_heads": 2},
    }
    monkeypatch.setitem(PRESETS, "delvm-1b", replace(PRESETS["delvm-1b"], config=config))


def test_released_folders_become_a_pipeline_and_their_configuration_is_followed(small_preset, tmp_path):
    released, vqgan = tmp_path / "released", tmp_path / "vqgan"
    released.mkdir(), vqgan.mkdir()
    weights = language_model_of(official("lm_training_layout"), num_attention_heads=2).state_dict()
    tables = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    first = {name: value for name, value in weights.items() if "layers.1" not in name}
    torch.save(first | tables, released / "pytorch_model-00001-of-00002.bin")
    torch.save({n: v for n, v in weights.items() if n not in first}, released / "pytorch_model-00002-of-00002.bin")
    (released / "config.json").write_text('{"num_attention_heads": 2, "rms_norm_eps": 0.003, "rope_theta": 500.0}')
    torch.save(official("vqgan_tiny"), vqgan / "pytorch_model.bin")
    (vqgan / "config.json").write_text("{}")
    with pytest.raises(ConversionError, match="image_tokenizer: got None, but .* has no image tokenizer inside"):
        convert("delvm-1b", released, tmp_path / "out")
    command = ["convert", "delvm-1b", str(released), str(tmp_path / "out"), "--image-tokenizer", str(vqgan)]
    assert main([*command, "--license", "mit"]) == 0
    pipe = DelvmPipeline.from_pretrained(tmp_path / "out")
    assert pipe.language_model.config.rms_norm_eps == 0.003
    assert pipe.language_model.model.rotary_emb.inv_freq[1] == pytest.approx(500 ** (-1 / 16))
    assert all(torch.equal(value, weights[name]) for name, value in pipe.language_model.state_dict().items())
    assert torch.equal(pipe.image_tokenizer.codebook, official("vqgan_tiny")["quantize.embedding.weight"])
    card = (tmp_path / "out" / "README.md").read_text()
    files = [*(released / f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)), vqgan / "pytorch_model.bin"]
    digests = "".join(hashlib.sha256(path.read_bytes()).hexdigest() for path in files)
    assert "license: mit" in card and hashlib.sha256(digests.encode()).hexdigest() in card
    assert f"{len(weights) + len(official('vqgan_tiny'))} tensors of the files themselves" in card


def test_a_training_of_several_devices_becomes_a_pipeline(small_preset, tmp_path):
    weights, tokenizer = official("lm_training_layout"), official("vqgan_tiny")
    inside = {f"embedding.vq_model.{name}": value for name, value in tokenizer.items()}
    weights |= inside | {"embedding.embed_proj.weight": torch.randn(64, 12)}
    first = without(weights, "blocks.1.", "head.") | {}
    first = {name: value for name, value in first.items() if name != "norm.weight"}
    torch.save(first, tmp_path / "model_tp0_pp0.pt")
    second = {n.replace("blocks.1.", "blocks.0."): v for n, v in weights.items() if n not in first}
    torch.save(second, tmp_path / "model_tp0_pp1.pt")
    with pytest.raises(ConversionError, match="its language_model has num_attention_heads=1, expected 2"):
        convert("delvm-1b", tmp_path, tmp_path / "out", num_attention_heads=1)
    report = convert("delvm-1b", tmp_path, tmp_path / "out", num_attention_heads=2)
    assert report.source == "model_tp0_pp0.pt, model_tp0_pp1.pt" and report.converted == len(weights)
    model = DelvmPipeline.from_pretrained(tmp_path / "out").language_model
    expected = language_model_of(weights, num_attention_heads=2)
    assert all(torch.equal(value, expected.state_dict()[name]) for name, value in model.state_dict().items())
    assert model.config.rms_norm_eps == 1e-5


def test_weights_of_another_variant_and_halves_are_refused_and_nothing_is_written(small_preset, tmp_path):
    torch.save(official("vqgan_tiny"), tmp_path / "vqgan.bin")
    weights = language_model_of(official("lm_training_layout"), num_attention_heads=2).state_dict()
    torch.save(weights, tmp_path / "model.bin")
    options = {"image_tokenizer": tmp_path / "vqgan.bin", "num_attention_heads": 2}
    with pytest.raises(ConversionError, match="is no checkpoint of delvm-300m: .*vocab_size=96.*It fits delvm-1b"):
        convert("delvm-300m", tmp_path / "model.bin", tmp_path / "out", **options)
    folder = tmp_path / "released"
    folder.mkdir()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model_tp0_ppx.pt").write_bytes(b"")  # no part of a training
    for name, value in (
        ("num_attention_heads", "2"),
        ("rope_theta", -1),
        ("rms_norm_eps", None),
        ("max_position_embeddings", 0),
        ("num_attention_heads", 2.5),
        ("rope_theta", True),
    ):
        (folder / "config.json").write_text(json.dumps({name: value}))
        with pytest.raises(ValueError, match=rf"config.json has {name}={value!r}, expected a number above 0"):
            convert("delvm-1b", folder, tmp_path / "out", image_tokenizer=tmp_path / "vqgan.bin")
    (folder / "config.json").unlink()
    del weights["model.norm.weight"]
    torch.save(weights, tmp_path / "model.bin")
    with pytest.raises(ConversionError, match="model.bin is no checkpoint of delvm-1b. 1 missing: model.norm.weight"):
        convert("delvm-1b", tmp_path / "model.bin", tmp_path / "out", **options)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no weights"):
        convert("delvm-1b", tmp_path / "empty", tmp_path / "out", **options)
    (tmp_path / "empty" / "model_tp1_pp0.pt").write_bytes(b"")
    with pytest.raises(ConversionError, match=r"empty has weights split within layers \(tp1\), accepted are whole"):
        convert("delvm-1b", tmp_path / "empty", tmp_path / "out", **options)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="checkpoint: .*config.json cannot be read"):
        convert("delvm-1b", folder, tmp_path / "out", **options)
    (folder / "config.json").unlink()
    torch.save({"lm_head.weight": weights["lm_head.weight"]}, folder / "pytorch_model-2.bin")
    with pytest.raises(ConversionError, match="Two of the files have 'lm_head.weight'"):
        convert("delvm-1b", folder, tmp_path / "out", **options)
    with pytest.raises(ValueError, match="preset: got 'delvm', accepted are 'delvm-300m', 'delvm-1b'"):
        convert_delvm("delvm", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "broken, whose",
    [("lm_head.weight", "checkpoint: .*/model.bin"), ("decoder.conv_out.bias", "image_tokenizer: .*/vqgan.bin")],
)
def test_broken_weights_of_either_network_are_converted_only_if_wanted(broken, whose, small_preset, tmp_path):
    files = {
        "model.bin": language_model_of(official("lm_training_layout"), num_attention_heads=2).state_dict(),
        "vqgan.bin": official("vqgan_tiny"),
    }
    for name, weights in files.items():
        torch.save({n: value * torch.nan if n == broken else value for n, value in weights.items()}, tmp_path / name)
    options = {"image_tokenizer": tmp_path / "vqgan.bin", "num_attention_heads": 2}
    with pytest.raises(
        ValueError, match=rf"^{whose} has 1 broken weights: {broken} \((\d+) of \1 values .* --allow-broken-"
    ):
        convert("delvm-1b", tmp_path / "model.bin", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    convert("delvm-1b", tmp_path / "model.bin", tmp_path / "out", allow_broken_weights=True, **options)
    pipe = DelvmPipeline.from_pretrained(tmp_path / "out")
    found = [n for part in (pipe.language_model, pipe.vqvae) for n, v in part.state_dict().items() if v.isnan().any()]
    assert found == [broken]


def test_the_configuration_beside_a_language_model_is_followed_and_none_beside_an_image_tokenizer(tmp_path):
    torch.save({"a.weight": torch.ones(2)}, tmp_path / "model.bin")
    assert _read(tmp_path) == ({"a.weight": ANY}, {}, [tmp_path / "model.bin"]), "there is none"
    said = {"num_attention_heads": 2, "rms_norm_eps": 1e-3, "rope_theta": 5.0, "max_position_embeddings": 7}
    (tmp_path / "config.json").write_text(json.dumps(said | {"vocab_size": 3}))
    assert _read(tmp_path)[1] == said
    del said["rope_theta"]
    own = {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}}  # as transformers writes it since 5
    (tmp_path / "config.json").write_text(json.dumps(said | own))
    assert _read(tmp_path)[1] == said | {"rope_theta": 7.0}
    (tmp_path / "config.json").write_text(json.dumps(said | {"rope_theta": 5.0, "rope_scaling": None}))
    assert _read(tmp_path)[1] == said | {"rope_theta": 5.0}
    for other in ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, {"rope_scaling": {"type": "dynamic"}}):
        (tmp_path / "config.json").write_text(json.dumps(said | other))
        with pytest.raises(
            ConversionError, match="config.json has positions '(linear|dynamic)', accepted are 'default'"
        ):
            _read(tmp_path)
    for broken in ("{", "[]", '{"rope_parameters": 3}'):
        (tmp_path / "config.json").write_text(broken)
        with pytest.raises(ValueError, match=f"^checkpoint: {tmp_path / 'config.json'} cannot be read "):
            _read(tmp_path)
    torch.save({"encoder.conv_in.weight": torch.ones(2)}, tmp_path / "model.bin")
    assert _read(tmp_path)[1] == {}


def test_of_the_files_of_a_folder_safetensors_are_read_and_those_of_a_training_first(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    for name in ("pytorch_model.bin", "other.bin"):
        torch.save({"a": torch.ones(2)}, tmp_path / name)
    assert [path.name for path in _read(tmp_path)[2]] == ["model.safetensors"]
    (tmp_path / "model.safetensors").unlink()
    assert [path.name for path in _read(tmp_path)[2]] == ["pytorch_model.bin"]
    (tmp_path / "pytorch_model.bin").unlink()
    assert [path.name for path in _read(tmp_path)[2]] == ["other.bin"]
    torch.save({"a": torch.ones(2)}, tmp_path / "second.bin")
    with pytest.raises(ConversionError, match="^Two of the files have 'a'.$"):
        _read(tmp_path)
    for number in (10, 9):  # by number: 9 is before 10
        torch.save({"head.weight": torch.ones(number)}, tmp_path / f"model_tp0_pp{number}.pt")
    assert [path.name for path in _read_files(tmp_path)] == ["model_tp0_pp9.pt", "model_tp0_pp10.pt"]


def _read_files(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convert_module, "join_pipeline_shards", lambda parts: parts)
        parts, settings, files = _read(folder)
    assert [len(part["head.weight"]) for part in parts] == [9, 10] and settings == {}
    return files


def test_of_one_file_the_digest_is_its_own_and_of_several_that_of_theirs_in_order(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    one, other = (hashlib.sha256(name.encode()).hexdigest() for name in "ab")
    assert convert_module._digest([tmp_path / "a"]) == one
    both = hashlib.sha256((one + other).encode()).hexdigest()
    assert convert_module._digest([tmp_path / "a", tmp_path / "b"]) == both
    assert convert_module._digest([tmp_path / "b", tmp_path / "a"]) != both


@pytest.mark.parametrize("options, deviation", [({}, 0.0052), ({"std": 0.25}, 0.25)])
def test_a_projection_begins_with_the_published_deviation_or_that_of_the_call(options, deviation):
    model = language_model_of(official("lm_hf_layout"), num_attention_heads=4)
    codebook = torch.randn(80, 400)
    factorize_embedding(model, codebook, **options)
    embedding = model.get_input_embeddings()
    assert embedding.projection.weight.std().item() == pytest.approx(deviation, rel=0.05)
    assert abs(embedding.projection.weight.mean().item()) < 0.05 * deviation
    alone = FactorizedEmbedding(codebook.half(), 300, **options)
    assert alone.projection.weight.float().std().item() == pytest.approx(deviation, rel=0.05)
    assert alone.projection.weight.dtype == torch.float16
