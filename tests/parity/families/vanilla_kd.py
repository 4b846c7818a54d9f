"""VanillaKD's losses, and those it compares with: values and gradients."""

import torch
from torch.nn import functional as F

from hf_effmodels.training.losses.contrastive_representation import ContrastiveRepresentationLoss
from hf_effmodels.training.losses.decoupled import decoupled_loss
from hf_effmodels.training.losses.dist import dist_loss
from hf_effmodels.training.losses.feature_correlation import FeatureCorrelationLoss
from hf_effmodels.training.losses.kl_divergence import binary_soft_target_loss, kl_divergence_loss
from hf_effmodels.training.losses.knowledge_review import KnowledgeReviewLoss
from hf_effmodels.training.losses.relational import relational_loss

from .. import golden

SYSTEMS = ("vanilla_kd",)


def _of_logits(case: dict, dtype: torch.dtype, losses) -> dict[str, torch.Tensor]:
    """Loss and gradient for each setting: `losses` yields (prefix, function of the student's logits)."""
    values, results = golden.inputs(case, dtype), {}
    for prefix, loss_of in losses(values):
        student = values["student_logits"].clone().requires_grad_()
        teacher = values["teacher_logits"].clone().requires_grad_()
        loss = loss_of(student, teacher)
        loss.backward()
        assert teacher.grad is None, "no gradient flows into the teacher"
        results |= {f"{prefix}loss": loss, f"{prefix}grad_student": student.grad}
    return results


def _kd(case, dtype):
    def losses(values):
        for s in case["config"]["settings"]:
            yield f"{s['name']}/", lambda student, teacher, s=s: kl_divergence_loss(student, teacher, s["temperature"])

    return _of_logits(case, dtype, losses)


def _bkd(case, dtype):
    return _of_logits(case, dtype, lambda values: [("", binary_soft_target_loss)])


def _dkd(case, dtype):
    def losses(values):
        for s in case["config"]["settings"]:
            options = {name: s[name] for name in ("alpha", "beta", "temperature")}
            yield (
                f"{s['name']}/",
                lambda student, teacher, o=options: decoupled_loss(student, teacher, values["labels"], **o),
            )

    return _of_logits(case, dtype, losses)


def _dist(case, dtype):
    def losses(values):
        for s in case["config"]["settings"]:
            options = {name: s[name] for name in ("beta", "gamma", "temperature")}
            yield f"{s['name']}/", lambda student, teacher, o=options: dist_loss(student, teacher, **o)

    return _of_logits(case, dtype, losses)


def _objective(case, dtype):
    config, targets = case["config"], {}

    def losses(values):
        for s in config["settings"]:
            classes = values["student_logits"].shape[1]
            labels = F.one_hot(values["labels"], classes).to(dtype)
            labels = (1 - s["smoothing"]) * labels + s["smoothing"] / classes
            mixed = s["lam"] * labels + (1 - s["lam"]) * labels.flip(0)
            targets[f"targets_lam{s['lam']:g}_sm{s['smoothing']:g}"] = mixed

            def loss(student, teacher, s=s, mixed=mixed):
                base = {"bce": F.binary_cross_entropy_with_logits, "soft_ce": F.cross_entropy}[s["base"]]
                kd = {
                    "kd": lambda: kl_divergence_loss(student, teacher, s["temperature"]),
                    "dkd": lambda: decoupled_loss(student, teacher, mixed, temperature=s["temperature"]),
                    "dist": lambda: dist_loss(student, teacher, temperature=s["temperature"]),
                }[s["kd"]]()
                return config["ori_loss_weight"] * base(student, mixed) + config["kd_loss_weight"] * kd

            yield f"{s['name']}/", loss

    return _of_logits(case, dtype, losses) | targets


def _rkd(case, dtype):
    values, results = golden.inputs(case, dtype), {}
    for s in case["config"]["settings"]:
        student = values["student_feature"].clone().requires_grad_()
        options = {name: s[name] for name in ("distance_weight", "angle_weight", "squared", "eps")}
        loss = relational_loss(student, values["teacher_feature"], **options)
        loss.backward()
        results |= {f"{s['name']}/loss": loss, f"{s['name']}/grad_student": student.grad}
    return results


def _load(module: torch.nn.Module, case: dict, dtype: torch.dtype, renamed) -> None:
    weights = {renamed(name): tensor for name, tensor in golden.state_dict(case, dtype).items()}
    own = module.to(dtype).state_dict()
    skipped = {name for name in own if name.endswith(("num_batches_tracked", "normalizers"))}
    module.load_state_dict({**{name: own[name] for name in skipped}, **weights})


def _embeddings(name: str) -> str:
    names = {"embed_s.linear": "embed_student", "embed_t.linear": "embed_teacher"}
    names |= {"contrast.memory_v1": "student_memory", "contrast.memory_v2": "teacher_memory"}
    for theirs, ours in names.items():
        name = name.replace(theirs, ours)
    return name


def _correlation(case, dtype):
    values, config = golden.inputs(case, dtype), case["config"]
    student = values["student_feature"].requires_grad_()
    dims = student.shape[1], values["teacher_feature"].shape[1]
    module = FeatureCorrelationLoss(*dims, embed_dim=config["feat_dim"], scale=config["scale"])
    _load(module, case, dtype, _embeddings)
    loss = module(student, values["teacher_feature"])
    loss.backward()
    return {
        "loss": loss,
        "grad_student": student.grad,
        "grad_embed_s.weight": module.embed_student.weight.grad,
        "grad_embed_t.weight": module.embed_teacher.weight.grad,
        "embed_s": module.embed_student(student),
        "embed_t": module.embed_teacher(values["teacher_feature"]),
    }


def _crd(case, dtype):
    values, config = golden.inputs(case, dtype), case["config"]
    dims = values["student_feature"].shape[1], values["teacher_feature"].shape[1]
    options = {name: config[name] for name in ("temperature", "momentum")}
    module = ContrastiveRepresentationLoss(*dims, config["num_data"], embed_dim=config["feat_dim"], **options)
    # `params` are the settings, and the normalisers before the first call.
    shapes = {name: shape for name, shape in case["state_dict"].items() if name != "contrast.params"}
    _load(module, {**case, "state_dict": shapes}, dtype, _embeddings)
    index, negatives = torch.tensor(config["index"]), values["negatives"].long()
    results = {}
    for step, suffix in ((1, ""), (2, "_2")):
        module.zero_grad()
        student = values[f"student_feature{suffix}"].clone().requires_grad_()
        loss = module(student, values[f"teacher_feature{suffix}"], index, negatives)
        loss.backward()
        constants = [config["k"], config["temperature"], *module.normalizers.tolist(), config["momentum"]]
        results |= {
            f"step{step}/loss": loss[None],
            f"step{step}/grad_student": student.grad,
            f"step{step}/grad_embed_s.weight": module.embed_student.weight.grad.clone(),
            f"step{step}/grad_embed_t.weight": module.embed_teacher.weight.grad.clone(),
            f"step{step}/params": torch.tensor(constants, dtype=torch.float64),
            f"step{step}/memory_v1_rows": module.student_memory[index].clone(),
            f"step{step}/memory_v2_rows": module.teacher_memory[index].clone(),
        }
    return results


def _review(case, dtype):
    config, results = case["config"], {}
    for mode in ("eval", "train"):
        values = golden.inputs(case, dtype)
        module = KnowledgeReviewLoss(
            config["in_channels"], config["out_channels"], config["shapes"], mid_channels=config["mid_channel"]
        )
        _load(module, case, dtype, _fusions)
        module.train(mode == "train")
        levels = range(len(config["in_channels"]))
        student = [values[f"student_feature_{level}"].requires_grad_() for level in levels]
        loss = module(student, [values[f"teacher_feature_{level}"] for level in levels])
        loss.backward()
        for epoch in (0, 1):  # the weight that the official loss grows by in its first epochs
            results[f"{mode}/loss_epoch{epoch}"] = loss * min(epoch / config["warmup_epochs"], 1.0)
        results |= {f"{mode}/grad_student_{level}": student[level].grad for level in levels}
    return results


def _fusions(name: str) -> str:
    for theirs, ours in (("abfs", "fusions"), ("att_conv", "gates"), ("conv1", "reduce"), ("conv2", "expand")):
        name = name.replace(theirs, ours)
    return name


_FUNCTIONS = {
    "kd": _kd,
    "bkd": _bkd,
    "dkd": _dkd,
    "dist": _dist,
    "objective": _objective,
    "rkd": _rkd,
    "correlation": _correlation,
    "crd": _crd,
    "review": _review,
}


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _FUNCTIONS[case["config"]["function"]](case, dtype)
