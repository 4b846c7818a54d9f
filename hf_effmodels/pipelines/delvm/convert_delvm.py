"""Official DeLVM weights -> stock models: the VQGAN -> diffusers' `VQModel`, the transformer -> `LlamaForCausalLM`.

The sizes of the networks are read from the shapes. Every entry is used exactly once or the conversion is refused.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from diffusers import VQModel
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.initialization import no_init_weights

from ..._files import sha256
from ...hub.checkpoints import check_names, check_official_values, check_tensors, read_checkpoint
from ...hub.convert import ConversionReport
from ...hub.fit import ConversionError, check_fit, entry, naming
from .configuration_delvm import DELVM_LLAMA, PRESETS
from .export import export
from .factorized_embedding import FactorizedEmbedding
from .pipeline_delvm import DelvmPipeline

#: Applied one after the other to names of modules and weights of the VQGAN; stages of the decoder count from the
#: shallowest there and from the deepest here, which `vq_name` does.
VQ_RULES = (
    (r"^encoder\.down\b", "encoder.down_blocks"),
    (r"\.block\.(\d+)\b", r".resnets.\1"),
    (r"\.attn\.(\d+)\b", r".attentions.\1"),
    (r"\.downsample\b", ".downsamplers.0"),
    (r"\.upsample\b", ".upsamplers.0"),
    (r"\.mid\.block_1\b", ".mid_block.resnets.0"),
    (r"\.mid\.block_2\b", ".mid_block.resnets.1"),
    (r"\.mid\.attn_1\b", ".mid_block.attentions.0"),
    (r"\.mid\b", ".mid_block"),
    (r"\.nin_shortcut\b", ".conv_shortcut"),
    (r"\.norm_out\b", ".conv_norm_out"),
    (r"(\.attentions\.\d+)\.norm\b", r"\1.group_norm"),
    (r"(\.attentions\.\d+)\.([qkv])\b", r"\1.to_\2"),
    (r"(\.attentions\.\d+)\.proj_out\b", r"\1.to_out.0"),
)
#: The transformer as it is trained -> as it is released.
TRAINING_RULES = (
    (r"^blocks\.(\d+)\.mixer\.out_proj\b", r"model.layers.\1.self_attn.o_proj"),
    (r"^blocks\.(\d+)\.mlp\.w1\b", r"model.layers.\1.mlp.gate_proj"),
    (r"^blocks\.(\d+)\.mlp\.w2\b", r"model.layers.\1.mlp.up_proj"),
    (r"^blocks\.(\d+)\.mlp\.w3\b", r"model.layers.\1.mlp.down_proj"),
    (r"^blocks\.(\d+)\.norm1\b", r"model.layers.\1.input_layernorm"),
    (r"^blocks\.(\d+)\.norm2\b", r"model.layers.\1.post_attention_layernorm"),
    (r"^blocks\.(\d+)\b", r"model.layers.\1"),
    (r"^norm\b", "model.norm"),
    (r"^head\b", "lm_head"),
    (r"^embedding(\.word_embeddings)?\.weight$", "model.embed_tokens.weight"),
    (r"^embedding\.vq_model\.quantize\.embedding\.weight$", "model.embed_tokens.codebook"),
    (r"^embedding\.embed_proj\b", "model.embed_tokens.projection"),
)
#: Rotary tables, and the rest of the tokenizer, which training keeps beside its codebook.
LANGUAGE_IGNORED = re.compile(
    r"rotary_emb\.inv_freq$|^embedding\.vq_model\.(encoder|decoder|quant_conv|post_quant_conv)\."
)
#: In a training checkpoint, what the tokenizer's names begin with.
VQ_PREFIX = "embedding.vq_model."
#: Norm epsilons: of the training code, and of the official conversion to the released layout.
TRAINING_EPS, RELEASED_EPS = 1e-5, 1e-6
_HEAD_DIM = 128
#: Patterns of the stages' names.
_HALVES = (r"encoder\.down", r"decoder\.up")


#: Settings that weights do not tell, as the configuration file beside the released ones has them.
_STORED = ("num_attention_heads", "rms_norm_eps", "rope_theta", "max_position_embeddings")


def convert(
    preset: str,
    checkpoint: str | Path,
    folder: str | Path,
    *,
    image_tokenizer: str | Path | None = None,
    num_attention_heads: int | None = None,
    license: str | None = None,
    allow_broken_weights: bool = False,
    **card,
) -> ConversionReport:
    """Convert official weights into a folder that `DelvmPipeline.from_pretrained` loads.

    Args:
        preset: the preset the checkpoint belongs to.
        checkpoint: of the transformer: a file in the released or the training layout (read with `weights_only=True`),
            or a folder of such files: the released one, whose `config.json` is followed, or that of a training on
            several devices, `model_tp0_pp0.pt` and so on.
        folder: where to write; must not exist or be empty.
        image_tokenizer: the file of the official VQGAN, or the folder it is in. Not needed for a training checkpoint
            that has it inside.
        num_attention_heads: where no configuration says it; by default of 128 channels each, as all published ones.
        license: the Hub's identifier of the licence of the weights.
        allow_broken_weights: convert weights that are not finite, too.
        card: further arguments of `export`.

    Raises:
        ConversionError: a checkpoint does not fit the preset; nothing is written.
        OSError, ValueError: a file is missing, truncated, or holds something other than tensors.
    """
    if preset not in PRESETS:
        raise ValueError(f"preset: got {preset!r}, accepted are {', '.join(map(repr, PRESETS))}.")
    weights, settings, files = _read(checkpoint)
    if num_attention_heads is not None:
        settings["num_attention_heads"] = num_attention_heads
    with naming(checkpoint, preset):
        language_model = language_model_of(weights, **settings)
    if image_tokenizer is not None:
        codes, _, further = _read(image_tokenizer)
    elif any(name.removeprefix("model.").startswith(f"{VQ_PREFIX}encoder.") for name in weights):
        codes, further = weights, []
    else:
        raise ConversionError(
            f"image_tokenizer: got None, but {checkpoint} has no image tokenizer inside: say where the official VQGAN "
            "(vqgan-f16-8192-laion) is (--image-tokenizer)."
        )
    if not allow_broken_weights:
        check_official_values("checkpoint", checkpoint, weights)
        check_official_values("image_tokenizer", image_tokenizer, codes)
    with naming(image_tokenizer or checkpoint, preset):
        vqvae = vq_model_of(codes)
    _check_preset(preset, language_model, vqvae, checkpoint)
    ignored = sorted(name for name in weights if _is_no_weight(name))
    report = ConversionReport(
        preset=preset,
        source=", ".join(path.name for path in [*files, *further]),
        sha256=_digest([*files, *further]),
        entry="the file itself" if image_tokenizer is None else "the files themselves",
        converted=len(weights) - len(ignored) + (0 if codes is weights else len(codes)),
        ignored=ignored,
        reparameterized=False,
    )
    pipe = DelvmPipeline(vqvae, language_model)
    export(pipe, folder, preset=preset, license=license, conversion=report, **card)
    return report


def _is_no_weight(name: str) -> bool:
    return name.endswith("rotary_emb.inv_freq")


def _read(where: str | Path) -> tuple[dict[str, torch.Tensor], dict, list[Path]]:
    """The weights in a file or a folder of files, what a configuration beside them says, and the files."""
    where = Path(where)
    if not where.is_dir():
        return read_checkpoint(where, is_ignored=_is_no_weight)[0], {}, [where]
    by_device = {int(m[1]): p for p in where.glob("model_tp0_pp*.pt") if (m := re.search(r"pp(\d+)\.pt$", p.name))}
    by_device = [path for _, path in sorted(by_device.items())]
    if list(where.glob("model_tp1_*.pt")):
        raise ConversionError(f"checkpoint: {where} has weights split within layers (tp1), accepted are whole layers.")
    found = by_device or next(
        (f for p in ("*.safetensors", "pytorch_model*.bin", "*.bin") if (f := sorted(where.glob(p)))), []
    )
    if not found:
        raise FileNotFoundError(f"checkpoint: {where} holds no weights (.safetensors, .bin, model_tp0_pp0.pt).")
    parts = [read_checkpoint(path, is_ignored=_is_no_weight)[0] for path in found]
    if by_device:
        return join_pipeline_shards(parts), {}, found
    weights: dict[str, torch.Tensor] = {}
    for part in parts:
        if twice := weights.keys() & part.keys():
            raise ConversionError(f"Two of the files have {min(twice)!r}.")
        weights |= part
    settings = {}
    if (where / "config.json").is_file() and not any(name.startswith("encoder.") for name in weights):
        try:
            config = json.loads((where / "config.json").read_bytes())
            settings = {name: config[name] for name in _STORED if name in config}
            positions = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"checkpoint: {where / 'config.json'} cannot be read ({error}).") from error
        if (kind := positions.get("rope_type", positions.get("type", "default"))) != "default":
            raise ConversionError(
                f"checkpoint: {where / 'config.json'} has positions {kind!r}, accepted are 'default'."
            )
        if "rope_theta" in positions:  # where transformers has it since its version 5
            settings["rope_theta"] = positions["rope_theta"]
        for name, value in settings.items():
            whole = name in ("num_attention_heads", "max_position_embeddings")
            if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)) or not value > 0:
                raise ValueError(
                    f"checkpoint: {where / 'config.json'} has {name}={value!r}, expected a number above 0."
                )
    return weights, settings, found


def _digest(files: Sequence[Path]) -> str:
    """The SHA-256 of one file; of several that of their own, in order."""
    digests = [sha256(path) for path in files]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def _check_preset(preset: str, language_model: LlamaForCausalLM, vqvae: VQModel, checkpoint: str | Path) -> None:
    """The sizes must be the preset's; of the tokenizer those that are published."""
    fields = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    for part, model, names in (
        ("language_model", language_model, fields),
        ("vqvae", vqvae, ("num_vq_embeddings", "vq_embed_dim")),
    ):
        for name in names:
            expected, found = PRESETS[preset].config[part][name], getattr(model.config, name)
            if expected != found:
                fitting = [
                    other
                    for other, known in PRESETS.items()
                    if all(known.config[part][n] == getattr(model.config, n) for n in names)
                ]
                hint = (
                    f"It fits {fitting[0]}."
                    if fitting
                    else ("`language_model_of` and `vq_model_of` convert checkpoints of any size.")
                )
                raise ConversionError(
                    f"{checkpoint} is no checkpoint of {preset}: its {part} has {name}={found}, expected {expected}. "
                    f"{hint}"
                )


def vq_name(name: str, stages: int) -> str:
    """The name in diffusers' `VQModel` of an official module or weight.

    Args:
        stages: of the network.
    """
    name = re.sub(r"^decoder\.up\.(\d+)\b", lambda m: f"decoder.up_blocks.{stages - 1 - int(m[1])}", name)
    for pattern, replacement in VQ_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def vq_model_of(state_dict: Mapping[str, torch.Tensor], image_size: int = 256) -> VQModel:
    """The tokenizer of an official VQGAN state dict, or of a training checkpoint that has it in `embedding.vq_model`.

    Two things the official network may have and diffusers' has not are written in its weights: pooling between the
    stages instead of convolutions, and nearest-neighbour enlarging without one. The attention of a stage that has only
    one of them is left out: the official network never runs it.

    Args:
        image_size: becomes `sample_size`.

    Raises:
        ConversionError: entries missing, unexpected or of another shape.
    """
    weights = _checked(state_dict)
    inside = {n.removeprefix("model."): v for n, v in weights.items()}
    inside = {n.removeprefix(VQ_PREFIX): v for n, v in inside.items() if n.startswith(VQ_PREFIX)}
    weights = inside or weights
    stages = 1 + max((int(m[1]) for n in weights if (m := re.match(r"encoder\.down\.(\d+)\.", n))), default=-1)
    if not stages:
        raise ConversionError("1 missing: encoder.down.0. It is no VQGAN.")
    attentions = {
        (half, stage): _numbers(weights, rf"{half}\.{stage}\.attn\.(\d+)\.")
        for half in _HALVES
        for stage in range(stages)
    }
    for (half, stage), numbers in attentions.items():
        if len(numbers) == 1:  # built and never run
            weights = {n: v for n, v in weights.items() if not re.match(rf"{half}\.{stage}\.attn\.", n)}
            numbers.clear()
    widths = [len(entry(weights, f"encoder.down.{stage}.block.0.conv1.weight", 4)) for stage in range(stages)]
    codebook = entry(weights, "quantize.embedding.weight", 2)
    attended = {half: ["Attn" if attentions[half, stage] else "" for stage in range(stages)] for half in _HALVES}
    config = {
        "in_channels": entry(weights, "encoder.conv_in.weight", 4).shape[1],
        "out_channels": len(entry(weights, "decoder.conv_out.weight", 4)),
        "down_block_types": [f"{prefix}DownEncoderBlock2D" for prefix in attended[_HALVES[0]]],
        "up_block_types": [f"{prefix}UpDecoderBlock2D" for prefix in reversed(attended[_HALVES[1]])],
        "block_out_channels": widths,
        "layers_per_block": len(_numbers(weights, r"encoder\.down\.0\.block\.(\d+)\.")),
        "latent_channels": len(entry(weights, "encoder.conv_out.weight", 4)),
        "sample_size": image_size,
        "num_vq_embeddings": codebook.shape[0],
        "vq_embed_dim": codebook.shape[1],
        "mid_block_add_attention": "encoder.mid.attn_1.q.weight" in weights,
        "lookup_from_codebook": True,
    }
    try:
        with torch.device("meta"):
            model = VQModel(**config)
    except ValueError as error:
        raise ConversionError(f"The shapes stand for no VQModel: {error}") from error
    renamed = _renamed(weights, lambda name: vq_name(name, stages))
    expected = model.state_dict()
    for name, (value, theirs) in renamed.items():
        if ".attentions." in name and value.shape[2:] == (1, 1):  # 1×1 convolutions as linear layers
            renamed[name] = value[:, :, 0, 0], theirs
    if not any("samplers" in name for name in renamed):
        renamed |= {n: (v, n) for n, v in _plain_resampling(expected, _dtype(weights)).items()}
    model.load_state_dict(_checked_fit(renamed, expected), assign=True)
    return model.eval()


def _plain_resampling(expected: Mapping[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Weights by which the convolutions between stages take the mean of 2×2, and leave what was enlarged as it is."""
    weights = {}
    for name, tensor in expected.items():
        if "samplers" not in name:
            continue
        weights[name] = torch.zeros(tensor.shape, dtype=dtype)
        if name.endswith("weight"):
            channels = torch.arange(len(tensor))
            if "downsamplers" in name:  # padded below and to the right alone
                weights[name][channels, channels, :2, :2] = 0.25
            else:
                weights[name][channels, channels, 1, 1] = 1.0
    return weights


def is_training_layout(state_dict: Iterable[str]) -> bool:
    """Whether the names are those the transformer is trained with, and not the released ones."""
    return any(re.match(r"(model\.)?blocks\.\d+\.", name) for name in state_dict)


def join_pipeline_shards(shards: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """One state dict of the files `model_tp0_pp0.pt`, `model_tp0_pp1.pt`, … of a training on several devices, in their
    order: each counts its blocks from 0."""
    joined, before = {}, 0
    for shard in shards:
        shard = {name.removeprefix("model."): value for name, value in shard.items()}
        for name, value in shard.items():
            name = re.sub(r"^blocks\.(\d+)\.", lambda m, done=before: f"blocks.{done + int(m[1])}.", name)
            if name in joined:
                raise ConversionError(f"Two of the files have {name!r}.")
            joined[name] = value
        before += 1 + max((int(m[1]) for n in shard if (m := re.match(r"blocks\.(\d+)\.", n))), default=-1)
    return joined


def language_model_of(
    state_dict: Mapping[str, torch.Tensor],
    *,
    num_attention_heads: int | None = None,
    rms_norm_eps: float | None = None,
    rope_theta: float = 10_000.0,
    max_position_embeddings: int = 2048,
    factorized: bool = False,
) -> LlamaForCausalLM:
    """The transformer of an official state dict in either layout.

    Args:
        num_attention_heads: by default of 128 channels each, as all published ones.
        rms_norm_eps: by default 1e-5 for the training layout and 1e-6 for the released one: what the official code
            computes with in each case. They are not the same network to the last digit.
        rope_theta, max_position_embeddings: as published.
        factorized: keep codebook and projection of the training layout apart (`FactorizedEmbedding`) to train on;
            otherwise they are folded.

    Raises:
        ConversionError: entries missing, unexpected or of another shape, or heads that do not divide the width.
    """
    weights = _checked(state_dict)
    trained = is_training_layout(weights)
    if trained:
        weights = {name.removeprefix("model."): value for name, value in weights.items()}
    weights = {name: value for name, value in weights.items() if not LANGUAGE_IGNORED.search(name)}
    renamed = _renamed(_unpacked(weights), _released_name if trained else lambda name: name)
    codebook, projection = (
        renamed.pop(f"model.embed_tokens.{part}", (None, ""))[0] for part in ("codebook", "projection.weight")
    )
    if (codebook is None) != (projection is None):
        raise ConversionError("The codebook and its projection belong together, and one of them is missing.")
    if codebook is not None:
        _check_factors(codebook, projection)
        folded = codebook.to(projection.dtype) @ projection.T
        renamed["model.embed_tokens.weight"] = folded, f"{VQ_PREFIX}quantize.embedding.weight"
    elif factorized:
        raise ConversionError("factorized: got True, but the checkpoint has no codebook and projection.")
    sizes = {name: value for name, (value, _) in renamed.items()}
    vocab_size, hidden_size = entry(sizes, "model.embed_tokens.weight", 2).shape
    norm = sizes.get("model.norm.weight")
    if norm is not None and norm.numel() != hidden_size:
        raise ConversionError(
            f"1 of another shape: model.embed_tokens.weight is {(vocab_size, hidden_size)}, "
            f"model.norm.weight {tuple(norm.shape)}, expected one value for each column."
        )
    heads = num_attention_heads or hidden_size // _HEAD_DIM
    if not heads or hidden_size % heads:
        raise ConversionError(f"num_attention_heads: got {heads}, accepted are divisors of {hidden_size}.")
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=len(entry(sizes, "model.layers.0.mlp.gate_proj.weight", 2)),
        num_hidden_layers=1 + max(int(m[1]) for n in renamed if (m := re.match(r"model\.layers\.(\d+)\.", n))),
        num_attention_heads=heads,
        rms_norm_eps=(TRAINING_EPS if trained else RELEASED_EPS) if rms_norm_eps is None else rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": rope_theta},
        max_position_embeddings=max_position_embeddings,
        **DELVM_LLAMA,
    )
    with no_init_weights():
        model = LlamaForCausalLM(config)
    model.load_state_dict(_checked_fit(renamed, model.state_dict()), assign=True)
    if factorized:
        embedding = FactorizedEmbedding(codebook.to(projection.dtype), hidden_size)
        embedding.projection.weight.data.copy_(projection)
        model.set_input_embeddings(embedding)
    return without_special_tokens(model.eval())


def without_special_tokens(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Let no id begin, end or fill up a sequence, in place: all of them are codes of images."""
    for config in (model.config, model.generation_config):
        config.bos_token_id = config.eos_token_id = config.pad_token_id = None
    return model


def _check_factors(codebook: torch.Tensor, projection: torch.Tensor) -> None:
    """ConversionError unless the rows of the one are what the other takes."""
    factors = {"codebook": codebook, "projection": projection}
    for name in factors:
        entry(factors, name, 2)
    if codebook.shape[1] != projection.shape[1]:
        raise ConversionError(
            f"The codebook is {tuple(codebook.shape)}, its projection {tuple(projection.shape)}; accepted are as many "
            "columns."
        )


def _unpacked(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """`Wqkv`, whose rows are all queries, all keys, all values, as three."""
    found = {}
    for name, value in weights.items():
        if match := re.match(r"blocks\.(\d+)\.mixer\.Wqkv\.(weight|bias)$", name):
            if not value.ndim or len(value) % 3:
                raise ConversionError(f"{name} is {tuple(value.shape)}, expected the rows of all three.")
            for part, rows in zip("qkv", value.chunk(3), strict=True):
                found[f"blocks.{match[1]}.self_attn.{part}_proj.{match[2]}"] = rows
        else:
            found[name] = value
    return found


def _released_name(name: str) -> str:
    for pattern, replacement in TRAINING_RULES:
        name = re.sub(pattern, replacement, name)
    return name


def _checked(state_dict: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    try:
        check_names(state_dict, "the checkpoint")
        check_tensors(state_dict)
    except ValueError as error:
        raise ConversionError(str(error)) from None
    return dict(state_dict)


def _renamed(weights: Mapping[str, torch.Tensor], rename) -> dict[str, tuple[torch.Tensor, str]]:
    """Our name -> the tensor and its official name."""
    renamed = {}
    for theirs, value in weights.items():
        ours = rename(theirs)
        if ours in renamed:
            raise ConversionError(f"The entries {renamed[ours][1]!r} and {theirs!r} are meant for the same weight.")
        renamed[ours] = value, theirs
    return renamed


def _numbers(weights: Iterable[str], pattern: str) -> set[int]:
    return {int(match[1]) for name in weights if (match := re.match(pattern, name))}


def _dtype(weights: Mapping[str, torch.Tensor]) -> torch.dtype:
    return next(iter(weights.values())).dtype


def _checked_fit(renamed: Mapping[str, tuple[torch.Tensor, str]], expected: Mapping[str, torch.Tensor]) -> dict:
    """The weights by our name; ConversionError, in official names, unless they are the expected ones."""
    weights = {name: value for name, (value, _) in renamed.items()}
    check_fit(weights, expected, lambda name: renamed[name][1])
    return weights
