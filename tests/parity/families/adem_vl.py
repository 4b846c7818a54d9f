"""ADEM-VL: the fusion alone with gradients, the pyramids of patches, and the whole model with loss and generation."""

from contextlib import contextmanager, nullcontext

import torch
from torch.nn import functional as F
from transformers import CLIPVisionConfig, LlamaConfig
from transformers.models.llama import modeling_llama

from hf_effmodels.hub.convert import convert_state_dict
from hf_effmodels.modeling.adem_vl.configuration_adem_vl import AdemVLConfig
from hf_effmodels.modeling.adem_vl.fusion_adem_vl import fuse, fusion_keys_values
from hf_effmodels.modeling.adem_vl.modeling_adem_vl import AdemVLForConditionalGeneration, pool_patches
from hf_effmodels.registry import ARCHITECTURES

from ..golden import inputs, state_dict

SYSTEMS = ("adem_vl",)
IMAGE_TOKEN = 1000


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    if "drop_ratio" in case["config"] and "dim" in case["config"] and not case["state_dict"]:
        return _fusion(case, dtype)
    if "grid_sizes" in case["config"]:
        patches = inputs(case, dtype)["patch_tokens"]
        return {"multiscale_features": pool_patches(patches, case["config"]["grid_sizes"])}
    # A stock Llama norms and rotates in float32, which costs a float64 run 5e-7 (see the cases' note).
    with _exact_llama() if dtype == torch.float64 else nullcontext():
        return _Model(case, dtype).outputs()


def _fusion(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    values, drop_ratio = inputs(case, dtype), case["config"]["drop_ratio"]
    wanted = {name: values[name].requires_grad_() for name in ("hidden", "image_embeds", "emb1", "emb2")}
    keys, memory = fusion_keys_values(wanted["image_embeds"], wanted["emb1"], wanted["emb2"])
    fused = fuse(wanted["hidden"], keys, memory, drop_ratio)
    (fused * values["cotangent"]).sum().backward()

    # What `fuse` does on the way, seen through values that pick out the scores.
    def scores(ratio: float) -> torch.Tensor:
        return fuse(wanted["hidden"], keys, torch.eye(keys.shape[1], dtype=dtype)[None], ratio).detach()

    everything, kept = scores(0.0), scores(drop_ratio)
    mask = (kept != 0).to(dtype)
    threshold = torch.where(mask.bool(), kept, torch.inf).amin(dim=-1)
    outputs = {"scores": everything, "fused": fused, "threshold": threshold, "keep_mask": mask}
    outputs |= {"kept_per_token": mask.sum(dim=-1)}
    return outputs | {f"grad:{name}": value.grad for name, value in wanted.items()}


class _Model:
    def __init__(self, case: dict, dtype: torch.dtype):
        self.case, self.dtype, self.published = case, dtype, case["config"]
        self.values = inputs(case, dtype)
        self.model = self._converted()
        self.seen: dict[str, torch.Tensor] = {}

    def _configuration(self) -> AdemVLConfig:
        c = self.published
        round_up = c["multiple_of"]
        return AdemVLConfig(
            text_config=LlamaConfig(
                hidden_size=c["dim"],
                intermediate_size=round_up * -(-int(8 * c["dim"] / 3) // round_up),
                num_hidden_layers=c["n_layers"],
                num_attention_heads=c["n_heads"],
                num_key_value_heads=c["n_heads"],
                vocab_size=c["vocab_size"],
                rms_norm_eps=c["norm_eps"],
                pad_token_id=0,
            ),
            vision_config=CLIPVisionConfig(
                hidden_size=c["vision_width"],
                intermediate_size=4 * c["vision_width"],
                num_hidden_layers=c["vision_layers"],
                num_attention_heads=c["vision_width"] // 64,
                patch_size=c["patch_size"],
                image_size=c["image_size"],
            ),
            alpha=c["alpha"],
            beta=c["beta"],
            drop_ratio=c["drop_ratio"],
            pool_sizes=[round(count**0.5) for count in c["down_sample_num"]],
            vision_adapter_scale=c["clip_adapter_scale"],
            use_cls_token=c["with_cls"],
            image_token_id=IMAGE_TOKEN,
        )

    def _converted(self):
        weights = state_dict(self.case, self.dtype)
        official = {k: weights.pop(k) for k in list(weights) if "adapter_" in k}
        adapted, _ = convert_state_dict(ARCHITECTURES["adem_vl"], self._configuration(), official)
        model = AdemVLForConditionalGeneration(adapted.config).to(self.dtype).eval()
        exact = {name: value for name, value in adapted.state_dict().items() if not value.is_meta}
        assert len(exact) == len(official)
        base = {**_llama(weights, self.published), **_clip(weights)}
        missing, unexpected = model.load_state_dict({**exact, **base}, strict=False)
        allowed = f"model.vision_tower.encoder.layers.{self.published['vision_layers'] - 1}."
        if missing or not all(name.startswith(allowed) for name in unexpected):
            raise AssertionError(f"base weights: missing {missing}, unexpected {unexpected}")
        return model

    def outputs(self) -> dict[str, torch.Tensor]:
        vision = self.model.model.encode_images(self.values["pixel_values"])
        results = {
            "vision_tokens": vision.vision_tokens,
            "multiscale_features": vision.multiscale_features,
            "image_embeds_times_beta": vision.image_embeds,
        }
        if vision.class_embeds is not None:
            results["cls_embeds"] = vision.class_embeds[:, None]
        results |= self._loss_pass()
        if "generated_ids_cut_at_eos" in self.case["outputs"]:
            results |= self._generation()
        return results

    def _prefixed(self, indicator: int) -> list[int]:
        if not self.published["with_cls"]:
            return [1]
        if indicator:
            return [1, *self.published["prefix_image_ids"], IMAGE_TOKEN]
        return [1, *self.published["prefix_text_ids"]]

    def _loss_pass(self) -> dict[str, torch.Tensor]:
        rows, targets = [], []
        for i, indicator in enumerate(self.published["indicators"]):
            tokens = self.values["token_ids"][i].tolist()
            length = self.published["example_lengths"][i]
            example = [1, *tokens[1 : length - 1], 2] + [0] * (len(tokens) - length)
            prompt = self.published["prompt_lengths"][i]
            labels = [0] * prompt + example[prompt:]
            prefix = self._prefixed(indicator)
            rows.append((prefix + example[1:])[: len(tokens)])
            targets.append(([0] * len(prefix) + labels[1:])[: len(tokens)])
        ids, merged = torch.tensor(rows), torch.tensor(targets)
        cropped = int(merged.any(dim=0).nonzero().max()) + 1
        width = self.case["outputs"]["logits"]["shape"][1]
        if cropped != width:
            raise AssertionError(f"the batch is cropped to {cropped} tokens, the case has {width}")
        labels = merged[:, :cropped].masked_fill(merged[:, :cropped] == 0, -100)

        handles = self._watch()
        mask = torch.tensor(self.published["indicators"], dtype=torch.bool)
        result = self.model(
            input_ids=ids[:, :cropped], pixel_values=self.values["pixel_values"], image_mask=mask, labels=labels
        )
        for handle in handles:
            handle.remove()
        loss = result.loss
        if self.dtype == torch.float64:
            # transformers' loss rounds the logits to float32; the float32 run compares it as it is.
            loss = F.cross_entropy(result.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        loss.backward()
        return {
            "merged_labels": merged,
            "loss": loss.reshape(1),
            "logits": result.logits,
            **self.seen,
            **self._gradients(),
        }

    def _watch(self) -> list:
        layers = self.model.model.language_model.layers
        plain = {}

        def keep_layer(index: int):
            def hook(module, args, output):
                self.seen.setdefault(f"hidden_states_after_layer_{index}", output.detach().clone())

            return hook

        def keep_plain(module, args, output):
            plain.setdefault("output", output.detach().clone())

        def keep_fused(module, args, output):
            fused = (output.detach() - plain["output"]) / self.published["alpha"]
            self.seen.setdefault("fusion_query_layer_0", args[0].detach().clone())
            self.seen.setdefault("fusion_output_layer_0", fused)

        handles = [layer.register_forward_hook(keep_layer(index)) for index, layer in enumerate(layers)]
        handles.append(layers[0].mlp.register_forward_hook(keep_plain, prepend=True))
        handles.append(layers[0].mlp.register_forward_hook(keep_fused))
        return handles

    def _gradients(self) -> dict[str, torch.Tensor]:
        names = {
            "adapter_emb1": "key_offsets",
            "adapter_emb2": "value_offsets",
            "adapter_proj.": "image_projection.",
            "adapter_proj_cls.": "class_projection.",
        }
        gradients = {}
        for output in self.case["outputs"]:
            if not output.startswith("grad:"):
                continue
            name = output.removeprefix("grad:")
            for theirs, ours in names.items():
                if name.startswith(theirs):
                    name = name.replace(theirs, ours)
            name = name.replace("backbone.visual.transformer.resblocks.", "vision_adapters.")
            parameter = self.model.model.get_parameter(name.replace(".adapter_mlp.", "."))
            # What no row of the batch uses has no gradient here and a gradient of zero there.
            gradients[output] = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        return gradients

    def _generation(self) -> dict[str, torch.Tensor]:
        prompts = [
            self._prefixed(indicator) + self.values["token_ids"][i, 1:length].tolist()
            for i, (indicator, length) in enumerate(
                zip(self.published["indicators"], self.published["prompt_lengths"], strict=True)
            )
        ]
        longest = max(map(len, prompts))
        ids = torch.tensor([[0] * (longest - len(p)) + p for p in prompts])
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        # `generate` itself keeps the logits in float32 only.
        logits = []
        handle = self.model.lm_head.register_forward_hook(lambda m, a, output: logits.append(output[:, -1]))
        new = self.model.generate(
            ids,
            attention_mask=mask,
            pixel_values=self.values["pixel_values"],
            image_mask=torch.tensor(self.published["indicators"], dtype=torch.bool),
            max_new_tokens=self.published["max_new_tokens"],
            do_sample=False,
            eos_token_id=2,
            pad_token_id=0,
        )[:, longest:]
        handle.remove()
        tokens = torch.full((len(prompts), self.published["max_new_tokens"]), -1)
        lengths = []
        for row, found in enumerate(new.tolist()):
            lengths.append(found.index(2) if 2 in found else len(found))
            tokens[row, : lengths[-1]] = torch.tensor(found[: lengths[-1]])
        # Up to and with the step that gives the first eos of any row.
        steps = min(min(lengths) + 1, len(logits))
        return {
            "generated_ids_cut_at_eos": tokens,
            "generate_step_logits": torch.stack(logits[:steps], dim=1),
        }


def _llama(weights: dict[str, torch.Tensor], published: dict) -> dict[str, torch.Tensor]:
    """Meta's layout -> that of transformers."""
    names = {"wq": "q_proj", "wk": "k_proj", "wv": "v_proj", "wo": "o_proj"}
    names |= {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}
    names |= {"attention": "self_attn", "feed_forward": "mlp"}
    names |= {"attention_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm"}
    converted = {}
    for name, value in weights.items():
        if name.startswith("backbone."):
            continue
        if name.endswith(("wq.weight", "wk.weight")):
            # Interleaved pairs of the rotary embedding -> halves.
            value = value.unflatten(0, (published["n_heads"], -1, 2)).transpose(1, 2).reshape(value.shape)
        if name == "output.weight":
            converted["lm_head.weight"] = value
        else:
            ours = ".".join(names.get(part, part) for part in name.split("."))
            converted[f"model.language_model.{ours.replace('tok_embeddings', 'embed_tokens')}"] = value
    return converted


def _clip(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """OpenAI's layout -> that of transformers; the projection to the common space is not used."""
    names = {"attn": "self_attn", "ln_1": "layer_norm1", "ln_2": "layer_norm2", "c_fc": "fc1", "c_proj": "fc2"}
    names |= {"ln_pre": "pre_layrnorm", "ln_post": "post_layernorm"}
    names |= {"transformer": "encoder", "resblocks": "layers"}
    embeddings = {
        "class_embedding": "embeddings.class_embedding",
        "positional_embedding": "embeddings.position_embedding.weight",
        "conv1.weight": "embeddings.patch_embedding.weight",
    }
    converted = {}
    for name, value in weights.items():
        name = name.removeprefix("backbone.visual.") if name.startswith("backbone.visual.") else "proj"
        if name == "proj":
            continue
        ours = embeddings.get(name) or ".".join(names.get(part, part) for part in name.split("."))
        if "in_proj_" in ours:
            for projection, part in zip("qkv", value.chunk(3), strict=True):
                converted[f"model.vision_tower.{ours.replace('in_proj_', f'{projection}_proj.')}"] = part
        else:
            converted[f"model.vision_tower.{ours}"] = value
    return converted


@contextmanager
def _exact_llama():
    """Llama's norms and rotary tables without their rounding to float32."""
    norm, rotary = modeling_llama.LlamaRMSNorm, modeling_llama.LlamaRotaryEmbedding
    kept = norm.forward, rotary.forward

    def exact_norm(self, hidden):
        return self.weight * hidden * torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    def exact_rotary(self, x, position_ids):
        size = self.config.hidden_size // self.config.num_attention_heads
        steps = torch.arange(0, size, 2, dtype=torch.float64) / size
        angles = position_ids[..., None].double() / self.config.rope_parameters["rope_theta"] ** steps
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()

    norm.forward, rotary.forward = exact_norm, exact_rotary
    try:
        yield
    finally:
        norm.forward, rotary.forward = kept
