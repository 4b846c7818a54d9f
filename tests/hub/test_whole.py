"""What is loaded as a teacher, a tower or a network to be taken apart has all of its weights."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from hf_effmodels.hub.whole import load_whole

TEXT = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 11}
NETWORKS = {
    "vit": (
        AutoModelForImageClassification,
        lambda: ViTForImageClassification(
            ViTConfig(
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=2,
                image_size=16,
                patch_size=8,
            )
        ),
    ),
    "swin": (
        AutoModelForImageClassification,
        lambda: SwinForImageClassification(
            SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 2], window_size=2, image_size=16, patch_size=4)
        ),
    ),
    "resnet": (
        AutoModelForImageClassification,
        lambda: ResNetForImageClassification(
            ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
        ),
    ),
    "tied llama": (
        AutoModelForCausalLM,
        lambda: LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=1, tie_word_embeddings=True)),
    ),
    "mixtral": (
        AutoModelForCausalLM,
        lambda: MixtralForCausalLM(MixtralConfig(**TEXT, num_key_value_heads=1, num_local_experts=2)),
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_loaded_with_all_of_its_weights_or_not_at_all(name, tmp_path):
    loader, make = NETWORKS[name]
    model = make().eval()
    model.save_pretrained(tmp_path)
    whole = load_whole(loader, "--teacher", str(tmp_path)).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(whole[key], value), key
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    cut = [key for key in weights if key.endswith(("weight", "bias")) and "experts" not in key][2:5]
    save_file({key: value for key, value in weights.items() if key not in cut}, file, {"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"^--teacher: {tmp_path} lacks weights of {type(model).__name__}: \S+, \S+, \S+\.$"
    ):
        load_whole(loader, "--teacher", str(tmp_path))


def test_what_is_not_used_may_be_lacking_and_what_is_not_finite_or_there_may_not(tmp_path):
    model = NETWORKS["vit"][1]()
    model.save_pretrained(tmp_path)
    place = str(tmp_path)
    lacking = r"^--image_tower: .* lacks weights of ViTModel: pooler\.dense\.bias, pooler\.dense\.weight\.$"
    with pytest.raises(ValueError, match=lacking):
        load_whole(AutoModel, "--image_tower", place)
    spared = load_whole(AutoModel, "--image_tower", place, spared=("pooler.",), dtype=torch.bfloat16)
    assert spared.dtype == torch.bfloat16 and spared.pooler is not None
    assert load_whole(AutoModel, "--image_tower", place, add_pooling_layer=False).pooler is None
    with pytest.raises(ValueError, match=r"lacks weights of ViTModel: pooler\.dense\.bias"):
        load_whole(AutoModel, "--image_tower", place, spared=("dense.",))
    with pytest.raises(OSError, match="^--teacher: .*nowhere.* Nothing is taught.$"):
        load_whole(AutoModel, "--teacher", str(tmp_path / "nowhere"), hint="Nothing is taught.")
    with torch.no_grad():
        model.classifier.bias[0] = torch.nan
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"^--teacher: {tmp_path} has .*classifier.bias"):
        load_whole(AutoModelForImageClassification, "--teacher", place)


def test_counters_of_batch_norms_may_be_lacking(tmp_path):
    model = NETWORKS["resnet"][1]()
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    kept = {key: value for key, value in weights.items() if not key.endswith("num_batches_tracked")}
    assert len(kept) < len(weights)
    save_file(kept, file, {"format": "pt"})
    assert load_whole(AutoModelForImageClassification, "--teacher", str(tmp_path)).num_labels == 2


def test_a_revision_is_asked_for_by_its_argument():
    given = {}

    class Loader:
        @staticmethod
        def from_pretrained(name, **options):
            given.update(options, name=name)
            return torch.nn.Linear(1, 1), {}

    load_whole(Loader, "--teacher", "org/net", revision=("--teacher_revision", "v2"), token="mine")
    assert given == {"name": "org/net", "revision": "v2", "token": "mine", "output_loading_info": True}
