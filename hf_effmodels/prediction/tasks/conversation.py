"""Answers of a vision-language model to a question about a picture."""

from collections.abc import Sequence

from PIL import Image

from ..predictor import Options, Predictor, Source, load_network, load_part


def load(task: str, source: Source, options: Options, device: str) -> Predictor:
    from transformers import pipeline

    if not options.prompt:
        raise ValueError("--prompt: what to ask about the pictures, such as --prompt 'What is in the picture?'")
    model = load_network(source, "AutoModelForImageTextToText", device)
    talk = pipeline("image-text-to-text", model=model, processor=load_part(source, "AutoProcessor"))

    def answer(images: Sequence[Image.Image]) -> list[dict]:
        return [{"text": _ask(talk, image, options)} for image in images]

    return Predictor(task, "image", answer, lambda said: said["text"], lambda said: [{"text": said["text"]}])


def _ask(talk, image: Image.Image, options: Options) -> str:
    content = [{"type": "image", "image": image}, {"type": "text", "text": options.prompt}]
    asked = [{"role": "user", "content": content}]
    said = talk(text=asked, max_new_tokens=options.max_new_tokens, do_sample=False, return_full_text=False)
    return said[0]["generated_text"].strip()
