"""Mean IoU against sets of pixels."""

import math

import pytest
import torch

from hf_effmodels.metrics.mean_iou import confusion, mean_iou


def test_it_is_the_share_of_common_pixels_over_all_images_together():
    truth, found = (torch.randint(0, 4, (3, 7, 5), generator=torch.Generator().manual_seed(n)) for n in (1, 2))
    truth[0, :3], found[1, 2:4] = 255, 3
    counts = sum(confusion(a, b, 5) for a, b in zip(truth, found, strict=True))  # class 4 is nowhere
    result = mean_iou(counts, "abcde")
    counted = truth != 255
    ious = []
    for label, name in enumerate("abcd"):
        both = ((truth == label) & (found == label) & counted).sum()
        either = (((truth == label) | (found == label)) & counted).sum()
        assert result.per_class[name] == pytest.approx(float(both / either))
        ious.append(float(both / either))
    assert math.isnan(result.per_class["e"])
    assert result.metrics["miou"] == pytest.approx(sum(ious) / 4)
    assert result.metrics["pixel_accuracy"] == pytest.approx(float((truth == found)[counted].float().mean()))
    recalls = [float((found == c)[truth == c].float().mean()) for c in range(4)]
    assert result.metrics["mean_accuracy"] == pytest.approx(sum(recalls) / 4)
    # A mean of the images' own is another number.
    alone = [mean_iou(confusion(a, b, 5), "abcde").metrics["miou"] for a, b in zip(truth, found, strict=True)]
    assert abs(sum(alone) / 3 - result.metrics["miou"]) > 1e-3


def test_another_label_may_be_the_ignored_one_and_wrong_maps_are_refused():
    truth = torch.tensor([[0, 1, 9]])
    assert confusion(truth, torch.tensor([[0, 0, 7]]), 2, ignore_index=9).tolist() == [[1, 0], [1, 0]]
    with pytest.raises(ValueError, match="truth: got the class 9, accepted are 0 to 1"):
        confusion(truth, truth, 2)
    with pytest.raises(ValueError, match="found: got the class -1, accepted are 0 to 1"):
        confusion(torch.tensor([0, 1]), torch.tensor([1, -1]), 2)
    assert confusion(torch.tensor([0, 1]), torch.tensor([1, 1]), 2).tolist() == [[0, 1], [0, 1]]
    with pytest.raises(ValueError, match=r"found: got a map of \(3,\)"):
        confusion(truth, truth[0], 9)
    with pytest.raises(ValueError, match="counts: got none"):
        mean_iou(torch.zeros(2, 2), "ab")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64])
def test_maps_of_bytes_hold_many_classes_too(dtype):
    """Rows and columns of 150 classes are numbered up to 22499: no byte holds them."""
    truth, found = (torch.tensor(values).to(dtype) for values in ([149, 149, 3, 255], [149, 2, 149, 0]))
    counts = confusion(truth, found, 150)
    assert counts.sum() == 3 and counts[149, 149] == counts[149, 2] == counts[3, 149] == 1
    assert counts.dtype == torch.int64 and counts.shape == (150, 150)
