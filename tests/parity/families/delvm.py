"""DeLVM: the image tokenizer with its stages, losses and gradients; the transformer in both layouts, folded and not;
the divergence from a teacher; the packing."""

import numpy as np
import torch
from torch.nn import functional as F

from hf_effmodels.pipelines.delvm.convert_delvm import language_model_of, vq_model_of, vq_name
from hf_effmodels.pipelines.delvm.factorized_embedding import FactorizedEmbedding, fold_embedding
from hf_effmodels.pipelines.delvm.image_tokenizer_delvm import DelvmImageTokenizer
from hf_effmodels.training.data.visual_sentences import PackedSentences
from hf_effmodels.training.losses.codebook import codebook_loss, straight_through
from hf_effmodels.training.losses.language_distillation import language_distillation_losses

from ..golden import inputs, state_dict

SYSTEMS = ("delvm",)


def tolerance(case: dict, name: str, dtype: str) -> float | None:
    config = case["config"]
    if "layout" in config and name != "greedy_continuation" and dtype == "float64":
        return 5e-6  # the stock LLaMA computes its norms and rotary tables in float32
    if name == "uint8_image" and dtype == "float32":
        return 1.01 / case["outputs"][name]["std"]  # cut, not rounded: off by one level
    if name.startswith("grad:") and dtype == "float32":
        return 5e-2
    return None


def run(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config = case["config"]
    if "layout" in config:
        return language_model(case, dtype)
    if "num_embeddings" in config:
        return tokenizer(case, dtype)
    if "packed_length" in config:
        return packing(case)
    if "kd_weight" in config:
        return distillation(case, dtype)
    raise AssertionError(f"a case of an unknown kind: {case['variant']}")


def tokenizer(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, features = case["config"], {}
    model = vq_model_of(state_dict(case, dtype), config["resolution"])
    ours = DelvmImageTokenizer(model, config["resolution"])
    stages = len(config["channel_mult"])

    def keep(name: str, official: str) -> None:
        module = model.get_submodule(vq_name(official, stages))
        module.register_forward_hook(lambda module, args, output: features.__setitem__(name, output))

    keep("encoder_conv_in", "encoder.conv_in")
    keep("encoder_mid", "encoder.mid")
    keep("decoder_mid", "decoder.mid")
    for stage in range(stages):
        keep(f"encoder_down_{stage}", f"encoder.down.{stage}")
        keep(f"decoder_up_{stage}", f"decoder.up.{stage}")

    pixels = inputs(case, dtype)["pixel_values"].requires_grad_()
    latents = model.encode(pixels).latents
    ids = ours.encode(pixels.detach())
    side = latents.shape[-1]
    shape = (len(ids), side, side, latents.shape[1])
    quantized = model.quantize.get_codebook_entry(ids.reshape(-1), shape)
    loss = codebook_loss(latents, quantized, config["commitment_cost"])
    reconstruction = model.decoder(model.post_quant_conv(straight_through(latents, quantized)))
    (reconstruction.square().mean() + loss).backward()
    results = dict(features)  # of this pass: decoding again would replace them
    temperatures = [n.removeprefix("soft_codes_temp_") for n in case["outputs"] if n.startswith("soft_codes_temp_")]
    soft = {f"soft_codes_temp_{t}": ours.soft_codes(pixels.detach(), float(t)) for t in temperatures}
    images = np.stack([np.asarray(image) for image in ours.decode(ids)]).astype(np.float64)
    return results | soft | {
        "pre_quant_latents": latents,
        "quantized": quantized,
        "token_ids": ids.double(),
        "codebook_loss": loss.reshape(1),
        "reconstruction": reconstruction,
        "decoded_from_ids": ours.decode_pixels(ids),
        "grad:pixel_values": pixels.grad,
        "grad:quantize.embedding.weight": ours.codebook.grad,
        "uint8_image": images,
    }  # fmt: skip


@torch.no_grad()
def language_model(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, weights = case["config"], state_dict(case, dtype)
    options = {"num_attention_heads": config["num_attention_heads"], "rms_norm_eps": config["norm_eps"]}
    model = language_model_of(weights, **options)
    assert (
        language_model_of(weights, num_attention_heads=options["num_attention_heads"]).config.rms_norm_eps
        == ({"hf": 1e-6, "internlm": 1e-5}[config["layout"]])
    )
    ids = inputs(case)["input_ids"]
    before_norm = []
    hook = model.model.norm.register_forward_pre_hook(lambda module, args: before_norm.append(args[0]))
    outputs = model(ids, labels=ids, output_hidden_states=True)
    hook.remove()
    if config["vq_embed_dim"] is not None:
        factorized = language_model_of(weights, **options, factorized=True)
        assert isinstance(factorized.get_input_embeddings(), FactorizedEmbedding)
        torch.testing.assert_close(factorized(ids).logits, outputs.logits, rtol=1e-4, atol=1e-4)
        fold_embedding(factorized)
        torch.testing.assert_close(factorized(ids).logits, outputs.logits, rtol=0, atol=0)
    half = ids.shape[1] // 2
    number = case["outputs"]["greedy_continuation"]["shape"][1]
    options = {"max_new_tokens": number, "do_sample": False, "attention_mask": torch.ones_like(ids[:, :half])}
    continued = model.generate(ids[:, :half], **options)[:, half:]
    # The official last state is the one before the final norm.
    states = {f"hidden_states_{index}": s for index, s in enumerate((*outputs.hidden_states[:-1], *before_norm))}
    return states | {
        "logits": outputs.logits,
        "next_token_loss": outputs.loss.reshape(1),
        "greedy_continuation": continued.double(),
    }


def distillation(case: dict, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    config, values = case["config"], inputs(case, dtype)
    student, teacher, labels = values["student_logits"].requires_grad_(), values["teacher_logits"], values["labels"]
    labels = labels.clone()
    if config["ignored_tail"]:
        labels[:, -config["ignored_tail"] :] = -100
    everywhere = torch.ones_like(labels, dtype=torch.bool)
    options = {"temperature": float(config["temperature"]), "inverse": config["inverse"]}
    divergence = language_distillation_losses(student, teacher, everywhere, **options)["kl"]
    entropy = F.cross_entropy(student.flatten(0, 1), labels.flatten())
    total = config["gt_weight"] * entropy + config["kd_weight"] * divergence
    total.backward()
    losses = {"cross_entropy": entropy, "kl": divergence, "total": total}
    return {name: value.reshape(1) for name, value in losses.items()} | {"grad:student_logits": student.grad}


def packing(case: dict) -> dict[str, np.ndarray]:
    config, tokens = case["config"], inputs(case)["tokens"].numpy()
    lengths = config["sample_lengths"]
    sentences = np.split(tokens, np.cumsum(lengths)[:-1])
    packs = PackedSentences(
        sentences, lengths, config["packed_length"], config["max_length_per_sample"], config["shuffle_seed"]
    )
    results = {"num_packs": np.array([len(packs)]), "sample_order": packs.order}
    for number in range(len(packs)):
        pack = packs.pack(number)
        results |= {f"pack{number}_{name}": getattr(pack, name) for name in ("tokens", "labels")}
        results |= {f"pack{number}_indexes": pack.positions, f"pack{number}_cu_seqlens": pack.boundaries}
    return results
