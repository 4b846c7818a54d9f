"""COCO captions: COCO's annotation files, Karpathy's `dataset_coco.json`, and the lists that BLIP made of it."""

from functools import partial
from pathlib import Path

from .arguments import VisionLanguageDataArguments
from .files import annotation_files, check_images, lazily, read_json
from .prompts import CAPTION_PROMPT, clean_caption
from .samples import Sample, Samples

#: Karpathy's name of the part of COCO's validation split that is trained on, too.
_ALSO_TRAINING = "restval"


def splits(args: VisionLanguageDataArguments) -> dict:
    """A training split has a sample for each caption, any other one for each image."""
    if args.image_folder is None:
        raise ValueError("--image_folder is missing: the folder that the images' names are relative to.")
    images: dict[str, list] = {}
    for split, file in annotation_files(args).items():
        for name, found in _images(read_json(file, "--data_files"), split or args.train_split, str(file)).items():
            images.setdefault(name, []).extend(found)

    def read(name: str, rows: list[tuple[str, tuple[str, ...]]]) -> Samples:
        split, folder = f"{args.dataset}/{name}", Path(args.image_folder)
        check_images((folder / file for file, _ in rows), split)
        if name == args.train_split:
            rows = [(file, (caption,)) for file, captions in rows for caption in captions]
        return Samples.of(rows, partial(_sample, folder=folder), split, groups=[file for file, _ in rows])

    return lazily(images, read)


def _sample(row: tuple[str, tuple[str, ...]], folder: Path) -> Sample:
    file, captions = row
    # The phrase is learned, too: what is asked for in evaluation ends before it.
    answer = CAPTION_PROMPT + clean_caption(captions[0])
    return Sample(((CAPTION_PROMPT, answer),), folder / file, CAPTION_PROMPT.rstrip(), captions)


def _images(content, split: str, file: str) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """Split -> file name and captions of each image."""
    found: dict[str, list] = {}
    try:
        if isinstance(content, dict) and "annotations" in content:  # COCO
            names = {image["id"]: image["file_name"] for image in content["images"]}
            captions: dict[str, list[str]] = {}
            for annotation in content["annotations"]:
                captions.setdefault(names[annotation["image_id"]], []).append(annotation["caption"])
            return {split: [(name, tuple(texts)) for name, texts in captions.items()]}
        if isinstance(content, dict):  # Karpathy
            for image in content["images"]:
                name = "train" if image["split"] == _ALSO_TRAINING else image["split"]
                texts = tuple(sentence["raw"] for sentence in image["sentences"])
                found.setdefault(name, []).append((str(Path(image.get("filepath", ""), image["filename"])), texts))
            return found
        captions = {}
        for entry in content:  # BLIP
            texts = entry["caption"]
            captions.setdefault(entry["image"], []).extend([texts] if isinstance(texts, str) else texts)
        return {split: [(name, tuple(texts)) for name, texts in captions.items()]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"--data_files: {file} is none of COCO's caption annotations, Karpathy's dataset_coco.json and BLIP's "
            f"lists (what is missing: {error})."
        ) from None
