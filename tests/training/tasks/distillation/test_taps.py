"""Where the stages of networks end that this package did not write, what their features look like, and bad paths."""

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    CvtConfig,
    CvtForImageClassification,
    DeiTConfig,
    DeiTForImageClassification,
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PoolFormerConfig,
    PoolFormerForImageClassification,
    ResNetConfig,
    ResNetForImageClassification,
    SwinConfig,
    SwinForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.activations import GELUActivation, QuickGELUActivation

from hf_effmodels import create_model
from hf_effmodels.training.losses.interface import FeatureSpec, as_maps, as_tokens
from hf_effmodels.training.tasks.distillation.taps import (
    Taps,
    attach,
    collecting,
    dry_run,
    example_input,
    find_stages,
    prefix_tokens,
    stage_taps,
)

VIT = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16, "image_size": 32, "patch_size": 8}


def resnet():
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 20], depths=[1, 2, 1, 1], layer_type="basic")
    return ResNetForImageClassification(config), torch.randn(2, 3, 64, 64)


def vit():
    return ViTForImageClassification(ViTConfig(num_hidden_layers=12, **VIT)), None


def deit():
    return DeiTForImageClassification(DeiTConfig(num_hidden_layers=8, **VIT)), None


def swin():
    shape = {"image_size": 32, "patch_size": 2, "embed_dim": 8, "depths": [1, 1, 2, 1], "num_heads": [1, 2, 2, 2]}
    return SwinForImageClassification(SwinConfig(window_size=2, **shape)), None


def convnext():
    config = ConvNextConfig(depths=[1, 1, 1, 1], hidden_sizes=[8, 12, 16, 20])
    return ConvNextForImageClassification(config), torch.randn(2, 3, 64, 64)


def mobilenet():
    return MobileNetV2ForImageClassification(MobileNetV2Config(depth_multiplier=0.35, image_size=64)), None


def poolformer():
    config = PoolFormerConfig(depths=[1, 1, 2, 1], hidden_sizes=[8, 12, 16, 20])
    return PoolFormerForImageClassification(config), torch.randn(2, 3, 64, 64)


def tinyvit():
    return create_model(
        "tinyvit-5m", image_size=64, embed_dims=[8, 16, 24, 32], depths=[1, 1, 1, 1], num_heads=[1, 1, 2]
    ), None


def maps(*shapes):
    return [FeatureSpec(shape, "maps") for shape in shapes]


#: Their stages, of what shape they are, and the width of what the classifier is given.
NETWORKS = [
    (
        resnet,
        [f"resnet.encoder.stages.{n}" for n in range(4)],
        maps((8, 16, 16), (12, 8, 8), (16, 4, 4), (20, 2, 2)),
        20,
    ),
    (vit, [f"vit.layers.{n}" for n in (1, 3, 9, 11)], [FeatureSpec((17, 16), "tokens", 1)] * 4, 16),
    (deit, [f"deit.layers.{n}" for n in (1, 3, 5, 7)], [FeatureSpec((18, 16), "tokens", 2)] * 4, 16),
    (
        swin,
        [f"swin.encoder.layers.{n}.blocks.{b}" for n, b in ((0, 0), (1, 0), (2, 1))] + ["swin.encoder.layers.3"],
        [FeatureSpec(shape, "tokens") for shape in ((256, 8), (64, 16), (16, 32), (4, 64))],
        64,
    ),
    (
        convnext,
        [f"convnext.encoder.stages.{n}" for n in range(4)],
        maps((8, 16, 16), (12, 8, 8), (16, 4, 4), (20, 2, 2)),
        20,
    ),
    (
        mobilenet,
        [f"mobilenet_v2.layer.{n}" for n in (1, 4, 11)] + ["mobilenet_v2.conv_1x1"],
        maps((8, 16, 16), (16, 8, 8), (32, 4, 4), (1280, 2, 2)),
        1280,
    ),
    (
        poolformer,
        [f"poolformer.encoder.block.{n}.{b}" for n, b in ((0, 0), (1, 0), (2, 1), (3, 0))],
        maps((8, 16, 16), (12, 8, 8), (16, 4, 4), (20, 2, 2)),
        20,
    ),
    (tinyvit, [f"tinyvit.stages.{n}" for n in range(4)], maps((8, 16, 16), (16, 8, 8), (24, 4, 4), (32, 2, 2)), 32),
]


@pytest.mark.parametrize("make, paths, specs, width", NETWORKS, ids=[case[0].__name__ for case in NETWORKS])
def test_the_stages_of_any_network_are_found_with_their_shapes(make, paths, specs, width):
    torch.manual_seed(0)
    model, pixels = make()
    pixels = example_input(model) if pixels is None else pixels
    assert stage_taps(model.train(), 4, pixel_values=pixels) == paths
    assert model.training and all(module.training for module in model.modules()), "left as it was"
    taps = Taps(model, dry_run(model, pixels), ["pooled", "stage1", "stage2", "stage3", "stage4"])
    found = [taps.specs[f"stage{number}"] for number in (1, 2, 3, 4)]
    assert [(s.shape, s.layout, s.prefix_tokens) for s in found] == [
        (s.shape, s.layout, s.prefix_tokens) for s in specs
    ]
    assert taps.specs["pooled"].shape == (width,)
    # What the hooks hand out is what the modules gave, and the logits follow from the pooled features.
    attach(model.eval(), taps)
    with torch.no_grad(), collecting() as features:
        logits = model(pixel_values=pixels).logits
    for number, spec in enumerate(found, start=1):
        assert tuple(features[f"stage{number}"].shape[1:]) == spec.shape
        assert as_maps(features[f"stage{number}"], spec).shape[1:] == (spec.channels, *spec.grid)
    classifier = model.get_submodule(taps.specs["pooled"].path.removesuffix(":input"))
    torch.testing.assert_close(classifier(features["pooled"]), logits)
    with torch.no_grad():
        model(pixel_values=pixels + 1)  # outside of `collecting` nothing is kept
    assert set(features) == set(taps.sources)


def test_deeper_stages_are_taken_where_there_are_more_and_blocks_are_shared_out():
    model, pixels = resnet()
    assert stage_taps(model, 2, pixel_values=pixels) == ["resnet.encoder.stages.2", "resnet.encoder.stages.3"]
    model = ViTForImageClassification(ViTConfig(num_hidden_layers=5, **VIT))
    assert stage_taps(model, 4) == [f"vit.layers.{n}" for n in (1, 2, 3, 4)]
    assert stage_taps(model, 2) == [f"vit.layers.{n}" for n in (2, 4)]
    # Of fewer than four blocks as many stages as a loss asks for.
    few = ViTForImageClassification(ViTConfig(num_hidden_layers=3, **VIT))
    assert Taps(few, dry_run(few, example_input(few)), ["stage2"]).stages == ["vit.layers.1", "vit.layers.2"]


def convnext_of(depths):
    config = ConvNextConfig(num_stages=len(depths), depths=depths, hidden_sizes=[8, 12, 16, 20][: len(depths)])
    return ConvNextForImageClassification(config), [f"convnext.encoder.stages.{n}" for n in range(len(depths))]


def resnet_of(depths):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12, 16, 20][: len(depths)], depths=depths)
    return ResNetForImageClassification(config), [f"resnet.encoder.stages.{n}" for n in range(len(depths))]


def swin_of(depths):
    last = len(depths) - 1
    shape = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "num_heads": [1, 2, 2, 2][: last + 1]}
    paths = [f"swin.encoder.layers.{n}.blocks.{depth - 1}" for n, depth in enumerate(depths)]
    network = SwinForImageClassification(SwinConfig(window_size=2, depths=depths, **shape))
    return network, [*paths[:last], f"swin.encoder.layers.{last}"]


def poolformer_of(depths):
    count = len(depths)
    each = {"patch_sizes": [7, 3, 3, 3], "strides": [4, 2, 2, 2], "padding": [2, 1, 1, 1]}
    each = {name: values[:count] for name, values in {**each, "hidden_sizes": [8, 12, 16, 20]}.items()}
    network = PoolFormerForImageClassification(PoolFormerConfig(num_encoder_blocks=count, depths=depths, **each))
    return network, [f"poolformer.encoder.block.{n}.{depth - 1}" for n, depth in enumerate(depths)]


@pytest.mark.parametrize("make", [convnext_of, resnet_of, swin_of, poolformer_of])
@pytest.mark.parametrize("depths", [[2, 2], [1, 4], [1, 1, 2], [1, 2, 1, 1]], ids=str)
def test_a_network_of_few_stages_has_these_and_no_blocks_among_them(make, depths):
    model, paths = make(depths)
    run = dry_run(model, torch.randn(2, 3, 64, 64))
    for names in (["stage1"], ["stage2", "stage1"]):
        found = Taps(model, run, names).stages
        # A network's last stage may be named by its list's last block, which gives the same.
        assert found[:-1] == paths[:-1] and (found[-1] == paths[-1] or found[-1].startswith(f"{paths[-1]}.")), found
    if len(depths) < 4:
        with pytest.raises(ValueError, match=rf"4 stages cannot be told .*; it has {len(depths)} of its own, \w+\."):
            Taps(model, run, ["stage4"])


def test_blocks_are_shared_out_as_ofa_kd_does_it_from_seven_on():
    """After the second and the fourth, the third but last and the last; of fewer evenly."""
    for blocks, ends in ((8, [1, 3, 5, 7]), (7, [1, 3, 4, 6]), (6, [1, 2, 4, 5])):
        model = ViTForImageClassification(ViTConfig(num_hidden_layers=blocks, **VIT))
        assert stage_taps(model, 4) == [f"vit.layers.{n}" for n in ends]
    assert stage_taps(model, 3) == [f"vit.layers.{n}" for n in (1, 3, 5)]


@pytest.mark.parametrize(
    "size, shape",
    [
        (16, (2, 1, 16, 16)),
        ([16, 24], (2, 1, 16, 24)),
        ((1, 16, 24), (2, 1, 16, 24)),
        ({"height": 16, "width": 24}, (2, 1, 16, 24)),
        (None, (2, 1, 224, 224)),
    ],
)
def test_an_example_has_the_size_that_the_configuration_states(size, shape):
    model = torch.nn.Linear(1, 1).half()
    model.config = SimpleNamespace(image_size=size, num_channels=1)
    assert example_input(model).shape == shape and example_input(model).dtype == torch.float16
    del model.config
    assert example_input(model).shape == (2, 3, 224, 224)


class Staged(torch.nn.Module):
    """Blocks one after the other that give maps or tokens of these shapes, and a head of some kind."""

    def __init__(self, shapes, head):
        super().__init__()
        self.blocks = torch.nn.ModuleList(torch.nn.Unflatten(1, shape) for shape in shapes)
        self.weights = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(()))])
        self.sizes, self.head = [torch.Size(shape).numel() for shape in shapes], head

    def forward(self, pixel_values):
        flat = pixel_values.flatten(1)
        for block, size in self.in_turn():
            features = block(flat[:, :size])
        return {"logits": self.head(features.flatten(1)[:, :4])}

    def in_turn(self):
        return zip(self.blocks, self.sizes, strict=True)


def test_blocks_that_go_from_coarse_to_fine_are_no_stages():
    model = Staged([(4, 2, 2), (4, 4, 4), (4, 2, 2)], torch.nn.Linear(4, 5))
    with pytest.raises(ValueError, match="2 stages cannot be told by the shapes"):
        stage_taps(model, 2, pixel_values=torch.randn(2, 3, 8, 8))


def test_the_last_of_tokens_that_become_fewer_ends_a_stage():
    model = Staged([(16, 4), (16, 4), (4, 8)], torch.nn.Linear(4, 5))
    pixels = torch.randn(2, 3, 8, 8)
    assert stage_taps(model, 2, pixel_values=pixels) == ["blocks.1", "blocks.2"]
    # Where there are as many as are asked for, two of them may be of one resolution.
    assert stage_taps(model, 3, pixel_values=pixels) == ["blocks.0", "blocks.1", "blocks.2"]


def test_blocks_that_run_in_another_order_than_they_are_numbered_are_no_stages():
    class Backwards(Staged):
        def in_turn(self):
            return reversed([*super().in_turn()])

    for kind, shapes in ((Staged, [(16, 4)] * 3), (Backwards, [(16, 4)] * 3), (Backwards, [(4, 2, 2), (4, 4, 4)])):
        model = kind(shapes, torch.nn.Linear(4, 5))
        if kind is Staged:
            assert stage_taps(model, 3, pixel_values=torch.randn(2, 3, 8, 8)) == [f"blocks.{n}" for n in range(3)]
            continue
        with pytest.raises(ValueError, match=f"{len(shapes)} stages cannot be told by the shapes"):
            stage_taps(model, len(shapes), pixel_values=torch.randn(2, 3, 8, 8))


class Halved(nn.Module):
    """Blocks of one resolution, and a step to the next one where it is asked for."""

    def __init__(self, channels, step, list_name="blocks"):
        super().__init__()
        setattr(self, list_name, nn.ModuleList(nn.Conv2d(channels, channels, 1) for _ in range(2)))
        self.step, self.list_name = nn.AvgPool2d(2) if step else nn.Identity(), list_name

    def forward(self, features):
        for block in getattr(self, self.list_name):
            features = block(features)
        return self.step(features)


class Parts(nn.Module):
    """Numbered parts of an encoder under a name, one after the other, and what stands before them."""

    def __init__(self, parts, name="stages", stem=None, head=4):
        super().__init__()
        self.stem = stem or nn.Identity()
        self.encoder = nn.Module()
        setattr(self.encoder, name, nn.ModuleList(parts))
        self.encoder.forward = lambda features: nn.Sequential(*parts)(features)
        self.head = nn.Linear(head, 5)

    def forward(self, pixel_values):
        features = self.encoder(self.stem(pixel_values))
        return {"logits": self.head(features.mean((2, 3)))}


def convolutions(*channels):
    return [nn.Conv2d(a, b, 2, 2) for a, b in zip(channels, channels[1:], strict=False)]


@pytest.mark.parametrize("name", ["blocks", "layers", "layer", "stages"])
def test_of_a_stage_that_ends_with_a_step_down_the_block_before_it_counts_whatever_its_list_is_called(name):
    stages = [Halved(3, True, name), Halved(3, True, name), Halved(3, False, name)]
    model, pixels = Parts(stages, head=3), torch.randn(2, 3, 16, 16)
    paths = [*(f"encoder.stages.{n}.{name}.1" for n in (0, 1)), "encoder.stages.2"]
    assert stage_taps(model, 3, pixel_values=pixels) == paths
    assert Taps(model, dry_run(model, pixels), ["stage1"]).stages == paths


def test_the_largest_part_of_a_network_is_where_its_stages_are_looked_for():
    """Neither a stem of as many resolutions as are asked for, nor the blocks inside of a stage beside one without
    weights."""
    pixels, blocks = torch.randn(2, 3, 32, 32), [nn.Conv2d(8, 8, 3, padding=1) for _ in range(2)]
    model = Parts(blocks, "blocks", stem=nn.Sequential(*convolutions(3, 4, 4, 8)), head=8)
    with pytest.raises(ValueError, match="Parts: 3 stages cannot be told by the shapes"):
        stage_taps(model, 3, pixel_values=pixels)
    assert stage_taps(model, 2, pixel_values=pixels) == ["encoder.blocks.0", "encoder.blocks.1"]
    model = Parts([nn.Sequential(*blocks), nn.AvgPool2d(2)], "parts", stem=nn.Conv2d(3, 8, 1), head=8)
    assert stage_taps(model, 2, pixel_values=pixels) == ["encoder.parts.0", "encoder.parts.1"]


def test_parts_of_several_resolutions_that_are_called_stages_are_some_and_others_are_single_blocks():
    """A loss of the first stage is of the first of all that there are, where a network is made of stages."""
    pixels = torch.randn(2, 3, 8, 8)
    for name, stages in (("stages", [0, 1]), ("blocks", [1])):
        model = Parts(convolutions(3, 4, 4), name)
        taps = Taps(model, dry_run(model, pixels), ["stage1"])
        assert taps.stages == [f"encoder.{name}.{number}" for number in stages]


def test_pooled_features_are_vectors_also_where_the_classifier_is_a_convolution():
    class Convolved(Parts):
        def forward(self, pixel_values):
            features = self.encoder(pixel_values).mean((2, 3), keepdim=True)
            return {"logits": self.head(features).flatten(1)}

    model, pixels = Convolved(convolutions(3, 4, 7)), torch.randn(2, 3, 8, 8)
    model.head = nn.Conv2d(7, 5, 1)
    taps = Taps(model, dry_run(model, pixels), ["pooled"])
    assert taps.specs["pooled"] == FeatureSpec((7,), "vector", 0, "head:input")
    attach(model, taps)
    with torch.no_grad(), collecting() as features:
        logits = model(pixels)["logits"]
    weight = model.head.weight[:, :, 0, 0]
    torch.testing.assert_close(features["pooled"] @ weight.T + model.head.bias, logits)


def test_parts_that_become_finer_again_are_not_a_networks_own_stages():
    model = Parts([nn.Conv2d(3, 4, 1), nn.AvgPool2d(2), nn.Upsample(scale_factor=2)])
    with pytest.raises(ValueError) as error:
        stage_taps(model, 4, pixel_values=torch.randn(2, 3, 8, 8))
    assert "4 stages cannot be told" in str(error.value) and "of its own" not in str(error.value)


def test_features_of_no_known_kind_and_logits_of_no_layer_are_named():
    class Cubes(torch.nn.Module):
        def forward(self, features):
            return features[:, :, None, None, None]

    pixels = torch.randn(2, 3, 8, 8)
    model = Staged([(16, 4)], torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Softmax(1)))
    run = dry_run(model, pixels)
    assert Taps(model, run, ["pooled"]).specs["pooled"].path == "head.0:input"
    model.head = torch.nn.Softmax(1)
    with pytest.raises(ValueError, match="Staged: no linear layer gives its 4 logits"):
        Taps(model, dry_run(model, pixels), ["pooled"])
    model.head = torch.nn.Sequential(Cubes(), torch.nn.Flatten())
    with pytest.raises(ValueError, match=r"taps: head.0 gives \(4, 1, 1, 1\) for each image, accepted are maps, tok"):
        Taps(model, dry_run(model, pixels), ["head.0"])


def test_what_a_module_gives_for_the_batch_or_as_one_number_an_image_is_no_feature():
    """A score of each image, an output of another length than the batch, and one that is no tensor."""

    class Gives(torch.nn.Module):
        def __init__(self, make):
            super().__init__()
            self.make = make

        def forward(self, features):
            return self.make(features)

    class Odd(Staged):
        def __init__(self):
            super().__init__([(16, 4)], torch.nn.Linear(4, 5))
            self.score = Gives(lambda features: features.mean((1, 2)))
            self.other = Gives(lambda features: features[:1])
            self.nothing = Gives(lambda features: None)
            self.inner = Gives(lambda features: ((features, features[:, 0]), None))

        def forward(self, pixel_values):
            features = pixel_values.flatten(1)[:, :64].unflatten(1, (16, 4))
            self.score(features), self.other(features), self.nothing(features), self.inner(features)
            return super().forward(pixel_values)

    run = dry_run(Odd(), torch.randn(2, 3, 8, 8))
    assert [(call.path, call.shape) for call in run.calls] == [
        ("inner", (16, 4)), ("blocks.0", (16, 4)), ("head", (5,)),
    ]  # fmt: skip
    assert run.num_classes == 5


@pytest.mark.parametrize(
    "length, says, expected",
    [
        (16, {}, 0),
        (17, {}, 1),
        (18, {}, 2),
        (7, {}, 0),  # whatever is left fills no square
        (21, {"num_register_tokens": 4}, 5),
        (18, {"num_prefix_tokens": 9}, 9),
        (18, {"num_tokens": 2}, 2),
        (18, {"num_tokens": 9}, 9),
        (18, {"num_prefix_tokens": 3}, 2),  # what it says leaves no square
        (1, {"num_prefix_tokens": 1}, 0),  # none is left
    ],
)
def test_tokens_that_stand_for_no_place_are_those_the_network_says_or_the_rest_of_a_square(length, says, expected):
    model = torch.nn.Sequential(torch.nn.Linear(1, 1))
    model.config = SimpleNamespace(**says)
    for name, value in says.items():
        setattr(model[0], name, value)
    assert prefix_tokens(model, length) == expected


def test_a_network_without_so_many_stages_says_what_there_is():
    model = CvtForImageClassification(CvtConfig(embed_dim=[8, 16, 24], num_heads=[1, 1, 2], depth=[1, 2, 4]))
    with pytest.raises(
        ValueError, match=r"Cvt.*: 4 stages cannot be told .*; name the modules yourself. There are: cvt"
    ):
        stage_taps(model, 4, pixel_values=torch.randn(2, 3, 64, 64))


def test_features_before_the_last_activation_may_be_negative():
    torch.manual_seed(0)
    model, pixels = resnet()
    run = dry_run(model, pixels)
    taps = Taps(model, run, ["stage2", "stage2:pre"])
    attach(model.eval(), taps)
    with torch.no_grad(), collecting() as features:
        model(pixel_values=pixels)
    assert taps.specs["stage2:pre"].path == "resnet.encoder.stages.1.layers.1.activation:input"
    assert features["stage2:pre"].min() < 0
    torch.testing.assert_close(features["stage2:pre"].relu(), features["stage2"])


class ScaledActivation(torch.nn.Module):
    """No activation, in spite of its name: a layer with a weight."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, features):
        return self.weight * features


class SquaredReLU(nn.Module):
    """An activation of somebody's own."""

    def forward(self, features):
        return features.relu().square()


@pytest.mark.parametrize(
    "kind",
    [
        *(nn.GELU, nn.SiLU, nn.PReLU, nn.Hardswish, nn.Mish, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.ReLU6),
        *(GELUActivation, QuickGELUActivation, SquaredReLU, ScaledActivation),
    ],
)
def test_features_are_taken_before_an_activation_of_any_kind(kind):
    """torch's and transformers' own; what is none is a part of the stage."""
    torch.manual_seed(0)
    model, pixels = resnet()
    last = model.resnet.encoder.stages[1].layers[1].activation = kind()
    taps = Taps(model, dry_run(model, pixels), ["stage2", "stage2:pre"])
    attach(model.eval(), taps)
    with torch.no_grad(), collecting() as features:
        model(pixel_values=pixels)
        expected = last(features["stage2:pre"])
    place = "resnet.encoder.stages.1"
    none = kind is ScaledActivation
    assert taps.specs["stage2:pre"].path == (place if none else f"{place}.layers.1.activation:input")
    torch.testing.assert_close(features["stage2:pre"] if none else expected, features["stage2"])
    assert features["stage2:pre"].min() < 0


def test_an_activation_inside_of_a_stage_that_is_not_its_last_word_is_no_end_of_it():
    """As of a gate: of another shape than what it weighs."""

    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.squeeze, self.gate = nn.AdaptiveAvgPool2d(1), nn.Sigmoid()

        def forward(self, features):
            return features * self.gate(self.squeeze(features))

    model, pixels = Parts([*convolutions(3, 4), Gated()], "blocks"), torch.randn(2, 3, 8, 8)
    taps = Taps(model, dry_run(model, pixels), ["stage1:pre"], ["encoder.blocks.1"])
    assert taps.specs["stage1:pre"].path == "encoder.blocks.1"


def test_an_input_that_is_overwritten_in_place_is_kept():
    torch.manual_seed(0)
    model, pixels = resnet()
    model.resnet.encoder.stages[0].layers[0].activation = torch.nn.ReLU(inplace=True)
    taps = Taps(model, dry_run(model, pixels), ["stage1:pre"])
    attach(model.eval(), taps)
    with torch.no_grad(), collecting() as features:
        model(pixel_values=pixels)
    assert features["stage1:pre"].min() < 0


def test_modules_are_named_by_their_paths():
    model, pixels = resnet()
    run, stages = dry_run(model, pixels), ["resnet.encoder.stages.1.layers.0", "resnet.encoder.stages.3"]
    taps = Taps(model, run, ["stage1", "stage2", "resnet.embedder", "resnet.embedder.pooler:input"], stages)
    shapes = {name: spec.shape for name, spec in taps.specs.items()}
    assert shapes["stage1"] == (12, 8, 8) and shapes["stage2"] == (20, 2, 2)
    assert shapes["resnet.embedder"] == (8, 16, 16) and shapes["resnet.embedder.pooler:input"] == (8, 32, 32)


@pytest.mark.parametrize(
    "names, stages, message",
    [
        (
            ["resnet.encoder.stage.1"],
            None,
            r"taps: there is no feature at 'resnet.encoder.stage.1'; nearest: resnet.enc",
        ),
        (["stage1"], ["nowhere"], r"taps: there is no feature at 'nowhere'; nearest: resnet"),
        (["stage1"], ["resnet.encoder.stages.1", "nowhere"], r"taps: there is no feature at 'nowhere'"),
        (["stage3"], ["resnet.encoder.stages.1"], "taps: got 1 stages, a loss asks for stage 3"),
        (["stage9"], None, "taps is missing: ResNet.*: 9 stages cannot be told by the shapes"),
    ],
)
def test_a_wrong_tap_is_told_with_those_there_are(names, stages, message):
    model, pixels = resnet()
    with pytest.raises(ValueError, match=message):
        Taps(model, dry_run(model, pixels), names, stages)


def test_every_layout_becomes_maps_and_tokens():
    values = torch.arange(2 * 3 * 16.0).reshape(2, 3, 4, 4)
    last = values.permute(0, 2, 3, 1)
    tokens = torch.cat([torch.zeros(2, 1, 3), values.flatten(2).transpose(1, 2)], dim=1)
    for features, spec in (
        (values, FeatureSpec((3, 4, 4), "maps")),
        (last, FeatureSpec((4, 4, 3), "maps_last")),
        (tokens, FeatureSpec((17, 3), "tokens", 1)),
    ):
        assert spec.channels == 3 and spec.grid == (4, 4)
        assert torch.equal(as_maps(features, spec), values)
        assert torch.equal(as_tokens(features, spec)[:, -16:], tokens[:, 1:])
    with pytest.raises(ValueError, match="15 tokens fill no square"):
        as_maps(tokens[:, :16], FeatureSpec((16, 3), "tokens", 1))


def test_maps_with_channels_last_are_told_from_maps():
    class Last(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = torch.nn.ModuleList([torch.nn.Linear(3, 6), torch.nn.Linear(6, 12)])
            self.head = torch.nn.Linear(12, 5)

        def forward(self, pixel_values):
            x = self.stages[0](pixel_values.permute(0, 2, 3, 1))
            x = self.stages[1](x[:, ::2, ::2])
            return {"logits": self.head(x.mean((1, 2)))}

    model, pixels = Last(), torch.randn(2, 3, 8, 8)
    run = dry_run(model, pixels)
    assert find_stages(model, run, 2) == ["stages.0", "stages.1"]
    specs = Taps(model, run, ["stage1", "stage2"]).specs
    assert [(s.layout, s.channels, s.grid) for s in specs.values()] == [
        ("maps_last", 6, (8, 8)),
        ("maps_last", 12, (4, 4)),
    ]


def test_threads_collect_their_own_features():
    torch.manual_seed(0)
    model, pixels = resnet()
    attach(model.eval(), Taps(model, dry_run(model, pixels), ["stage2"]))
    inputs = [torch.randn(1, 3, 64, 64) for _ in range(4)]

    def features(images):
        with torch.no_grad(), collecting() as collected:
            for _ in range(5):
                model(pixel_values=images)
        return collected["stage2"]

    expected = [features(images) for images in inputs]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(features, inputs))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_a_pass_within_another_ones_pass_collects_for_itself():
    torch.manual_seed(0)
    model, pixels = resnet()
    attach(model.eval(), Taps(model, dry_run(model, pixels), ["stage2"]))
    with torch.no_grad(), collecting() as outer:
        with collecting() as inner:
            model(pixel_values=pixels)
        assert not outer and inner.keys() == {"stage2"}
        model(pixel_values=pixels + 1)
    assert outer.keys() == {"stage2"} and not torch.equal(outer["stage2"], inner["stage2"])


def test_checkpointed_layers_hand_out_features_with_their_gradient():
    torch.manual_seed(0)
    model, _ = vit()
    pixels, gradients = example_input(model), []
    attach(model, Taps(model, dry_run(model, pixels), ["stage2"]))
    for checkpointed in (False, True):
        if checkpointed:
            model.gradient_checkpointing_enable()
        model.train().zero_grad()
        with collecting() as features:
            outputs = model(pixel_values=pixels)
        (features["stage2"].square().mean() + outputs.logits.square().mean()).backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 10
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


class Counting(torch.nn.Module):
    """A network with a layer in its midst that gives as many numbers as there are classes, and one that has a mode of
    its own."""

    def __init__(self):
        super().__init__()
        self.squeeze = torch.nn.Linear(48, 5)
        self.frozen = torch.nn.Dropout(0.5).eval()
        self.widen = torch.nn.Linear(5, 7)
        self.head = torch.nn.Linear(7, 5)

    def forward(self, pixel_values):
        return {"logits": self.head(self.widen(self.frozen(self.squeeze(pixel_values.flatten(1)))))}


@pytest.mark.parametrize("training", [True, False])
def test_a_dry_run_leaves_each_module_in_its_mode(training):
    network = Counting().train(training)
    network.frozen.train(not training)
    before = {name: module.training for name, module in network.named_modules()}
    run = dry_run(network, torch.randn(2, 3, 4, 4))
    assert {name: module.training for name, module in network.named_modules()} == before
    assert run.num_classes == 5 and not any(module._forward_hooks for module in network.modules())


def test_pooled_features_are_what_the_last_layer_is_given():
    network = Counting()
    taps = Taps(network, dry_run(network, torch.randn(2, 3, 4, 4)), ["pooled"])
    assert taps.specs["pooled"].shape == (7,) and taps.sources["pooled"] == ("head", True)
