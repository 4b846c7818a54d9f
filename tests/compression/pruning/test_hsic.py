"""Scores of heads and neurons by independence, written out in numpy with the paper's numbers."""

import numpy as np
import pytest
import torch

from hf_effmodels.compression.pruning.hsic import head_scores, highest, kept_of, neuron_scores, redundancy


def kernel(x: np.ndarray) -> np.ndarray:
    """The mean of Gaussians of the widths 1, 2, 4, 8 and 16, of (samples, features)."""
    squares = ((x[:, None] - x[None]) ** 2).sum(-1)
    return np.mean([np.exp(-squares / (2 * width**2)) for width in (1, 2, 4, 8, 16)], axis=0)


def hsic(first: np.ndarray, second: np.ndarray) -> float:
    centring = np.eye(len(first)) - 1 / len(first)
    return float(np.trace(centring @ first @ centring @ centring @ second @ centring))


def relevance(x: np.ndarray, probabilities: np.ndarray) -> float:
    targets = probabilities - probabilities.mean(0)
    return hsic(kernel(x - x.mean(0) / x.std(0, ddof=1)), targets @ targets.T)


def from_0_to_1(values) -> np.ndarray:
    values = np.asarray(values)
    return (values - values.min()) / (values.max() - values.min())


@pytest.fixture
def probabilities():
    return torch.randn(6, 4, generator=torch.Generator().manual_seed(1)).softmax(-1)


@pytest.mark.parametrize("neurons", [5, 64, 65, 130])
def test_a_neuron_counts_a_tenth_by_its_relevance_and_the_rest_by_its_size(neurons, probabilities):
    """However many there are; of half precision as of single."""
    activations = torch.randn(6, 3, neurons, generator=torch.Generator().manual_seed(0))
    x, p = activations.double().numpy(), probabilities.double().numpy()
    relevant = from_0_to_1([relevance(x[:, :, number], p) for number in range(neurons)])
    expected = 0.1 * relevant + 0.9 * from_0_to_1(np.abs(x).sum((0, 1)))
    found = neuron_scores(activations, probabilities)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)


def test_neurons_of_one_size_are_told_by_their_relevance_alone(probabilities):
    torch.manual_seed(0)
    signs = torch.randint(0, 2, (6, 3, 4)) * 2.0 - 1
    x, p = signs.double().numpy(), probabilities.double().numpy()
    expected = 0.1 * from_0_to_1([relevance(x[:, :, number], p) for number in range(4)])
    np.testing.assert_allclose(neuron_scores(signs, probabilities), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("heads", [1, 2, 3])
def test_a_head_loses_a_tenth_of_what_others_have_of_it_in_the_mean(heads, probabilities):
    outputs = torch.randn(6, 3, heads, 5, generator=torch.Generator().manual_seed(0))
    means = [outputs[:, :, number].double().mean(-1).numpy() for number in range(heads)]
    p = probabilities.double().numpy()
    expected = [
        relevance(own, p)
        - 0.1 * np.mean([hsic(kernel(own), kernel(other)) for other in means if other is not own] or [0.0])
        for own in means
    ]
    np.testing.assert_allclose(head_scores(outputs, probabilities), expected, rtol=1e-6, atol=1e-9)
    if heads > 1:
        shared = redundancy(*(torch.from_numpy(mean) for mean in means[:2]))
        assert shared.item() == pytest.approx(hsic(kernel(means[0]), kernel(means[1])), rel=1e-6)


@pytest.mark.parametrize(
    "ratio, kept", [(0.0, [0, 1, 2, 3, 4]), (0.19, [0, 1, 2, 4]), (0.2, [0, 1, 2, 4]), (0.5, [1, 4]), (0.79, [4])]
)
def test_as_many_are_kept_as_the_ratio_leaves_rounded_down_the_first_of_equal_ones(ratio, kept):
    scores = torch.tensor([2.0, 3.0, 2.0, 2.0, 5.0])
    assert kept_of(scores, ratio) == kept == highest(scores, len(kept))
