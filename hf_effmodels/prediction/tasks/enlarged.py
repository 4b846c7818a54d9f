"""Enlarged images, by a super-resolution pipeline of diffusers."""

from collections.abc import Sequence

import torch
from PIL import Image

from ...hub.ids import reading
from ...hub.whole import check_filled
from ..predictor import Options, Predictor, Source


def load(task: str, source: Source, options: Options, device: str) -> Predictor:
    from diffusers import DiffusionPipeline

    from ... import pipelines

    with reading("MODEL", source.name, revision=("--revision", source.revision)):
        index = DiffusionPipeline.load_config(source.name, revision=source.revision, token=source.token)
        named = index.get("_class_name")  # with the module beside it, where the folder brings its code
        ours = getattr(pipelines, named[-1] if isinstance(named, list) else str(named), None)
        how = {"revision": source.revision, "token": source.token}
        if ours is None:
            how["trust_remote_code"] = source.trust_remote_code
        pipe = (ours or DiffusionPipeline).from_pretrained(source.name, **how)
    check_filled("MODEL", source.name, *pipe.components.values())
    pipe = pipe.to(device)
    pipe.set_progress_bar_config(disable=True)

    def answer(images: Sequence[Image.Image]) -> list[dict]:
        said = []
        for image in images:
            # The same picture gives the same answer, whatever stands before it.
            generator = torch.Generator(device).manual_seed(0)
            large = pipe(image, num_inference_steps=options.steps, generator=generator).images[0]
            said.append({"width": large.width, "height": large.height, "picture": large})
        return said

    def line(said: dict) -> str:
        return f"{said['width']} x {said['height']} pixels"

    def rows(said: dict) -> list[dict]:
        return [{"width": said["width"], "height": said["height"]}]

    return Predictor(task, "image", answer, line, rows, lambda image, said: said["picture"])
