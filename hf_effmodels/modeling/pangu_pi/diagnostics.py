"""Feature collapse, layer by layer: effective dimension and diversity of the tokens' features.

The measures take any features; `layer_diagnostics` runs them on every hidden state of any decoder of transformers, so
that a PanGu-π can be compared with a LLaMA, and `plot_layer_diagnostics` draws the paper's figure.
"""

import torch


@torch.no_grad()
def effective_dimension(features: torch.Tensor, threshold: float = 0.8) -> int:
    """d(ε): how many principal components explain the share ε = `threshold` of the features' variance.

    Args:
        features: (tokens, channels); they are centred here.
        threshold: above 0 and up to 1; the paper plots 0.8.
    """
    _check(features)
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold: got {threshold}, accepted are numbers above 0 and up to 1.")
    features = features.double()
    variances = torch.linalg.svdvals(features - features.mean(0)).square()
    total = variances.sum()
    if total == 0:  # all tokens are the same: no direction varies
        return 0
    # Rounding may leave the last sum a little below 1.
    reached = variances.cumsum(0) / total >= threshold - 1e-12
    return int(reached.int().argmax()) + 1


@torch.no_grad()
def diversity(features: torch.Tensor, relative: bool = False) -> float:
    """d_M(Z) = ‖(I - e eᵀ) Z‖_F with e = 1/√N: how far the tokens are from being all the same.

    Args:
        features: (tokens, channels).
        relative: divide by ‖Z‖_F, for layers whose features differ in size.
    """
    _check(features)
    features = features.double()
    distance = (features - features.mean(0)).norm()
    return float(distance / features.norm().clamp_min(torch.finfo(torch.float64).tiny) if relative else distance)


def _check(features: torch.Tensor) -> None:
    if features.ndim != 2 or not features.shape[0]:
        raise ValueError(f"features: got shape {tuple(features.shape)}, accepted is (tokens, channels) with tokens.")


@torch.no_grad()
def layer_diagnostics(
    model, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None, threshold: float = 0.8
) -> dict[str, list]:
    """Effective dimension and diversity of every hidden state of a decoder.

    Args:
        model: any decoder that returns hidden states; it is run in evaluation mode.
        input_ids: (batch, length). The effective dimension is that of all tokens together and cannot be more than
            their number: give a few thousand.
        attention_mask: (batch, length), 0 for padding, which is left out.
        threshold: of `effective_dimension`.

    Returns:
        Lists with one number for each hidden state (embeddings first): "effective_dimension", and the means over the
        sequences of "diversity" and "relative_diversity".
    """
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    training = model.training
    outputs = model.eval()(input_ids, attention_mask=attention_mask, output_hidden_states=True, use_cache=False)
    model.train(training)
    kept = attention_mask.bool()
    result = {"effective_dimension": [], "diversity": [], "relative_diversity": []}
    for hidden in outputs.hidden_states:
        sequences = [features[mask] for features, mask in zip(hidden, kept, strict=True)]
        result["effective_dimension"].append(effective_dimension(torch.cat(sequences), threshold))
        for name, relative in (("diversity", False), ("relative_diversity", True)):
            values = [diversity(features, relative) for features in sequences]
            result[name].append(sum(values) / len(values))
    return result


def token_saliency(model, input_ids: torch.Tensor, target: int | None = None) -> torch.Tensor:
    """|∂ logit / ∂ embedding| of the next token's logit, per token and channel (figure 6).

    Args:
        model: a causal language model.
        input_ids: (1, length).
        target: the token whose logit is derived; by default the likeliest.

    Returns:
        (length, channels).
    """
    if input_ids.ndim != 2 or input_ids.shape[0] != 1:
        raise ValueError(f"input_ids: got shape {tuple(input_ids.shape)}, accepted is (1, length).")
    embeddings = model.get_input_embeddings()(input_ids).detach().requires_grad_()
    with torch.enable_grad():
        logits = model(inputs_embeds=embeddings, use_cache=False).logits[0, -1]
        (gradient,) = torch.autograd.grad(logits[logits.argmax() if target is None else target], embeddings)
    return gradient[0].abs()


def plot_layer_diagnostics(diagnostics: dict[str, dict[str, list]], measure: str = "effective_dimension"):
    """One line per model over its layers; returns a matplotlib `Figure`.

    Args:
        diagnostics: name of a model → what `layer_diagnostics` returned for it.
        measure: "effective_dimension", "diversity" or "relative_diversity".
    """
    measures = ("effective_dimension", "diversity", "relative_diversity")
    if measure not in measures:
        raise ValueError(f"measure: got {measure!r}, accepted are {', '.join(map(repr, measures))}.")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="layer (0: embeddings)", ylabel=measure.replace("_", " "))
    for name, values in diagnostics.items():
        axes.plot(range(len(values[measure])), values[measure], marker="o", label=name)
    axes.legend()
    return figure
