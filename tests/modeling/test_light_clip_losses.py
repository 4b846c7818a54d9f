"""Losses of images and texts against sums by hand, at values that are not neutral."""

import itertools
import math

import pytest
import torch
from torch.nn import functional as F

from hf_effmodels.modeling.light_clip.softened_contrastive import (
    progressive_softening,
    softened_contrastive_loss,
    softened_targets,
)
from hf_effmodels.modeling.light_clip.token_matching import match_words, token_matching_loss, token_scores


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_softening_grows_along_its_schedule():
    assert progressive_softening(0.25, 0.4) == pytest.approx(0.1)
    assert progressive_softening(0.25, 0.4, "cosine") == pytest.approx(0.2 * (1 - math.cos(math.pi / 4)))
    assert progressive_softening(1.0, 0.4, "cosine") == pytest.approx(0.4)
    assert (progressive_softening(0, 0.4), progressive_softening(1), progressive_softening(0.5)) == (0, 0.2, 0.1)
    assert progressive_softening(1, 0) == 0
    for wrong, message in (
        *(((1.5,), "progress"), ((-0.1,), "progress"), ((0.5, 1.0), "largest"), ((0.5, -0.1), "largest")),
        ((0.5, 0.2, "step"), "schedule"),
    ):
        with pytest.raises(ValueError, match=message):
            progressive_softening(*wrong)


@pytest.mark.parametrize("uniform", [False, True])
def test_what_the_own_pair_gives_up_goes_to_the_others(uniform):
    logits = drawn(4, 4)
    targets = softened_targets(logits, 0.3, uniform)
    assert not softened_targets(logits.clone().requires_grad_(), 0.3, uniform).requires_grad
    for row in range(4):
        others = [column for column in range(4) if column != row]
        shares = torch.ones(3) / 3 if uniform else logits[row, others].softmax(0)
        torch.testing.assert_close(targets[row, others], 0.3 * shares.double())
        assert targets[row, row] == pytest.approx(0.7)
    images, texts = drawn(4, 6, seed=1), drawn(4, 6, seed=2)
    loss, cosines = 0.0, 7 * F.normalize(images, dim=1) @ F.normalize(texts, dim=1).T
    for direction in (cosines, cosines.T):
        wanted = softened_targets(direction, 0.3, uniform)
        loss -= float((wanted * direction.log_softmax(1)).sum()) / 8
    assert softened_contrastive_loss(images, texts, 7, 0.3, uniform).item() == pytest.approx(loss)
    own = torch.arange(4)
    plain = (F.cross_entropy(cosines, own) + F.cross_entropy(cosines.T, own)) / 2
    torch.testing.assert_close(softened_contrastive_loss(images, texts, 7), plain)


def test_words_take_the_best_patches_and_alone_the_best_assignment():
    table = drawn(4, 6)
    mask = torch.tensor([True, True, False, True])
    relaxed = match_words(table, mask, top_k=3)
    for word in (0, 1, 3):
        best = sorted(range(6), key=lambda patch: -table[word, patch].item())[:3]
        assert relaxed[word].tolist() == best
    assert relaxed[2].tolist() == [-1, -1, -1]
    assert match_words(torch.zeros(1, 3), torch.ones(1, dtype=torch.bool), top_k=2).tolist() == [[0, 1]]
    strict = match_words(table, mask, matching="one_to_one")[:, 0].tolist()

    def total(patches):
        return sum(table[word, patch] for word, patch in zip((0, 1, 3), patches, strict=True))

    best = max(itertools.permutations(range(6), 3), key=total)
    assert [strict[word] for word in (0, 1, 3)] == list(best) and strict[2] == -1


@pytest.mark.parametrize("top_k, matching", [(2, "relaxed"), (1, "one_to_one")])
def test_a_pair_is_as_good_as_its_words_are_matched(top_k, matching):
    patches, words = drawn(3, 5, 4, seed=3), drawn(3, 4, 4, seed=4)
    mask = torch.tensor([[1, 1, 0, 1], [1, 0, 0, 0], [1, 1, 1, 1]])
    scores = token_scores(patches, words, mask, top_k, matching)
    for image, text in itertools.product(range(3), range(3)):
        table = F.normalize(words[text], dim=1) @ F.normalize(patches[image], dim=1).T
        rows = mask[text].nonzero().flatten().tolist()
        matches = match_words(table, mask[text].bool(), top_k, matching)
        expected = sum(float(table[row, matches[row]].mean()) for row in rows) / len(rows)
        assert scores[image, text].item() == pytest.approx(expected)
    own = torch.arange(3)
    expected = (F.cross_entropy(9 * scores, own) + F.cross_entropy(9 * scores.T, own)) / 2
    torch.testing.assert_close(token_matching_loss(patches, words, mask, 9, top_k, matching), expected)


def test_what_cannot_be_compared_is_named(monkeypatch):
    for wrong in (1, -0.1):
        with pytest.raises(ValueError, match=f"softening: got {wrong}, accepted"):
            softened_contrastive_loss(drawn(2, 4), drawn(2, 4), 1.0, softening=wrong)
    assert softened_targets(drawn(2, 2), 0.0).tolist() == [[1, 0], [0, 1]]
    with pytest.raises(ValueError, match="a batch of one"):
        softened_contrastive_loss(drawn(1, 4), drawn(1, 4), 1.0)
    with pytest.raises(ValueError, match="expected the same"):
        softened_contrastive_loss(drawn(2, 4), drawn(3, 4), 1.0)
    patches, words, mask = drawn(2, 3, 4), drawn(2, 4, 4), torch.ones(2, 4)
    for options, message in (
        ({"top_k": 4}, "top_k: got 4"),
        ({"top_k": 0}, "top_k: got 0, accepted are 1 to the number of patches, 3"),
        ({"matching": "soft"}, "matching: got 'soft'"),
        ({"matching": "one_to_one"}, "got 4 words for 3 patches"),
        ({"matching": "one_to_one", "top_k": 2}, "accepted is 1 with one_to_one"),
    ):
        with pytest.raises(ValueError, match=message):
            token_matching_loss(patches, words, mask, 1.0, **options)
    assert token_matching_loss(patches, words[:, :3], mask[:, :3], 1.0, matching="one_to_one").isfinite()
    for logits in (torch.zeros(3, 2), torch.zeros(3)):
        with pytest.raises(ValueError, match=r"logits: got shape .*, expected \(batch, batch\)"):
            softened_targets(logits, 0.1)
    monkeypatch.setattr("hf_effmodels.modeling.light_clip.token_matching.is_scipy_available", lambda: False)
    with pytest.raises(
        ImportError, match="matching: one_to_one takes scipy, which is not installed: pip install scip"
    ):
        match_words(torch.zeros(1, 2), torch.ones(1, dtype=torch.bool), 1, "one_to_one")
    with pytest.raises(ValueError, match="text 1 has no word"):
        token_scores(patches, words, torch.tensor([[1, 1, 1, 1], [0, 0, 0, 0]]))
    with pytest.raises(ValueError, match="1 images and 2 texts"):
        token_matching_loss(patches[:1], words, mask, 1.0)
    with pytest.raises(ValueError, match="1 images and 1 texts, accepted are as many of both, two or more"):
        token_matching_loss(patches[:1], words[:1], mask[:1], 1.0)
    assert token_matching_loss(patches, words, mask, 1.0, top_k=3).isfinite()
