"""Official ADEM-VL adapters (`checkpoint_7B_sqa.pth`, ...) -> adapter folders of this package or of peft.

The files hold the trained tensors only, beside the arguments of the training run, from which the settings are read.
The frozen parts come from transformers: a LLaMA converted with transformers' own `convert_llama_weights_to_hf.py`
(which also turns Meta's interleaved rotary layout into that of transformers) and `openai/clip-vit-large-patch14`.
"""

import argparse
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch

from .configuration_adem_vl import AdemVLConfig

VISION_MODEL = "openai/clip-vit-large-patch14"
#: Official names -> ours, one after the other.
RULES = [
    (r"^adapter_emb1$", "model.key_offsets"),
    (r"^adapter_emb2$", "model.value_offsets"),
    (r"^adapter_proj\.", "model.image_projection."),
    (r"^adapter_proj_cls\.", "model.class_projection."),
    (r"^backbone\.visual\.transformer\.resblocks\.(\d+)\.adapter_mlp\.", r"model.vision_adapters.\1."),
]
#: Entries that are no weights.
IGNORED = re.compile(r"^$")
RESHAPED = re.compile(r"^$")


def adapt(state_dict: Mapping[str, torch.Tensor], config: AdemVLConfig) -> AdemVLConfig:
    """The configuration as the adapters' shapes have it.

    Raises:
        ValueError: the shapes contradict the frozen parts in `config`.
    """
    offsets, fc1 = state_dict["model.key_offsets"], state_dict["model.image_projection.fc1.weight"]
    checks = {
        "the decoder's hidden size": (offsets.shape[2], config.text_config.hidden_size),
        "the number of visual tokens": (offsets.shape[1], config.num_vision_tokens),
        "the vision tower's width": (fc1.shape[1], config.vision_config.hidden_size),
    }
    for what, (theirs, ours) in checks.items():
        if theirs != ours:
            raise ValueError(f"checkpoint: made for {theirs} as {what}, the models and settings given have {ours}.")
    config.projector_hidden_size = fc1.shape[0]
    config.vision_adapter_dim = state_dict["model.vision_adapters.0.fc1.weight"].shape[0]
    config.use_cls_token = "model.class_projection.fc1.weight" in state_dict
    return config


def convert_adapters(state_dict: Mapping[str, torch.Tensor], config: AdemVLConfig):
    """Our names -> float32 tensors, and `config` adapted to them; every tensor is used exactly once.

    Raises:
        ConversionError: tensors missing, unexpected, or of another shape.
    """
    from ...hub.convert import ConversionError
    from .modeling_adem_vl import ADAPTER_NAMES, AdemVLForConditionalGeneration

    renamed = {}
    for name, value in state_dict.items():
        ours = name
        for pattern, replacement in RULES:
            ours = re.sub(pattern, replacement, ours)
        renamed[ours] = value.float()
    needed = ("model.key_offsets", "model.image_projection.fc1.weight", "model.vision_adapters.0.fc1.weight")
    if absent := [name for name in needed if name not in renamed]:
        raise ConversionError(f"no ADEM-VL adapters: {', '.join(absent)} missing; found {sorted(state_dict)[:5]}.")
    config = adapt(renamed, config)
    with torch.device("meta"):
        model = AdemVLForConditionalGeneration(config)
    expected = {name: p.shape for name, p in model.state_dict().items() if ADAPTER_NAMES.match(name)}
    missing, unexpected = sorted(expected.keys() - renamed.keys()), sorted(renamed.keys() - expected.keys())
    shapes = [
        f"{name} is {tuple(renamed[name].shape)}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in renamed and renamed[name].shape != shape
    ]
    if missing or unexpected or shapes:
        raise ConversionError(f"missing: {missing[:5]}; unexpected: {unexpected[:5]}; of another shape: {shapes[:5]}.")
    return renamed, config


def read_official(checkpoint: str | Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The tensors of an official file and the arguments of its training run; no code in the file is executed."""
    from ...hub.convert import _read_pickle, read_checkpoint

    state_dict, _ = read_checkpoint(checkpoint)
    if Path(checkpoint).suffix == ".safetensors":
        return state_dict, {}
    arguments = _read_pickle(Path(checkpoint)).get("args", {})
    return state_dict, vars(arguments) if isinstance(arguments, argparse.Namespace) else dict(arguments)


def settings_of(arguments: Mapping) -> dict:
    """Fields of the configuration as the arguments of the official training script have them.

    Raises:
        ValueError: an argument has an unexpected form.
    """
    settings = {}
    for name in ("alpha", "beta", "drop_ratio"):
        if name in arguments:
            settings[name] = float(arguments[name])
    counts = arguments.get("down_sample_num")
    if counts is not None:
        counts = json.loads(counts) if isinstance(counts, str) else list(counts)
        settings["pool_sizes"] = [round(count**0.5) for count in counts]
        if [size * size for size in settings["pool_sizes"]] != counts:
            raise ValueError(f"down_sample_num: got {counts} in the checkpoint's arguments, expected squares.")
    if "no_cls" in arguments:
        settings["use_cls_token"] = not arguments["no_cls"]
    return settings


def convert(
    preset: str,
    checkpoint: str | Path,
    folder: str | Path,
    *,
    text_model: str | None = None,
    vision_model: str = VISION_MODEL,
    license: str | None = None,
    **settings,
):
    """
    Write an official adapter file as a folder for the Hub: adapters, configuration, processor, code and card.

    `hf-effmodels convert` comes here. The decoder's weights are not read, only its configuration and tokenizer.

    Args:
        preset: what the adapters were trained for; the image statistics are its.
        checkpoint, folder, text_model, vision_model, settings: as for `convert_checkpoint`.
        license: licence of the weights, such as `"other"`.

    Returns:
        `hub.convert.ConversionReport`.

    Raises:
        ConversionError, ValueError, OSError: the file does not fit; nothing is written.
    """
    from dataclasses import asdict

    from transformers import AutoTokenizer

    from ...hub import export
    from ...hub.convert import ConversionReport, _sha256, read_checkpoint
    from ...models import create_image_processor
    from .modeling_adem_vl import AdemVLForConditionalGeneration
    from .processing_adem_vl import AdemVLProcessor

    if text_model is None:
        raise ValueError(
            f"text_model: got None, but {preset} is a set of adapters: say where the language model they were trained "
            "for is (--text-model), a Hub id or a folder in the layout of transformers."
        )
    weights, config = _read_adapters(checkpoint, text_model, vision_model, settings)
    side = config.vision_config.image_size
    processor = AdemVLProcessor(
        create_image_processor(preset, size={"height": side, "width": side}),
        AutoTokenizer.from_pretrained(text_model),
        use_cls_token=config.use_cls_token,
    )
    if "image_token_id" not in settings:
        config.image_token_id = processor.image_token_id
    with torch.device("meta"):
        model = AdemVLForConditionalGeneration(config)
    model.load_state_dict(weights, strict=False, assign=True)
    report = ConversionReport(
        preset=preset,
        source=Path(checkpoint).name,
        sha256=_sha256(checkpoint),
        entry=read_checkpoint(checkpoint)[1],
        converted=len(weights),
        ignored=[],
        reparameterized=False,
    )
    export(
        model,
        processor,
        folder,
        adapter_only=True,
        preset=preset,
        license=license,
        base_model=text_model if "/" in text_model and not Path(text_model).exists() else None,
        conversion=asdict(report),
    )
    return report


def convert_checkpoint(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    text_model: str,
    vision_model: str = VISION_MODEL,
    **settings,
) -> AdemVLConfig:
    """
    Write an official adapter file as a folder that `AutoModelForImageTextToText.from_pretrained` loads.

    Args:
        checkpoint: the `.pth` file, or its tensors as `.safetensors`.
        folder: where to write; must not exist or be empty.
        text_model: name or path of the LLaMA it was trained for, in the layout of transformers.
        vision_model: name or path of the CLIP.
        settings: fields of `AdemVLConfig`, which win over those in the file.

    Returns:
        The configuration written.

    Raises:
        ConversionError, ValueError, OSError: the file does not fit; nothing is written.
    """
    from safetensors.torch import save_file

    weights, config = _read_adapters(checkpoint, text_model, vision_model, settings)
    config.adapter_only = True
    config.architectures = ["AdemVLForConditionalGeneration"]

    def write(target: Path) -> None:
        config.save_pretrained(target)
        save_file({k: v.contiguous() for k, v in weights.items()}, target / "model.safetensors", {"format": "pt"})

    _write_folder(folder, write)
    return config


def _read_adapters(checkpoint: str | Path, text_model: str, vision_model: str, settings: dict):
    """The adapters by our names, and the configuration of the whole model."""
    from transformers import AutoConfig

    state_dict, arguments = read_official(checkpoint)
    vision_config = AutoConfig.from_pretrained(vision_model)
    config = AdemVLConfig(
        text_config=AutoConfig.from_pretrained(text_model),
        vision_config=getattr(vision_config, "vision_config", vision_config),
        text_model_name_or_path=str(text_model),
        vision_model_name_or_path=str(vision_model),
        **{**settings_of(arguments), **settings},
    )
    return convert_adapters(state_dict, config)


def convert_to_peft(checkpoint: str | Path, folder: str | Path, *, text_model: str | None = None, **settings):
    """
    Write the decoder's part of an official adapter file as a folder that `PeftModel.from_pretrained` loads.

    The projections and the vision tower's adapters are not part of it: the model then takes `image_embeds`.

    Args:
        checkpoint, folder: as for `convert_checkpoint`.
        text_model: name or path of the LLaMA, to stand in the folder.
        settings: fields of `AdemConfig`, which win over those in the file.
    """
    from safetensors.torch import save_file

    from ...adapters.adem import AdemConfig

    state_dict, arguments = read_official(checkpoint)
    try:
        offsets = {
            f"base_model.adem_{name}": state_dict[f"adapter_{name}"].float().contiguous() for name in ("emb1", "emb2")
        }
    except KeyError as error:
        raise ValueError(
            f"checkpoint: {checkpoint} has no {error.args[0]!r}; found {sorted(state_dict)[:5]}."
        ) from None
    found = {k: v for k, v in settings_of(arguments).items() if k in ("alpha", "drop_ratio")}
    tokens = offsets["base_model.adem_emb1"].shape[1]
    config = AdemConfig(
        **{**found, "num_vision_tokens": tokens, "target_modules": ["mlp"], "inference_mode": True, **settings},
        task_type="CAUSAL_LM",
        base_model_name_or_path=text_model,
    )

    def write(target: Path) -> None:
        config.save_pretrained(str(target))
        save_file(offsets, target / "adapter_model.safetensors", {"format": "pt"})

    _write_folder(folder, write)
    return config


def _write_folder(folder: str | Path, write) -> None:
    """Call `write` with a temporary folder and rename it to `folder`, so that nothing half-written stays."""
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"folder: {folder} exists and is not an empty folder.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        temporary.mkdir()
        write(temporary)
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
