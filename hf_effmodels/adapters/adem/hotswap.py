"""Other adapter weights in a running model, without new parameters."""

from peft import PeftConfig, load_peft_weights
from peft.tuners.tuners_utils import BaseTunerLayer

from .config import AdemConfig
from .model import AdemModel

#: What must agree: it decides which parameters there are.
_SAME = ("num_vision_tokens", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")


def hotswap_adapter(model, model_name_or_path: str, adapter_name: str = "default", **kwargs) -> None:
    """
    Replace the weights of one adapter by those in a folder or on the Hub, in place: the parameters stay the same
    tensors, so compiled graphs and optimizers keep them. (`peft.utils.hotswap` does this for LoRA only.)

    The new adapter's alpha and drop ratio are taken over; where they differ, a compiled model compiles once more.

    Args:
        model: a `PeftModel` with ADEM adapters, compiled or not.
        model_name_or_path: an adapter's folder or Hub id.
        adapter_name: the adapter to replace; it keeps its name.
        kwargs: of `PeftConfig.from_pretrained` and `load_peft_weights`, such as `revision`.

    Raises:
        ValueError: another method, no such adapter, other modules, or weights of another shape; nothing has changed.
    """
    peft_model = getattr(model, "_orig_mod", model)
    tuner = peft_model.base_model
    if not isinstance(tuner, AdemModel):
        raise ValueError(f"model: got a {type(tuner).__name__}, accepted are PeftModels with ADEM adapters.")
    if adapter_name not in tuner.adem_emb1:
        raise ValueError(f"adapter_name: got {adapter_name!r}, the adapters are {', '.join(tuner.adem_emb1)}.")
    ours, theirs = peft_model.peft_config[adapter_name], PeftConfig.from_pretrained(model_name_or_path, **kwargs)
    if not isinstance(theirs, AdemConfig):
        raise ValueError(f"model_name_or_path: {model_name_or_path} holds a {type(theirs).__name__}, no ADEM adapter.")
    for name in _SAME:
        if getattr(ours, name) != getattr(theirs, name):
            raise ValueError(
                f"model_name_or_path: {model_name_or_path} has {name} {getattr(theirs, name)}, the adapter in place "
                f"{getattr(ours, name)}. Load it under a name of its own with load_adapter."
            )
    weights = load_peft_weights(model_name_or_path, device="cpu", **kwargs)
    present = {f"base_model.{name}": getattr(tuner, name)[adapter_name] for name in ("adem_emb1", "adem_emb2")}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    expected = {name: tuple(tensor.shape) for name, tensor in present.items()}
    if found != expected:
        raise ValueError(f"model_name_or_path: {model_name_or_path} holds {found}, expected {expected}.")
    for name, tensor in present.items():
        tensor.data.copy_(weights[name])
    for layer in tuner.modules():
        if isinstance(layer, BaseTunerLayer) and adapter_name in getattr(layer, "alpha", {}):
            layer.update_layer(adapter_name, theirs)
    ours.alpha, ours.drop_ratio = theirs.alpha, theirs.drop_ratio
