"""Training patches are crops of the whole images' versions; odd images are handled or refused by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hf_effmodels.pipelines.sam_diffsr.masks import NORMALIZATIONS, normalize_structure
from hf_effmodels.pipelines.sam_diffsr.matlab_resize import imresize
from hf_effmodels.training.tasks.super_resolution.data import (
    HighResolutionImages,
    fit_structure,
    read_regions,
    read_rgb,
    reduce_image,
)
from hf_effmodels.training.tasks.super_resolution.patches import PatchDataset, PatchOptions, low_and_upsampled, turned

from .conftest import picture


def images(*pictures, **columns) -> HighResolutionImages:
    names = [f"picture {number}" for number in range(len(pictures))]
    return HighResolutionImages(list(pictures), "test", np.arange(len(pictures)), names, **columns)


@pytest.mark.parametrize("scale", [2, 4, 8])
@pytest.mark.parametrize("is_prepared", [False, True])
def test_a_patch_is_a_crop_of_the_whole_image_reduced_and_enlarged(scale, is_prepared):
    image = read_rgb(picture(19 * scale, 16 * scale, 0))
    low = reduce_image(image, scale)
    upsampled = imresize(low.float() / 256, scale) * 2 - 1
    for top in (0, 1, 5, 10):
        for left in (0, 4, 13):
            small, large = low_and_upsampled(image, low if is_prepared else None, top, left, 6, scale, divisor=256)
            assert torch.equal(small, low[:, top : top + 6, left : left + 6])
            window = (..., slice(scale * top, scale * (top + 6)), slice(scale * left, scale * (left + 6)))
            torch.testing.assert_close(large, upsampled[window], atol=1e-5, rtol=0)


def test_a_sample_depends_on_its_number_and_the_seed_alone():
    source = images(picture(40, 36, 0), picture(44, 40, 1))
    options = PatchOptions(scale=4, patch_size=16, patches_per_image=3, augment=True, num_timesteps=10)
    dataset = PatchDataset(source, options, seed=5)
    assert len(dataset) == 6
    samples = [dataset[number] for number in range(12)]
    for number in (7, 2):
        again = PatchDataset(images(*source.images), options, seed=5)[number]
        assert all(torch.equal(again[name], tensor) for name, tensor in samples[number].items())
    assert len({float(sample["noise"].sum()) for sample in samples}) == 12
    assert {sample["timestep"].item() for sample in samples} <= set(range(10))
    assert not torch.equal(samples[0]["noise"], PatchDataset(source, options, seed=6)[0]["noise"])
    plain = images(*(Image.new("RGB", (20, 20), (v, v, v)) for v in (10, 200)))
    values = [
        sample["high"].unique().item() for sample in PatchDataset(plain, replace(options, num_timesteps=None), 0)
    ]
    assert values == pytest.approx([v / 127.5 - 1 for v in (10, 200) * 3])
    assert samples[0]["low"].shape == (3, 4, 4) and samples[0]["high"].shape == (3, 16, 16)


def test_samples_take_the_images_in_turn():
    source = images(*[Image.new("RGB", (20, 20), (n, n, n)) for n in (10, 90, 200)])
    dataset = PatchDataset(source, PatchOptions(scale=4, patch_size=16, patches_per_image=2), seed=0)
    seen = [round(((dataset[number]["high"] + 1) * 127.5).mean().item()) for number in range(9)]
    assert seen == [10, 90, 200] * 3


def test_prepared_images_that_were_rounded_up_are_cut_as_their_originals_are():
    low = picture(11, 10, 1)
    source = images(picture(41, 38, 0), low=[low])
    assert torch.equal(source.low_image(0, 4), read_rgb(low)[:, :9, :10])


def test_an_image_its_maps_and_its_reduction_are_turned_together():
    # The structure map of this picture is its red channel: whatever is done to one must be done to the other.
    red = np.random.default_rng(0).integers(0, 256, (40, 40))
    image = Image.fromarray(np.stack([red] * 3, axis=-1).astype(np.uint8))
    source = images(image, regions=[red], values=[np.arange(1, 256) / 255])
    options = PatchOptions(scale=4, patch_size=16, patches_per_image=40, augment=True, structure=True)
    for number in range(40):
        sample = PatchDataset(source, options, seed=0)[number]
        torch.testing.assert_close(sample["structure"][0], (sample["high"][0] + 1) / 2, atol=1e-6, rtol=0)
    assert len({tuple(turned(torch.arange(4).reshape(2, 2), turn).flatten().tolist()) for turn in range(8)}) == 8


def test_maps_can_be_cut_where_the_official_code_cuts_them():
    regions = np.arange(40 * 40).reshape(40, 40)
    source = images(picture(40, 40, 0), regions=[regions], values=[np.arange(1, 1600)])
    right = PatchOptions(scale=4, patch_size=16, structure=True)
    legacy = PatchOptions(scale=4, patch_size=16, structure=True, legacy_mask_crop=True)
    for number in range(5):
        here, there = (PatchDataset(source, o, 0)[number]["structure"] for o in (right, legacy))
        assert here.shape == (1, 16, 16) and there.shape == (1, 4, 4)
        top, left = divmod(int(here[0, 0, 0]), 40)
        assert there[0, 0, 0] == top // 4 * 40 + left // 4


def test_maps_of_another_size_are_fitted_if_they_are_the_same_pictures():
    structure = torch.zeros(1, 18, 20)
    structure[..., 10:] = 1
    fitted = fit_structure(structure, (36, 40))
    assert fitted.shape == (1, 36, 40) and fitted[0, 0, 0] == 0 and fitted[0, 0, -1] == 1
    assert fit_structure(structure, (18, 20)) is structure
    # Bilinear: between the values 0 and 1 of neighbouring pixels lie a quarter and three quarters.
    assert fitted[0, 7, 18:22].tolist() == [0, 0.25, 0.75, 1]
    source = images(picture(36, 40, 0), regions=[np.zeros((36, 40), int)], values=[[]])
    with pytest.raises(ValueError, match=r"row 0 \(picture 0\) of test: the structure map is 40×36, the image 36×40"):
        source.structure(0)
    source = images(picture(36, 40, 0), regions=[np.full((40, 36), 3)], values=[[0.1, 0.2]])
    with pytest.raises(ValueError, match=r"of test: regions: 3 to 3, but there are 2 values"):
        source.structure(0)


def test_grey_deep_and_opaque_images_are_read_and_transparent_ones_refused():
    colour = picture(12, 8, 0)
    grey = colour.convert("L")
    expected = read_rgb(Image.merge("RGB", [grey] * 3))
    deep = Image.fromarray(np.array(grey).astype(np.uint16) * 257)
    opaque = colour.copy()
    opaque.putalpha(255)
    for form in (grey, deep, np.array(grey)):
        assert torch.equal(read_rgb(form), expected)
    assert torch.equal(read_rgb(opaque), read_rgb(colour))
    opaque.putpixel((3, 3), (1, 2, 3, 0))
    with pytest.raises(ValueError, match=r"row 0 \(picture 0\) of test: the image is transparent in places"):
        images(opaque).image(0)


def test_images_that_do_not_fit_are_refused_by_name():
    options = PatchOptions(scale=4, patch_size=16)
    with pytest.raises(ValueError, match=r"row 0 \(picture 0\) of test is 40×12: --patch_size 16 needs"):
        PatchDataset(images(picture(40, 12, 0)), options, 0)[0]
    source = images(picture(40, 36, 0), low=[picture(20, 18, 0)])
    with pytest.raises(ValueError, match="the low-resolution image is 20×18, the image 40×36: .* not the scale 4"):
        PatchDataset(source, options, 0)[0]
    assert source.low_image(0, 2).shape == (3, 18, 20)
    # Reduced images may be rounded up; what lies beyond the multiple of the scale is cut off.
    rounded_up = picture(11, 10, 1)
    low = images(picture(41, 37, 0), low=[rounded_up]).low_image(0, 4)
    assert torch.equal(low, read_rgb(rounded_up)[:, :9, :10])


def test_patches_lie_everywhere_and_are_turned_every_way():
    rows, columns = np.indices((24, 32))
    image = Image.fromarray(np.stack([columns, rows, 0 * rows], axis=-1).astype(np.uint8))
    options = PatchOptions(scale=4, patch_size=16, patches_per_image=400, augment=True, num_timesteps=5)
    dataset = PatchDataset(images(image), options, seed=0)
    corners, turns, steps = {}, {}, {}
    for sample in dataset:
        high = ((sample["high"] + 1) * 127.5).round().int()
        corner = (int(high[1].min()), int(high[0].min()))
        # Where the columns and the rows grow says how the patch was turned.
        turn = tuple(int(high[c, 1, 0] - high[c, 0, 0]) for c in (0, 1))
        turn += tuple(int(high[c, 0, 1] - high[c, 0, 0]) for c in (0, 1))
        for counts, key in ((corners, corner), (turns, turn), (steps, sample["timestep"].item())):
            counts[key] = counts.get(key, 0) + 1
    assert corners.keys() == {(top, left) for top in (0, 4, 8) for left in (0, 4, 8, 12, 16)}
    assert len(turns) == 8 and steps.keys() == set(range(5))
    for counts in (corners, turns, steps):
        assert min(counts.values()) > 400 / len(counts) / 2.5
    plain = PatchDataset(images(image), replace(options, augment=False, patches_per_image=20), seed=0)
    assert all((sample["high"][0, 0].diff() > 0).all() for sample in plain)


def test_values_of_a_patch_are_those_of_the_image_from_minus_one_to_one():
    image = picture(32, 24, 3)
    whole = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    for divisor, legacy in ((255, False), (256, True)):
        options = PatchOptions(scale=4, patch_size=24, legacy_256=legacy, num_timesteps=5)
        sample = PatchDataset(images(image.crop((0, 0, 24, 24))), options, seed=0)[0]
        torch.testing.assert_close(sample["high"], whole[..., :24].float() / 127.5 - 1)
        low = imresize(whole[..., :24], 1 / 4)
        torch.testing.assert_close(sample["low"], low.float() / 127.5 - 1)
        torch.testing.assert_close(sample["upsampled"], imresize(low.float() / divisor, 4) * 2 - 1, atol=1e-5, rtol=0)
        assert sample["noise"].shape == (3, 24, 24) and abs(sample["noise"].std() - 1) < 0.06
    assert "noise" not in PatchDataset(images(image), replace(options, num_timesteps=None), seed=0)[0]


def test_structure_maps_are_normalised_as_asked():
    regions = np.zeros((24, 24), int)
    regions[:, 12:] = 1
    source = images(picture(24, 24, 0), regions=[regions], values=[np.array([0.75])])
    options = PatchOptions(scale=4, patch_size=24, structure=True)
    for changes in (
        {},
        *({"structure_normalization": n} for n in NORMALIZATIONS),
        {"structure_constant_to_zero": True},
    ):
        chosen = replace(options, **changes)
        expected = normalize_structure(
            np.where(regions, 0.75, 0)[None], chosen.structure_normalization, chosen.structure_constant_to_zero
        )
        found = PatchDataset(source, chosen, seed=0)[0]["structure"]
        torch.testing.assert_close(found.double(), torch.from_numpy(expected).double(), atol=1e-6, rtol=0)
    one = images(picture(24, 24, 0), regions=[regions * 0 + 1], values=[np.array([0.75])])
    flat = [
        PatchDataset(one, replace(options, structure_constant_to_zero=z), 0)[0]["structure"].unique()
        for z in (False, True)
    ]
    assert [value.tolist() for value in flat] == [[0.75], [0.0]]


def test_a_region_map_is_read_as_it_is_stored_and_named_where_it_cannot_be(tmp_path):
    regions = np.full((24, 24), 300, np.uint16)
    Image.fromarray(regions).save(tmp_path / "regions.png")
    assert np.array_equal(read_regions({"bytes": None, "path": str(tmp_path / "regions.png")}), regions)
    assert np.array_equal(read_regions(Image.fromarray(regions)), regions) and read_regions(regions) is regions
    (tmp_path / "regions.png").write_bytes(b"nothing")
    for value, error, message in (
        ({"bytes": None, "path": None}, ValueError, "the region map: there is no image"),
        (tmp_path / "regions.png", OSError, "the region map: the file is not an image"),
        (Image.new("RGB", (4, 4)), ValueError, "the region map is uint8 of shape"),
    ):
        with pytest.raises(error, match=message):
            read_regions(value)
