"""What is published: of every kind of model that which it needs, whatever else lies in the folder."""

import json
import os
import shutil
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoConfig,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPModel,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    ViTImageProcessorPil,
)

from hf_effmodels.hub import export, publish
from hf_effmodels.hub.contents import (
    components,
    is_model_file,
    model_files,
    read_json,
    reference_fields,
    refuse_link,
)
from hf_effmodels.registry import ARCHITECTURES

from ..modeling.tiny import tiny_config
from ..pipelines.sam_diffsr.tiny import tiny_pipeline

pytestmark = pytest.mark.usefixtures("online")

SECRET = b"hf_SeCrEt"
PLANTED = """id_rsa id_ed25519.pub token.txt credentials .env .env.local env.sh .netrc .git/config .cache/token
.hidden.json secrets.json notes.md thesis.tex training_args.bin optimizer.pt optimizer.bin scheduler.pt rng_state.pth
rng_state_0.pth trainer_state.json scaler.pt pytorch_model.bin pytorch_model.safetensors model.safetensors.bak
model.backup.safetensors optimizer.safetensors model_before_ema.safetensors weights.pkl model.pickle model.joblib
model.npz model.h5 model.ckpt handler.py train.py setup.cfg modeling_mine.py conv.so conv.pyd __pycache__/x.pyc
checkpoint-3/model.safetensors checkpoint-3/config.json hub/config.json hub/model.safetensors
runs/events.out.tfevents.1 data/photo.png
training_config.yaml all_results.json Config.json config.json.orig config.json~ CONFIG.JSON README.md.bak
model-00001-of-00002.safetensors adapter/adapter_model.safetensors tokenizer/vocab.txt .gitattributes .DS_Store
unet/scheduler_config.json scheduler/config.json
unet/optimizer.bin unet/ema/model.safetensors unet/diffusion_pytorch_model.bin vae/diffusion_pytorch_model.safetensors
vae/config.json""".split()


def classifier(folder):
    architecture = ARCHITECTURES["ghostnetv3"]
    model = architecture.model_class("AutoModelForImageClassification")(tiny_config(architecture))
    import hf_effmodels

    return export(model, hf_effmodels.create_image_processor("ghostnetv3-1.0x", image_size=64), folder, license="mit")


def decoder(folder):
    architecture = ARCHITECTURES["pangu_pi"]
    model = architecture.model_class("AutoModelForCausalLM")(tiny_config(architecture))
    words = Tokenizer(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", chat_template="{{ messages }}")
    return export(model, tokenizer, folder, license="mit")


def shards(folder):
    architecture = ARCHITECTURES["vanillanet"]
    model = architecture.model_class("AutoModelForImageClassification")(tiny_config(architecture))
    import hf_effmodels

    export(model, hf_effmodels.create_image_processor("vanillanet-5"), folder, license="mit")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder / "again", max_shard_size="20KB")
    for path in (folder / "again").glob("model*"):
        shutil.move(path, folder / path.name)
    shutil.rmtree(folder / "again")
    return folder


def pipeline(folder):
    from hf_effmodels.pipelines.sam_diffsr.export import export

    return export(tiny_pipeline(), folder, license="mit")


@pytest.fixture(params=[classifier, decoder, shards, pipeline])
def folder(request, tmp_path):
    return request.param(tmp_path / "model")


@pytest.fixture
def push(hub, folder):
    return lambda **options: publish(folder, "org/net", token="maker", endpoint=hub.url, **options)


def names(folder) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_nothing_is_published_but_what_the_model_needs(hub, folder, push, caplog):
    needed = names(folder)
    planted = {name for name in PLANTED if not (folder / name).exists()} - {"model-00001-of-00002.safetensors"}
    for name in planted:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(SECRET)
    (folder / "LICENSE").write_text("the licence of the weights")
    push()
    published = hub.files("org/net")
    assert published.keys() == needed | {"LICENSE"}
    assert not [name for name, content in published.items() if SECRET in content]
    assert "not published, as a model does not need it: " in caplog.text and SECRET.decode() not in caplog.text


#: Names of the list that a model of this kind does not read.
STRAY = {
    "classifier": "vocab.json vocab.txt merges.txt tokenizer.model tokenizer.json tokenizer_config.json "
    "added_tokens.json chat_template.jinja additional_chat_templates/mine.jinja adapter_model.safetensors "
    "adapter_config.json generation_config.json processor_config.json "
    "adapter_model-00001-of-00002.safetensors spiece.model",
    "decoder": "vocab.json vocab.txt merges.txt tokenizer.model spiece.model adapter_model.safetensors "
    "adapter_config.json preprocessor_config.json processor_config.json",
    "pipeline": "vocab.json config.json model.safetensors tokenizer.json unet/scheduler_config.json "
    "scheduler/config.json scheduler/diffusion_pytorch_model.safetensors",
}


@pytest.mark.parametrize("make", [classifier, decoder, pipeline])
def test_a_name_of_the_list_alone_publishes_nothing(hub, make, tmp_path):
    folder = make(tmp_path / "model")
    needed = names(folder)
    for name in STRAY[make.__name__].split():
        assert not (folder / name).exists(), name
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(SECRET)
    publish(folder, "org/net", token="maker", endpoint=hub.url)
    assert hub.files("org/net").keys() == needed


def test_links_are_refused_wherever_they_lead(hub, folder, push, tmp_path):
    (tmp_path / "outside").mkdir()
    needed = sorted(n for n in names(folder) if not n.endswith((".md", ".index.json")))
    for name in [*needed, "LICENSE"]:
        kept = (folder / name).read_bytes() if (folder / name).exists() else b"text"
        secret = tmp_path / "outside" / "secret"
        secret.write_bytes(kept)
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(secret)
        with pytest.raises(ValueError, match=r"is a link to .*secret; accepted are files"):
            push()
        (folder / name).unlink()
        if name != "LICENSE":
            (folder / name).write_bytes(kept)
    if (folder / "unet").is_dir():
        shutil.move(folder / "unet", tmp_path / "outside" / "unet")
        (folder / "unet").symlink_to(tmp_path / "outside" / "unet")
        with pytest.raises(ValueError, match="is a link to .*unet; accepted are files"):
            push()
    assert hub.requests == []


def test_links_to_what_is_not_needed_are_left_out(hub, folder, push, tmp_path):
    needed = names(folder)
    (tmp_path / "id_rsa").write_bytes(SECRET)
    (folder / "key").symlink_to(tmp_path / "id_rsa")
    (folder / "home").symlink_to(tmp_path)
    push()
    assert hub.files("org/net").keys() == needed


def test_code_is_published_only_as_this_package_writes_it(hub, folder, push):
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        header, _, source = content.partition(b"\n")
        for edited in (content + b"\nimport os\n", header + b"\n#" + source, b""):
            path.write_bytes(edited)
            refused = rf"{path.name} is not what hf_effmodels .* writes: it was edited|is not an exported model"
            with pytest.raises(ValueError, match=refused):
                push()
        path.unlink()
        with pytest.raises(ValueError, match=rf"no {path.relative_to(folder).as_posix()}|not an exported model"):
            push()
        path.write_bytes(content)
    assert hub.requests == []


def test_no_file_may_send_users_to_other_code(hub, folder, push):
    settings = [name for name in sorted(names(folder)) if name.endswith(".json") and "safetensors" not in name]
    for name in settings:
        content = json.loads((folder / name).read_bytes())
        (folder / name).write_text(json.dumps(content | {"auto_map": {"AutoConfig": "org/evil--code.Config"}}))
        with pytest.raises(ValueError, match="auto_map in .* is not what hf_effmodels|is not an exported model"):
            push()
        (folder / name).write_text("[1]")
        with pytest.raises(ValueError, match="folder_or_model: .*(holds a list, expected|is not an exported model)"):
            push()
        (folder / name).write_text(json.dumps(content))
    if "model_index.json" in settings:
        for module in ("modeling_mine", "../../sam_diffsr/create", "os"):
            index = content if name == "model_index.json" else json.loads((folder / "model_index.json").read_bytes())
            (folder / "model_index.json").write_text(json.dumps(index | {"unet": [module, "Mine"]}))
            with pytest.raises(ValueError, match=f"the class of its 'unet' is in '{module}', accepted are"):
                push()
    assert hub.requests == []


def vit(folder):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    AutoModelForImageClassification.from_config(AutoConfig.for_model("vit", **sizes)).save_pretrained(folder)
    ViTImageProcessorPil().save_pretrained(folder)
    return STRAY["classifier"]


def gpt2(folder):
    GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=3)).save_pretrained(folder)
    words = Tokenizer(WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", chat_template="{{ messages }}")
    tokenizer.save_pretrained(folder)
    return STRAY["decoder"]


def files_of_a_vocabulary(folder):
    """As checkpoints of earlier years have it: no tokenizer.json, but what the tokenizer's class reads."""
    gpt2(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    (folder / "vocab.json").write_text("{}")
    (folder / "merges.txt").write_text("")
    return "vocab.txt tokenizer.model spiece.model sentencepiece.bpe.model adapter_model.safetensors"


def adapter(folder):
    base = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=3))
    get_peft_model(base, LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True)).save_pretrained(folder)
    return "vae/config.json"


def two_kinds_of_input(folder):
    text = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    CLIPModel(CLIPConfig(text_config={**text, "vocab_size": 3}, vision_config=text)).save_pretrained(folder)
    for name in ("tokenizer.json", "preprocessor_config.json", "processor_config.json"):
        (folder / name).write_text("{}")
    return "vocab.txt tokenizer.model generation_config.json adapter_config.json"


@pytest.mark.parametrize("make", [vit, gpt2, files_of_a_vocabulary, adapter, two_kinds_of_input])
def test_models_of_others_are_what_they_are_saved_as(tmp_path, make):
    """The list that `--push_to_hub` uses holds everything a stock model needs, and nothing of its training."""
    stray = make(tmp_path).split()
    needed = names(tmp_path)
    for name in [*PLANTED, *stray]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        if not (tmp_path / name).exists():
            (tmp_path / name).write_bytes(SECRET)
    torch.save({}, tmp_path / "training_args.bin")
    assert needed == set(model_files(tmp_path))
    assert "trainer_state.json" not in filter(is_model_file, os.listdir(tmp_path))


def test_of_a_model_whose_class_is_not_known_all_that_may_belong_to_it_is_published(tmp_path):
    names_of_all = {"config.json", "model.safetensors", "preprocessor_config.json", "processor_config.json"}
    names_of_all |= {"generation_config.json", "tokenizer.json", "chat_template.jinja", "README.md", "LICENSE"}
    for name in names_of_all | {"vocab.txt", "adapter_model.safetensors"}:
        (tmp_path / name).write_text("{}")
    (tmp_path / "config.json").write_text('{"model_type": "of_somebody", "architectures": ["OfSomebody"]}')
    assert set(model_files(tmp_path)) == names_of_all
    (tmp_path / "generation_config.json").write_bytes(SECRET)
    with pytest.raises(ValueError, match="generation_config.json cannot be read"):
        model_files(tmp_path)


def test_a_chart_belongs_to_a_model_only_where_its_card_shows_it(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "vit", "architectures": ["ViTForImageClassification"]}')
    (tmp_path / "training_curve.png").write_bytes(SECRET)
    (tmp_path / "README.md").write_text("The file training_curve.png is my own.")
    assert model_files(tmp_path) == ["README.md", "config.json"]
    (tmp_path / "README.md").write_text("![Training](training_curve.png)")
    assert model_files(tmp_path) == ["README.md", "config.json", "training_curve.png"]


def test_weights_that_are_there_twice_or_elsewhere_are_refused(tmp_path):
    shards(tmp_path)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    index["weight_map"][next(iter(index["weight_map"]))] = "../../secret.safetensors"
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"names '\.\./\.\./secret\.safetensors', accepted are weights beside it"):
        model_files(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(ValueError, match="is no index of weights"):
        model_files(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"holds both model\.safetensors and model\.safetensors\.index\.json"):
        model_files(tmp_path)


@pytest.mark.parametrize(
    "model_class, has_one", [("CLIPModel", True), ("ViTForImageClassification", False), ("Mine", True)]
)
def test_the_settings_of_a_processor_belong_to_models_that_have_one(tmp_path, model_class, has_one):
    """Of a class that is not known it may be."""
    config = {"model_type": "clip" if model_class == "CLIPModel" else "vit", "architectures": [model_class]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "processor_config.json").write_text("{}")
    assert ("processor_config.json" in model_files(tmp_path)) == has_one
    assert "preprocessor_config.json" not in model_files(tmp_path), "there is none"


def test_what_is_neither_a_file_nor_a_folder_is_not_published(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="folder_or_model: .*config.json is neither a file nor a folder"):
        refuse_link(tmp_path, "config.json")
    refuse_link(tmp_path, "none.json")


@pytest.mark.parametrize("content, words", [("[", "cannot be read"), ("[1]", "holds a list, expected an object")])
def test_settings_are_objects(tmp_path, content, words):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=f"folder_or_model: .*config.json {words}"):
        read_json(tmp_path, "config.json")


def test_components_of_a_pipeline_are_those_with_a_module_and_a_class():
    index = {
        "_class_name": ["a", "B"],
        "unet": ["diffusers", "UNet"],
        "vae": [None, None],
        "text_encoder": [None, "CLIPTextModel"],
        "three": ["diffusers", "UNet", "more"],
        "unet2": ["a", None],
        "scale": 4,
        "Odd": ["a", "b"],
    }
    assert components(index | {"text": ["transformers"]}) == {"unet": ["diffusers", "UNet"], "unet2": ["a", None]}


def test_each_part_of_a_pipeline_is_read_from_the_files_of_its_library(tmp_path):
    index = {"_class_name": ["pipeline_mine", "Mine"], "scale": 4, "left_out": [None, None]}
    index |= {"unet": ["diffusers", "UNet2DModel"], "text_encoder": ["transformers", "CLIPTextModel"]}
    index |= {"condition": ["modeling_mine", "Condition"], "scheduler": ["diffusers", "DDIMScheduler"]}
    needed = """model_index.json README.md LICENSE NOTICE.txt unet/config.json condition/config.json
    unet/diffusion_pytorch_model.safetensors unet/diffusion_pytorch_model.fp16.safetensors
    condition/diffusion_pytorch_model.safetensors text_encoder/config.json text_encoder/model.safetensors
    text_encoder/model.fp16.safetensors text_encoder/generation_config.json scheduler/scheduler_config.json""".split()
    others = """unet/model.safetensors unet/model.fp16.safetensors condition/model.safetensors unet/LICENSE
    unet/generation_config.json condition/scheduler_config.json text_encoder/scheduler_config.json
    scheduler/config.json scheduler/model.safetensors left_out/diffusion_pytorch_model.safetensors
    left_out/config.json scale/config.json config.json model.safetensors
    unet/more/config.json unet/README.md training_curve.png""".split()
    for name in [*needed, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    assert model_files(tmp_path) == sorted(needed, key=lambda name: tmp_path / name)


def test_a_part_says_where_it_is_in_the_field_of_its_own_name():
    @dataclass
    class Config:
        sub_configs: ClassVar[dict[str, Any]] = {"text_config": 1, "vision_config": 2, "adapter_config": 3}
        text_config: Any = None
        text_model_name_or_path: str = ""
        vision_model_name_or_path: str = ""
        other_model_name_or_path: str = ""

    class Plain:
        pass

    vision, text = "vision_model_name_or_path", "text_model_name_or_path"
    assert reference_fields(Config) == {"text_config": text, "vision_config": vision}
    assert reference_fields(Plain) == {}
