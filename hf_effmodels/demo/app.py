"""A model in a browser, whatever its task: pictures or texts in, what the model says out.

`build` makes the app. As a Space's app.py this file reads what to show from demo.json beside it: `python app.py`.
"""

import copy
import inspect
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import gradio as gr
import numpy as np
import torch
import transformers
from PIL import Image

try:
    from hf_effmodels import pipelines as own_pipelines
    from hf_effmodels.images import read_image
    from hf_effmodels.texts import one_length
except ImportError:  # in a Space, which brings the files along
    from images import read_image
    from texts import one_length

    own_pipelines = None

#: Pictures that come with the app.
EXAMPLES = Path(__file__).parent / "examples"
#: File beside a Space's app.py: arguments of `build`.
SETTINGS = "demo.json"
#: Calls whose median time is told.
REPEATS = 3
_TEXTS = ("Once upon a time", "The cat sat on")
_OPINIONS = ("A warm, funny and clever film.", "Two hours that I will never get back.")
_QUESTIONS = ("What is in the picture?", "Which colours does it have?")


def build(
    model: str,
    task: str,
    *,
    revision: str | None = None,
    token: str | None = None,
    trust_remote_code: bool = False,
    device: str | None = None,
    title: str | None = None,
    examples: Sequence[str | Path] | None = None,
) -> gr.Blocks:
    """The app of a model.

    Args:
        model: a folder or an id of the Hub.
        task: a key of `APPS`.
        revision, token, trust_remote_code: of `from_pretrained`.
        device: where to compute; an accelerator by default, if there is one.
        title: above the app; the model's name by default.
        examples: picture files to try; those that come with the app by default.
    """
    if task not in APPS:
        raise ValueError(f"task: got {task!r}, accepted are {', '.join(APPS)}.")
    if device is None:
        device = torch.accelerator.current_accelerator().type if torch.accelerator.is_available() else "cpu"
    title = title or str(model).rstrip("/").rpartition("/")[2]
    options = {"revision": revision, "token": token, "trust_remote_code": trust_remote_code}
    # Nobody is told that the app was started, and what was uploaded is deleted after an hour.
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(600, 3600)) as app:
        gr.Markdown(f"# {title}\n{task.replace('-', ' ')}")
        APPS[task](_Parts(str(model), options, device), [*map(str, examples)] if examples else None)
    return app


def launch(app: gr.Blocks, **options):
    """Serve an app, one answer at a time; `options` are of gradio's `launch`."""
    # Without the server-side rendering, which starts a second server.
    return app.queue(default_concurrency_limit=1, max_size=32).launch(
        **{"ssr_mode": False, "max_file_size": "20mb", "share": False} | options
    )


class _Parts:
    """Reads the parts of a model."""

    def __init__(self, model: str, options: dict, device: str):
        self.model, self.options, self.device = model, options, device

    def network(self, auto_class: str):
        network = getattr(transformers, auto_class).from_pretrained(self.model, dtype="auto", **self.options)
        return network.to(self.device).eval()

    def other(self, auto_class: str):
        return getattr(transformers, auto_class).from_pretrained(self.model, **self.options)


# What the apps share


def _twins(network) -> dict[str, torch.nn.Module]:
    """The network, and where its training branches can be folded a folded copy; each by a name for people."""
    if not hasattr(network, "reparameterize") or getattr(network.config, "reparameterized", False):
        return {"": network}
    folded = copy.deepcopy(network)
    folded.reparameterize()
    return {"as trained": network, "folded": folded}


def _timed(call: Callable):
    """What a call returns, and the median of its times in milliseconds after a first one."""
    result, times = call(), []
    for _ in range(REPEATS):
        start = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - start))
    return result, statistics.median(times)


def _milliseconds(times: dict[str, float]) -> str:
    told = " · ".join(f"{name} {ms:.1f} ms".strip() for name, ms in times.items())
    return f"{told} (the network alone, median of {REPEATS})"


def _channels(network) -> int:
    """Channels of a network's pictures."""
    config = network.config
    parts = (config, *(getattr(config, name, None) for name in ("backbone_config", "vision_config")))
    return next((part.num_channels for part in parts if hasattr(part, "num_channels")), 3)


def _read(file: str | None, num_channels: int = 3) -> Image.Image:
    if file is None:
        raise gr.Error("Choose a picture first.", print_exception=False)
    try:
        return read_image(file, num_channels)
    except (ValueError, OSError) as error:
        raise gr.Error(f"This picture cannot be read: {error}", print_exception=False) from error


def _given(text: str | None, what: str) -> str:
    if not (text or "").strip():
        raise gr.Error(f"{what} is empty.", print_exception=False)
    return text


def _picture(label: str = "Picture") -> gr.Image:
    # The file as it is: gradio would clip 16 bits, and forget the camera's rotation.
    return gr.Image(type="filepath", image_mode=None, label=label, sources=["upload", "clipboard"])


def _examples(inputs: Sequence, own: Sequence[str] | None, names: Sequence[str], more: Sequence = ()) -> None:
    """Pictures to try, each with a value for the other inputs."""
    files = own or [str(EXAMPLES / name) for name in names]
    gr.Examples([[file, *more] for file in files], list(inputs), cache_examples=False)


def _names_of(network, numbers: Sequence[int]) -> list[str]:
    """Names of classes; two of one name (ImageNet has cranes of two kinds) are told apart by their numbers."""
    names = [str(network.config.id2label.get(number, number)) for number in numbers]
    return [f"{name} ({n})" if names.count(name) > 1 else name for name, n in zip(names, numbers, strict=True)]


def _probabilities(logits: torch.Tensor, network, count: int = 5) -> dict[str, float] | str:
    """The likeliest classes: softmax, or a probability each where the head has one label or several at a time; of a
    regression its numbers."""
    config = network.config
    if getattr(config, "problem_type", None) == "regression":
        names = _names_of(network, range(len(logits)))
        return "  ".join(f"{name} {number:g}" for name, number in zip(names, logits.tolist(), strict=True))
    alone = config.num_labels == 1 or getattr(config, "problem_type", None) == "multi_label_classification"
    best = (logits.sigmoid() if alone else logits.softmax(-1)).topk(min(count, len(logits)))
    return dict(zip(_names_of(network, best.indices.tolist()), best.values.tolist(), strict=True))


# One app a task


def _classify_images(parts: _Parts, examples: Sequence[str] | None) -> None:
    twins, processor = _twins(parts.network("AutoModelForImageClassification")), parts.other("AutoImageProcessor")
    network = next(iter(twins.values()))
    channels = _channels(network)

    @torch.no_grad()
    def classify(file: str | None):
        inputs = processor(_read(file, channels), return_tensors="pt").to(network.device, network.dtype)
        said = {name: _timed(lambda one=one: one(**inputs).logits[0].float().cpu()) for name, one in twins.items()}
        answers = [_probabilities(logits, network) for logits, _ in said.values()]
        return *answers, _milliseconds({name: ms for name, (_, ms) in said.items()})

    with gr.Row():
        with gr.Column():
            picture = _picture()
            button = gr.Button("Classify", variant="primary")
        with gr.Column():
            labels = [gr.Label(label=f"Classes {name}".strip(), num_top_classes=5) for name in twins]
            told = gr.Markdown()
    button.click(classify, picture, [*labels, told], api_name="classify")
    _examples([picture], examples, ("digit-3.png", "digit-7.png") if channels == 1 else ("cat.jpg", "coffee.jpg"))


def _classify_texts(parts: _Parts, examples: Sequence[str] | None) -> None:
    network, tokenizer = parts.network("AutoModelForSequenceClassification"), parts.other("AutoTokenizer")
    how = {**one_length(network, tokenizer), "padding": False}

    @torch.no_grad()
    def classify(text: str):
        inputs = tokenizer(_given(text, "The text"), **how).to(network.device)
        logits, ms = _timed(lambda: network(**inputs).logits[0].float().cpu())
        return _probabilities(logits, network), _milliseconds({"": ms})

    text = gr.Textbox(label="Text", lines=3)
    button = gr.Button("Classify", variant="primary")
    label, told = gr.Label(label="Classes", num_top_classes=5), gr.Markdown()
    button.click(classify, text, [label, told], api_name="classify")
    gr.Examples([[one] for one in _OPINIONS], [text], cache_examples=False)


def _generate(parts: _Parts, examples: Sequence[str] | None) -> None:
    network, tokenizer = parts.network("AutoModelForCausalLM"), parts.other("AutoTokenizer")

    @torch.no_grad()
    def generate(text: str, length: float, temperature: float):
        prompt, how = _given(text, "The text"), {"return_tensors": "pt", "return_token_type_ids": False}
        if tokenizer.chat_template:
            said = [{"role": "user", "content": text}]
            prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
            how["add_special_tokens"] = False  # the template has written them
        inputs = tokenizer(prompt, **how).to(network.device)
        start = inputs["input_ids"].shape[1]
        if start == 0:
            raise gr.Error("This model has no tokens for the text.", print_exception=False)
        how = {"do_sample": True, "temperature": float(temperature)} if temperature else {"do_sample": False}
        filler = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        begun = time.perf_counter()
        tokens = network.generate(**inputs, max_new_tokens=int(length), pad_token_id=filler, **how)[0, start:]
        speed = len(tokens) / (time.perf_counter() - begun)
        return tokenizer.decode(tokens, skip_special_tokens=True), f"{len(tokens)} tokens, {speed:.1f} a second"

    text = gr.Textbox(label="Text", lines=3)
    with gr.Row():
        length = gr.Slider(1, 512, 64, step=1, label="Longest answer in tokens")
        temperature = gr.Slider(0, 2, 0, step=0.1, label="Temperature (0: always the likeliest)")
    button = gr.Button("Go on", variant="primary")
    answer, told = gr.Textbox(label="The model goes on", lines=6), gr.Markdown()
    button.click(generate, [text, length, temperature], [answer, told], api_name="generate")
    gr.Examples([[one] for one in _TEXTS], [text], cache_examples=False)


def _enlarge(parts: _Parts, examples: Sequence[str] | None) -> None:
    from diffusers import DiffusionPipeline

    how = {name: parts.options[name] for name in ("revision", "token")}
    named = DiffusionPipeline.load_config(parts.model, **how).get("_class_name")
    own = getattr(own_pipelines, named[-1] if isinstance(named, list) else str(named), None)
    if own is None:
        how["trust_remote_code"] = parts.options["trust_remote_code"]
    pipe = (own or DiffusionPipeline).from_pretrained(parts.model, **how).to(parts.device)
    pipe.set_progress_bar_config(disable=True)
    trained = int(pipe.scheduler.config.num_train_timesteps)

    def enlarge(file: str | None, steps: float, side: float):
        small = _read(file)
        small.thumbnail((int(side), int(side)))
        begun = time.perf_counter()
        generator = torch.Generator(parts.device).manual_seed(0)  # the same picture, the same answer
        large = pipe(small, num_inference_steps=int(steps), generator=generator).images[0]
        seconds = time.perf_counter() - begun
        told = f"{small.width} x {small.height} to {large.width} x {large.height} pixels in {seconds:.1f} s"
        return (small.resize(large.size, Image.Resampling.BICUBIC), large), told

    with gr.Row():
        with gr.Column():
            picture = _picture()
            steps = gr.Slider(1, trained, min(trained, 10), step=1, label="Steps")
            side = gr.Slider(16, 512, 96, step=1, label="Longest side in pixels; larger pictures are reduced first")
            button = gr.Button("Enlarge", variant="primary")
        with gr.Column():
            both = gr.ImageSlider(label="Bicubic (left), this model (right)", format="png")
            told = gr.Markdown()
    button.click(enlarge, [picture, steps, side], [both, told], api_name="enlarge")
    _examples([picture], examples, ("small-cat.png",))


def _ask(parts: _Parts, examples: Sequence[str] | None) -> None:
    network, processor = parts.network("AutoModelForImageTextToText"), parts.other("AutoProcessor")

    @torch.no_grad()
    def ask(file: str | None, question: str, length: float):
        picture = _read(file)
        content = [{"type": "image", "image": picture}, {"type": "text", "text": _given(question, "The question")}]
        inputs = processor.apply_chat_template(
            [{"role": "user", "content": content}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
        ).to(network.device, network.dtype)
        tokens = network.generate(**inputs, max_new_tokens=int(length), do_sample=False)
        return processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()

    with gr.Row():
        with gr.Column():
            picture = _picture()
            question = gr.Textbox(label="Question")
            length = gr.Slider(1, 256, 32, step=1, label="Longest answer in tokens")
            button = gr.Button("Ask", variant="primary")
        answer = gr.Textbox(label="Answer", lines=6)
    button.click(ask, [picture, question, length], answer, api_name="ask")
    _examples([picture, question], examples, ("cat.jpg", "coffee.jpg"), _QUESTIONS[:1])


def _detect(parts: _Parts, examples: Sequence[str] | None) -> None:
    twins, processor = _twins(parts.network("AutoModelForObjectDetection")), parts.other("AutoImageProcessor")
    network = next(iter(twins.values()))
    channels = _channels(network)

    @torch.no_grad()
    def detect(file: str | None, threshold: float):
        picture = _read(file, channels)
        inputs = processor(images=[picture], return_tensors="pt").to(network.device, network.dtype)
        said = {name: _timed(lambda one=one: one(**inputs)) for name, one in twins.items()}
        outputs = [*said.values()][-1][0]  # the folded one's, which is what would be used
        [found] = processor.post_process_object_detection(outputs, float(threshold), [(picture.height, picture.width)])
        order = found["scores"].argsort(descending=True).tolist()
        boxes = []
        for number in order:
            corners = found["boxes"][number].round().int().tolist()
            left, top, right, bottom = (
                min(max(c, 0), side) for c, side in zip(corners, 2 * picture.size, strict=True)
            )
            label = network.config.id2label[int(found["labels"][number])]
            boxes.append(((left, top, right, bottom), f"{label} {100 * found['scores'][number]:.0f} %"))
        times = _milliseconds({name: ms for name, (_, ms) in said.items()})
        return (picture.convert("RGB"), boxes), f"{len(boxes) or 'no'} boxes · {times}"

    with gr.Row():
        with gr.Column():
            picture = _picture()
            threshold = gr.Slider(0, 1, 0.5, step=0.01, label="Lowest score of a box")
            button = gr.Button("Detect", variant="primary")
        with gr.Column():
            drawn, told = gr.AnnotatedImage(label="Boxes", format="png"), gr.Markdown()
    button.click(detect, [picture, threshold], [drawn, told], api_name="detect")
    _examples([picture], examples, ("cat.jpg", "coffee.jpg"))


def _segment(parts: _Parts, examples: Sequence[str] | None) -> None:
    network, processor = parts.network("AutoModelForSemanticSegmentation"), parts.other("AutoImageProcessor")

    @torch.no_grad()
    def segment(file: str | None):
        picture = _read(file)
        inputs = processor(images=[picture], return_tensors="pt").to(network.device, network.dtype)
        outputs, ms = _timed(lambda: network(**inputs))
        sizes = [(picture.height, picture.width)]
        [numbers] = processor.post_process_semantic_segmentation(outputs, target_sizes=sizes)
        numbers = np.asarray(numbers.cpu())
        classes, counts = np.unique(numbers, return_counts=True)
        order = classes[np.argsort(-counts, kind="stable")].tolist()
        names = _names_of(network, order)
        masks = [((numbers == number).astype(np.float32), name) for number, name in zip(order, names, strict=True)]
        return (picture, masks), _milliseconds({"": ms})

    with gr.Row():
        with gr.Column():
            picture = _picture()
            button = gr.Button("Segment", variant="primary")
        with gr.Column():
            drawn, told = gr.AnnotatedImage(label="Classes of the pixels", format="png"), gr.Markdown()
    button.click(segment, picture, [drawn, told], api_name="segment")
    _examples([picture], examples, ("cat.jpg", "rocket.jpg"))


def _cut_out(parts: _Parts, examples: Sequence[str] | None) -> None:
    network, processor = parts.network("AutoModelForMaskGeneration"), parts.other("AutoImageProcessor")
    accepted = inspect.signature(processor.post_process_masks).parameters

    def encode(file: str | None) -> dict:
        """A picture is encoded once, and asked as often as one clicks."""
        picture = _read(file)
        inputs = processor(picture, return_tensors="pt")
        pixels = inputs["pixel_values"].to(network.device, network.dtype)
        size = (picture.height, picture.width)
        seen = tuple(pixels.shape[-2:])
        if "reshaped_input_sizes" in inputs:
            seen = tuple(np.asarray(inputs["reshaped_input_sizes"]).reshape(2).tolist())
        return {"file": file, "size": size, "seen": seen, "embeddings": network.get_image_embeddings(pixels)}

    @torch.no_grad()
    def cut_out(file: str | None, points: list | None, encoded: dict | None):
        if encoded is None or encoded["file"] != file:
            encoded = encode(file)
        picture, (height, width) = _read(file), encoded["size"]
        points = points or []
        try:
            clicks = np.asarray(points, dtype=np.float64).reshape(-1, 2)
        except (ValueError, TypeError):
            message = f"points: got {points!r}, accepted are [[x, y], ...] in pixels."
            raise gr.Error(message, print_exception=False) from None
        if not ((clicks >= 0) & (clicks <= (width, height))).all():
            raise gr.Error(f"points: accepted are x to {width} and y to {height}.", print_exception=False)
        if not len(clicks):
            return (picture, []), "Click on what is to be cut out.", encoded
        scale = np.asarray([encoded["seen"][1] / width, encoded["seen"][0] / height])
        inputs = torch.tensor((clicks * scale)[None, None], dtype=torch.float32, device=network.device)
        labels = torch.ones(inputs.shape[:-1], dtype=torch.int64, device=network.device)
        begun = time.perf_counter()
        outputs = network(image_embeddings=encoded["embeddings"], input_points=inputs, input_labels=labels)
        ms = 1000 * (time.perf_counter() - begun)
        sizes = {"reshaped_input_sizes": [list(encoded["seen"])]} if "reshaped_input_sizes" in accepted else {}
        masks = processor.post_process_masks(outputs.pred_masks.float().cpu(), [list(encoded["size"])], **sizes)[0][0]
        scores = outputs.iou_scores[0, 0].float()
        best = int(scores.argmax())
        mask = np.asarray(masks[best], dtype=np.float32)
        counted = f"{len(clicks)} point{'s' * (len(clicks) > 1)}, {int(mask.sum())} pixels"
        told = f"{counted}, expected overlap {scores[best]:.2f}, {ms:.0f} ms"
        return (picture, [(mask, "cut out")]), told, encoded

    def click(points: list | None, event: gr.SelectData):
        return [*(points or []), [int(side) for side in event.index]]

    encoded = gr.State()
    with gr.Row():
        with gr.Column():
            picture = _picture("Picture: click on what is to be cut out")
            points = gr.JSON([], label="Points (x, y)")
            clear = gr.Button("Forget the points")
        with gr.Column():
            drawn, told = gr.AnnotatedImage(label="Cut out", format="png"), gr.Markdown()
    asked = {"fn": cut_out, "inputs": [picture, points, encoded], "outputs": [drawn, told, encoded]}
    picture.select(click, points, points, api_visibility="private").then(**asked, api_name="cut_out")
    clear.click(lambda: [], None, points, api_visibility="private")
    picture.change(lambda: ([], None), None, [points, encoded], api_visibility="private")
    _examples([picture], examples, ("cat.jpg", "coffee.jpg"))


#: Task -> what lays out its app.
APPS: dict[str, Callable[[_Parts, Sequence[str] | None], None]] = {
    "image-classification": _classify_images,
    "object-detection": _detect,
    "image-segmentation": _segment,
    "mask-generation": _cut_out,
    "image-text-to-text": _ask,
    "super-resolution": _enlarge,
    "text-generation": _generate,
    "text-classification": _classify_texts,
}


if __name__ == "__main__":
    launch(build(**json.loads(Path(__file__).with_name(SETTINGS).read_text(encoding="utf-8"))))
