"""What an entry is: the data by which a folder of `modeling/` or `pipelines/` declares the systems it holds.

Plain data on the standard library alone: importing it, or a folder's entries, loads neither torch nor transformers.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

_EMPTY: Mapping[str, Any] = MappingProxyType({})

#: Published metric -> its unit.
METRICS = {
    "top-1": "%",
    "top-5": "%",
    "accuracy": "%",
    "token accuracy": "%",
    "mAP": "%",
    "mIoU": "%",
    "PSNR": "dB",
    "SSIM": "",
    "perplexity": "",
    "CIDEr": "",
    "BLEU-4": "",
    "MME perception": "",
    "MME cognition": "",
}


@dataclass(frozen=True)
class Published:
    """A number that somebody has published.

    Attributes:
        metric: a key of `METRICS`, which has its unit.
        value: in that unit (accuracies in per cent, PSNR in dB).
        dataset: what it was measured on.
        source: who says so, such as "paper" or "official repository".
    """

    metric: str
    value: float
    dataset: str
    source: str

    def __post_init__(self):
        if self.metric not in METRICS:
            raise ValueError(f"metric: got {self.metric!r}, accepted are {', '.join(METRICS)}.")

    def __str__(self) -> str:
        unit = METRICS[self.metric] and f" {METRICS[self.metric]}"
        return f"{self.metric} {self.value:g}{unit} on {self.dataset} ({self.source})"


def imagenet_top1(value: float, source: str) -> tuple[Published, ...]:
    """The published numbers of a classifier that has one: its ImageNet-1k top-1 accuracy in per cent."""
    return (Published("top-1", value, "ImageNet-1k", source),)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """A published variant.

    Attributes:
        model_type: the `name` of the entry it belongs to.
        config: fields of the configuration that differ from the class's defaults; of a diffusers pipeline, the fields
            of each component by the component's name.
        parameters: number of parameters in millions, as trained; `folded_parameters` after `reparameterize()`.
        macs: multiply-adds in millions, of what the configuration file says; `folded_macs` after `reparameterize()`.
        trainable_parameters: where only a part is trained, that part in millions.
        part_parameters, part_macs: the same of single components, by name.
        num_labels: classes of the published head, None where it has none.
        classes: the data set whose classes these are, one of `hf_effmodels.classes`; None where it is none of them.
        image_processor: fields of the image processor the variant was evaluated with; `size` in the form it asks for.
        published: what was published of its quality.
        weights: where the official weights are, None if they are not published.
        weights_license: their licence, None if there is none; `weights_license_note` says more.
        weights_sha256: of the official file, where it is known.
        timm: name of timm's repository of the same weights on the Hub, such as "ghostnet_100.in1k".
    """

    model_type: str
    config: Mapping[str, Any]
    parameters: float
    macs: float | None = None
    folded_parameters: float | None = None
    folded_macs: float | None = None
    trainable_parameters: float | None = None
    part_parameters: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    part_macs: Mapping[str, float] = field(default_factory=lambda: _EMPTY)
    num_labels: int | None = None
    classes: str | None = None
    image_processor: Mapping[str, Any] | None = None
    published: tuple[Published, ...] = ()
    weights: str | None = None
    weights_license: str | None = None
    weights_license_note: str | None = None
    weights_sha256: str | None = None
    timm: str | None = None

    def find(self, metric: str, dataset: str | None = None) -> Published | None:
        """The published number of `metric` (on `dataset`; else the first), None if there is none."""
        return next((p for p in self.published if p.metric == metric and dataset in (None, p.dataset)), None)


@dataclass(frozen=True)
class Task:
    """What a model can be for.

    Attributes:
        name: the task of transformers' pipelines, `pipeline(name)`; of diffusers pipelines, the field's word.
        auto_class: the Auto class that has the head, None where a diffusers pipeline does it.
        takes: what the models take, "image", "text" or "image+text": it tells apart what shares an Auto class, and
            says which usage snippet a model card shows.
        noun: what a model card calls such a model.
        metrics: keys of `METRICS` its quality is told in, the customary one first.
        pipeline_tag: the Hub's name of the task, where it is another.
        next_token: the labels of its head are the tokens themselves, and each is predicted from those before it.
    """

    name: str
    auto_class: str | None
    takes: tuple[str, ...]
    noun: str
    metrics: tuple[str, ...] = ()
    pipeline_tag: str | None = None
    next_token: bool = False


#: The one table of tasks, in the order in which `create_model` looks for a head.
TASKS: Mapping[str, Task] = MappingProxyType(
    {
        task.name: task
        for task in (
            Task("image-classification", "AutoModelForImageClassification", ("image",), "image classifier",
                 ("top-1", "top-5")),
            Task("object-detection", "AutoModelForObjectDetection", ("image",), "object detector", ("mAP",)),
            Task("image-segmentation", "AutoModelForSemanticSegmentation", ("image",), "segmentation model",
                 ("mIoU",)),
            Task("mask-generation", "AutoModelForMaskGeneration", ("image",), "mask generator", ("mIoU",)),
            Task("image-to-image", "AutoModelForImageToImage", ("image",), "image restoration model",
                 ("PSNR", "SSIM")),
            Task("zero-shot-image-classification", "AutoModelForZeroShotImageClassification", ("image+text",),
                 "zero-shot image classifier", ("top-1", "top-5")),
            Task("image-text-to-text", "AutoModelForImageTextToText", ("image+text",), "vision-language model",
                 ("accuracy", "CIDEr", "BLEU-4", "MME perception", "MME cognition"), next_token=True),
            Task("text-generation", "AutoModelForCausalLM", ("text",), "causal language model", ("perplexity",),
                 next_token=True),
            Task("fill-mask", "AutoModelForMaskedLM", ("text",), "masked language model", ("perplexity",)),
            Task("text-classification", "AutoModelForSequenceClassification", ("text",), "text classifier",
                 ("accuracy",)),
            Task("token-classification", "AutoModelForTokenClassification", ("text",), "token classifier",
                 ("accuracy",)),
            Task("question-answering", "AutoModelForQuestionAnswering", ("text",), "extractive question answerer"),
            Task("image-feature-extraction", "AutoModel", ("image",), "feature extractor"),
            Task("feature-extraction", "AutoModel", ("text", "image+text"), "feature extractor"),
            Task("masked-image-modeling", "AutoModelForPreTraining", ("image",), "masked image model",
                 pipeline_tag="image-feature-extraction"),
            Task("super-resolution", None, ("image",), "super-resolution pipeline", ("PSNR", "SSIM"),
                 pipeline_tag="image-to-image"),
            Task("visual-prompting", None, ("image",), "visual prompting pipeline",
                 ("token accuracy", "perplexity", "mIoU", "PSNR"), pipeline_tag="image-to-image"),
        )
    }
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the entries of architectures and of diffusers pipelines share.

    Attributes:
        title: the name as the paper writes it.
        package: the folder that declares it (its `__name__`), whose `configuration_<folder>.py` holds `PRESETS`.
        paper: title of the paper; `arxiv` its number.
        repository: the official code, or the paper where none is public.
    """

    title: str
    package: str
    paper: str
    arxiv: str
    repository: str

    @property
    def name(self) -> str:
        """The folder: its files are called `configuration_<name>.py` and so on, its page `docs/systems/<name>.md`."""
        return self.package.rpartition(".")[2]

    @property
    def key(self) -> str:
        """What the presets name in `model_type`."""
        return self.name

    @property
    def presets(self) -> dict[str, Preset]:
        """The published variants by name."""
        presets = self._module("configuration").PRESETS
        return {name: preset for name, preset in presets.items() if preset.model_type == self.key}

    @property
    def conversion_module(self):
        return self._module("convert")

    def _module(self, kind: str):
        return importlib.import_module(f"{self.package}.{kind}_{self.name}")


@dataclass(frozen=True, kw_only=True)
class Architecture(Entry):
    """An architecture: transformers models and their configuration.

    Attributes:
        model_type: the configuration's `model_type`.
        config: the configuration class in `configuration_<name>.py`.
        auto_classes: transformers Auto class -> our class in `modeling_<name>.py`.
        image_processor: transformers' image processor class per backend (empty where there are no images).
        own_image_processor: these classes are ours, in `image_processing_<name>.py`.
        processor: our processor class in `processing_<name>.py`, of models that take images and text.
        stock_processor: transformers' processor class around the image processor, of models that take prompts or texts
            with their images.
        base_models: of models whose official files hold only what `freeze_base()` leaves trainable: part of the
            configuration -> where that part is by default (a Hub id), None where it must be said. `hub.convert` then
            takes `<part>_model`, the command `--<part>-model`.
        in_halves: it is made around any other network (its configuration's `network`), and there are bytes between its
            two halves (`model.halves()`), so that it is no single graph.
    """

    model_type: str
    config: str
    auto_classes: Mapping[str, str]
    image_processor: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    own_image_processor: bool = False
    processor: str | None = None
    stock_processor: str | None = None
    base_models: Mapping[str, str | None] = field(default_factory=lambda: _EMPTY)
    in_halves: bool = False

    @property
    def key(self) -> str:
        return self.model_type

    @property
    def takes(self) -> str:
        """What a model takes: "image", "text" or "image+text"."""
        if not self.image_processor:
            return "text"
        both = self.processor or "AutoModelForZeroShotImageClassification" in self.auto_classes
        return "image+text" if both else "image"

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What it has heads for, the main one first."""
        return tuple(t for t in TASKS.values() if t.auto_class in self.auto_classes and self.takes in t.takes)

    @property
    def configuration_module(self):
        return self._module("configuration")

    @property
    def modeling_module(self):
        return self._module("modeling")

    @property
    def config_class(self):
        return getattr(self.configuration_module, self.config)

    @property
    def image_processor_module(self) -> str:
        """Name of the module that holds the image processor's classes."""
        return f"{self.package}.image_processing_{self.name}" if self.own_image_processor else "transformers"

    def image_processor_class(self, backend: str):
        """The image processor's class for a backend, "pil" or "torchvision"."""
        return getattr(importlib.import_module(self.image_processor_module), self.image_processor[backend])

    @property
    def processor_class(self):
        return getattr(self._module("processing"), self.processor)

    def model_class(self, auto_class: str):
        """Our class behind a transformers Auto class, such as `"AutoModel"`."""
        return getattr(self.modeling_module, self.auto_classes[auto_class])


@dataclass(frozen=True, kw_only=True)
class PipelineEntry(Entry):
    """A diffusers pipeline with its networks and schedulers.

    Attributes:
        task: a key of `TASKS`.
        classes: module of the folder -> the public classes in it; the pipeline's own in `pipeline_<name>`.
        code: modules that stand beside `model_index.json` where this package is not installed; those of the
            components lie in the components' folders.
    """

    task: str
    classes: Mapping[str, tuple[str, ...]]
    code: tuple[str, ...]

    @property
    def tasks(self) -> tuple[Task, ...]:
        return (TASKS[self.task],)

    @property
    def create_pipeline(self):
        """What makes the pipeline of a preset with random weights: `create_pipeline(preset, **overrides)`."""
        return importlib.import_module(f"{self.package}.create").create_pipeline


@dataclass(frozen=True, kw_only=True)
class TaskPipeline:
    """A transformers pipeline of this package: what `pipeline(task)` finds, for any model of an Auto class.

    Attributes:
        task: the name that `pipeline` takes.
        package: the folder that declares it (its `__name__`).
        module, pipeline_class: where the pipeline is in it.
        auto_class: the Auto class that loads its models.
        takes: what it takes, in transformers' words ("image", "text", "multimodal").
        classes: module of the folder -> further public classes in it.
    """

    task: str
    package: str
    module: str
    pipeline_class: str
    auto_class: str
    takes: str
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: _EMPTY)


#: transformers' image processor classes by backend, where ConvNeXT's resize-and-centre-crop rule is the model's own.
CONVNEXT_PROCESSOR = MappingProxyType({"pil": "ConvNextImageProcessorPil", "torchvision": "ConvNextImageProcessor"})


def vision_classes(prefix: str) -> dict[str, str]:
    """The Auto classes of an image classifier whose classes begin with `prefix`."""
    return {
        "AutoModel": f"{prefix}Model",
        "AutoModelForImageClassification": f"{prefix}ForImageClassification",
        "AutoBackbone": f"{prefix}Backbone",
    }


def decoder_classes(prefix: str) -> dict[str, str]:
    """The Auto classes of a language model whose classes begin with `prefix`."""
    return {
        "AutoModel": f"{prefix}Model",
        "AutoModelForCausalLM": f"{prefix}ForCausalLM",
        "AutoModelForSequenceClassification": f"{prefix}ForSequenceClassification",
        "AutoModelForTokenClassification": f"{prefix}ForTokenClassification",
        "AutoModelForQuestionAnswering": f"{prefix}ForQuestionAnswering",
    }
