"""The decoder's part of official ADEM-VL adapters (`checkpoint_7B_sqa.pth`, ...) -> a PEFT adapter."""

from pathlib import Path

from ..._files import check_folder, whole_folder
from .config import AdemConfig


def convert_to_peft(
    checkpoint: str | Path, folder: str | Path, *, text_model: str | None = None, **settings
) -> AdemConfig:
    """
    Write the decoder's part of an official adapter file as a folder that `PeftModel.from_pretrained` loads.

    The projections and the vision tower's adapters are not part of it: the model then takes `image_embeds`.

    Args:
        checkpoint: the `.pth` file, or its tensors as `.safetensors`.
        folder: where to write; must not exist or be empty.
        text_model: name or path of the LLaMA, to stand in the folder.
        settings: fields of `AdemConfig`, which win over those in the file.

    Raises:
        ValueError, OSError: the file does not fit; nothing is written.
    """
    from safetensors.torch import save_file

    # Not with peft's import, which brings this package's adapters in: nobody else needs torch's readers.
    from ...hub.checkpoints import check_tensors, read_checkpoint, stored_arguments
    from ...modeling.adem_vl.convert_adem_vl import settings_of

    check_folder(folder)
    state_dict, _ = read_checkpoint(checkpoint)
    official = {ours: f"adapter_{ours}" for ours in ("emb1", "emb2")}
    if absent := [name for name in official.values() if name not in state_dict]:
        raise ValueError(f"checkpoint: {checkpoint} has no {absent[0]!r}; found {sorted(state_dict)[:5]}.")
    check_tensors({name: state_dict[name] for name in official.values()})
    offsets = {f"base_model.adem_{ours}": state_dict[name].float().contiguous() for ours, name in official.items()}
    tokens = {value.shape[1] if value.dim() == 3 else None for value in offsets.values()}
    if len(tokens) != 1 or None in tokens:
        shapes = ", ".join(str(tuple(value.shape)) for value in offsets.values())
        raise ValueError(
            f"checkpoint: {checkpoint} has offsets {shapes}, expected are two of (layers, tokens, width)."
        )
    found = {k: v for k, v in settings_of(stored_arguments(checkpoint)).items() if k in ("alpha", "drop_ratio")}
    (number,) = tokens
    if (asked := settings.get("num_vision_tokens", number)) != number:
        raise ValueError(f"num_vision_tokens: got {asked}, but {checkpoint} has offsets of {number} tokens.")
    always = {"num_vision_tokens": number, "target_modules": ["mlp"], "inference_mode": True, "task_type": "CAUSAL_LM"}
    config = AdemConfig(**{**found, **always, "base_model_name_or_path": text_model, **settings})
    with whole_folder(folder) as new:
        config.save_pretrained(str(new))
        save_file(offsets, new / "adapter_model.safetensors", {"format": "pt"})
    return config
