"""What features are worth, against the formulas."""

import inspect
import math

import numpy as np
from scipy.optimize import minimize

from hf_effmodels.training.probing.probe import ProbeArguments
from hf_effmodels.training.probing.scores import linear_probe, nearest_neighbours, principal_plane


def test_neighbours_vote_by_default_as_dinos_do():
    """Twenty of them at a temperature of 0.07; and scikit-learn's C is its own default."""
    args = ProbeArguments(models=["x"], output="y")
    assert (args.neighbours, args.temperature, args.linear_strength, args.seed) == (20, 0.07, 1.0, 0)
    for function, defaults in ((nearest_neighbours, [20, 0.07]), (linear_probe, [1.0, 0])):
        assert [p.default for p in inspect.signature(function).parameters.values() if p.default is not p.empty] == (
            defaults
        )


def test_near_pictures_vote_by_the_exponential_of_their_cosine():
    drawn = np.random.default_rng(0)
    train, queries = drawn.normal(size=(40, 5)).astype(np.float32), drawn.normal(size=(25, 5)).astype(np.float32)
    labels, k, temperature = drawn.integers(0, 4, 40), 7, 0.3

    def voted(query, k: int) -> int:
        cosines = [float(query @ other) / math.sqrt(float(query @ query) * float(other @ other)) for other in train]
        near = sorted(range(40), key=lambda number: -cosines[number])[:k]
        votes = dict.fromkeys(range(4), 0.0)
        for number in near:
            votes[int(labels[number])] += math.exp(cosines[number] / temperature)
        return max(votes, key=votes.get)

    by_hand = {number: [voted(query, number) for query in queries] for number in range(1, 9)}
    for number, found in by_hand.items():
        assert nearest_neighbours(train, labels, queries, number, temperature).tolist() == found
    assert by_hand[3] != by_hand[4] != by_hand[5]  # one more, or one less, decides something
    expected = by_hand[k]
    # Of fewer pictures all vote.
    assert (
        nearest_neighbours(train, labels, queries, 99, temperature).tolist()
        == nearest_neighbours(train, labels, queries, 40, temperature).tolist()
    )
    # The largest numbers do not run over, and the nearest decides.
    assert (
        nearest_neighbours(train, labels, queries, k, 1e-3).tolist()
        == nearest_neighbours(train, labels, queries, 1).tolist()
    )
    # Each of the two options decides something here.
    assert nearest_neighbours(train, labels, queries, 1, temperature).tolist() != expected
    assert nearest_neighbours(train, labels, queries, k, 0.01).tolist() != expected


def test_the_linear_probe_is_regularised_logistic_regression_on_standardised_features():
    drawn = np.random.default_rng(0)

    def alike(count):
        return (drawn.normal(size=(count, 1)) + 0.3 * drawn.normal(size=(count, 2))) * [1, 50] + [3, 7]

    train, queries = alike(60), alike(200)
    labels = (2 * train[:, 0] - train[:, 1] / 50 > 5.86).astype(int)
    mean, deviation = train.mean(0), train.std(0)
    unit, signs, strength = (train - mean) / deviation, 2 * labels - 1, 0.01

    def loss(weights):
        return (
            strength * np.logaddexp(0, -signs * (unit @ weights[:2] + weights[2])).sum()
            + weights[:2] @ weights[:2] / 2
        )

    weights = minimize(loss, np.zeros(3), tol=1e-10).x
    expected = ((queries - mean) / deviation @ weights[:2] + weights[2] > 0).astype(int)
    assert (linear_probe(train, labels, queries, strength) == expected).mean() > 0.99
    assert (linear_probe(train, labels, queries, 1000.0) == expected).mean() < 0.9


def test_the_plane_holds_the_directions_of_most_variance():
    drawn = np.random.default_rng(0).normal(size=(500, 4)) * [0.1, 9, 0.2, 3]
    plane = principal_plane(drawn)
    for column, source in ((0, 1), (1, 3)):
        assert abs(np.corrcoef(plane[:, column], drawn[:, source])[0, 1]) > 0.99
    # Wherever the features lie, the plane is theirs, and its middle the mean.
    elsewhere = principal_plane(drawn + [1000.0, 0, 0, 0])
    np.testing.assert_allclose(np.abs(elsewhere), np.abs(plane), atol=1e-6)
    np.testing.assert_allclose(elsewhere.mean(0), 0, atol=1e-6)
