"""What all architectures have in common beside their outputs: attention back-ends, stochastic depth over the blocks,
gradient checkpointing, networks without a classifier, and whose losses are means of the batch."""

import copy

import pytest
import torch
from transformers import Trainer, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_effmodels.modeling.layers.drop_path import DropPath
from hf_effmodels.modeling.layers.reparameterization import ReparameterizationMixin
from hf_effmodels.registry import ARCHITECTURES

from .test_initialization import MASKED, build
from .test_vision_common import VISION, images
from .test_vision_common import build as with_statistics
from .tiny import tiny_config

#: Decoders' losses take the number of all tokens of a step, as those of transformers' own.
PER_TOKEN = {"adem_vl", "pangu_pi", "parameternet_moe"}
#: transformers' own heads, whose batches are not accumulated here.
NO_LOSS = {"tinysam", "coded_classifier", "channel_coded_classifier"}


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return TrainingArguments(str(tmp_path_factory.mktemp("run")), report_to=[], use_cpu=True)


@pytest.mark.parametrize("model_type", sorted(ARCHITECTURES.keys() - NO_LOSS))
def test_the_trainer_divides_losses_of_accumulated_batches_where_they_are_means_of_a_batch(model_type, arguments):
    assert Trainer(build(ARCHITECTURES[model_type]), arguments).model_accepts_loss_kwargs == (model_type in PER_TOKEN)


#: SparK's norms are told the visible places: a second forward pass would not see them. Coded networks are whole ones.
WITHOUT_CHECKPOINTS = {"spark", "coded_classifier", "channel_coded_classifier"}


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.model_type)
def test_activations_are_computed_again_where_that_is_asked_for(architecture):
    model = build(architecture)
    if architecture.model_type in WITHOUT_CHECKPOINTS:
        with pytest.raises(ValueError, match="does not support activation checkpointing"):
            model.activation_checkpointing_enable()
    else:
        model.activation_checkpointing_enable()
        assert model.is_activation_checkpointing


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=lambda a: a.model_type)
def test_a_block_stays_whole_where_a_model_is_spread_over_devices(architecture):
    """Its shortcut adds what came in to what goes out (`device_map="auto"`); so does what is made of such a module."""
    model = build(architecture)
    whole = set(model._no_split_modules)

    def split(module) -> list[str]:
        if type(module).__name__ in whole:
            return []
        made_of_one = whole & {base.__name__ for base in type(module).__mro__}
        own = [type(module).__name__] if made_of_one or isinstance(module, GradientCheckpointingLayer) else []
        return own + [name for child in module.children() for name in split(child)]

    assert split(model) == []


#: Attention with a bias for each pair of tokens, which flash kernels do not take.
BIASED = ("cmt", "tinyvit", "tinysam")
#: Parts of transformers' that are not asked by the interface.
STOCK_PARTS = ("dtop", "tinysam")
ANY_BACKEND = ("devit", "adem_vl", "pangu_pi", "parameternet_moe")


@pytest.mark.parametrize("model_type", [*BIASED, *ANY_BACKEND, "dtop", *sorted(MASKED.keys() - {"spark"})])
def test_attention_is_fused_unless_asked_otherwise(model_type):
    """And flash kernels are asked for, and only missing here, where the attention is what they compute."""
    model = build(ARCHITECTURES[model_type])
    assert model.config._attn_implementation == "sdpa"
    assert model.is_backend_compatible() == (model_type not in STOCK_PARTS)
    if model_type == "dtop":  # its blocks are told when they are made
        return
    model.set_attn_implementation("eager")
    assert model.config._attn_implementation == "eager"
    # So are all parts, also where the model is made with it.
    for asked in (model, type(model)._from_config(copy.deepcopy(model.config), attn_implementation="eager")):
        configs = [m.config for m in asked.modules() if hasattr(m, "config")]
        assert {config._attn_implementation for config in configs} == {"eager"}
    for kernels, flag in (("flash_attention_2", "Flash Attention"), ("flex_attention", "flex_attention")):
        if model_type in BIASED:
            with pytest.raises(ValueError, match=f"does not support .*{flag}"):
                type(model)._from_config(model.config, attn_implementation=kernels)
        elif model_type in ANY_BACKEND and kernels == "flash_attention_2":
            with pytest.raises(ImportError):
                type(model)._from_config(model.config, attn_implementation=kernels)
        elif model_type in ANY_BACKEND:
            model.set_attn_implementation(kernels)
            assert model.config._attn_implementation == kernels


def branches(model) -> list[float]:
    return [module.rate for module in model.modules() if isinstance(module, DropPath)]


@pytest.mark.parametrize(
    "model_type, fields, rates",
    [
        # Linear over all blocks, from 0 for the first one.
        ("cmt", {}, [0, 0.1, 0.2, 0.3, 0.4]),
        ("tinyvit", {}, [0, 0.1, 0.2, 0.3, 0.4]),
        ("tinysam", {}, [0, 0.1, 0.2, 0.3, 0.4]),
        ("gold_yolo", {"num_attention_blocks": 3}, [0, 0.2, 0.4]),
        ("gold_yolo", {"num_attention_blocks": 1}, [0]),
        ("dtop", {}, [0, 0.2, 0.4]),
        # Each part of its own depth.
        ("devit", {}, [0, 0.4, 0]),
        # Two branches of a block, alike.
        ("vig", {}, [0, 0, 0.2, 0.2, 0.4, 0.4]),
        ("vig", {"depths": (1,), "hidden_sizes": (16, 16), "stage_strides": (1,), "reduction_ratios": (1,)}, [0, 0]),
        # BiMLP: one rate for all.
        ("bimlp", {}, [0.4, 0.4]),
    ],
)
def test_branches_are_dropped_more_often_with_depth(model_type, fields, rates):
    architecture = ARCHITECTURES[model_type]
    fields = {**fields, "drop_path_rate": 0.4}
    if model_type == "tinysam":
        fields = {"vision_config": {**tiny_config(architecture).vision_config.to_dict(), **fields}}
    model = architecture.model_class(architecture.tasks[0].auto_class)(tiny_config(architecture, **fields))
    assert branches(model) == pytest.approx(rates)


@pytest.mark.parametrize("model_type", ["cmt", "bimlp", "devit", "tinynet"])
def test_dropped_branches_leave_the_input_as_it_is(model_type):
    """All dropped, a block is what its shortcut is: with the rate 0 it is more."""
    architecture = ARCHITECTURES[model_type]
    model = architecture.model_class("AutoModelForImageClassification")(tiny_config(architecture)).train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    pixels = torch.randn(2, 3, 64, 64)
    found = [m for m in model.modules() if isinstance(m, DropPath)]
    seen = []
    for module in found:
        module.rate = 0.0
        module.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    model(pixels)
    calls = len(seen)
    assert calls and all(torch.equal(given, output) for given, output in seen)
    for module in found:
        module.rate = 1 - 1e-9
    seen.clear()
    model(pixels)
    assert len(seen) == calls and not any(output.any() for _, output in seen)


@pytest.mark.parametrize("architecture", VISION, ids=lambda a: a.model_type)
@torch.no_grad()
def test_without_classes_a_classifier_gives_the_features_before_it(architecture):
    model = architecture.model_class("AutoModelForImageClassification")
    torch.manual_seed(0)
    bare = model(tiny_config(architecture, num_labels=0)).eval()
    torch.manual_seed(0)
    classes = model(tiny_config(architecture, num_labels=3)).eval()
    classes.load_state_dict(bare.state_dict(), strict=False)
    if architecture.model_type == "cdfkd_mfs":  # as many classifiers as heads, whose answers are averaged
        assert all(type(classifier) is torch.nn.Identity for classifier in bare.classifier)
        return
    seen = []
    classes.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    classes(images(classes))
    torch.testing.assert_close(bare(images(bare)).logits.flatten(1), seen[0].flatten(1))


@pytest.mark.parametrize("architecture", VISION, ids=lambda a: a.model_type)
def test_features_are_dropped_out_before_the_classifier_at_the_rate_asked_for(architecture):
    config = tiny_config(architecture, num_labels=3)
    if not hasattr(config, "classifier_dropout"):
        return
    torch.manual_seed(0)
    config.classifier_dropout = 0.999999
    model = architecture.model_class("AutoModelForImageClassification")(config)
    seen = []
    model.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for training in (True, False):
        for module in model.modules():
            normalises = isinstance(module, torch.nn.modules.batchnorm._BatchNorm)  # by the batch: nothing is trained
            module.training = normalises or (training and isinstance(module, torch.nn.Dropout))
        with torch.no_grad():
            model(images(model))
    assert not seen[0].any() and seen[1].any()


FOLDING = [a for a in VISION if issubclass(a.model_class("AutoModelForImageClassification"), ReparameterizationMixin)]


@pytest.mark.parametrize("architecture", FOLDING, ids=lambda a: a.model_type)
@torch.no_grad()
def test_without_classes_a_folded_network_gives_the_same_and_is_saved_so(architecture, tmp_path):
    model = with_statistics(architecture, num_labels=0)
    for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm1d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    expected = model(images(model)).logits
    model.reparameterize().save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    for folded in (model, loaded):
        torch.testing.assert_close(folded(images(model)).logits, expected, rtol=1e-3, atol=1e-4)


#: Classifiers and decoders have tests of each of their heads.
OTHERS = [
    (a, name)
    for a in ARCHITECTURES.values()
    if ".modeling." in a.package and a not in VISION and a.model_type not in PER_TOKEN
    for name in a.auto_classes
]


@pytest.mark.parametrize("architecture, auto_class", OTHERS, ids=[f"{a.model_type}-{name}" for a, name in OTHERS])
def test_every_head_is_saved_and_loaded_as_it_is(architecture, auto_class, tmp_path):
    kind = architecture.model_class(auto_class)
    model = kind(build(architecture).config)
    model.save_pretrained(tmp_path)
    loaded, about = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(about.values()), about
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name


WITH_MAPS = [a for a in ARCHITECTURES.values() if "AutoBackbone" in a.auto_classes]


@pytest.mark.parametrize("architecture", WITH_MAPS, ids=lambda a: a.model_type)
def test_feature_maps_are_read_from_a_whole_model_without_a_report_of_its_head(architecture, tmp_path):
    build(architecture).save_pretrained(tmp_path)
    kind = architecture.model_class("AutoBackbone")
    _, about = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(about.values()), about


@pytest.mark.parametrize("architecture", WITH_MAPS, ids=lambda a: a.model_type)
def test_backbones_refuse_what_are_no_images_by_name(architecture):
    backbone = architecture.model_class("AutoBackbone")(tiny_config(architecture)).eval()
    pixels = images(backbone)
    assert backbone(pixels).feature_maps
    for wrong in (pixels[:, :1], pixels[0], pixels.long()):
        with pytest.raises(ValueError, match="pixel_values: got .*, expected"):
            backbone(wrong)
