"""The exported folder: its files, its card, and that it is written whole or not at all."""

import copy
import json
import os
import re
import shutil

import pytest
import torch
from huggingface_hub import ModelCard

import hf_effmodels
from hf_effmodels import _files
from hf_effmodels.hub import build_card, export
from hf_effmodels.hub.card_text import shown_number
from hf_effmodels.hub.export import clear_export, is_portable, network_code
from hf_effmodels.quantization import CbqConfig, convert_to_bitlinear, quantize_adder
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config
from ..modeling.tiny.addernet import TINY as ADDERNET
from ..modeling.tiny.bimlp import TINY as BIMLP
from ..test_files import HOW, Interrupted
from .client import run_snippets


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_holds_weights_configuration_processor_card_and_code(tiny, tmp_path):
    folder = export(tiny.model, tiny.processor, tmp_path / "deep" / "model", license="mit")
    names = set(contents(folder))
    assert {"model.safetensors", "config.json", "preprocessor_config.json", "README.md"} <= names
    assert {"modeling_ghostnet.py", "configuration_ghostnet.py", "reparameterization.py"} <= names
    assert {os.path.splitext(name)[1] for name in names} == {".safetensors", ".json", ".md", ".py"}
    config = json.loads((folder / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoBackbone": "modeling_ghostnet.GhostNetV3Backbone",
        "AutoConfig": "configuration_ghostnet.GhostNetV3Config",
        "AutoModel": "modeling_ghostnet.GhostNetV3Model",
        "AutoModelForImageClassification": "modeling_ghostnet.GhostNetV3ForImageClassification",
    }
    assert os.listdir(folder.parent) == ["model"]
    assert not hasattr(tiny.model.config, "auto_map")  # the user's model stays as it is


def test_the_same_model_gives_the_same_bytes_and_may_replace_its_earlier_export(tiny, tmp_path):
    first = contents(export(tiny.model, tiny.processor, tmp_path / "one", license="mit"))
    assert contents(export(tiny.model, tiny.processor, tmp_path / "two", license="mit")) == first
    (tmp_path / "two" / "left_over.py").write_bytes(first["squeeze_excite.py"])
    assert contents(export(tiny.model, tiny.processor, tmp_path / "two", license="mit")) == first


def test_other_peoples_files_are_refused_and_with_overwrite_they_stay(tiny, tmp_path):
    for name in ("config.json", "notes.txt", "model-v1.safetensors"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "checkpoint-7").mkdir()
    with pytest.raises(FileExistsError, match=r"holds checkpoint-7, which.*overwrite=True"):
        export(tiny.model, tiny.processor, tmp_path)
    export(tiny.model, tiny.processor, tmp_path, overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == (tmp_path / "model-v1.safetensors").read_text() == "mine"
    assert (tmp_path / "checkpoint-7").is_dir()
    assert "auto_map" in json.loads((tmp_path / "config.json").read_text())
    with pytest.raises(FileExistsError, match="holds checkpoint-7"):  # an export, but not only that
        export(tiny.model, tiny.processor, tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        export(tiny.model, tiny.processor, tmp_path / "notes.txt")


@pytest.mark.parametrize("name", ["vocab.json", "adapter_model.safetensors", "chat_template.jinja", "NOTICE"])
def test_what_a_user_puts_into_an_export_under_a_name_that_models_have_stays(tiny, tmp_path, name):
    folder = export(tiny.model, tiny.processor, tmp_path / "model", license="mit")
    before = contents(folder)
    (folder / name).write_text("mine")
    with pytest.raises(FileExistsError, match=f"holds {re.escape(name)}, which is not part of an earlier export"):
        export(tiny.model, tiny.processor, folder, license="mit")
    export(tiny.model, tiny.processor, folder, license="mit", overwrite=True)
    assert contents(folder) == {**before, name: b"mine"}
    clear_export(folder)
    assert contents(folder) == {name: b"mine"}


def test_an_export_is_cleared_away_whole_and_other_folders_not_at_all(tiny, tmp_path):
    clear_export(export(tiny.model, tiny.processor, tmp_path / "model", license="mit"))
    (tmp_path / "theirs").mkdir()
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / "theirs" / name).write_text("{}")
    clear_export(tmp_path / "theirs")
    assert os.listdir(tmp_path) == ["theirs"] and len(contents(tmp_path / "theirs")) == 3


def test_after_an_error_everything_is_as_it_was(tiny, tmp_path, monkeypatch):
    before = contents(export(tiny.model, tiny.processor, tmp_path / "model"))

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(type(tiny.processor), "save_pretrained", fail)
    for name in ("model", "new"):
        with pytest.raises(OSError, match="disk full"):
            export(tiny.model, tiny.processor, tmp_path / name)
    monkeypatch.undo()
    # The last step of all fails: the new folder cannot take the old one's place.
    monkeypatch.setattr(_files, "_exchange", fail)
    with pytest.raises(OSError, match="disk full"):
        export(tiny.model, tiny.processor, tmp_path / "model", license="mit")
    assert contents(tmp_path / "model") == before
    assert os.listdir(tmp_path) == ["model"]


def test_only_our_models_with_stock_processors_are_exported(tiny, tmp_path):
    from transformers import ResNetConfig, ResNetModel

    resnet = ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1]))
    with pytest.raises(ValueError, match="model: got ResNetModel .*accepted are models of this package: .*ghostnet"):
        export(resnet, tiny.processor, tmp_path / "x")
    with pytest.raises(ValueError, match="processor: got None, but GhostNetV3 takes images"):
        export(tiny.model, None, tmp_path / "x")
    # Also of code that transformers itself has fetched, and of packages whose names begin alike.
    for module in ("mine", "transformers_modules.org.net.processing", "transformers_extra", "my.transformers.models"):
        own = type("OwnProcessor", (type(tiny.processor),), {"__module__": module})()
        with pytest.raises(ValueError, match=rf"processor: got {module}\.OwnProcessor, accepted are classes of tran"):
            export(tiny.model, own, tmp_path / "x")
    with pytest.raises(TypeError, match="licence"):
        export(tiny.model, tiny.processor, tmp_path / "x", licence="mit")
    assert os.listdir(tmp_path) == []


def test_the_card_states_what_is_known_and_nothing_else(tiny):
    card = build_card(
        tiny.model,
        processor=tiny.processor,
        license="apache-2.0",
        dataset="uoft-cs/cifar10",
        results=[
            {"metric": "accuracy", "value": 0.9312, "split": "test", "source": "evaluate.py, 3 May 2026, 2 cores"},
            {"metric": "loss", "value": 0.25},
        ],
        training={"optimizer": {"name": "lamb", "lr": 0.005}, "epochs": 3},
        repo_id="org/net",
        revision="0" * 40,
    )
    data = ModelCard(str(card)).data  # as the Hub reads it
    assert (data.license, data.library_name, data.pipeline_tag) == (
        "apache-2.0",
        "transformers",
        "image-classification",
    )
    assert data.tags == ["hf_effmodels", "ghostnetv3", "arxiv:2404.11202"]
    assert data.datasets == ["uoft-cs/cifar10"] and data.metrics == ["accuracy", "loss"]
    assert [(r.metric_type, r.metric_value, r.dataset_split) for r in data.eval_results] == [
        ("accuracy", 0.9312, "test"),
        ("loss", 0.25, None),
    ]
    text = card.text
    assert "| Labels | 3: cat, dog, owl |" in text
    assert f"| Parameters | {tiny.model.num_parameters() / 1e6:.3f} M |" in text
    assert "93.12 % (evaluate.py, 3 May 2026, 2 cores)" in text
    assert "| optimizer.lr | `0.005` |" in text
    assert text.count('model_id = "org/net"') == 3 and f'revision = "{"0" * 40}"' in text
    # Not one of the published networks: no published number, no multiply-adds of another size.
    assert "a variant of its own" in text and "Multiply-adds" not in text and "ImageNet-1k" not in text
    for gap in ("None", "TODO", "More information", "{", "<"):
        assert gap not in text.replace("{name}", "").replace("print({name", "print("), gap


def test_the_card_knows_a_published_variant_by_its_configuration():
    with torch.device("meta"):
        model = hf_effmodels.create_model("ghostnetv3-1.0x")
        folded = hf_effmodels.create_model("ghostnetv3-1.0x", reparameterized=True)
        small = hf_effmodels.create_model("ghostnetv3-1.0x", num_labels=10)
    text = build_card(model).text
    assert "# ghostnetv3-1.0x" in text and "404.1 M for one image of 224 × 224 pixels" in text
    assert "| Parameters | 8.129 M |" in text and "not measured here" in text
    assert "77.10 % (paper, quoted from memory)" in text
    assert "none stated: not for redistribution" in text
    # Whose work it is stands in the card of every size.
    for said in (text, build_card(small).text):
        assert "| Paper | [arXiv:2404.11202](https://arxiv.org/abs/2404.11202) |" in said
        assert "Please cite the paper: " in said and "[BibTeX](https://arxiv.org/bibtex/2404.11202)" in said
    text = build_card(folded).text
    assert f"| Parameters | {folded.num_parameters() / 1e6:.3f} M |" in text and "167.0 M for one image" in text
    assert "folded for inference" in text and "reparameterize()" not in text
    text = build_card(small).text
    assert "`ghostnetv3-1.0x`" in text and "Multiply-adds" not in text
    conversion = {
        "source": "ghostnetv3-1.0.pth.tar",
        "sha256": "ab" * 32,
        "entry": "state_dict_ema",
        "converted": 1956,
    }
    text = build_card(model, license="apache-2.0", conversion=conversion).text
    assert "ab" * 32 in text and "1956 tensors of state_dict_ema" in text and "these, converted" in text


def told(model) -> tuple[str, str, str]:
    """What a card says of a model's numbers."""
    rows = dict(re.findall(r"^\| ([^|]+) \| (.*) \|$", build_card(model).text, re.MULTILINE))
    return rows["Parameters"], rows["Of these"], rows["Weights"]


@torch.no_grad()
def test_a_card_tells_how_many_bits_the_weights_have():
    """Counted here by hand: BiMLP's layers of one position are binary, its grouped and depthwise ones are not."""

    torch.manual_seed(0)
    bimlp = hf_effmodels.create_model("bimlp-s", **BIMLP["bimlp"]).eval()
    sizes = {name: p.numel() for name, p in bimlp.named_parameters()}
    binary = [m for n, m in bimlp.named_modules() if getattr(m, "binarizer", None) is not None]
    one_bit = sum(m.weight.numel() for m in binary if m.kernel_size == (1, 1))
    grouped = sum(m.weight.numel() for m in binary if m.groups > 1)
    rest = sum(sizes.values()) - one_bit - grouped
    parts = (
        f"{one_bit / 1e6:.3f} M: weights 1 bit, inputs three levels",
        f"{grouped / 1e6:.3f} M: weights real, inputs three levels",
    )
    whole, found, stored = told(bimlp)
    assert whole == f"{sum(sizes.values()) / 1e6:.3f} M" and stored == (
        "float32, safetensors; those of one bit, too, which `deploy()` packs"
    )
    assert found.split("; ") == [*parts, f"{rest / 1e6:.3f} M: real"]
    with torch.device("meta"):  # by the rules alone
        assert told(hf_effmodels.create_model("bimlp-s", **BIMLP["bimlp"]))[1] == found
    bimlp.deploy()
    whole, found, stored = told(bimlp)
    assert (
        found.startswith("; ".join(parts)) and stored == "float32, safetensors; those of few bits packed as integers"
    )
    assert whole == f"{(one_bit + bimlp.num_parameters()) / 1e6:.3f} M"
    adder = hf_effmodels.create_model("addernet-resnet50", **ADDERNET["addernet"]).eval()
    assert "products, weights and inputs real" in told(adder)[1] and told(adder)[2] == "float32, safetensors"
    whole = told(adder)[0]
    quantize_adder(adder, [torch.rand(2, 3, 32, 32)], bits=4, activation_bits=6, n_groups=2)
    assert "weights 4 bits, inputs 6 bits" in told(adder)[1] and told(adder)[0] == whole


def test_a_language_model_of_few_bits_says_so_in_its_card(tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = hf_effmodels.create_model("pangu-pi-15m", **sizes, vocab_size=99)
    linears = [m for m in model.model.layers.modules() if type(m) is torch.nn.Linear]
    small = sum(m.weight.numel() for m in linears)
    real = model.num_parameters() - small
    model.save_pretrained(tmp_path / "plain")
    packing = CbqConfig(method="rtn", bits=4, group_size=None, activation_bits=8)
    packed = type(model).from_pretrained(tmp_path / "plain", quantization_config=packing)
    assert told(packed) == (
        f"{model.num_parameters() / 1e6:.3f} M",
        f"{small / 1e6:.3f} M: weights 4 bits, inputs 8 bits; {real / 1e6:.3f} M: real",
        "float32, safetensors; those of few bits packed as integers",
    )
    ternary = convert_to_bitlinear(model)
    assert told(ternary)[1].startswith(f"{small / 1e6:.3f} M: weights -1, 0 and 1, inputs 8 bits; ")
    assert told(ternary)[2] == "float32, safetensors"


@pytest.mark.parametrize(
    "auto_class, channels, blocks",
    [
        ("AutoModelForImageClassification", 3, 3),
        ("AutoModelForImageClassification", 1, 3),
        ("AutoModel", 3, 3),
        ("AutoBackbone", 4, 1),
    ],
)
def test_the_snippets_of_every_kind_of_card_run_in_the_folder(
    tiny, tmp_path, monkeypatch, auto_class, channels, blocks
):
    config = copy.deepcopy(tiny.model.config)
    config.num_channels = channels
    model = tiny.architecture.model_class(auto_class)(config)
    folder = export(model, tiny.processor, tmp_path / "model")
    monkeypatch.chdir(folder)
    readme = (folder / "README.md").read_text()
    assert run_snippets(readme, package=True) + run_snippets(readme, package=False) == blocks


def test_a_class_that_is_not_of_this_package_is_told_how_to_load(tiny):
    own = type(tiny.model)
    for module, hint in (
        ("mine", "of hf_effmodels$"),
        ("transformers_modules.x", "import hf_effmodels before loading it$"),
    ):
        model = copy.copy(tiny.model)
        model.__class__ = type(own.__name__, (own,), {"__module__": module})
        with pytest.raises(ValueError, match=f"model: got {module}.{own.__name__}, accepted are .*{hint}"):
            build_card(model)
    with pytest.raises(ValueError, match=r"model: got Linear \(model_type None\), accepted are models of this"):
        build_card(torch.nn.Linear(1, 1))


def test_a_language_model_costs_what_one_token_costs():
    config = tiny_config(ARCHITECTURES["pangu_pi"])
    model = ARCHITECTURES["pangu_pi"].model_class("AutoModelForCausalLM")(config)
    card = str(build_card(model, preset="pangu-pi-15m", license="mit"))
    assert "| Multiply-adds | 13.89 M for one token (linear layers) |" in card
    assert f"| Vocabulary | {config.vocab_size} |" in card


def test_only_charts_go_with_a_model_and_only_code_that_is_known(tiny, tmp_path):
    (tmp_path / "photo.png").write_bytes(b"mine")
    with pytest.raises(ValueError, match="figures: got .*photo.png, accepted are charts called training_curve.png"):
        export(tiny.model, tiny.processor, tmp_path / "out", figures=[tmp_path / "photo.png"])
    with pytest.raises(ValueError, match=f"adapter_only: got True, but a {type(tiny.model).__name__} has no adapters"):
        export(tiny.model, tiny.processor, tmp_path / "out", adapter_only=True)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match="the network inside, a 'mine', is neither transformers' nor this package's"):
        network_code("mine")
    assert network_code("resnet") == (set(), {})
    assert [is_portable(name) for name in ("resnet", "mine", "ghostnet", "coded_classifier", "pangu_pi")] == [
        True, False, True, False, False
    ]  # fmt: skip


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"license": "Apache 2.0"}, "license: got 'Apache 2.0'.*apache-2.0"),
        ({"license": "unknown"}, "license: got 'unknown'"),
        ({"license": "other"}, "needs license_name and license_link"),
        ({"license": "mit", "license_name": "x"}, "go with license='other'"),
        ({"preset": "ghostnet-1.0x"}, "preset: got 'ghostnet-1.0x', accepted for GhostNetV3: ghostnetv3-0.5x"),
        ({"results": {"accuracy": 0.9}}, "'accuracy' was measured on what"),
        ({"results": {"accuracy": "high"}, "dataset": "d"}, "must be a number, got 'high'"),
        ({"results": [{"metric": "accuracy"}], "dataset": "d"}, "mappings with 'metric' and 'value'"),
        ({"results": [{"metric": "a", "value": 1, "note": ""}], "dataset": "d"}, "unknown key 'note'"),
    ],
)
def test_wrong_card_arguments_are_named(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_card(tiny.model, **arguments)


# texts of users in cards


EVIL = [
    "x\n---\nlicense: apache-2.0\n---\n# Owned",
    "x\n\n## Facts\n\n| a | b |",
    "a | b | c",
    "`code` ```python\nimport os\n```",
    "<script>alert(1)</script><img src=x onerror=y>",
    "[click](javascript:alert) ![i](http://evil/x.png)",
    "# heading",
    "- item",
    "1. item",
    "*bold* _it_ ~~gone~~ $x$",
    "\u202egnirts \x00\x1b[31m\r\v\u2028next",
    "/home/alice/secret/photos",
    "~/secret/photos",
    "C:\\Users\\alice\\photos",
    "---",
    "...",
    "x" * 5000,
]


def evil_card(tiny, text: str):
    model = copy.deepcopy(tiny.model)
    model.config.id2label = {0: text, 1: "dog", 2: "owl"}
    return build_card(
        model,
        license="other",
        license_name="A name of one line",
        license_link="https://example.org/licence",
        dataset=text,
        results=[{"metric": text, "value": 0.5, "split": text, "source": text, "dataset": text}],
        training={text: text, "nested": {"key": text, "paths": [text]}},
        conversion={"source": text, "sha256": "ab" * 32, "entry": text, "converted": 3},
    )


@pytest.mark.parametrize("text", EVIL, ids=range(len(EVIL)))
def test_no_text_of_a_user_breaks_out_of_its_place_in_a_card(tiny, text):
    calm = str(evil_card(tiny, "calm"))
    card = str(evil_card(tiny, text))
    # The same lines begin in the same way: nothing of the text begins a line, a cell, a heading or a block.
    frame = [re.split(r"[^#|\-`> \d]", line, maxsplit=1)[0] for line in ModelCard(calm).text.splitlines()]
    assert [re.split(r"[^#|\-`> \d]", line, maxsplit=1)[0] for line in ModelCard(card).text.splitlines()] == frame
    cells = [len(re.findall(r"(?<!\\)\|", line)) for line in ModelCard(card).text.splitlines()]
    assert cells == [len(re.findall(r"(?<!\\)\|", line)) for line in ModelCard(calm).text.splitlines()]
    data = ModelCard(card).data
    stated = data.license, data.license_name, data.license_link
    assert stated == ("other", "A name of one line", "https://example.org/licence")
    assert data.license == "other" and data.tags == ModelCard(calm).data.tags and card.count("\n---\n") == 1
    for never in ("alice", "secret", "\x1b", "\u202e", "x" * 300):
        assert never not in card, never
    # Markup is none inside a code span or behind a backslash.
    assert not re.search(r"(?<!\\)(<script|\]\((javascript|http://evil))", re.sub("`[^`]*`", "", ModelCard(card).text))


def test_a_card_keeps_paths_and_file_names_of_this_machine_to_itself(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_corpus.txt").write_text("text")
    (tmp_path / "holiday_photos").mkdir()
    local = ["my_corpus.txt", "holiday_photos", str(tmp_path / "my_corpus.txt")]
    local += ["data/of/holiday_photos", "./my_corpus.txt"]
    for name in local:
        results = {"accuracy": 0.5}
        text = str(build_card(tiny.model, dataset=name, results=results, training={"masks": name, "lr": 0.1}))
        assert "my_corpus" not in text and "holiday_photos" not in text and str(tmp_path) not in text
        assert "Trained on data of its maker's own." in text and "| masks | a local path |" in text
    conversion = {"source": "johns_model_final2.pth", "sha256": "ab" * 32, "entry": "the file itself", "converted": 3}
    assert "johns_model" not in str(build_card(tiny.model, conversion=conversion))
    named = str(build_card(tiny.model, dataset="digits", results={"accuracy": 0.5}, training={"optim": "adamw"}))
    assert "Trained on digits." in named and "accuracy, digits" in named and "| optim | `adamw` |" in named


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"license": ["mit", "apache-2.0"]}, "license: got .'mit', 'apache-2.0'., which is not a licence"),
        ({"license": "other", "license_name": "a\nb", "license_link": "https://x.org"}, "license_name: got 'a"),
        (
            {"license": "other", "license_name": "a", "license_link": "javascript:x"},
            "license_link: got 'javascript:x'",
        ),
        ({"license": "other", "license_name": "a", "license_link": "https://x.org) [b]("}, "license_link: got"),
        ({"repo_id": 'org/net")\nimport os #'}, "repo_id: got .*accepted is 'namespace/name'"),
        ({"repo_id": "org/net", "revision": 'x")\nimport os'}, "revision: got"),
        ({"results": [{"metric": 3, "value": 1}], "dataset": "d"}, "a metric must be a name, got 3"),
    ],
)
def test_what_could_break_out_of_a_snippet_or_a_link_is_refused(tiny, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_card(tiny.model, **arguments)


def test_a_number_that_is_not_finite_is_shown_but_no_result_of_the_metadata(tiny):
    card = build_card(tiny.model, dataset="d", results={"perplexity": float("inf"), "accuracy": 0.5})
    assert [r.metric_type for r in ModelCard(str(card)).data.eval_results] == ["accuracy"]
    assert "| perplexity, d | not published | inf (" in card.text


def test_numbers_are_shown_in_the_customary_form(tiny):
    results = {"accuracy": 0.93125, "top_5_accuracy": 93.1, "psnr_y": 30.9876, "ssim_y": 0.87312, "loss": 0.123456789}
    card = build_card(tiny.model, dataset="d", results=results, base_model="org/base")
    shown = dict(re.findall(r"^\| (\w+), d \| not published \| ([^(]+) \(", card.text, re.MULTILINE))
    assert shown == {
        "accuracy": "93.12 %",
        "top_5_accuracy": "93.1",
        "psnr_y": "30.99 dB",
        "ssim_y": "0.8731",
        "loss": "0.123457",
    }
    assert ModelCard(str(card)).data.base_model == "org/base"


def test_what_a_card_says_of_published_numbers_depends_on_where_the_weights_are_from():
    with torch.device("meta"):
        model = hf_effmodels.create_model("ghostnetv3-1.0x")
    conversion = {"source": "x", "sha256": "ab" * 32, "entry": "state_dict", "converted": 3}
    preset = hf_effmodels.registry.ARCHITECTURES["ghostnetv3"].presets["ghostnetv3-1.0x"]
    assert preset.weights_license == "apache-2.0" and preset.weights_license_note
    own = build_card(model, license="apache-2.0").text
    converted = build_card(model, license="apache-2.0", conversion=conversion).text
    relicensed = build_card(model, license="mit", conversion=conversion).text
    assert "not necessarily these" in own and "these, converted" not in own and "## Origin" not in own
    assert "these, converted" in converted and "not necessarily" not in converted
    assert preset.weights_license_note in converted and preset.weights_license_note not in relicensed
    assert preset.weights in converted and "| Licence of the weights | mit |" in relicensed
    other = build_card(model, license="other", license_name="Mine", license_link="LICENSE").text
    assert "| Licence of the weights | [Mine](LICENSE) |" in other


# weights


def test_compiled_models_are_exported_as_what_they_are(tiny, tmp_path):
    plain = contents(export(tiny.model, tiny.processor, tmp_path / "plain", license="mit"))
    inner = copy.deepcopy(tiny.model)
    inner.ghostnetv3.stem = torch.compile(inner.ghostnetv3.stem)
    both = torch.compile(copy.deepcopy(inner))
    for name, model in (("whole", torch.compile(tiny.model)), ("part", inner), ("both", both)):
        assert contents(export(model, tiny.processor, tmp_path / name, license="mit")) == plain, name
    parallel = torch.nn.DataParallel(tiny.model)
    assert contents(export(parallel, tiny.processor, tmp_path / "parallel", license="mit")) == plain


def test_tied_weights_of_a_compiled_decoder_are_written_once(tmp_path):
    architecture = hf_effmodels.registry.ARCHITECTURES["pangu_pi"]
    config = tiny_config(architecture, tie_word_embeddings=True)
    model = architecture.model_class("AutoModelForCausalLM")(config)
    plain = contents(export(model, None, tmp_path / "plain", license="mit"))
    model.model.layers[0] = torch.compile(model.model.layers[0])
    assert contents(export(model, None, tmp_path / "compiled", license="mit")) == plain


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), -1.0])
def test_weights_that_compute_nothing_are_exported_only_on_request(tiny, tmp_path, value):
    model = copy.deepcopy(tiny.model)
    name = next(n for n, _ in model.named_buffers() if n.endswith("running_var"))
    model.get_buffer(name)[0] = value
    with pytest.raises(ValueError, match=rf"model: 1 broken weights: {re.escape(name)} .*allow_broken_weights=True"):
        export(model, tiny.processor, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert (export(model, tiny.processor, tmp_path / "out", allow_broken_weights=True) / "model.safetensors").exists()


# whole or not at all, and other people's files


def test_an_export_into_a_link_writes_what_it_points_to(tiny, tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "disk", target_is_directory=True)
    for license in ("mit", "apache-2.0"):
        folder = export(tiny.model, tiny.processor, tmp_path / "link", license=license)
        assert folder == (tmp_path / "disk").resolve() and (tmp_path / "link").is_symlink()
        assert f"license: {license}" in (tmp_path / "disk" / "README.md").read_text()
    assert sorted(os.listdir(tmp_path)) == ["disk", "link"]


@pytest.mark.parametrize("how", HOW)
def test_a_failed_or_killed_export_with_overwrite_keeps_the_old_and_the_users_own_files(tiny, tmp_path, how):
    folder = tmp_path / "model"
    export(tiny.model, tiny.processor, folder, license="mit")
    (folder / "thesis.tex").write_text("mine")
    (folder / "runs").mkdir()
    (folder / "runs" / "log").write_text("mine")
    before, seen = tree(folder), set()
    export(tiny.model, tiny.processor, tmp_path / "new", license="apache-2.0")
    after = {**before, **tree(tmp_path / "new")}
    shutil.rmtree(tmp_path / "new")
    shutil.copytree(folder, tmp_path / "kept")
    for number in range(1, 400, 3):
        with Interrupted(number, how) as steps:
            export(tiny.model, tiny.processor, folder, license="apache-2.0", overwrite=True)
        found = tree(folder)
        assert found in (before, after), number
        seen.add(found == before)
        if steps.count < number:
            break
        if found == after:
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "kept", folder)
    assert seen == {True, False} and tree(folder) == after


def tree(folder) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_code_that_was_edited_since_is_not_replaced_without_leave(tiny, tmp_path):
    folder = export(tiny.model, tiny.processor, tmp_path / "model", license="mit")
    edited = (folder / "squeeze_excite.py").read_bytes() + b"# mine\n"
    (folder / "squeeze_excite.py").write_bytes(edited)
    with pytest.raises(FileExistsError, match=r"holds squeeze_excite\.py, which is not part of an earlier export"):
        export(tiny.model, tiny.processor, folder, license="mit")
    assert (folder / "squeeze_excite.py").read_bytes() == edited


@pytest.mark.parametrize(
    "metric, value, told",
    [
        ("accuracy", 0.5, "50.00 %"),
        ("top-5", 1.0, "100.00 %"),
        ("eval_accuracy", 0.0, "0.00 %"),
        ("accuracy", 1.5, "1.5"),  # no share: told as it is
        ("psnr_y", 28.349, "28.35 dB"),
        ("ssim", 0.81239, "0.8124"),
        ("perplexity", 12.3456789, "12.3457"),
    ],
)
def test_numbers_of_a_card_are_told_in_their_units(metric, value, told):
    assert shown_number({"metric": metric, "value": value}) == told
