"""Classes with their probabilities, of images and of texts."""

from collections.abc import Sequence

import torch

from ..._shapes import in_runs
from ...texts import one_length
from ..predictor import Options, Predictor, Source, load_network, load_part

_AUTO = {
    "image-classification": "AutoModelForImageClassification",
    "text-classification": "AutoModelForSequenceClassification",
}


def load(task: str, source: Source, options: Options, device: str) -> Predictor:
    model = load_network(source, _AUTO[task], device)
    encode = _encode_images(source) if task == "image-classification" else _encode_texts(source, model)
    # An exported program has neither.
    dtype, place = getattr(model, "dtype", torch.float32), getattr(model, "device", "cpu")

    @torch.no_grad()
    def answer(items: Sequence) -> list[dict]:
        said = []
        for inputs in encode(items):
            inputs = {n: v.to(place, dtype if v.is_floating_point() else None) for n, v in inputs.items()}
            logits = model(**inputs).logits.float().cpu()
            if not torch.isfinite(logits).all():
                raise ValueError("MODEL: what it computes is not finite.")
            said += [{"classes": classes_of(row, model.config, options.top_k)} for row in logits]
        return said

    def line(said: dict) -> str:
        if _measures(model.config):
            return "  ".join(f"{c['label']} {c['score']:g}" for c in said["classes"])
        return "  ".join(f"{c['label']} {100 * c['score']:.1f} %" for c in said["classes"])

    def rows(said: dict) -> list[dict]:
        return [{"rank": rank, **found} for rank, found in enumerate(said["classes"], 1)]

    takes = "image" if task == "image-classification" else "text"
    channels = getattr(model.config, "num_channels", 3)
    return Predictor(task, takes, answer, line, rows, num_channels=channels)


def classes_of(logits: torch.Tensor, config, top_k: int) -> list[dict]:
    """The likeliest classes of one input: softmax, or a probability for each class where the head has one label or
    several at a time, or of a regression the numbers themselves, as transformers' pipelines do it."""
    alone = config.num_labels == 1 or getattr(config, "problem_type", None) == "multi_label_classification"
    scores = logits if _measures(config) else logits.sigmoid() if alone else logits.softmax(-1)
    best = scores.topk(min(top_k, len(scores)))
    return [
        {"label": config.id2label[number], "score": score}
        for score, number in zip(best.values.tolist(), best.indices.tolist(), strict=True)
    ]


def _measures(config) -> bool:
    """Whether the outputs are no classes, but numbers of a regression."""
    return getattr(config, "problem_type", None) == "regression"


def _encode_images(source: Source):
    from ...training.tasks.image_classification.transforms import EvaluationTransform

    transform = EvaluationTransform(load_part(source, "AutoImageProcessor"))
    return lambda images: [{"pixel_values": pixels} for pixels in in_runs(map(transform, images))]


def _encode_texts(source: Source, model):
    tokenizer = load_part(source, "AutoTokenizer")
    options = one_length(model, tokenizer)
    alone = {**options, "padding": False}

    def encode(texts: Sequence[str]) -> list:
        if (
            tokenizer.pad_token is None or model.config.pad_token_id is None
        ):  # nothing to fill up the shorter ones with
            return [tokenizer(text, **alone) for text in texts]
        return [tokenizer(list(texts), **options)]

    return encode
