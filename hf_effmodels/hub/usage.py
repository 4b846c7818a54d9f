"""The usage section of a model card: snippets that run as they stand, with hf_effmodels installed and without it."""

from ..architecture import Architecture, Task

#: The snippets of a folder that is not on the Hub yet name the folder they lie in.
LOCAL_MODEL_ID = "."
PICTURE = 'image = Image.new("RGB", (320, 240))  # or Image.open("picture.jpg")'
_CONVERSATION = (
    PICTURE,
    'content = [{"type": "image", "image": image}, {"type": "text", "text": "What is this?"}]',
    'messages = [{"role": "user", "content": content}]',
)


def usage_section(
    architecture: Architecture,
    class_name: str,
    config,
    model_id: str = LOCAL_MODEL_ID,
    revision: str | None = None,
    has_processor: bool = True,
    with_code: bool = True,
) -> str:
    """Markdown for a model of the class `class_name`.

    Args:
        architecture: its line of the registry.
        class_name: the exported class.
        config: its configuration.
        model_id: repository on the Hub, or `LOCAL_MODEL_ID` for a folder.
        revision: commit to pin; without one the snippets show how to find it.
        has_processor: whether there is a tokenizer beside a language model.
        with_code: whether the model's code lies there, too.
    """
    auto_class = auto_class_of(architecture, class_name)
    on_hub = model_id != LOCAL_MODEL_ID
    parts = ["## Usage"]
    if not on_hub:
        parts.append("The snippets run in this folder; elsewhere write its path for `model_id`.")
    if auto_class != "AutoBackbone":
        executed = ", nothing from this repository is executed" if with_code else ""
        parts.append(f"With `hf_effmodels` installed{executed}:")
        with_package, without_package = _snippets(architecture, auto_class, config, model_id, revision, has_processor)
        parts.append(snippet(with_package))
        if with_code:
            intro = "Without it, transformers runs the code of this repository; read it first"
            parts.append(f"{intro}, and pin the commit that you have read:" if on_hub else f"{intro}:")
            parts.append(snippet(without_package))
        else:
            parts.append("`hub/` holds the same model with its code: it loads without that package, and is published.")
    if "AutoBackbone" in architecture.auto_classes:
        parts.append("Feature maps, for a detector or a segmentation head:")
        backbone = "AutoBackbone" if on_hub else architecture.auto_classes["AutoBackbone"]
        parts.append(snippet(_feature_maps(backbone, config, model_id, revision)))
    if getattr(config, "reparameterized", None) is False:
        parts.append(
            "Before inference or export, `model.reparameterize()` folds the training branches and the batch "
            "normalisations into plain convolutions: the same outputs, faster."
        )
        if hasattr(architecture.model_class(auto_class), "deploy"):
            parts.append(
                "With `hf_effmodels` installed, `model.deploy()` also packs the binary weights to a bit each: outputs "
                "the same to rounding, computed on bits."
            )
    return "\n\n".join(parts)


def auto_class_of(architecture: Architecture, class_name: str) -> str:
    """The transformers Auto class behind which the registry has `class_name`; of several, that of the main head."""
    found = [auto for auto, name in architecture.auto_classes.items() if name == class_name]
    main = architecture.tasks[0].auto_class
    return main if main in found else found[0]


def task_of(architecture: Architecture, class_name: str) -> Task | None:
    """The task the class has the head for; None for a backbone, whose weights are not all that a pipeline needs."""
    auto_class = auto_class_of(architecture, class_name)
    return next((task for task in architecture.tasks if task.auto_class == auto_class), None)


def _snippets(
    architecture: Architecture, auto_class: str, config, model_id: str, revision: str | None, has_processor: bool
) -> tuple[list[str], list[str]]:
    """Lines for an environment with the package, and for one without."""
    if "AutoModelForZeroShotImageClassification" in architecture.auto_classes:
        return (
            _labels_with_package(auto_class, model_id, revision),
            _labels_without_package(auto_class, model_id, revision),
        )
    if architecture.takes == "image+text":
        return (
            _conversation_with_package(auto_class, model_id, revision),
            _conversation_without_package(auto_class, model_id, revision),
        )
    if architecture.takes == "text":
        return (
            _text_with_package(auto_class, model_id, revision, has_processor),
            _text_without_package(auto_class, model_id, revision, has_processor),
        )
    if architecture.stock_processor:
        return (
            _everything_with_package(model_id, revision),
            _prompt_without_package(architecture, auto_class, model_id, revision),
        )
    return (
        _with_package(architecture, auto_class, config, model_id, revision),
        _without_package(architecture, auto_class, config, model_id, revision),
    )


def snippet(lines: list[str]) -> str:
    """Lines of Python in Markdown."""
    return "```python\n" + "\n".join(lines) + "\n```"


def _with_package(
    architecture: Architecture, auto_class: str, config, model_id: str, revision: str | None
) -> list[str]:
    pin = f', revision="{revision}"' if revision else ""
    register = "import hf_effmodels  # registers the architecture with transformers"
    if config.num_channels != 3:  # the pipelines turn every picture into RGB
        return [
            register,
            "import torch",
            f"from transformers import {auto_class}",
            "",
            f'model_id = "{model_id}"',
            f"model = {auto_class}.from_pretrained(model_id{pin})",
            *_apply(auto_class, f"model(torch.zeros{_shape(config)})"),
        ]
    if auto_class == "AutoModelForPreTraining":  # there is no pipeline that trains
        return [
            register,
            "import torch",
            "from PIL import Image",
            f"from transformers import AutoImageProcessor, {auto_class}",
            "",
            f'model_id = "{model_id}"',
            f"processor = AutoImageProcessor.from_pretrained(model_id{pin})",
            f"model = {auto_class}.from_pretrained(model_id{pin})",
            PICTURE,
            'inputs = processor(image, return_tensors="pt")',
            *_apply(auto_class, "model(**inputs)"),
        ]
    task = next(task.name for task in architecture.tasks if task.auto_class == auto_class)
    return [
        register,
        "from PIL import Image",
        "from transformers import pipeline",
        "",
        f'model_id = "{model_id}"',
        f'pipe = pipeline("{task}", model=model_id{pin})',
        PICTURE,
        "features = pipe(image)" if task == "image-feature-extraction" else "print(pipe(image))",
    ]


def _everything_with_package(model_id: str, revision: str | None) -> list[str]:
    pin = f', revision="{revision}"' if revision else ""
    return [
        "import hf_effmodels  # registers the architecture and the pipeline with transformers",
        "from PIL import Image",
        "from transformers import pipeline",
        "",
        f'model_id = "{model_id}"',
        f'pipe = pipeline("hierarchical-mask-generation", model=model_id{pin})',
        PICTURE,
        'print(len(pipe(image)["masks"]))',
    ]


def _prompt_without_package(
    architecture: Architecture, auto_class: str, model_id: str, revision: str | None
) -> list[str]:
    on_hub = model_id != LOCAL_MODEL_ID
    pin = ", revision=revision" if on_hub else ""
    lines = ["import torch"]
    if on_hub and not revision:
        lines.append("from huggingface_hub import model_info")
    lines += [
        "from PIL import Image",
        f"from transformers import {auto_class}, {architecture.stock_processor}",
        "",
        f'model_id = "{model_id}"',
    ]
    if on_hub:
        found = "model_info(model_id).sha  # read the code of this commit, then write its hash here"
        lines.append(f'revision = "{revision}"' if revision else f"revision = {found}")
    return [
        *lines,
        f"processor = {architecture.stock_processor}.from_pretrained(model_id{pin})",
        f"model = {auto_class}.from_pretrained(model_id, trust_remote_code=True{pin})",
        PICTURE,
        'inputs = processor(image, input_points=[[[160, 120]]], return_tensors="pt").to(torch.float32)',
        'sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")',
        "with torch.no_grad():",
        "    outputs = model(**inputs)",
        "masks = processor.post_process_masks(outputs.pred_masks, *sizes)[0]",
        "print(masks.shape, outputs.iou_scores)",
    ]


def _text_with_package(auto_class: str, model_id: str, revision: str | None, tokenizer: bool) -> list[str]:
    pin = f', revision="{revision}"' if revision else ""
    register = "import hf_effmodels  # registers the architecture with transformers"
    if auto_class != "AutoModelForCausalLM" or not tokenizer:
        load = f"model = {auto_class}.from_pretrained(model_id{pin})"
        names = ["AutoTokenizer", auto_class] if tokenizer else [auto_class]
        head = [register, "import torch", f"from transformers import {', '.join(sorted(names))}", ""]
        return [*head, f'model_id = "{model_id}"', *_read_text(tokenizer, pin), load, *_apply_to_text(auto_class)]
    return [
        register,
        "from transformers import pipeline",
        "",
        f'model_id = "{model_id}"',
        f'pipe = pipeline("text-generation", model=model_id{pin})',
        'print(pipe("Once upon a time", max_new_tokens=20)[0]["generated_text"])',
    ]


def _text_without_package(auto_class: str, model_id: str, revision: str | None, tokenizer: bool) -> list[str]:
    on_hub = model_id != LOCAL_MODEL_ID
    pin = ", revision=revision" if on_hub else ""
    names = ["AutoTokenizer", auto_class] if tokenizer else [auto_class]
    lines = ["import torch"] if auto_class != "AutoModelForCausalLM" or not tokenizer else []
    if on_hub and not revision:
        lines.append("from huggingface_hub import model_info")
    lines += [f"from transformers import {', '.join(sorted(names))}", "", f'model_id = "{model_id}"']
    if on_hub:
        found = "model_info(model_id).sha  # read the code of this commit, then write its hash here"
        lines.append(f'revision = "{revision}"' if revision else f"revision = {found}")
    lines += _read_text(tokenizer, pin)
    lines.append(f"model = {auto_class}.from_pretrained(model_id, trust_remote_code=True{pin})")
    return lines + _apply_to_text(auto_class)


def _conversation_with_package(auto_class: str, model_id: str, revision: str | None) -> list[str]:
    pin = f', revision="{revision}"' if revision else ""
    register = "import hf_effmodels  # registers the architecture with transformers"
    if auto_class == "AutoModel":
        head = [
            register,
            "import torch",
            "from PIL import Image",
            "from transformers import AutoModel, AutoProcessor",
            "",
        ]
        return [*head, f'model_id = "{model_id}"', *_see_image(auto_class, pin)]
    return [
        register,
        "from PIL import Image",
        "from transformers import pipeline",
        "",
        f'model_id = "{model_id}"',
        f'pipe = pipeline("image-text-to-text", model=model_id{pin})',
        *_CONVERSATION,
        'print(pipe(text=messages, max_new_tokens=20, return_full_text=False)[0]["generated_text"])',
    ]


def _conversation_without_package(auto_class: str, model_id: str, revision: str | None) -> list[str]:
    on_hub = model_id != LOCAL_MODEL_ID
    lines = ["import torch"] if auto_class == "AutoModel" else []
    if on_hub and not revision:
        lines.append("from huggingface_hub import model_info")
    lines += ["from PIL import Image", f"from transformers import {auto_class}, AutoProcessor", ""]
    lines.append(f'model_id = "{model_id}"')
    if on_hub:
        found = "model_info(model_id).sha  # read the code of this commit, then write its hash here"
        lines.append(f'revision = "{revision}"' if revision else f"revision = {found}")
    return lines + _see_image(auto_class, ", trust_remote_code=True" + (", revision=revision" if on_hub else ""))


def _labels_with_package(auto_class: str, model_id: str, revision: str | None) -> list[str]:
    pin = f', revision="{revision}"' if revision else ""
    register = "import hf_effmodels  # registers the architecture with transformers"
    if auto_class == "AutoModelForPreTraining":
        names = "from transformers import AutoModelForPreTraining, AutoProcessor"
        head = [register, "import torch", "from PIL import Image", names, "", f'model_id = "{model_id}"']
        return head + _compare_labels(auto_class, pin)
    return [
        register,
        "from PIL import Image",
        "from transformers import pipeline",
        "",
        f'model_id = "{model_id}"',
        f'pipe = pipeline("zero-shot-image-classification", model=model_id{pin})',
        PICTURE,
        'print(pipe(image, candidate_labels=["cat", "dog"]))',
    ]


def _labels_without_package(auto_class: str, model_id: str, revision: str | None) -> list[str]:
    on_hub = model_id != LOCAL_MODEL_ID
    lines = ["import torch"]
    if on_hub and not revision:
        lines.append("from huggingface_hub import model_info")
    lines += ["from PIL import Image", f"from transformers import {auto_class}, AutoProcessor", ""]
    lines.append(f'model_id = "{model_id}"')
    if on_hub:
        found = "model_info(model_id).sha  # read the code of this commit, then write its hash here"
        lines.append(f'revision = "{revision}"' if revision else f"revision = {found}")
    return lines + _compare_labels(auto_class, ", trust_remote_code=True" + (", revision=revision" if on_hub else ""))


def _compare_labels(auto_class: str, options: str) -> list[str]:
    call = "model(**inputs, return_loss=False)" if auto_class == "AutoModelForPreTraining" else "model(**inputs)"
    return [
        f"processor = AutoProcessor.from_pretrained(model_id{options})",
        f"model = {auto_class}.from_pretrained(model_id{options})",
        PICTURE,
        'texts = ["a photo of a cat", "a photo of a dog"]',
        'inputs = processor(images=image, text=texts, padding=True, return_tensors="pt")',
        "with torch.no_grad():",
        f"    print({call}.logits_per_image.softmax(-1))",
    ]


def _see_image(auto_class: str, options: str) -> list[str]:
    lines = [
        f"processor = AutoProcessor.from_pretrained(model_id{options})",
        f"model = {auto_class}.from_pretrained(model_id{options})",
        *_CONVERSATION,
        'options = {"tokenize": True, "return_dict": True, "return_tensors": "pt"}',
        "inputs = processor.apply_chat_template(messages, add_generation_prompt=True, **options)",
    ]
    if auto_class == "AutoModel":
        return [*lines, "with torch.no_grad():", "    print(model(**inputs).last_hidden_state.shape)"]
    return [
        *lines,
        "tokens = model.generate(**inputs, max_new_tokens=20)",
        'print(processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))',
    ]


def _read_text(tokenizer: bool, pin: str) -> list[str]:
    if not tokenizer:
        return ["input_ids = torch.tensor([[1, 2, 3]])  # from the tokenizer the model was trained with"]
    return [
        f"tokenizer = AutoTokenizer.from_pretrained(model_id{pin})",
        'input_ids = tokenizer("Once upon a time", return_tensors="pt").input_ids',
    ]


def _apply_to_text(auto_class: str) -> list[str]:
    if auto_class == "AutoModelForCausalLM":
        return ["print(model.generate(input_ids, max_new_tokens=20))"]
    lines = ["with torch.no_grad():", "    outputs = model(input_ids)"]
    shown = {"AutoModel": "last_hidden_state", "AutoModelForQuestionAnswering": "start_logits"}
    return [*lines, f"print(outputs.{shown.get(auto_class, 'logits')}.shape)"]


def _without_package(
    architecture: Architecture, auto_class: str, config, model_id: str, revision: str | None
) -> list[str]:
    on_hub = model_id != LOCAL_MODEL_ID
    pin = ", revision=revision" if on_hub else ""
    pictures = config.num_channels == 3
    lines = ["import torch"]
    if on_hub and not revision:
        lines.append("from huggingface_hub import model_info")
    if pictures:
        lines.append("from PIL import Image")
    lines += [
        f"from transformers import {'AutoImageProcessor, ' if pictures else ''}{auto_class}",
        "",
        f'model_id = "{model_id}"',
    ]
    if on_hub:
        found = "model_info(model_id).sha  # read the code of this commit, then write its hash here"
        lines.append(f'revision = "{revision}"' if revision else f"revision = {found}")
    if pictures:
        trust = ", trust_remote_code=True" if architecture.own_image_processor else ""
        lines.append(f"processor = AutoImageProcessor.from_pretrained(model_id{trust}{pin})")
    lines.append(f"model = {auto_class}.from_pretrained(model_id, trust_remote_code=True{pin})")
    if pictures:
        lines += [PICTURE, 'inputs = processor(image, return_tensors="pt")']
        return lines + _apply(auto_class, "model(**inputs)")
    return lines + _apply(auto_class, f"model(torch.zeros{_shape(config)})")


def _apply(auto_class: str, call: str) -> list[str]:
    lines = ["with torch.no_grad():", f"    outputs = {call}"]
    if auto_class == "AutoModelForImageClassification":
        return [*lines, "print(model.config.id2label[outputs.logits.argmax(-1).item()])"]
    if auto_class == "AutoModelForSemanticSegmentation":
        return [
            *lines,
            "print([model.config.id2label[label] for label in outputs.logits.argmax(1).unique().tolist()])",
        ]
    if auto_class == "AutoModelForPreTraining":
        return [*lines, "print(outputs.loss)", "encoder = model.encoder  # what goes on after the pre-training"]
    if auto_class == "AutoModelForObjectDetection":
        if "inputs" not in call:
            return [*lines, "print(outputs.logits.shape, outputs.pred_boxes.shape)"]
        sizes = "[(image.height, image.width)]"
        return [*lines, f"print(processor.post_process_object_detection(outputs, 0.4, {sizes})[0])"]
    return [*lines, "print(outputs.last_hidden_state.shape)"]


def _feature_maps(backbone: str, config, model_id: str, revision: str | None) -> list[str]:
    pin = f', revision="{revision}"' if revision else ""
    # transformers' AutoBackbone looks on the Hub only; a folder is read by the class itself.
    source = "transformers" if backbone == "AutoBackbone" else "hf_effmodels"
    return [
        "import hf_effmodels",
        "import torch",
        f"from {source} import {backbone}",
        "",
        f'model_id = "{model_id}"',
        f"backbone = {backbone}.from_pretrained(model_id, out_features={config.stage_names[-2:]!r}{pin})",
        "with torch.no_grad():",
        f"    outputs = backbone(torch.zeros{_shape(config)})",
        "print([tuple(maps.shape) for maps in outputs.feature_maps])",
    ]


def _shape(config) -> str:
    size = config.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return f"(1, {config.num_channels}, {height}, {width})"
