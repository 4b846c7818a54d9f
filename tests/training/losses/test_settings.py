"""Settings of losses: what is not said is what was published or is documented, and what cannot be is named."""

import inspect
import math
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hf_effmodels.training import losses
from hf_effmodels.training.losses.adaptive_confidence import (
    adaptive_confidence_loss,
    auxiliary_confidence_loss,
    student_confidence,
)
from hf_effmodels.training.losses.affinity import affinity_loss
from hf_effmodels.training.losses.channel_wise import channel_wise_loss
from hf_effmodels.training.losses.codebook import codebook_loss
from hf_effmodels.training.losses.coded_features import squared_error
from hf_effmodels.training.losses.contrastive_domain import contrastive_domain_discrepancy
from hf_effmodels.training.losses.contrastive_representation import ContrastiveRepresentationLoss
from hf_effmodels.training.losses.data_free import disagreement, head_losses, soft_head_losses
from hf_effmodels.training.losses.decoupled import decoupled_loss
from hf_effmodels.training.losses.dekd import feature_relation_loss, fused_token_loss
from hf_effmodels.training.losses.detection_distillation import (
    channel_wise_distillation,
    class_score_distillation,
    distribution_distillation,
)
from hf_effmodels.training.losses.dist import dist_loss
from hf_effmodels.training.losses.embedding_distance import embedding_distance
from hf_effmodels.training.losses.feature_correlation import FeatureCorrelationLoss
from hf_effmodels.training.losses.fitnet import hint_loss
from hf_effmodels.training.losses.interface import Batch, DistillationLoss, FeatureSpec, Networks, as_maps, as_tokens
from hf_effmodels.training.losses.joint_labels import class_logits, joint_label_loss, joint_labels, joint_teacher_loss
from hf_effmodels.training.losses.joint_labels import layered_loss as heads_loss
from hf_effmodels.training.losses.kl_divergence import binary_soft_target_loss, kl_divergence_loss
from hf_effmodels.training.losses.knowledge_review import KnowledgeReviewLoss
from hf_effmodels.training.losses.label_maps import dense_label_map, pooled_logits, pooled_targets
from hf_effmodels.training.losses.language_distillation import language_distillation_losses
from hf_effmodels.training.losses.manifold import manifold_loss, merge_patches
from hf_effmodels.training.losses.mask_distillation import focal_loss, full_stage_distillation_loss
from hf_effmodels.training.losses.multi_granularity import pixel_level_loss, region_level_loss, region_similarities
from hf_effmodels.training.losses.ofa import ofa_loss
from hf_effmodels.training.losses.registry import losses_by_name, make_losses
from hf_effmodels.training.losses.relational import relational_loss
from hf_effmodels.training.losses.soft_targets import soft_target_loss
from hf_effmodels.training.losses.text_alignment import TEXT_EMBEDS, text_alignment_loss
from hf_effmodels.training.losses.token_distillation import token_distillation_loss
from hf_effmodels.training.losses.token_divergence import token_divergence

STAGES = (1, 2, 3, 4)
NAMED = ("stage1", "stage2", "stage3", "stage4")
RESNET = tuple(f"resnet.encoder.stages.{number}" for number in range(4))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def vector(width: int) -> FeatureSpec:
    return FeatureSpec((width,), "vector")


@pytest.mark.parametrize(
    "name, published",
    [
        # VanillaKD's (https://arxiv.org/abs/2305.15781) strong recipes know no temperature; DKD as it takes it.
        ("kd", {"temperature": 1.0}),
        ("soft_targets", {"temperature": 1.0}),
        ("bkd", {}),
        ("dkd", {"alpha": 1.0, "beta": 2.0, "temperature": 1.0}),
        ("dist", {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}),
        # 25 and 50 are RKD-DA's; RepDistiller's: 0.02 of CC, K, width, temperature and momentum of CRD.
        ("rkd", {"distance_weight": 25.0, "angle_weight": 50.0, "squared": False}),
        ("cc", {"embed_dim": 128, "scale": 0.02}),
        ("crd", {"num_negatives": 16384, "embed_dim": 128, "temperature": 0.07, "momentum": 0.5}),
        ("fitnet", {"stages": STAGES}),
        ("review", {"stages": STAGES, "mid_channels": 512, "warmup_epochs": 1}),
        (
            "ofa",
            {"stages": STAGES, "eps": 1.0, "temperature": 1.0, "kd_weight": 1.0, "stage_weight": 1.0}
            | {"non_target_power": True},
        ),
        # Of whole data sets: there is no warm-up of AdaptConf; AugConf's is that of weak-to-strong generalization.
        ("adaptconf", {"tau": 0.5, "temperature": 1.0, "warmup": 0.0}),
        ("augconf", {"alpha": 0.5, "temperature": 1.0, "warmup": 0.3}),
        ("cwd", {"stages": (4,), "temperature": 4.0}),
        # DeiT's best is the hard kind.
        ("deit", {"head": None, "kind": "hard", "temperature": 1.0}),
        ("coded_channels", {}),
        ("coded_features", {"features": RESNET, "beta": 0.16}),
        (
            "manifold",
            {"student_blocks": NAMED, "teacher_blocks": NAMED, "sample_weight": 0.1, "patch_weight": 4.0}
            | {"random_weight": 0.2, "num_random": 192, "max_patches": 0},
        ),
        (
            "dekd",
            {"student_block": "devit.parts.0.layers.5.attention", "teacher_block": "vit.layers.11.attention"}
            | {"student_head_width": 64, "teacher_head_width": 64, "blocks": 12, "query_weight": 0.2}
            | {"key_weight": 0.1, "value_weight": 0.3, "logits_weight": 0.5, "head": None, "kind": "hard"}
            | {"temperature": 1.0, "student_layers": ("qkv",), "teacher_layers": ("q_proj", "k_proj", "v_proj")},
        ),
        ("fused_tokens", {"student_tokens": ("fusion.hidden.cls",), "teacher_tokens": ("pooled",), "kind": "mse"}),
        (
            "lsskd",
            {"stages": STAGES, "heads": "copy", "temperature": 3.0, "joint_weight": 1.0, "divergence_weight": 1.0}
            | {"feature_weight": 0.01, "keep_heads": False},
        ),
        ("hsakd", {"stages": STAGES, "heads": "copy", "temperature": 3.0, "teacher_heads": None}),
        (
            "text_alignment",
            {"kind": "clip", "temperature": 0.2, "projection": "mlp", "norm": True, "init_std": None}
            | {"embed_dim": None, "true_gradient": False, "mask_copies": False, "text_mixup": "none"},
        ),
    ],
)
def test_a_recipe_that_sets_nothing_has_the_published_settings(name, published):
    parameters = inspect.signature(losses_by_name()[name]).parameters
    assert {setting: parameter.default for setting, parameter in parameters.items()} == {**published, "weight": 1.0}


@pytest.mark.parametrize(
    "function, published",
    [
        (student_confidence, {"tau": 0.5}),
        # Of few shots and noisy labels: a quarter of the epochs.
        (adaptive_confidence_loss, {"tau": 0.5, "temperature": 1.0, "epoch": 0.0, "epochs": 0.0, "warmup": 0.25}),
        (auxiliary_confidence_loss, {"alpha": 0.5, "temperature": 1.0, "epoch": 0.0, "epochs": 0.0, "warmup": 0.3}),
        (channel_wise_loss, {"temperature": 4.0}),
        (codebook_loss, {"commitment_cost": 0.25}),
        (contrastive_domain_discrepancy, {"kernels": 5, "factor": 2.0, "intra_only": False}),
        (ContrastiveRepresentationLoss, {"embed_dim": 128, "temperature": 0.07, "momentum": 0.5}),
        (decoupled_loss, {"alpha": 1.0, "beta": 2.0, "temperature": 1.0}),
        (fused_token_loss, {"kind": "mse"}),
        (channel_wise_distillation, {"temperature": 1.0}),
        (dist_loss, {"beta": 1.0, "gamma": 1.0, "temperature": 1.0}),
        (FeatureCorrelationLoss, {"embed_dim": 128, "scale": 0.02}),
        (joint_teacher_loss, {"temperature": 3.0}),
        (heads_loss, {"temperature": 3.0}),
        (kl_divergence_loss, {"temperature": 1.0}),
        (soft_target_loss, {"temperature": 1.0}),
        (KnowledgeReviewLoss, {"student_sizes": None, "mid_channels": 512}),
        (pooled_targets, {"axis_order": "row_major", "missing": "zero", "temperature": 1.0}),
        (
            manifold_loss,
            {"sample_weight": 0.1, "patch_weight": 4.0, "random_weight": 0.2, "num_random": 192, "max_patches": 0}
            | {"chosen": None},
        ),
        # The paper's alpha and gamma of focal losses; those of TinySAM's stages are not given, so they count alike.
        (focal_loss, {"alpha": 0.25, "gamma": 2.0}),
        (
            full_stage_distillation_loss,
            {"embedding_weight": 1.0, "token_weight": 1.0, "mask_weight": 1.0, "eps": 1e-6},
        ),
        (region_level_loss, {"grid": 7}),
        (region_similarities, {"grid": 7}),
        (ofa_loss, {"eps": 1.0, "temperature": 1.0, "non_target_power": True}),
        (relational_loss, {"distance_weight": 25.0, "angle_weight": 50.0, "squared": False, "eps": 1e-12}),
        (text_alignment_loss, {"kind": "clip", "temperature": 0.2, "ids": None}),
        (token_distillation_loss, {"kind": "hard", "temperature": 1.0}),
        (token_divergence, {"kind": "forward", "temperature": 1.0, "top_k": None, "beta": 0.5}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_call_that_sets_nothing_has_the_published_settings(function, published):
    parameters = inspect.signature(function).parameters.values()
    assert {p.name: p.default for p in parameters if p.default is not p.empty} == published


LABELS = torch.tensor([0, 3, 1, 4, 4, 2])


@pytest.mark.parametrize(
    "name, settings, called",
    [
        ("kd", {"temperature": 3.0}, lambda s, t, **o: kl_divergence_loss(s, t, **o)),
        ("soft_targets", {"temperature": 3.0}, lambda s, t, **o: soft_target_loss(s, t, **o)),
        ("bkd", {}, binary_soft_target_loss),
        ("dkd", {"alpha": 2.0, "beta": 5.0, "temperature": 3.0}, lambda s, t, **o: decoupled_loss(s, t, LABELS, **o)),
        ("dist", {"beta": 2.0, "gamma": 5.0, "temperature": 3.0}, dist_loss),
        ("deit", {"kind": "soft", "temperature": 3.0}, token_distillation_loss),
        (
            "adaptconf",
            {"tau": 0.2, "temperature": 3.0, "warmup": 0.5},
            lambda s, t, **o: adaptive_confidence_loss(s, t, epoch=1, epochs=10, **o),
        ),
        (
            "augconf",
            {"alpha": 0.9, "temperature": 3.0, "warmup": 0.5},
            lambda s, t, **o: auxiliary_confidence_loss(s, t, epoch=1, epochs=10, **o),
        ),
    ],
)
def test_a_loss_of_logits_is_its_function_at_the_settings_of_the_recipe(name, settings, called):
    student, teacher = 3 * draw(6, 5), 3 * draw(6, 5, seed=1)
    loss = make_losses({name: settings})[name]
    found = loss({"logits": student}, {"logits": teacher}, Batch(labels=LABELS, epoch=1, epochs=10))
    torch.testing.assert_close(found, called(student, teacher, **settings))
    assert loss.parts == (tuple(found) if isinstance(found, dict) else ())


@pytest.mark.parametrize(
    "name, settings, called",
    [
        ("rkd", {"distance_weight": 2.0, "angle_weight": 3.0, "squared": True}, relational_loss),
        (
            "text_alignment",
            {"kind": "ctr", "temperature": 0.7},
            lambda s, t, **o: text_alignment_loss(s, F.normalize(t, dim=-1), **o),
        ),
    ],
)
def test_a_loss_of_pooled_features_is_its_function_at_the_settings_of_the_recipe(name, settings, called):
    student, teacher = draw(6, 5), draw(6, 5, seed=1)
    loss = make_losses({name: settings})[name]
    loss.build(Networks({"pooled": vector(5)}, {"pooled": vector(5)}, 5, columns={TEXT_EMBEDS: (5,)}))
    batch = Batch(extra={TEXT_EMBEDS: F.normalize(teacher, dim=-1)})
    found = loss.double()({"pooled": student}, {"pooled": teacher}, batch)
    if name == "text_alignment":
        student = loss.projection(student)
    torch.testing.assert_close(found, called(student, teacher, **settings))


def test_a_loss_with_layers_of_its_own_computes_by_the_settings_of_the_recipe():
    torch.manual_seed(0)
    pooled, their_pooled = draw(6, 8).float(), draw(6, 7, seed=1).float()
    specs = {"pooled": vector(8), "stage4": FeatureSpec((3, 2, 2), "maps")}, {"pooled": vector(7)}
    loss = make_losses({"cc": {"embed_dim": 4, "scale": 0.5}})["cc"]
    loss.build(Networks(*specs, 5))
    apart = loss.correlation.embed_student(pooled) - loss.correlation.embed_teacher(their_pooled)
    expected = 0.5 * sum((apart[n].abs() * apart[n + 1].abs()).sum() for n in range(5)) / 5
    torch.testing.assert_close(loss({"pooled": pooled}, {"pooled": their_pooled}, Batch()), expected)
    # One stage, and the logits: each with its own ε, its weight, and both with the target's power alone.
    settings = {"temperature": 2.0, "non_target_power": False}
    loss = make_losses({"ofa": {"stages": [4], "eps": [1.5, 3.0], "kd_weight": 2.0, "stage_weight": 5.0, **settings}})
    loss = loss["ofa"].eval()
    loss.build(Networks(*specs, 5))
    logits, taught, maps = draw(6, 5).float(), draw(6, 5, seed=1).float(), draw(6, 3, 2, 2).float()
    found = loss({"logits": logits, "stage4": maps}, {"logits": taught}, Batch(labels=LABELS))
    p, y = (taught / 2).softmax(1), F.one_hot(LABELS, 5).bool()
    for part, own, eps, weight in (("logits", logits, 3.0, 2.0), ("stages", loss.branch_logits(4, maps), 1.5, 5.0)):
        weighed = torch.where(y, (1 + p) ** eps, p) * (own / 2).log_softmax(1)
        torch.testing.assert_close(found[part], -weight * weighed.sum(1).mean())


def test_features_of_all_layouts_are_maps_and_tokens_of_the_same_places():
    """Channel c of the place (row, column) holds 100 c + 10 row + column, whatever its layout."""
    channels, rows, columns = torch.meshgrid(torch.arange(3), torch.arange(2), torch.arange(2), indexing="ij")
    maps = (100 * channels + 10 * rows + columns)[None].float()
    layouts = {
        "maps": (FeatureSpec((3, 2, 2), "maps"), maps),
        "maps_last": (FeatureSpec((2, 2, 3), "maps_last"), maps.permute(0, 2, 3, 1)),
        "tokens": (FeatureSpec((6, 3), "tokens", 2), F.pad(maps.flatten(2).mT, (0, 0, 2, 0), value=-1.0)),
    }
    for name, (spec, features) in layouts.items():
        assert (spec.channels, spec.grid) == (3, (2, 2)), name
        assert torch.equal(as_maps(features, spec), maps), name
        tokens = as_tokens(features, spec)
        assert tokens[0, spec.prefix_tokens :].tolist() == [
            [0, 100, 200], [1, 101, 201], [10, 110, 210], [11, 111, 211],
        ], name  # fmt: skip
        assert tokens.shape[1] == 4 + spec.prefix_tokens
    wide = FeatureSpec((3, 4, 5), "maps"), FeatureSpec((4, 5, 3), "maps_last")
    assert [spec.grid for spec in wide] == [(4, 5), (4, 5)]
    spec = vector(7)
    assert (spec.channels, spec.grid) == (7, (1, 1))
    assert as_maps(torch.zeros(2, 7), spec).shape == (2, 7, 1, 1)
    assert as_tokens(torch.zeros(2, 7), spec).shape == (2, 1, 7)
    assert FeatureSpec((9, 3), "tokens", 5).grid == (2, 2)  # of nine tokens five stand for no place
    with pytest.raises(ValueError, match=r"^x\.y: 5 tokens fill no square\.$"):
        as_maps(torch.zeros(1, 6, 3), FeatureSpec((6, 3), "tokens", 1, "x.y"))


@pytest.mark.parametrize(
    "asked, message",
    [
        ({"kdd": {}}, "--losses: got 'kdd', accepted are adaptconf, .*, kd, .*, text_alignment"),
        ({"kd": {"tau": 1.0}}, "--losses: kd takes no 'tau', accepted are temperature, weight"),
        ({"kd": {"temperature": "1"}}, "--losses: kd: temperature: got '1', accepted are numbers"),
        ({"kd": {"temperature": True}}, "--losses: kd: temperature: got True, accepted are numbers"),
        ({"kd": {"temperature": 0.0}}, "--losses: kd: temperature: got 0.0, accepted are positive numbers"),
        ({"kd": {"temperature": math.inf}}, "--losses: kd: temperature: got inf, accepted are positive numbers"),
        ({"kd": {"weight": -0.1}}, "--losses: kd: weight: got -0.1, accepted are numbers from 0"),
        ({"kd": {"weight": math.inf}}, "--losses: kd: weight: got inf"),
        ({"rkd": {"squared": 1}}, "--losses: rkd: squared: got 1, accepted are true and false"),
        ({"cc": {"embed_dim": 1.5}}, "--losses: cc: embed_dim: got 1.5, accepted are whole numbers"),
        ({"cc": {"embed_dim": 0}}, "--losses: cc: embed_dim: got 0, accepted are whole numbers from 1"),
        ({"deit": {"head": 3}}, "--losses: deit: head: got 3, accepted are names or null"),
        ({"deit": {"kind": "warm"}}, "--losses: deit: kind: got 'warm', accepted are soft, hard"),
        ({"deit": {"temperature": 0.0}}, "deit: temperature: got 0.0"),
        ({"ofa": {"eps": "two"}}, "ofa: eps: got 'two', accepted are numbers or lists of numbers"),
        ({"ofa": {"eps": [1.0, 1.0]}}, "eps: got 2 values, accepted are one, or one for each of the 4 stages and one"),
        ({"ofa": {"eps": [1.0, 1.0, 0.0, 1.0, 1.0]}}, "eps: got 0.0, accepted are positive"),
        ({"ofa": {"stages": [1, 5]}}, r"stages: got \[1, 5\], accepted are different numbers from 1 to 4"),
        ({"ofa": {"stages": [0, 1]}}, r"stages: got \[0, 1\], accepted are different numbers from 1 to 4"),
        ({"ofa": {"stages": [2, 2]}}, r"stages: got \[2, 2\], accepted are different"),
        ({"ofa": {"stages": []}}, r"stages: got \[\], accepted are different"),
        ({"ofa": {"kd_weight": -1.0}}, "kd_weight: got -1.0, accepted are numbers from 0"),
        ({"ofa": {"stage_weight": math.inf}}, "stage_weight: got inf, accepted are numbers from 0"),
        ({"ofa": {"temperature": 0.0}}, "ofa: temperature: got 0.0"),
        ({"dkd": {"temperature": 0.0}}, "dkd: temperature: got 0.0"),
        ({"dist": {"temperature": 0.0}}, "dist: temperature: got 0.0"),
        ({"soft_targets": {"temperature": 0.0}}, "soft_targets: temperature: got 0.0"),
        ({"cwd": {"temperature": 0.0}}, "cwd: temperature: got 0.0"),
        ({"cwd": {"stages": []}}, r"cwd: stages: got \[\], accepted are numbers from 1"),
        ({"cwd": {"stages": [0]}}, r"cwd: stages: got \[0\], accepted are numbers from 1"),
        ({"fitnet": {"stages": []}}, r"fitnet: stages: got \[\], accepted are numbers from 1"),
        ({"fitnet": {"stages": [0, 1]}}, r"fitnet: stages: got \[0, 1\], accepted are numbers from 1"),
        ({"review": {"stages": []}}, r"review: stages: got \[\], accepted are numbers from 1"),
        ({"review": {"stages": [0]}}, r"review: stages: got \[0\], accepted are numbers from 1"),
        ({"review": {"mid_channels": 0}}, "mid_channels: got 0, accepted are whole numbers from 1"),
        ({"review": {"warmup_epochs": -1}}, "warmup_epochs: got -1, accepted are whole numbers from 0"),
        ({"crd": {"temperature": 0.0}}, "crd: temperature: got 0.0"),
        ({"crd": {"momentum": 1.1}}, "crd: momentum: got 1.1, accepted are numbers from 0 to 1"),
        ({"crd": {"num_negatives": 0}}, "num_negatives: got 0, accepted are whole numbers from 1"),
        ({"crd": {"embed_dim": 0}}, "crd: embed_dim: got 0, accepted are whole numbers from 1"),
        ({"adaptconf": {"tau": 0.0}}, "adaptconf: tau: got 0.0"),
        ({"adaptconf": {"temperature": 0.0}}, "adaptconf: temperature: got 0.0"),
        ({"adaptconf": {"warmup": 1.1}}, "adaptconf: warmup: got 1.1, accepted are shares from 0 to 1"),
        ({"augconf": {"warmup": -0.1}}, "augconf: warmup: got -0.1, accepted are shares from 0 to 1"),
        ({"augconf": {"alpha": -0.1}}, "augconf: alpha: got -0.1, accepted are numbers from 0 to 1"),
        ({"augconf": {"temperature": 0.0}}, "augconf: temperature: got 0.0"),
        ({"manifold": {"student_blocks": ["stage1"]}}, "student_blocks: got 1, and 4 teacher_blocks"),
        ({"manifold": {"student_blocks": [], "teacher_blocks": []}}, "student_blocks: got 0, and 0 teacher_blocks"),
        ({"manifold": {"num_random": 0}}, "num_random: got 0, accepted are whole numbers from 1"),
        ({"coded_features": {"features": ["a", "a"]}}, r"features: got \['a', 'a'\], accepted are names of different"),
        ({"coded_features": {"features": []}}, r"features: got \[\], accepted are names of different modules"),
        ({"coded_features": {"beta": math.inf}}, "beta: got inf, accepted are numbers from 0"),
        ({"dekd": {"student_layers": ["q", "k"]}}, r"student_layers: got \['q', 'k'\], accepted are one name of"),
        ({"dekd": {"teacher_layers": []}}, r"teacher_layers: got \[\], accepted are one name of"),
        ({"dekd": {"teacher_head_width": 0}}, "teacher_head_width: got 0, accepted are whole numbers from 1"),
        ({"dekd": {"temperature": 0.0}}, "dekd: temperature: got 0.0"),
        ({"fused_tokens": {"student_tokens": [], "teacher_tokens": []}}, "teacher_tokens: got 0 for 0 of the student"),
        ({"lsskd": {"stages": [2, 1]}}, r"stages: got \[2, 1\], accepted are two or more numbers from 1, in order"),
        ({"lsskd": {"stages": [0, 1]}}, r"stages: got \[0, 1\], accepted are two or more numbers from 1, in order"),
        ({"lsskd": {"stages": [1, 1, 2]}}, r"stages: got \[1, 1, 2\], accepted are two or more"),
        ({"lsskd": {"joint_weight": math.inf}}, "weight of joint: got inf, accepted are numbers from 0"),
        ({"lsskd": {"temperature": 0.0}}, "lsskd: temperature: got 0.0"),
        ({"hsakd": {"stages": [3]}}, r"stages: got \[3\], accepted are two or more"),
        ({"hsakd": {"temperature": 0.0}}, "hsakd: temperature: got 0.0"),
        ({"text_alignment": {"temperature": 0.0}}, "text_alignment: temperature: got 0.0"),
        ({"text_alignment": {"text_mixup": "both"}}, "text_mixup: got 'both', accepted are none, mix"),
    ],
)
def test_settings_that_cannot_be_are_named(asked, message):
    with pytest.raises(ValueError, match=message):
        make_losses(asked)


def test_the_least_and_the_most_of_each_setting_are_accepted():
    made = make_losses(
        {
            "kd": None,  # as a recipe has it with nothing after the colon
            "bkd": {"weight": 0},
            "cc": {"embed_dim": 1},
            "crd": {"momentum": 1, "num_negatives": 1, "embed_dim": 1},
            "augconf": {"alpha": 1, "warmup": 1},
            "adaptconf": {"warmup": 1.0},
            "manifold": {"num_random": 1},
            "coded_features": {"beta": 0},
            "review": {"warmup_epochs": 0, "mid_channels": 1, "stages": [1]},
            "cwd": {"stages": [1]},
            "fitnet": {"stages": [1]},
            "ofa": {"stages": [4], "eps": [0.5, 2.0], "kd_weight": 0, "stage_weight": 0},
            "deit": {"head": None},
            "lsskd": {"stages": [1, 2], "joint_weight": 0, "divergence_weight": 0, "feature_weight": 0},
            "dekd": {"blocks": 1, "student_head_width": 1, "teacher_head_width": 1},
            "text_alignment": {"init_std": 0.5},
        }
    )
    assert made["bkd"].weight == 0.0 and made["kd"].weight == 1.0
    assert make_losses({"crd": {"momentum": 0}, "augconf": {"alpha": 0, "warmup": 0}})
    for wrong in (True, "1", math.nan, None):  # to those who call it from Python
        with pytest.raises(ValueError, match=r"^weight: got .*, accepted are numbers from 0\.$"):
            DistillationLoss(weight=wrong)


def test_a_name_is_that_of_one_loss(tmp_path, monkeypatch):
    (tmp_path / "second_kd.py").write_text(
        "from hf_effmodels.training.losses.interface import DistillationLoss\n\n\n"
        'class Second(DistillationLoss):\n    name = "kd"\n'
    )
    monkeypatch.setattr(losses, "__path__", [*losses.__path__, str(tmp_path)])
    with pytest.raises(TypeError, match="'kd' is the name of .*KdLoss.* and .*Second"):
        losses_by_name.__wrapped__()
    del sys.modules["hf_effmodels.training.losses.second_kd"]


class Coded(nn.Module):
    """What a loss looks for in a classifier with a code."""

    def __init__(self, code_is_fixed: bool):
        super().__init__()
        self.bottleneck, self.code_is_fixed = nn.Identity(), code_is_fixed


def built(name: str, settings: dict, student: dict, teacher: dict | None = None, **facts) -> None:
    make_losses({name: settings})[name].build(Networks(student, teacher or {}, 5, **facts))


def tokens(length: int, width: int, prefix: int = 0, path: str = "") -> FeatureSpec:
    return FeatureSpec((length, width), "tokens", prefix, path)


QKV = {"student_block": "s", "teacher_block": "t", "teacher_layers": ["qkv"]}
CODE = "code.codec.encoder:input"


@pytest.mark.parametrize(
    "build, message",
    [
        (
            lambda: built("coded_channels", {}, {CODE: tokens(4, 6)}),
            r"at: got features \(4, 6\), accepted are channels of maps",
        ),
        (
            lambda: built("coded_features", {"features": ["a"]}, {}, model=Coded(code_is_fixed=True)),
            "features: they are of a student whose code learns; --codec",
        ),
        (
            lambda: built("coded_features", {"features": ["a"]}, {}, model=nn.Identity()),
            "features: they are of a student whose code learns; --codec",
        ),
        (
            lambda: built(
                "coded_features", {"features": ["a"]}, {"network.a": vector(3)}, {"a": vector(4)}, model=Coded(False)
            ),
            r"features: a gives \(3,\) and the teacher's \(4,\); accepted are the same",
        ),
        (
            lambda: built("deit", {"head": "h"}, {"h": vector(4)}),
            r"head: h gives \(4,\), accepted are the student's 5 classes",
        ),
        (
            lambda: built("dekd", QKV, {"s.qkv": tokens(5, 192)}, {"t.qkv": tokens(6, 192)}),
            r"teacher_block: the networks have \[5, 6\] tokens, accepted are as many",
        ),
        (
            lambda: built("dekd", QKV, {"s.qkv": tokens(5, 192)}, {"t.qkv": tokens(5, 64)}),
            r"teacher_head_width: got 64, but t.qkv gives \(5, 64\) for queries, keys and values together",
        ),
        (
            lambda: built("dekd", QKV, {"s.qkv": vector(192)}, {"t.qkv": tokens(5, 192)}),
            r"student_head_width: got 64, but s.qkv gives \(192,\)",
        ),
        (
            lambda: built(
                "manifold",
                {"student_blocks": ["a"], "teacher_blocks": ["b"]},
                {"a": tokens(10, 3, 1)},
                {"b": FeatureSpec((3, 4, 5), "maps")},
            ),
            "student_blocks: a has 9 patches, b of the teacher 20; accepted are as many, or a setting max_patches",
        ),
        (
            lambda: built(
                "review",
                {"stages": [1]},
                {"stage1:pre": FeatureSpec((3, 4, 5), "maps", path="x"), "pooled": vector(2)},
                {"stage1:pre": FeatureSpec((3, 4, 4), "maps"), "pooled": vector(2)},
            ),
            "x: got maps of 4×5, accepted are square ones",
        ),
        (lambda: built("text_alignment", {}, {"pooled": vector(3)}), "embed_dim: got None for text_embeds"),
        (
            lambda: built("text_alignment", {"embed_dim": 4}, {"pooled": vector(3)}, columns={TEXT_EMBEDS: (5,)}),
            r"embed_dim: got 4 for text_embeds of shape \(5,\), accepted is a width",
        ),
        (
            lambda: built("text_alignment", {}, {"pooled": vector(3)}, columns={TEXT_EMBEDS: (2, 5)}),
            r"embed_dim: got None for text_embeds of shape \(2, 5\)",
        ),
    ],
)  # fmt: skip
def test_networks_that_a_loss_cannot_be_built_for_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_what_comes_back_of_channels_learns_and_what_they_were_does_not():
    """Smooth L1: half of the square below a distance of 1, the distance less a half above."""
    loss = make_losses({"coded_channels": {"weight": 2.0}})["coded_channels"]
    before, after = (
        torch.tensor([[[values]]], dtype=torch.float64).requires_grad_() for values in ([1.0, 5], [0.5, 2])
    )
    features = {"code.codec.encoder:input": before, "code.codec.decoder": after}
    total = loss(features, {}, None)
    total.backward()
    torch.testing.assert_close(total.item(), (0.5**2 / 2 + (3 - 0.5)) / 2)
    assert before.grad is None and after.grad.flatten().tolist() == [-0.25, -0.5]


def test_layers_count_by_their_mean_and_those_with_more_prefix_tokens_lose_their_first():
    """Two pairs of layers; the second teacher has a class token, which is left out."""
    student, teacher = [draw(2, 4, 3), draw(2, 4, 3, seed=1)], [draw(2, 4, 5, seed=2), draw(2, 5, 5, seed=3)]
    parts = manifold_loss(student, teacher, patch_weight=1.0, random_weight=3.0, chosen=torch.tensor([7, 0, 2]))
    expected = {"patch": 0.0, "sample": 0.0, "random": 0.0}
    for own, their in zip(student, (teacher[0], teacher[1][:, 1:]), strict=True):
        own, their = F.normalize(own, dim=-1), F.normalize(their, dim=-1)
        expected["patch"] += F.mse_loss(own @ own.mT, their @ their.mT) / 2
        across = (x.transpose(0, 1) @ x.transpose(0, 1).mT for x in (own, their))
        expected["sample"] += 0.1 * F.mse_loss(*across) / 2
        rows = (x.flatten(0, 1)[[7, 0, 2]] for x in (own, their))
        expected["random"] += 3 * F.mse_loss(*(r @ r.mT for r in rows)) / 2
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value)


def test_stages_of_a_dense_network_are_brought_to_the_teachers_width_and_added_up():
    torch.manual_seed(0)
    ours = {"stage1": FeatureSpec((3, 4, 4), "maps"), "stage3": tokens(5, 6, 1)}
    theirs = {"stage1": FeatureSpec((4, 4, 5), "maps_last"), "stage3": FeatureSpec((7, 2, 2), "maps")}
    loss = make_losses({"cwd": {"stages": [1, 3], "temperature": 2.0}})["cwd"]
    assert loss.student_features() == loss.teacher_features() == ("stage1", "stage3")
    loss.build(Networks(ours, theirs, 5))
    student = {name: torch.randn(2, *spec.shape) for name, spec in ours.items()}
    teacher = {name: torch.randn(2, *spec.shape) for name, spec in theirs.items()}
    pairs = (
        ("1", student["stage1"], teacher["stage1"].permute(0, 3, 1, 2)),
        ("3", student["stage3"][:, 1:].mT.unflatten(2, (2, 2)), teacher["stage3"]),
    )
    expected = sum(channel_wise_loss(loss.projector[n](own), their, temperature=2.0) for n, own, their in pairs)
    torch.testing.assert_close(loss(student, teacher, Batch()), expected)


def test_queries_keys_and_values_may_be_of_one_layer_or_of_three():
    """The student's come side by side, the teacher's each by itself, in heads of other widths; by hand."""
    settings = {"student_block": "s", "teacher_block": "t", "student_head_width": 2, "teacher_head_width": 3}
    settings |= {"blocks": 4, "query_weight": 1.0, "key_weight": 2.0, "value_weight": 3.0, "logits_weight": 5.0}
    loss = make_losses({"dekd": {**settings, "kind": "soft", "temperature": 2.0}})["dekd"]
    assert loss.student_features() == ("s.qkv", "logits")
    assert loss.teacher_features() == ("t.q_proj", "t.k_proj", "t.v_proj")
    taught = {f"t.{part}_proj": draw(2, 5, 6, seed=number) for number, part in enumerate("qkv")}
    own = draw(2, 5, 12, seed=7)
    loss.build(Networks({"s.qkv": tokens(5, 12)}, {name: tokens(5, 6) for name in taught}, 3))
    student, teacher = draw(2, 3, seed=8), draw(2, 3, seed=9)
    found = loss({"s.qkv": own, "logits": student}, {**taught, "logits": teacher}, Batch())
    for number, (name, their) in enumerate(zip(("query", "key", "value"), taught.values(), strict=True)):
        ours = own[..., 4 * number : 4 * number + 4]
        p, q = ((x @ x.mT / width**0.5).softmax(-1) for x, width in ((their, 3), (ours, 2)))
        expected = (number + 1) / 4 * (p * (p / q).log()).sum() / 2
        torch.testing.assert_close(found[name], expected)
    p, q = (teacher / 2).softmax(1), (student / 2).softmax(1)
    torch.testing.assert_close(found["logits"], 5 * 4 * (p * (p / q).log()).mean())


def test_fused_tokens_are_compared_as_numbers_or_as_distributions():
    settings = {"student_tokens": ["a", "b"], "teacher_tokens": ["pooled", "c"]}
    own, their = draw(2, 2, 4), draw(2, 2, 4, seed=1)
    features = {"a": own[:, 0], "b": own[:, 1]}, {"pooled": their[:, 0], "c": their[:, 1]}
    p, q = their.softmax(-1), own.softmax(-1)
    for kind, expected in (("mse", ((own - their) ** 2).sum() / 8), ("kldiv", (p * (p / q).log()).sum() / 2)):
        loss = make_losses({"fused_tokens": {**settings, "kind": kind}})["fused_tokens"]
        assert loss.student_features() == ("a", "b") and loss.teacher_features() == ("pooled", "c")
        loss.build(Networks({"a": vector(4), "b": vector(4)}, {"pooled": vector(4), "c": vector(4)}, 3))
        torch.testing.assert_close(loss(*features, Batch()), expected)


def test_the_text_of_a_mixed_picture_is_that_of_both_by_their_shares():
    torch.manual_seed(0)
    loss = make_losses({"text_alignment": {"kind": "byol", "text_mixup": "mix", "projection": "linear"}})
    loss = loss["text_alignment"]
    loss.build(Networks({"pooled": vector(4)}, {}, 5, columns={TEXT_EMBEDS: (4,)}))
    pooled, texts, share = torch.randn(3, 4), F.normalize(torch.randn(3, 4), dim=-1), torch.tensor([0.9, 0.6, 0.2])
    images = F.normalize(loss.projection(pooled), dim=-1)
    mixed = [share[n] * texts[n] + (1 - share[n]) * texts[2 - n] for n in range(3)]
    expected = torch.stack([2 - 2 * images[n] @ (mixed[n] / mixed[n].norm()) for n in range(3)]).mean()
    found = loss({"pooled": pooled}, {}, Batch(extra={TEXT_EMBEDS: texts}, own_share=share))
    torch.testing.assert_close(found, expected)
    plain = torch.stack([2 - 2 * images[n] @ texts[n] for n in range(3)]).mean()
    torch.testing.assert_close(loss({"pooled": pooled}, {}, Batch(extra={TEXT_EMBEDS: texts})), plain)


def test_a_picture_alone_is_projected_by_what_the_norm_has_measured():
    loss = make_losses({"text_alignment": {"kind": "byol"}})["text_alignment"]
    loss.build(Networks({"pooled": vector(4)}, {}, 5, columns={TEXT_EMBEDS: (4,)}))
    norm = loss.projection[1]
    norm.running_mean.fill_(0.5)
    alone, texts = torch.randn(1, 4), F.normalize(torch.randn(1, 4), dim=-1)
    found = loss.train()({"pooled": alone}, {}, Batch(extra={TEXT_EMBEDS: texts}))
    assert loss.projection.training and torch.equal(norm.running_mean, torch.full((8,), 0.5))
    hidden = (loss.projection[0](alone) - 0.5) / (1 + norm.eps) ** 0.5
    image = F.normalize(loss.projection[3](hidden.relu()), dim=-1)
    torch.testing.assert_close(found, 2 - 2 * (image * texts).sum())


def test_only_sides_of_boxes_that_there_are_diverge():
    """T² · the mean of the divergences; without boxes, or weights, nothing that has a gradient."""
    student, teacher = draw(3, 4, 6).requires_grad_(), draw(3, 4, 6, seed=1)
    p, q = (teacher / 2).softmax(-1), (student / 2).softmax(-1)
    expected = 4 * (p * (p / q).log()).sum(-1).mean()
    weights = torch.tensor([0.1, 2.0, 0.5], dtype=torch.float64)
    torch.testing.assert_close(distribution_distillation(student, teacher, weights, 2.0), expected)
    for boxes in (3, 0):
        nothing = distribution_distillation(student[:boxes], teacher[:boxes], torch.zeros(boxes).double(), 2.0)
        assert nothing == 0
        (gradient,) = torch.autograd.grad(nothing, student)
        assert gradient.abs().max() == 0


def test_scores_and_maps_of_detectors_diverge_at_their_temperature():
    student, teacher = draw(2, 3, 4), draw(2, 3, 4, seed=1)
    p, q = ((x.sigmoid() / 5).softmax(-1) for x in (teacher, student))
    torch.testing.assert_close(class_score_distillation(student, teacher, 5.0), 25 * (p * (p / q).log()).sum())
    levels = [draw(2, 3, 4, 4), draw(2, 5, 2, 2)], [draw(2, 3, 4, 4, seed=1), draw(2, 5, 2, 2, seed=1)]
    total = 0.0
    for own, their in zip(*levels, strict=True):
        p, q = ((x.flatten(2) / 3).softmax(-1) for x in (their, own))
        total = total + 9 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(channel_wise_distillation(*levels, temperature=3.0), total)


def test_joint_labels_are_read_and_added_up_by_class():
    labels = torch.tensor([2, 0])
    assert joint_labels(labels, 3).tolist() == [6, 7, 8, 0, 1, 2]
    assert joint_labels(labels).tolist() == [8, 9, 10, 11, 0, 1, 2, 3]
    assert class_logits(torch.arange(12.0)[None]).tolist() == [[0 + 1 + 2 + 3, 4 + 5 + 6 + 7, 8 + 9 + 10 + 11]]
    logits, heads = draw(6, 3), [draw(6, 9, seed=1), draw(6, 9, seed=2)]
    found = joint_label_loss(logits, heads, labels, 3)
    torch.testing.assert_close(found["task"], F.cross_entropy(logits[[0, 3]], labels))
    joint = torch.tensor([6, 7, 8, 0, 1, 2])
    torch.testing.assert_close(found["joint"], sum(F.cross_entropy(head, joint) for head in heads))


def test_hidden_states_of_a_language_model_weigh_as_much_as_its_predictions():
    student, teacher, own, their = draw(2, 3, 5), draw(2, 3, 5, seed=1), draw(2, 3, 4), draw(2, 3, 4, seed=2)
    mask = torch.tensor([[1, 0, 1], [1, 1, 0]])
    found = language_distillation_losses(student, teacher, mask, 2.0, own, their)
    errors = ((own - their) ** 2).mean(-1)[mask.bool()].mean()
    torch.testing.assert_close(found["intermediate"], errors)
    torch.testing.assert_close(found["alpha"], found["kl"] / errors)
    torch.testing.assert_close(found["total"], 2 * found["kl"])
    assert language_distillation_losses(student, teacher, mask, 2.0).keys() == {"kl", "total"}
    # α is a number: states go where theirs are, and the predictions by the divergence alone.
    student, own, their = (values.clone().requires_grad_() for values in (student, own, their))
    found = language_distillation_losses(student, teacher, mask, 2.0, own, their)
    of_logits, of_states, of_their = torch.autograd.grad(found["total"], (student, own, their), allow_unused=True)
    by_hand = (found["kl"] / errors).item() * 2 * (own - their) * mask[..., None] / (4 * mask.sum())
    torch.testing.assert_close(of_states, by_hand)
    assert of_their is None and by_hand.abs().sum() > 0
    alone = language_distillation_losses(student, teacher, mask, 2.0)["total"]
    torch.testing.assert_close(of_logits, torch.autograd.grad(alone, student)[0])


MASK = torch.ones(2, 3)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: affinity_loss(*[draw(1, 2)] * 4, 1.0, 1.0), r"got \[1, 1, 1, 1\] rows, accepted are as many"),
        (
            lambda: affinity_loss(draw(2, 2), draw(2, 2), draw(3, 2), draw(2, 2), 1.0, 1.0),
            r"got \[2, 2, 3, 2\] rows, accepted are as many",
        ),
        (
            lambda: codebook_loss(draw(2, 3), draw(2, 4)),
            r"latents, quantized: got the shapes \(2, 3\) and \(2, 4\), expected the same",
        ),
        (lambda: squared_error(draw(2, 3), draw(2, 4)), r"teacher: got shape \(2, 4\), accepted is the student's"),
        (
            lambda: contrastive_domain_discrepancy([(draw(4, 2), draw(4, 2))], [2, 2], 3, kernels=[5, 5]),
            r"kernels: got \[5, 5\], accepted are a number above 0, or one for each of 1 layers",
        ),
        (
            lambda: contrastive_domain_discrepancy([(draw(4, 2), draw(4, 2))], [2, 2], 3, factor=0.0),
            "factor: got 0.0, accepted are a number above 0",
        ),
        (
            lambda: contrastive_domain_discrepancy([(draw(4, 2), draw(4, 2))], [4], 1),
            "num_classes: got 1, accepted are numbers from 2",
        ),
        (
            lambda: contrastive_domain_discrepancy([(draw(4, 2), draw(4, 2))], [4, 0], 3),
            r"counts: got \[4, 0\] for features of shapes \(4, 2\) and \(4, 2\)",
        ),
        (
            lambda: contrastive_domain_discrepancy([(draw(4, 2), draw(4, 2))], [2, 1], 3),
            r"counts: got \[2, 1\] for features",
        ),
        (
            lambda: contrastive_domain_discrepancy([(draw(4, 2), draw(4, 3))], [2, 2], 3),
            r"of shapes \(4, 2\) and \(4, 3\)",
        ),
        (lambda: head_losses(draw(2, 2, 3), draw(2, 3, 3)), r"student_logits: got shape \(2, 2, 3\), the teachers'"),
        (
            lambda: head_losses(draw(2, 2, 3), draw(2, 2, 3), draw(2, 2, 4), draw(2, 2, 5)),
            r"student_features: got shape \(2, 2, 4\), the teachers' is \(2, 2, 5\)",
        ),
        (lambda: disagreement(draw(2, 3), draw(2, 4), 2), r"student_logits: got shape \(2, 3\)"),
        (lambda: soft_head_losses(draw(2, 1, 3), draw(2, 2, 3)), r"student_logits: got shape \(2, 1, 3\)"),
        (
            lambda: feature_relation_loss(draw(2, 3, 4, 5), draw(2, 3, 6, 5)),
            r"teacher: got shape \(2, 3, 6, 5\) for the student's \(2, 3, 4, 5\)",
        ),
        (lambda: feature_relation_loss(draw(2, 4, 5), draw(2, 4, 5)), r"teacher: got shape \(2, 4, 5\)"),
        (lambda: fused_token_loss(draw(2, 1, 3), draw(2, 1, 4)), r"teacher_tokens: got shape \(2, 1, 4\)"),
        (lambda: fused_token_loss(draw(2, 1, 3), draw(2, 1, 3), "l1"), "kind: got 'l1', accepted are 'mse', 'kldiv'"),
        (
            lambda: embedding_distance(draw(2, 3), draw(2, 3), draw(2, 3), draw(2, 4)),
            r"teacher_texts: got shape \(2, 4\), expected the student's \(2, 3\)",
        ),
        (
            lambda: embedding_distance(draw(2, 3), draw(2, 3), draw(3, 3), draw(2, 3)),
            r"teacher_images: got shape \(3, 3\)",
        ),
        (lambda: hint_loss(draw(1, 2, 3), draw(1, 2, 3)), r"teacher_maps: got shape \(1, 2, 3\)"),
        (lambda: heads_loss([draw(2, 8)] * 2, [draw(2, 3)]), "joint_logits: got 2 heads and 1 features"),
        (lambda: kl_divergence_loss(draw(3), draw(3)), r"teacher_logits: got shape \(3,\)"),
        (
            lambda: pooled_logits(draw(2, 1, 2, 2), torch.zeros(2, 1, 2, 2).long(), [[0, 0, 1, 1]], 3),
            "boxes: got 1, accepted are as many as maps, 2",
        ),
        (
            lambda: pooled_targets(draw(1, 1, 2, 2), torch.zeros(1, 1, 2, 2).long(), [[0, 0, 1, 1]], 3, missing="no"),
            "missing: got 'no', accepted are 'zero' and 'excluded'",
        ),
        (
            lambda: dense_label_map(draw(1, 1, 2, 2), torch.zeros(1, 2, 2, 2).long(), 3),
            r"classes: got shape \(1, 2, 2, 2\) for scores \(1, 1, 2, 2\)",
        ),
        (lambda: dense_label_map(draw(1, 1, 1, 2), torch.tensor([[[[-1, 5]]]]), 3), "classes: -1 is none of the 3"),
        (
            lambda: language_distillation_losses(draw(2, 3, 5), draw(2, 3, 4), MASK),
            r"got the shapes \(2, 3, 5\), \(2, 3, 4\) and \(2, 3\), expected",
        ),
        (
            lambda: language_distillation_losses(draw(2, 3, 5), draw(2, 3, 5), MASK[:, :2]),
            r"got the shapes \(2, 3, 5\), \(2, 3, 5\) and \(2, 2\), expected",
        ),
        (lambda: language_distillation_losses(draw(2, 3, 5), draw(2, 3, 5), 0 * MASK), "mask: no token counts"),
        (
            lambda: language_distillation_losses(draw(2, 3, 5), draw(2, 3, 5), MASK, student_states=draw(2, 3, 4)),
            "student_states, teacher_states: give both or none",
        ),
        (
            lambda: language_distillation_losses(
                draw(2, 3, 5), draw(2, 3, 5), MASK, 1.0, draw(2, 3, 4), draw(2, 3, 6)
            ),
            r"student_states, teacher_states: got the shapes \(2, 3, 4\) and \(2, 3, 6\)",
        ),
        (
            lambda: language_distillation_losses(
                draw(2, 3, 5), draw(2, 3, 5), MASK, 1.0, draw(2, 4, 4), draw(2, 4, 4)
            ),
            r"student_states, teacher_states: got the shapes \(2, 4, 4\) and \(2, 4, 4\)",
        ),
        (lambda: manifold_loss([draw(2, 4)], [draw(2, 4)]), r"teacher_tokens: got shape \(2, 4\) for the student's"),
        (lambda: manifold_loss([draw(2, 4, 3)], [draw(3, 4, 3)]), r"teacher_tokens: got shape \(3, 4, 3\)"),
        (lambda: manifold_loss([], []), "teacher_tokens: got 0 layers"),
        (lambda: merge_patches(draw(1, 6, 2), 4), "max_patches: 6 patches cannot be laid together on 2×2"),
        (lambda: relational_loss(draw(3, 2), draw(4, 2)), "teacher_features: got 4 samples for the student's 3"),
        (lambda: pixel_level_loss(draw(1, 2, 3), draw(1, 2, 3)), r"teacher_logits: got shape \(1, 2, 3\)"),
        (lambda: text_alignment_loss(draw(2), draw(2)), r"text_embeddings: got shape \(2,\)"),
        (
            lambda: token_divergence(draw(2, 3), draw(2, 4)),
            r"student_logits, teacher_logits: got the shapes \(2, 3\) and \(2, 4\)",
        ),
        (lambda: token_divergence(draw(2, 3), draw(2, 3), beta=1.0), "beta: got 1.0, accepted are numbers between"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
