"""PyramidDrop: a stock LLaVA whose decoder has the official weights."""

from unittest import mock

import torch
from transformers import CLIPVisionConfig, DynamicCache, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutputWithPooling

from hf_effmodels.compression.tokens.pyramid_drop import apply_pyramid_drop, remove_pyramid_drop, watch_drops
from hf_effmodels.compression.tokens.pyramid_drop.rows import Rows

from .. import golden

SYSTEMS = ("pyramiddrop",)


def _model(case: dict, dtype: torch.dtype, features: torch.Tensor) -> LlavaForConditionalGeneration:
    """The image token is one more word, whose embedding nothing reads; the image features are the case's."""
    text = case["config"]["text_config"]
    image_token = text["vocab_size"]
    config = LlavaConfig(
        text_config=LlamaConfig(**text | {"vocab_size": image_token + 1}, attn_implementation="sdpa"),
        vision_config=CLIPVisionConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=8, patch_size=4
        ),
        image_token_index=image_token,
        vision_feature_layer=-1,
    )
    model = LlavaForConditionalGeneration(config).to(dtype)
    weights = golden.state_dict(case, dtype)
    for name, value in weights.items():
        if value.shape[0] == image_token and name in ("model.embed_tokens.weight", "lm_head.weight"):
            value = torch.cat([value, value.new_zeros(1, value.shape[1])])
        name = name.replace("model.", "model.language_model.") if name.startswith("model.") else name
        model.get_parameter(name).data.copy_(value)
    model.model.get_image_features = lambda **kwargs: BaseModelOutputWithPooling(pooler_output=list(features))
    return model.eval()


class _Inputs:
    """What each block that follows a drop is called with."""

    def __init__(self, model, layers: list[int]):
        self.seen: dict[int, tuple] = {}
        for stage, index in enumerate(layers, start=1):
            layer = model.model.language_model.layers[index]
            layer.register_forward_pre_hook(self._keep(stage), with_kwargs=True)

    def _keep(self, stage: int):
        def keep(module, args, kwargs):
            self.seen.setdefault(stage, (args[0].detach().clone(), kwargs["position_ids"]))

        return keep


def _prompt(case: dict, text: torch.Tensor) -> torch.Tensor:
    config = case["config"]
    start, image_token = config["image_token_index"], config["text_config"]["vocab_size"]
    image = text.new_full((1, config["num_image_tokens"]), image_token)
    return torch.cat([text[:, :start], image, text[:, start:]], dim=1)


def _stages(case: dict, drops: list) -> dict[str, torch.Tensor]:
    start = case["config"]["image_token_index"]
    results = {}
    for stage, drop in enumerate(drops, start=1):
        results[f"score_stage{stage}"] = drop.scores
        results[f"kept_in_stage{stage}"] = drop.kept
        results[f"kept_original{stage}"] = drop.tokens - start
    return results


def _generate(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    model = _model(case, dtype, values["image_features"])
    words = config["text_config"]["vocab_size"]
    ids = _prompt(case, values["text_ids"])
    pixels = torch.zeros(1, 3, 8, 8, dtype=dtype)
    seen = {}
    model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.update(kwargs, **seen), with_kwargs=True
    )
    with torch.no_grad():
        whole = model(input_ids=ids, pixel_values=pixels, use_cache=False).logits[:, -1, :words]
        apply_pyramid_drop(model, config["layer_list"], config["image_token_ratio_list"])
        inputs, cache = _Inputs(model, config["layer_list"]), DynamicCache()
        with watch_drops() as drops:
            prefill = model(input_ids=ids, pixel_values=pixels, past_key_values=cache, use_cache=True).logits
        lengths = [layer.get_seq_length() for layer in cache.layers]
        keys = cache.layers[-1].keys
        decoded = [
            model(input_ids=token, past_key_values=cache, use_cache=True).logits
            for token in values["decode_ids"].split(1, dim=1)
        ]
        remove_pyramid_drop(model)
    return {
        "inputs_embeds": seen["inputs_embeds"],
        "logits_without_drop_last": whole,
        "logits_prefill": prefill[..., :words],
        "logits_decode": torch.cat(decoded, dim=1)[..., :words],
        "kv_length_per_layer": torch.tensor(lengths),
        "key_cache_last_layer": keys,
        **{f"hidden_after_drop{stage}": hidden for stage, (hidden, _) in inputs.seen.items()},
        **_stages(case, drops),
    }


def _train(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, config = golden.inputs(case, dtype), case["config"]
    features = values["image_features"].requires_grad_()
    model = _model(case, dtype, features)
    words = config["text_config"]["vocab_size"]
    start, count = config["image_token_index"], config["num_image_tokens"]
    text, alone = values["text_ids"], values["text_only_ids"]
    answers = torch.full_like(text, -100)
    for first, last in config["answer_spans"]:
        answers[:, first:last] = text[:, first:last]
    silent = answers.new_full((1, count), -100)
    half = alone.shape[1] // 2
    labels = torch.cat(
        [
            torch.cat([answers[:, :start], silent, answers[:, start:]], dim=1),
            torch.cat([alone.new_full((1, half), -100), alone[:, half:]], dim=1),
        ]
    )
    apply_pyramid_drop(model, config["layer_list"], config["image_token_ratio_list"])
    inputs = _Inputs(model, config["layer_list"])
    lost, stages, keep, stock_loss = {}, [], Rows.keep, model.loss_function

    def kept(rows: Rows, *args) -> Rows:
        stages.append(keep(rows, *args))
        return stages[-1]

    def loss_function(logits, labels, **kwargs):
        lost["labels"] = labels
        return stock_loss(logits=logits[..., :words], labels=labels, **kwargs | {"vocab_size": words})

    model.loss_function = loss_function
    with watch_drops() as drops, mock.patch.object(Rows, "keep", kept):
        outputs = model(
            input_ids=torch.cat([_prompt(case, text), alone]),
            pixel_values=torch.zeros(1, 3, 8, 8, dtype=dtype),
            labels=labels,
        )
    outputs.loss.backward()
    decoder = model.model.language_model
    results = {
        "loss": outputs.loss.reshape(1),
        "logits": outputs.logits[..., :words],
        "labels_after": lost["labels"],
        "grad_image_features": features.grad,
        "grad_last_q_proj": decoder.layers[-1].self_attn.q_proj.weight.grad,
        "grad_embed_tokens": decoder.embed_tokens.weight.grad[:words],
        **_stages(case, drops),
    }
    for stage, (hidden, positions) in inputs.seen.items():
        results |= {f"hidden_after_drop{stage}": hidden, f"position_ids_after_drop{stage}": positions}
        results[f"labels_after_drop{stage}"] = stages[stage - 1].labels
    return results


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return _train(case, dtype) if case["config"]["mode"] == "train" else _generate(case, dtype)


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    """Norms, rotary tables and the ranking softmax are float32 inside in both codes (the case's note)."""
    return None if dtype == "float32" else 2e-6
