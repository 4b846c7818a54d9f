"""Source-free adaptation, piece by piece, against values that are computed another way."""

import itertools

import pytest
import torch
from torch.nn import functional as F
from transformers import ResNetConfig, ResNetForImageClassification

from hf_effmodels.hub.torchvision_resnet import resnet_from_torchvision
from hf_effmodels.training.adaptation import estimate_source, keep_confident, spherical_clusters
from hf_effmodels.training.losses.contrastive_domain import contrastive_domain_discrepancy
from hf_effmodels.training.optim.schedules import inverse_decay_schedule


def blobs(shift=0.3, count=40):
    """Features of three classes around the rows of a classifier, turned a little, and of any length."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    truth = torch.arange(count * 3) % 3
    moved = rows + shift * torch.randn(3, 8, generator=generator, dtype=torch.float64)
    noise = 0.3 * torch.randn(len(truth), 8, generator=generator, dtype=torch.float64)
    length = 0.5 + 3 * torch.rand(len(truth), 1, generator=generator, dtype=torch.float64)
    return length * (moved[truth] + noise), rows, truth


def test_clusters_take_the_class_of_the_row_they_began_at():
    features, rows, truth = blobs()
    clusters = spherical_clusters(features, rows)
    assert torch.equal(clusters.labels, truth)
    # A fixed point: each centre is the sum of its members, whatever their length.
    for number in range(3):
        total = features[clusters.labels == number].sum(0)
        torch.testing.assert_close(
            F.cosine_similarity(clusters.centres[number], total, dim=0).item(), 1.0, atol=1e-6, rtol=0
        )
    cosine = F.cosine_similarity(features[:, None], clusters.centres[None], dim=-1)
    torch.testing.assert_close(clusters.distances, (1 - cosine) / 2)
    change = (1 - F.cosine_similarity(clusters.centres, rows, dim=1)).mean() / 2
    torch.testing.assert_close(clusters.change, change)
    assert spherical_clusters(features, rows, max_rounds=0).centres is rows
    sums = torch.stack([features[clusters.labels == number].sum(0) for number in range(3)])
    torch.testing.assert_close(spherical_clusters(features, rows, max_rounds=1, tolerance=0.0).centres, sums)
    assert spherical_clusters(features, rows, tolerance=1e-12).rounds >= clusters.rounds


def test_an_empty_cluster_goes_back_to_its_row():
    features, rows, _ = blobs()
    far = torch.cat([rows, -features.sum(0, keepdim=True)])
    clusters = spherical_clusters(features, far)
    assert torch.equal(clusters.centres[3], far[3]) and 3 not in clusters.labels


def _far(first, second) -> float:
    return (1 - float(first @ second / first.norm() / second.norm())) / 2


def _clusters_by_hand(features, rows, tolerance: float) -> tuple[list[int], tuple[int, ...], bool]:
    """Labels, the class of each cluster, and whether one that had moved has lost all of its members."""
    count, centres, before, lost = range(len(rows)), list(rows), None, False
    while before is None or sum(map(_far, centres, before)) / len(rows) >= tolerance:
        nearest = [min(count, key=lambda c: _far(feature, centres[c])) for feature in features]
        members = [[f for f, own in zip(features, nearest, strict=True) if own == c] for c in count]
        lost |= any(not m and not torch.equal(centres[c], rows[c]) for c, m in zip(count, members, strict=True))
        before, centres = centres, [sum(m) if m else rows[c] for c, m in zip(count, members, strict=True)]
    nearest = [min(count, key=lambda c: _far(feature, centres[c])) for feature in features]
    costs = {order: sum(_far(centres[c], rows[order[c]]) for c in count) for order in itertools.permutations(count)}
    classes = min(costs, key=costs.get)
    return [classes[own] for own in nearest], classes, lost


def test_clusters_that_change_places_or_lose_their_members_are_those_by_hand():
    seen = []
    for seed in (51, 206, 385, 828, 894, 1009):
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randn(4, 2, generator=generator, dtype=torch.float64)
        features = torch.randn(9, 2, generator=generator, dtype=torch.float64)
        features = features * torch.rand(9, 1, generator=generator, dtype=torch.float64) * 3
        labels, classes, lost = _clusters_by_hand(features, rows, 1e-3)
        assert spherical_clusters(features, rows, tolerance=1e-3).labels.tolist() == labels
        seen.append((classes != (0, 1, 2, 3), lost))
    assert any(moved for moved, _ in seen) and any(lost for _, lost in seen)


def test_what_is_kept_is_near_and_not_alone():
    features, rows, _ = blobs()
    clusters = spherical_clusters(features, rows)
    nearest = clusters.distances.min(1).values
    threshold = nearest.sort().values[30].item()
    kept, classes = keep_confident(clusters, threshold=threshold, min_samples=9)
    assert kept.sum() == 30 and torch.equal(kept, nearest < threshold)
    counts = [int((kept & (clusters.labels == number)).sum()) for number in range(3)]
    assert classes.tolist() == [number for number in range(3) if counts[number] >= 9] != [0, 1, 2]
    # By default all that lie less than opposite are kept, and classes of five.
    kept, classes = keep_confident(clusters)
    assert kept.all() and classes.tolist() == [0, 1, 2]
    few = spherical_clusters(features[:14], rows)
    sizes = torch.bincount(few.labels, minlength=3)
    assert sorted(sizes.tolist()) == [4, 5, 5] and keep_confident(few)[1].tolist() == [*torch.where(sizes > 4)[0]]


def test_the_source_has_the_classifiers_direction_and_the_targets_length_and_width():
    features, rows, truth = blobs()
    kept = torch.ones(len(features), dtype=torch.bool)
    kept[::7] = False
    estimate = estimate_source(features, truth, kept, torch.tensor([0, 2]), rows, std_factor=2.0)
    members = features[kept & (truth == 2)]
    torch.testing.assert_close(estimate.mean[1], rows[2] / rows[2].norm() * members.mean(0).norm())
    torch.testing.assert_close(estimate.std[1], 2 * members.std(0))
    torch.testing.assert_close(estimate.target_mean[1], members.mean(0))
    torch.testing.assert_close(estimate.target_std[1], members.std(0))
    plain = estimate_source(features, truth, kept, torch.tensor([2]), rows)
    torch.testing.assert_close(plain.std[0], members.std(0))
    drawn = estimate.sample([2, 0], 4000, torch.Generator().manual_seed(1))
    assert drawn.shape == (8000, 8)
    torch.testing.assert_close(drawn[:4000].mean(0), estimate.mean[1], atol=0.3, rtol=0)
    torch.testing.assert_close(drawn[:4000].std(0), estimate.std[1], rtol=0.1, atol=0)
    with pytest.raises(ValueError, match=r"classes: 1 has no distribution, those are \[0, 2\]"):
        estimate.sample([1], 2)
    still = features.clone()
    still[:, 3] = 1.0
    assert (estimate_source(still, truth, kept, torch.tensor([1]), rows).std[0, 3]) == 1e-4
    short = estimate_source(1e-6 * features, truth, kept, torch.tensor([0, 1]), rows)
    assert len(short.classes) == 0, "means without a length say nothing of a direction"


def test_the_discrepancy_is_that_of_a_plain_loop_over_classes_layers_and_kernels():
    generator = torch.Generator().manual_seed(2)
    counts, classes, of_each = [2, 3], 7, ((4, 3.0), (3, 1.5))
    layers = [
        tuple(torch.randn(5, width, generator=generator, dtype=torch.float64) for _ in range(2)) for width in (4, 6)
    ]
    kernels, factors = zip(*of_each, strict=True)
    found = contrastive_domain_discrepancy(layers, counts, classes, kernels=kernels, factor=factors)
    groups = [range(0, 2), range(2, 5)]
    pairs = torch.zeros(2, 2, dtype=torch.float64)
    for (source, target), (kernels, factor) in zip(layers, of_each, strict=True):
        for c, own in enumerate(groups):
            for d, other in enumerate(groups):

                def distance(a, b):
                    return float(((a - b) ** 2).sum())

                ss = [distance(source[i], source[j]) for i in own for j in own]
                tt = [distance(target[i], target[j]) for i in other for j in other]
                st = [distance(source[i], target[j]) for i in own for j in other]
                n, m = len(own), len(other)
                width = (sum(ss) + sum(tt) + 2 * sum(st)) / (n * n + m * m + 2 * n * m - n - m)

                def mean(values, width=width, kernels=kernels, factor=factor):
                    scaled = [[v / (width * factor ** (k - kernels // 2)) for k in range(kernels)] for v in values]
                    total = sum(torch.tensor(max(s, 1e-5)).neg().exp().item() for row in scaled for s in row)
                    return total / len(values)

                pairs[c, d] += mean(ss) + mean(tt) - 2 * mean(st)
    intra, inter = pairs.diagonal().sum() / 7, (pairs.sum() - pairs.diagonal().sum()) / 42
    torch.testing.assert_close(found["intra"], intra, atol=1e-6, rtol=0)
    torch.testing.assert_close(found["inter"], inter, atol=1e-6, rtol=0)
    torch.testing.assert_close(found["loss"], found["intra"] - found["inter"])


def test_the_rate_falls_by_the_inverse_of_the_step():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.2)
    schedule = inverse_decay_schedule(optimizer, alpha=0.5, beta=2.0)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.2, 0.2 / 1.5**2, 0.2 / 2**2, 0.2 / 2.5**2])
    with pytest.raises(ValueError, match="alpha, beta"):
        inverse_decay_schedule(optimizer, alpha=-1.0)


@pytest.mark.parametrize("kind, depths", [("basic", [1, 2]), ("bottleneck", [2, 1])])
def test_a_torchvision_resnet_becomes_transformers_own(kind, depths):
    torch.manual_seed(0)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=depths, layer_type=kind, num_labels=5)
    model = ResNetForImageClassification(config).eval()
    names = {
        "resnet.embedder.embedder.convolution": "conv1",
        "resnet.embedder.embedder.normalization": "bn1",
        "classifier.1": "fc",
    }
    for stage in range(2):
        for block in range(depths[stage]):
            ours, theirs = f"resnet.encoder.stages.{stage}.layers.{block}", f"layer{stage + 1}.{block}"
            for layer in range(3):
                names[f"{ours}.layer.{layer}.convolution"] = f"{theirs}.conv{layer + 1}"
                names[f"{ours}.layer.{layer}.normalization"] = f"{theirs}.bn{layer + 1}"
            names[f"{ours}.shortcut.convolution"] = f"{theirs}.downsample.0"
            names[f"{ours}.shortcut.normalization"] = f"{theirs}.downsample.1"
    official = {}
    for name, value in model.state_dict().items():
        module, _, rest = name.rpartition(".")
        official[f"{names[module]}.{rest}"] = value
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(resnet_from_torchvision(official)(pixels).logits, model(pixels).logits)
    with pytest.raises(ValueError, match="Missing key"):
        resnet_from_torchvision({n: v for n, v in official.items() if n != "layer1.0.bn1.weight"})
    for lacking in ("conv1.", "fc.", "layer"):
        with pytest.raises(ValueError, match="has not the layout"):
            resnet_from_torchvision({n: v for n, v in official.items() if not n.startswith(lacking)})


def test_what_cannot_be_clustered_or_compared_is_named():
    features, rows, truth = blobs()
    with pytest.raises(ValueError, match=r"got shape \(120, 8\), expected \(samples, 4\)"):
        spherical_clusters(features, rows[:, :4])
    with pytest.raises(ValueError, match="got 2 samples, accepted are as many as classes, 3"):
        spherical_clusters(features[:2], rows)
    with pytest.raises(ValueError, match="no direction"):
        spherical_clusters(torch.cat([features, torch.zeros(1, 8)]), rows)
    kept = torch.ones(len(features), dtype=torch.bool)
    with pytest.raises(ValueError, match="none has enough samples"):
        estimate_source(features, truth, kept, torch.tensor([], dtype=torch.long), rows)
    alone = torch.zeros(len(features), dtype=torch.bool)
    alone[truth.tolist().index(1)] = True
    with pytest.raises(ValueError, match="classes: 1 has 1 samples, a deviation takes two"):
        estimate_source(features, truth, alone, torch.tensor([1]), rows)
    with pytest.raises(ValueError, match="no direction"):
        spherical_clusters(torch.cat([features, torch.full((1, 8), torch.inf)]), rows)
    for wrong in (features[0], features[None]):
        with pytest.raises(ValueError, match=r"features: got shape .*, expected \(samples, 8\)"):
            spherical_clusters(wrong, rows)
    assert len(spherical_clusters(features[:3], rows).labels) == 3
    layer = (torch.randn(4, 3), torch.randn(4, 3))
    for counts in ([2, 3], [4, 0]):
        with pytest.raises(ValueError, match="add up to the samples"):
            contrastive_domain_discrepancy([layer], counts, 5)
    with pytest.raises(ValueError, match="num_classes: got 1"):
        contrastive_domain_discrepancy([layer], [4], 1)
    assert set(contrastive_domain_discrepancy([layer], [4], 1, intra_only=True)) == {"loss", "intra", "bandwidths"}
