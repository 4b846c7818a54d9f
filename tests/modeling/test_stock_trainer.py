"""transformers' own Trainer does with our heads what it does with its own."""

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Trainer,
    TrainingArguments,
)

from hf_effmodels.registry import ARCHITECTURES

from .tiny import tiny_config
from .tiny.decoders import DECODER

SMOOTHING = 0.1
#: Tasks whose models take no labels, or boxes, which nothing smooths, or maps of them, whose classes are not the last
#: axis that the Trainer smooths, as transformers' own.
NOTHING_TO_SMOOTH = (
    *("image-feature-extraction", "feature-extraction", "mask-generation", "masked-image-modeling"),
    *("object-detection", "image-segmentation", "zero-shot-image-classification"),
)
HEADS = [(a, task) for a in ARCHITECTURES.values() for task in a.tasks if task.name not in NOTHING_TO_SMOOTH]
NEIGHBOURS = {
    "text-generation": LlamaForCausalLM,
    "text-classification": LlamaForSequenceClassification,
    "token-classification": LlamaForTokenClassification,
    "image-classification": ConvNextForImageClassification,
}


def neighbour(task: str):
    """transformers' own model with this head."""
    if task == "image-classification":
        config = ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1] * 4, num_labels=5)
    else:
        config = LlamaConfig(**DECODER, num_labels=5)
    return NEIGHBOURS[task](config).eval()


def batch(task: str, model) -> dict[str, torch.Tensor]:
    if task == "image-classification":
        return {"pixel_values": torch.randn(2, 3, 64, 64), "labels": torch.tensor([1, 4])}
    ids = torch.randint(3, 96, (2, 7))
    if task == "text-classification":
        return {"input_ids": ids, "labels": torch.tensor([1, 4])}
    if task == "token-classification":
        labels = torch.randint(0, 5, (2, 7))
        labels[0, :2] = -100
        return {"input_ids": ids, "labels": labels}
    if task == "question-answering":
        return {"input_ids": ids, "start_positions": torch.tensor([1, 2]), "end_positions": torch.tensor([3, 4])}
    labels = ids.clone()
    labels[0, -2:] = -100
    if task == "text-generation":
        return {"input_ids": ids, "labels": labels}
    config = model.config
    ids[:, 1], labels[:, 1] = config.image_token_id, -100
    side = config.vision_config.image_size
    return {"input_ids": ids, "labels": labels, "pixel_values": torch.randn(2, 3, side, side)}


def smoothed(task: str, model, inputs: dict) -> torch.Tensor:
    """The loss with smoothed labels, from its definition."""
    labels = inputs["labels"]
    with torch.no_grad():
        logits = model(**{name: value for name, value in inputs.items() if name != "labels"}).logits
    if task in ("text-generation", "image-text-to-text"):  # from each token the next one
        logits, labels = logits[:, :-1], labels[:, 1:]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), labels.reshape(-1), label_smoothing=SMOOTHING)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return TrainingArguments(
        str(tmp_path_factory.mktemp("run")), label_smoothing_factor=SMOOTHING, report_to=[], use_cpu=True
    )


@pytest.mark.parametrize(
    "architecture, task", HEADS, ids=[f"{architecture.model_type}-{task.name}" for architecture, task in HEADS]
)
def test_labels_are_smoothed_as_those_of_transformers_own_heads(architecture, task, arguments):
    model = architecture.model_class(task.auto_class)(tiny_config(architecture, num_labels=5)).eval()
    inputs = batch(task.name, model)
    loss = Trainer(model, arguments).compute_loss(model, dict(inputs))
    if task.name == "question-answering":  # no `labels`: the model's own loss, as everywhere
        torch.testing.assert_close(loss, model(**inputs).loss)
        return
    torch.testing.assert_close(loss, smoothed(task.name, model, inputs))


@pytest.mark.parametrize("task", NEIGHBOURS)
def test_the_definition_of_the_smoothed_loss_is_that_of_transformers_own_heads(task, arguments):
    model = neighbour(task)
    inputs = batch(task, model)
    torch.testing.assert_close(
        Trainer(model, arguments).compute_loss(model, dict(inputs)), smoothed(task, model, inputs)
    )


def test_the_tables_of_names_have_every_head_beside_transformers_own():
    from transformers.models.auto import modeling_auto

    for architecture in ARCHITECTURES.values():
        for auto_class, name in architecture.auto_classes.items():
            names = getattr(modeling_auto, auto_class)._model_mapping._model_mapping
            assert names[architecture.model_type] == name
    # A vision-language model is no language model of its type.
    assert "adem_vl" not in modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
