"""The transformer and the image tokenizer that a recipe asks for."""

import logging
from pathlib import Path

import torch
from diffusers import VQModel
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import hf_effmodels

from ....hub.ids import reading
from ....hub.whole import check_filled, load_whole
from ....pipelines.delvm.configuration_delvm import DELVM_LLAMA
from ....pipelines.delvm.convert_delvm import without_special_tokens
from ....pipelines.delvm.factorized_embedding import factorize_embedding
from ....pipelines.delvm.image_tokenizer_delvm import DelvmImageTokenizer
from ....pipelines.delvm.pipeline_delvm import DelvmPipeline
from ...losses.codebook import codebook_loss, straight_through
from ...run.arguments import check_fields_of
from .arguments import TRAIN_TOKENIZER, VisualModelArguments

logger = logging.getLogger(__name__)

#: The type of model that starts from random weights.
LLAMA = "llama"
#: Folder of the tokenizer in a pipeline, and in a checkpoint of a run that has trained one.
VQVAE = "vqvae"
#: Of a tokenizer that is trained: what `--tokenizer_config` changes.
SMALL_VQVAE = {
    "block_out_channels": (32, 64, 64),
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 16,
    "vq_embed_dim": 16,
    "mid_block_add_attention": False,
    "lookup_from_codebook": True,
}
_BATCH = 64
#: Steps after which codes that nothing was nearest to get the place of a latent.
_REVIVAL = 50


def load_pipeline(argument: str, name: str, token: str | None = None) -> DelvmPipeline:
    """A DeLVM pipeline in a folder or on the Hub, with all of its weights, in float32."""
    how = {"dtype": torch.float32, "token": token}
    # By itself: of a part that is transformers', diffusers does not say what was lacking.
    model = load_whole(LlamaForCausalLM, argument, name, subfolder="language_model", **how)
    with reading(argument, name):
        pipe = DelvmPipeline.from_pretrained(name, language_model=model, **how)
    check_filled(argument, name, pipe.vqvae)
    return pipe


def load_image_tokenizer(name: str, image_size: int | None, token: str | None = None) -> DelvmImageTokenizer:
    """A `VQModel`, or that of a pipeline."""
    subfolder = VQVAE if (Path(name) / VQVAE).is_dir() else None
    with reading("--image_tokenizer", name):
        tokenizer = DelvmImageTokenizer.from_pretrained(name, subfolder=subfolder, image_size=image_size, token=token)
    check_filled("--image_tokenizer", name, tokenizer.vqvae)
    return tokenizer


def load_language_model(args: VisualModelArguments, tokenizer: DelvmImageTokenizer, context: int) -> LlamaForCausalLM:
    """The transformer over the tokenizer's codes.

    Args:
        context: ids of the longest sentence.

    Raises:
        ValueError: fewer tokens than codes, sentences longer than the context, or a field that the configuration has
            not.
    """
    if args.model == LLAMA or args.model in hf_effmodels.list_models(task="visual-prompting"):
        fields = {"vocab_size": tokenizer.vocab_size, "max_position_embeddings": max(2048, context), **DELVM_LLAMA}
        if args.model != LLAMA:
            from ....pipelines.delvm.configuration_delvm import PRESETS

            fields = {**PRESETS[args.model].config["language_model"], "vocab_size": tokenizer.vocab_size}
        check_fields_of(LlamaConfig(), args.model_config)
        config = LlamaConfig(**{**fields, **args.model_config})
        _check_context(config, context, " (a field for --model_config)")
        model = LlamaForCausalLM(config)
        logger.info("%s: random weights, %.3f million parameters", args.model, model.num_parameters() / 1e6)
    else:
        if args.model_config:
            raise ValueError(f"--model_config: the sizes of {args.model} are set; it goes with --model llama.")
        model = load_pipeline("--model", args.model, args.token).language_model
    if model.config.vocab_size < tokenizer.vocab_size:
        raise ValueError(
            f"--model: it has {model.config.vocab_size} tokens, the image tokenizer {tokenizer.vocab_size} codes."
        )
    _check_context(model.config, context)
    if args.factorized_embedding:
        factorize_embedding(model, tokenizer.codebook, std=model.config.initializer_range)
    return without_special_tokens(model)


def _check_context(config: LlamaConfig, context: int, advice: str = "") -> None:
    if context > config.max_position_embeddings:
        raise ValueError(
            f"--pairs_per_sentence: sentences have {context} tokens, but the model has max_position_embeddings "
            f"{config.max_position_embeddings}{advice}."
        )


def train_image_tokenizer(pixels: torch.Tensor, args: VisualModelArguments, seed: int) -> VQModel:
    """A small `VQModel` that has learnt to encode pictures.

    Squared error of the reconstruction and `codebook_loss`; AdamW at 2e-3, falling linearly. The codes begin as
    latents, and those that nothing was nearest to for a while become latents again.

    Args:
        pixels: (pictures, 3, side, side) in [0, 1].
        seed: of weights and of the order.

    Raises:
        ValueError: fields that the network does not have.
    """
    config = {**SMALL_VQVAE, **args.tokenizer_config}
    config["num_vq_embeddings"] = int(args.image_tokenizer[len(TRAIN_TOKENIZER) :])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            stages = len(config["block_out_channels"])
            config["down_block_types"] = ("DownEncoderBlock2D",) * stages
            config["up_block_types"] = ("UpDecoderBlock2D",) * stages
            model = VQModel(sample_size=pixels.shape[-1], **config)
        except (TypeError, ValueError) as error:
            raise ValueError(f"--tokenizer_config: {error}") from error
        DelvmImageTokenizer(model, pixels.shape[-1])  # a size that the stages divide
        order = torch.Generator().manual_seed(seed)
        codes = model.quantize.embedding.weight
        optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.0)
        used, errors = torch.zeros(len(codes), dtype=torch.bool), 0.0
        for step in range(args.tokenizer_steps):
            batch = pixels[torch.randint(len(pixels), (min(_BATCH, len(pixels)),), generator=order)]
            latents = model.encode(batch).latents
            flat = latents.detach().movedim(1, -1).reshape(-1, latents.shape[1])
            if step % _REVIVAL == 0:
                unused = (~used).nonzero().flatten()
                with torch.no_grad():
                    codes[unused] = flat[torch.randint(len(flat), (len(unused),), generator=order)]
                used.zero_()
            ids = torch.cdist(flat, codes.detach()).argmin(1)
            used[ids.unique()] = True
            shape = (len(batch), *latents.shape[2:], latents.shape[1])
            quantized = model.quantize.get_codebook_entry(ids, shape)
            decoded = model.decoder(model.post_quant_conv(straight_through(latents, quantized)))
            error = F.mse_loss(decoded, batch)
            optimizer.param_groups[0]["lr"] = 2e-3 * (1 - step / args.tokenizer_steps)
            optimizer.zero_grad(set_to_none=True)
            (error + codebook_loss(latents, quantized)).backward()
            optimizer.step()
            errors = float(error.detach()) if not step else 0.98 * errors + 0.02 * float(error.detach())
    logger.info(
        "trained an image tokenizer of %d codes for %d steps: a squared error of %.4f",
        *(len(codes), args.tokenizer_steps, errors),
    )
    return model.eval().requires_grad_(False)
