"""OFA-KD: the loss, branches with the whole objective, training steps of whole networks, FitNet."""

import re

import torch
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification, ViTConfig, ViTForImageClassification

from hf_effmodels.training.losses.fitnet import FitNetLoss
from hf_effmodels.training.losses.interface import Batch, FeatureSpec, Networks
from hf_effmodels.training.losses.ofa import OfaLoss, ofa_loss
from hf_effmodels.training.tasks.distillation.model import DistillationModel
from hf_effmodels.training.tasks.distillation.taps import Taps, dry_run

from .. import golden

SYSTEMS = ("ofa_kd",)


def _loss(case, dtype):
    values, results = golden.inputs(case, dtype), {}
    for s in case["config"]["settings"]:
        student = values["student_logits"].clone().requires_grad_()
        teacher = values["teacher_logits"].clone().requires_grad_()
        options = {"eps": s["eps"], "temperature": s["temperature"]}
        loss = ofa_loss(student, teacher, values["labels"], **options)
        loss.backward()
        assert teacher.grad is None, "no gradient flows into the teacher"
        results |= {f"{s['name']}/loss": loss, f"{s['name']}/grad_student": student.grad}
    return results


def _weighted(config: dict, name: str) -> float:
    return config[f"{name}_loss_weight"] if f"{name}_loss_weight" in config else config["weights"][name]


def _ofa(config: dict, student: dict[str, FeatureSpec], teacher_dim: int) -> OfaLoss:
    loss = OfaLoss(
        stages=config["stages"],
        eps=config["eps"],
        temperature=config["temperature"],
        kd_weight=_weighted(config, "kd"),
        stage_weight=_weighted(config, "ofa"),
    )
    loss.build(Networks(student, {"pooled": FeatureSpec((teacher_dim,), "vector")}, config["num_classes"]))
    return loss


def _load(module: torch.nn.Module, weights: dict[str, torch.Tensor], dtype: torch.dtype) -> None:
    own = module.to(dtype).state_dict()
    counters = {name: own[name] for name in own if name.endswith("num_batches_tracked")}
    module.load_state_dict({**counters, **weights})


def _specs(config: dict) -> dict[str, FeatureSpec]:
    specs = {"pooled": FeatureSpec((config["student_dim"],), "vector")}
    for stage, shape in config["student_stage_shapes"].items():
        kind = "maps" if len(shape) == 3 else "tokens"
        specs[f"stage{stage}"] = FeatureSpec(tuple(shape), kind, config["student_prefix_tokens"] * (kind == "tokens"))
    return specs


def _objective(case, dtype):
    config, results = case["config"], {}
    for mode in sorted({name.partition("/")[0] for name in case["outputs"]}):
        values = golden.inputs(case, dtype)
        loss = _ofa(config, _specs(config), config["teacher_dim"])
        _load(loss, golden.state_dict(case, dtype), dtype)
        loss.train(mode == "train")
        student = {"logits": values["student_logits"].requires_grad_()}
        for stage in config["stages"]:
            student[f"stage{stage}"] = values[f"feature_stage{stage}"].requires_grad_()
        labels = values["labels"]
        if mix := config["mixup_targets"]:
            smooth = F.one_hot(labels, config["num_classes"]).to(dtype) * (1 - mix["smoothing"])
            smooth = smooth + mix["smoothing"] / config["num_classes"]
            labels = mix["lam"] * smooth + (1 - mix["lam"]) * smooth.flip(0)
        truth = _weighted(config, "gt") * F.cross_entropy(student["logits"], labels)
        for stage in config["stages"]:
            with torch.random.fork_rng():
                state = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
                results[f"{mode}/projector{stage}"] = loss.branch_logits(stage, student[f"stage{stage}"])
                loss.load_state_dict(state)  # as if it had not been looked at
        parts = loss(student, {"logits": values["teacher_logits"]}, Batch(labels=labels))
        (truth + sum(parts.values())).backward()
        results |= {
            f"{mode}/loss_gt": truth,
            f"{mode}/loss_kd": parts["logits"],
            f"{mode}/loss_ofa": parts["stages"],
            f"{mode}/grad_student_logits": student["logits"].grad,
        }
        results |= {f"{mode}/grad_feature{stage}": student[f"stage{stage}"].grad for stage in config["stages"]}
    return results


def _fitnet(case, dtype):
    values, config = golden.inputs(case, dtype), case["config"]
    sizes = {stage: values[f"student_stage{stage}"].shape[1:] for stage in config["stages"]}
    others = {stage: values[f"teacher_stage{stage}"].shape[1:] for stage in config["stages"]}
    ours, theirs = ({f"stage{s}": FeatureSpec(tuple(v), "maps") for s, v in d.items()} for d in (sizes, others))
    loss = FitNetLoss(stages=config["stages"], weight=config["fitnet_loss_weight"])
    loss.build(Networks(ours, theirs, values["student_logits"].shape[1]))
    _load(loss, golden.state_dict(case, dtype), dtype)
    student = {f"stage{s}": values[f"student_stage{s}"].requires_grad_() for s in config["stages"]}
    teacher = {f"stage{s}": values[f"teacher_stage{s}"] for s in config["stages"]}
    value = loss.weight * loss(student, teacher, Batch())
    value.backward()
    results = {f"grad_student{s}": student[f"stage{s}"].grad for s in config["stages"]}
    return results | {
        "loss_fitnet": value,
        "loss_gt": F.cross_entropy(values["student_logits"], values["labels"]),
    }


# Whole networks: timm's weights in transformers' own ResNet and ViT, found by their stages.


def _resnet18(num_classes: int):
    config = ResNetConfig(hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic")
    config.num_labels = num_classes
    rules = [
        (r"^conv1\.", "resnet.embedder.embedder.convolution."),
        (r"^bn1\.", "resnet.embedder.embedder.normalization."),
        (r"^fc\.", "classifier.1."),
        (r"downsample\.0\.", "shortcut.convolution."),
        (r"downsample\.1\.", "shortcut.normalization."),
        (r"\.conv1\.", ".layer.0.convolution."),
        (r"\.bn1\.", ".layer.0.normalization."),
        (r"\.conv2\.", ".layer.1.convolution."),
        (r"\.bn2\.", ".layer.1.normalization."),
        (r"^layer([1-4])\.(\d+)\.", lambda m: f"resnet.encoder.stages.{int(m[1]) - 1}.layers.{m[2]}."),
    ]
    return ResNetForImageClassification(config), rules


def _deit_tiny(num_classes: int):
    config = ViTConfig(hidden_size=192, num_attention_heads=3, intermediate_size=768, layer_norm_eps=1e-6)
    config.num_labels = num_classes
    rules = [
        (r"^cls_token$", "vit.embeddings.cls_token"),
        (r"^pos_embed$", "vit.embeddings.position_embeddings"),
        (r"^patch_embed\.proj\.", "vit.embeddings.patch_embeddings.projection."),
        (r"^norm\.", "vit.layernorm."),
        (r"^head\.", "classifier."),
        (r"norm1\.", "layernorm_before."),
        (r"norm2\.", "layernorm_after."),
        (r"mlp\.fc([12])\.", r"mlp.fc\1."),
        (r"attn\.proj\.", "attention.o_proj."),
        (r"attn\.([qkv])\.", r"attention.\1_proj."),
        (r"^blocks\.(\d+)\.", r"vit.layers.\1."),
    ]
    return ViTForImageClassification(config), rules


_NETWORKS = {"resnet18": _resnet18, "deit_tiny_patch16_224": _deit_tiny}


def _renamed(name: str, rules) -> str:
    for pattern, new in rules:
        name = re.sub(pattern, new, name)
    return name


def _network(name: str, weights: dict[str, torch.Tensor], num_classes: int, dtype: torch.dtype):
    """The network with timm's weights, and its name for each of timm's."""
    model, rules = _NETWORKS[name](num_classes)
    split = {}
    for key, tensor in weights.items():
        if ".qkv." in key:
            split |= {key.replace("qkv", letter): part for letter, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            split[key] = tensor
    _load(model, {_renamed(key, rules): tensor for key, tensor in split.items()}, dtype)
    return model, {key: _renamed(key, rules) for key in split}


def _end_to_end(case, dtype):
    config, values = case["config"], golden.inputs(case, dtype)
    weights = golden.state_dict(case, dtype)
    parts = {
        part: {k.removeprefix(f"{part}."): v for k, v in weights.items() if k.startswith(f"{part}.")}
        for part in ("student", "teacher")
    }
    student, names = _network(config["student"], parts["student"], config["num_classes"], dtype)
    teacher, _ = _network(config["teacher"], parts["teacher"], config["num_classes"], dtype)
    pixels, labels = values["pixel_values"], values["labels"]
    results = {}
    with torch.no_grad():
        for part, model in (("student", student), ("teacher", teacher)):
            results[f"eval/{part}_logits"] = model.eval()(pixels).logits
    wanted = ["pooled", *(f"stage{stage}" for stage in config["stages"])]
    taps = Taps(student, dry_run(student, pixels), wanted)
    width = Taps(teacher, dry_run(teacher, pixels), ["pooled"]).specs["pooled"].channels
    loss = _ofa(config, taps.specs, width)
    _load(loss, {k: v for k, v in weights.items() if k.startswith("projector.")}, dtype)
    model, seen = DistillationModel(student, {"ofa": loss}, taps).train(), {}
    loss.register_forward_pre_hook(lambda module, args: seen.update(args[0]))
    outputs = model(pixels, {"teacher": {"logits": results["eval/teacher_logits"]}, "labels": labels})
    truth = config["weights"]["gt"] * F.cross_entropy(outputs.logits, labels)
    found = outputs.distillation
    (truth + found["ofa/logits"] + found["ofa/stages"]).backward()
    results |= {f"train/student_feature{stage}": seen[f"stage{stage}"] for stage in config["stages"]}
    results |= {
        "train/student_logits": outputs.logits,
        "train/loss_gt": truth,
        "train/loss_kd": found["ofa/logits"],
        "train/loss_ofa": found["ofa/stages"],
    }
    for name in case["outputs"]:
        part, _, key = name.removeprefix("grad/").partition(".")
        if name.startswith("grad/student."):
            results[name] = student.get_parameter(names[key]).grad
        elif name.startswith("grad/projector."):
            results[name] = loss.get_parameter(f"{part}.{key}").grad
    return results


_FUNCTIONS = {
    "ofa_loss": _loss,
    "ofa_objective": _objective,
    "ofa_end_to_end": _end_to_end,
    "fitnet": _fitnet,
}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _FUNCTIONS[case["config"]["function"]](case, dtype)
