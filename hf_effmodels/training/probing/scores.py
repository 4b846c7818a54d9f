"""What features are worth: neighbours that vote, and a linear classifier."""

import numpy as np


def nearest_neighbours(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, k: int = 20, temperature: float = 0.07
) -> np.ndarray:
    """The class that the k nearest vote for, by cosine; a vote weighs exp(cosine / temperature) (Wu et al.,
    https://arxiv.org/abs/1805.01978, section 3.4; DINO's values by default).

    Args:
        train: (samples, features). labels: (samples,), from 0. queries: (n, features).
        k: neighbours; all where there are fewer.

    Returns:
        (n,) classes; of equal votes the first.
    """
    unit = [values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12) for values in (train, queries)]
    classes, found = int(labels.max()) + 1, []
    k = min(k, len(train))
    for start in range(0, len(queries), 1024):
        cosines = unit[1][start : start + 1024] @ unit[0].T
        near = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        nearness = np.take_along_axis(cosines, near, axis=1)
        votes = np.exp((nearness - nearness.max(1, keepdims=True)) / temperature)  # in proportion, and no overflow
        counts = np.zeros((len(cosines), classes))
        np.add.at(counts, (np.arange(len(cosines))[:, None], labels[near]), votes)
        found.append(counts.argmax(1))
    return np.concatenate(found)


def linear_probe(
    train: np.ndarray, labels: np.ndarray, queries: np.ndarray, strength: float = 1.0, seed: int = 0
) -> np.ndarray:
    """The classes that logistic regression on standardised features finds (scikit-learn's).

    Args:
        strength: C, the inverse of the L2 penalty.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000, random_state=seed))
    return model.fit(train, labels).predict(queries)


def principal_plane(features: np.ndarray) -> np.ndarray:
    """(samples, 2): the features along their two directions of most variance."""
    centred = features - features.mean(0)
    _, _, directions = np.linalg.svd(centred, full_matrices=False)
    return centred @ directions[:2].T
