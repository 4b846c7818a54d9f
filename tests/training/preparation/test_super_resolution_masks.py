"""Tables of structure maps: by any mask-generation model, going on after a kill, with the very maps of the masks."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from transformers import SamModel

from hf_effmodels.pipelines.sam_diffsr.masks import decode_regions, encode_masks, encode_regions
from hf_effmodels.training.data.fingerprints import weights_fingerprint
from hf_effmodels.training.preparation.super_resolution_masks import segmenters
from hf_effmodels.training.preparation.super_resolution_masks import table as preparation
from hf_effmodels.training.tasks.super_resolution.data import SuperResolutionDataArguments, load_evaluation_data

from ..tasks.super_resolution.conftest import quarters


@pytest.fixture(scope="module")
def sam(tmp_path_factory):
    """A SAM with random weights and an input of 64 pixels."""
    from transformers import SamConfig, SamImageProcessorPil, SamProcessor

    torch.manual_seed(0)
    vision = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    vision |= {"output_channels": 16, "mlp_dim": 32, "window_size": 2, "global_attn_indexes": [0], "num_pos_feats": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    decoder |= {"iou_head_hidden_dim": 16}
    prompts = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4}
    folder = tmp_path_factory.mktemp("sam")
    SamModel(
        SamConfig(vision_config=vision, mask_decoder_config=decoder, prompt_encoder_config=prompts)
    ).save_pretrained(folder)
    size = {"size": {"longest_edge": 64}, "pad_size": {"height": 64, "width": 64}}
    size |= {"mask_size": {"longest_edge": 16}, "mask_pad_size": {"height": 16, "width": 16}}
    SamProcessor(SamImageProcessorPil(**size)).save_pretrained(folder)
    return str(folder)


def rows(folder, cache):
    return load_dataset(str(folder), cache_dir=str(cache), split="train")


def test_the_table_holds_exactly_the_map_of_the_masks(table, pictures, tmp_path):
    written = rows(table, tmp_path)
    assert written.column_names == ["image", "name", "regions", "values"] and len(written) == 6
    source = load_evaluation_data(
        SuperResolutionDataArguments(dataset=str(table), cache_dir=str(tmp_path), eval_split="train")
    )
    for index, row in enumerate(written):
        original = Image.open(pictures / f"{row['name']}.png")
        assert np.array_equal(row["image"], original)
        expected = encode_masks(quarters(original))
        assert np.array_equal(decode_regions(np.array(row["regions"]), row["values"]), expected)
        assert np.array_equal(source.structure(index)[0], expected)


def test_regions_and_values_are_the_map_also_where_masks_overlap_or_are_missing():
    left, whole = np.zeros((6, 8), bool), np.ones((6, 8), bool)
    left[:, :4] = True
    for masks in ([left], [whole, left], [left, whole], []):
        regions, values = encode_regions(masks, (6, 8))
        assert regions.dtype == np.uint16
        assert np.array_equal(decode_regions(regions, values), encode_masks(masks, (6, 8)))


@pytest.mark.parametrize("region", [-1, 3])
def test_a_region_without_a_value_is_refused(region):
    assert decode_regions(np.array([[0, 2]]), [0.5, 0.25]).tolist() == [[0, 0.25]]
    with pytest.raises(ValueError, match="^regions: .* but there are 2 values.$"):
        decode_regions(np.array([[0, region]]), [0.5, 0.25])


def test_any_mask_generation_model_makes_a_table(sam, pictures, tmp_path):
    arguments = ["--dataset", str(pictures), "--model", sam, "--points_per_side", "3", "--max_eval_samples", "2"]
    arguments += ["--pred_iou_thresh", "-10", "--stability_score_thresh", "0", "--output", str(tmp_path / "maps")]
    written = rows(preparation.main(arguments), tmp_path / "cache")
    assert len(written) == 2
    settings = json.loads((tmp_path / "maps" / "preparation.json").read_text())
    assert settings["weights"] == weights_fingerprint(SamModel.from_pretrained(sam))["weights"]
    segment = segmenters.mask_generation(sam, points_per_crop=3, pred_iou_thresh=-10, stability_score_thresh=0)
    for row in written:
        masks = segment(row["image"])
        assert masks and masks[0].shape == (row["image"].height, row["image"].width)
        assert np.array_equal(decode_regions(np.array(row["regions"]), row["values"]), encode_masks(masks))


def test_a_segmentation_model_is_made_with_all_that_is_said_of_it(pictures, tmp_path, monkeypatch):
    """What says how fast or by whom it is read is no part of what the table was made by."""
    asked = []

    def made(model, **options):
        asked.append((model, options))
        return SimpleNamespace(weights={"weights": "ab"})

    monkeypatch.setattr(preparation, "mask_generation", made)
    given = {"revision": "v1", "trust_remote_code": True, "points_per_side": 5, "pred_iou_thresh": 0.25}
    given |= {"stability_score_thresh": 0.5}
    free = {"token": "hf_mine", "device": "cpu", "points_per_batch": 7, "cache_dir": str(tmp_path / "cache")}
    free |= {"output": str(tmp_path / "maps")}
    words = [word for name, value in {**given, **free}.items() for word in (f"--{name}", str(value))]
    *_, settings = preparation._prepare(["--dataset", str(pictures), "--model", "org/sam", *words])
    shared = {name: value for name, value in {**given, **free}.items() if name not in ("cache_dir", "output")}
    shared["points_per_crop"] = shared.pop("points_per_side")
    assert asked == [("org/sam", shared)]
    assert {**given, "model": "org/sam", "weights": "ab"}.items() <= settings.items()
    assert not free.keys() & settings.keys()


def test_a_killed_preparation_goes_on_where_it_was(pictures, tmp_path, monkeypatch):
    seen = []

    def segment(image):
        seen.append(image.size)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return quarters(image)

    monkeypatch.setattr(preparation, "slic", lambda *_: segment)
    output = tmp_path / "maps"
    arguments = ["--dataset", str(pictures), "--segmenter", "slic", "--shard_size", "2", "--output", str(output)]
    with pytest.raises(KeyboardInterrupt):
        preparation.main(arguments)
    assert [path.name for path in output.iterdir()] == [".unfinished"], "half a table is not taken for a whole one"
    with pytest.raises(ValueError, match=r"begun with another encoding \(rope, now cosine\)"):
        preparation.main([*arguments, "--encoding", "cosine"])
    Image.open(pictures / "0.png").save(added := pictures / "00.png")
    with pytest.raises(ValueError, match="begun with another images"):
        preparation.main(arguments)
    added.unlink()
    kept = (pictures / "5.png").read_bytes()
    Image.open(pictures / "5.png").rotate(180).save(pictures / "5.png")
    with pytest.raises(ValueError, match="begun with another pictures"):
        preparation.main(arguments)
    (pictures / "5.png").write_bytes(kept)
    preparation.main(arguments)
    assert seen[4:] == seen[2:4] + seen[6:], "the first two are not segmented again"
    assert rows(output, tmp_path / "cache")["name"][:] == [str(number) for number in range(6)]
    assert sorted(path.name for path in output.iterdir()) == ["data", "preparation.json"]
    with pytest.raises(ValueError, match="is not empty and holds no unfinished table"):
        preparation.main(arguments)


def test_a_preparation_by_a_model_goes_on_with_its_weights_and_no_others(pictures, tmp_path, monkeypatch):
    """They are known last, when the model is there."""

    class Segment:
        weights, seen = {"weights": "first"}, 0

        def __call__(self, image):
            Segment.seen += 1
            if Segment.seen == 4:
                raise KeyboardInterrupt
            return quarters(image)

    monkeypatch.setattr(preparation, "mask_generation", lambda *_, **__: Segment())
    output = tmp_path / "maps"
    arguments = ["--dataset", str(pictures), "--model", "org/sam", "--shard_size", "2", "--output", str(output)]
    with pytest.raises(KeyboardInterrupt):
        preparation.main(arguments)
    with monkeypatch.context() as other:
        other.setattr(Segment, "weights", {"weights": "second"})
        with pytest.raises(ValueError, match=r"begun with another weights \(first, now second\)"):
            preparation.main(arguments)
    preparation.main(arguments)
    assert len(rows(output, tmp_path / "cache")) == 6 and Segment.seen == 8


def test_tiles_cover_the_image_with_their_part_of_map_and_reduction(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "slic", lambda *_: quarters)
    arguments = [
        "--dataset",
        str(pictures),
        "--segmenter",
        "slic",
        "--tile_size",
        "16",
        "--output",
        str(tmp_path / "t"),
    ]
    tiles = rows(preparation.main(arguments), tmp_path / "cache")
    (first,) = [row for row in tiles if row["name"] == "5_16_32"]
    original = Image.open(pictures / "5.png")
    assert np.array_equal(first["image"], original.crop((32, 16, 44, 32)))
    assert first["low"].size == (3, 4)
    expected = encode_masks(quarters(original))[16:32, 32:44]
    assert np.array_equal(decode_regions(np.array(first["regions"]), first["values"]), expected)


@pytest.mark.parametrize("tile", [1, 2, 7, 40])
@pytest.mark.parametrize("side", [1, 3, 19, 20, 21, 60, 61, 100, 101, 120])
def test_a_tile_begins_wherever_more_than_half_of_one_is_left_and_always_at_the_border(side, tile):
    expected = [start for start in range(0, side, tile) if start == 0 or side - start > tile // 2]
    assert [*preparation._tile_starts(side, tile)] == expected


def test_an_image_whose_masks_cannot_be_stored_is_named(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(preparation, "slic", lambda *_: lambda image: [np.ones((2, 2), bool)])
    with pytest.raises(ValueError, match=r"row 0 \(0\) of .*train: "):
        preparation.main(["--dataset", str(pictures), "--segmenter", "slic", "--output", str(tmp_path / "maps")])


def test_superpixels_are_as_many_and_as_square_as_is_asked_for(pictures, tmp_path, monkeypatch):
    """And by default twenty of a compactness of 10, in the official positional encoding, whole images."""
    asked = []
    monkeypatch.setattr(preparation, "slic", lambda *options: asked.append(options) or quarters)
    common = ["--dataset", str(pictures), "--segmenter", "slic", "--max_eval_samples", "1", "--output"]
    preparation.main([*common, str(tmp_path / "1")])
    preparation.main([*common, str(tmp_path / "2"), "--num_segments", "7", "--compactness", "0.5"])
    assert asked == [(20, 10.0), (7, 0.5)]
    settings = json.loads((tmp_path / "1" / "preparation.json").read_text())
    assert [settings[name] for name in ("encoding", "tile_size", "scale")] == ["rope", None, 4]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "--model is missing: name one such as .*, or --segmenter slic"),
        (
            ["--segmenter", "slic", "--model", "facebook/sam-vit-base"],
            "goes with --segmenter model, not --segmenter slic",
        ),
        (["--segmenter", "slic", "--tile_size", "10"], "--tile_size: got 10, accepted are multiples of 8"),
        (["--segmenter", "slic", "--split", "validation"], "there is no 'validation', the splits are train"),
        (["--model", "nowhere/sam"], "nowhere/sam"),
        (["--segmenter", "slic", "--eval_dataset", "x"], "--eval_dataset goes with training; the table is of all"),
        (["--segmenter", "slic", "--eval_fraction", "0.5"], "--eval_fraction goes with training; the table is of all"),
    ],
)
def test_wrong_input_writes_nothing(pictures, tmp_path, arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        preparation.main(["--dataset", str(pictures), "--output", str(tmp_path / "maps"), *arguments])
    assert not (tmp_path / "maps").exists()


def test_slic_without_scikit_image_says_what_to_install(monkeypatch):
    monkeypatch.setattr(segmenters.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="--segmenter slic needs the library scikit-image: pip install"):
        segmenters.slic()


def test_slic_parts_the_image_without_gaps():
    halves = Image.new("RGB", (32, 24), "red")
    halves.paste("blue", (16, 0, 32, 24))
    masks = segmenters.slic(num_segments=4)(halves)
    assert np.array_equal(sum(mask.astype(int) for mask in masks), np.ones((24, 32)))
    assert all(len(np.unique(np.array(halves)[mask], axis=0)) == 1 for mask in masks)


def test_slic_follows_colours_or_is_of_squares_as_compactness_says():
    """Four by four squares of ten pixels, give or take one, also across the edge of a colour at column 13."""
    halves = Image.new("RGB", (40, 40), "red")
    halves.paste("blue", (13, 0, 40, 40))
    squares, parts = segmenters.slic(16, compactness=1000.0)(halves), segmenters.slic(16)(halves)
    boxes = [np.argwhere(mask) for mask in squares]
    sides = np.array([box.max(0) - box.min(0) + 1 for box in boxes])
    assert len(squares) == 16 and np.abs(sides - 10).max() <= 1
    assert sides.prod(1).tolist() == [mask.sum() for mask in squares]

    def colours(mask):
        return len(np.unique(np.array(halves)[mask], axis=0))

    assert [colours(mask) for mask in squares].count(2) == 4 and {colours(mask) for mask in parts} == {1}
