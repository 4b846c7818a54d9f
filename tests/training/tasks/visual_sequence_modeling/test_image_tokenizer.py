"""The training of an image tokenizer, beside a loop of its own."""

import pytest
import torch
from diffusers import VQModel

from hf_effmodels.training.tasks.visual_sequence_modeling import models
from hf_effmodels.training.tasks.visual_sequence_modeling.arguments import VisualModelArguments

SIZES = {
    **{"block_out_channels": [8, 8], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 4},
    **{"vq_embed_dim": 3, "mid_block_add_attention": False},
}


@pytest.mark.parametrize("pictures", [3, 70])
def test_a_tokenizer_is_trained_by_its_reconstruction_and_its_codes(pictures, monkeypatch):
    """64 pictures or all, at a rate that falls; codes begin as latents, and unused ones become some again."""
    monkeypatch.setattr(models, "_REVIVAL", 2)
    pixels = torch.rand(pictures, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    args = VisualModelArguments(
        model="llama", image_tokenizer="train:5", tokenizer_config=str(SIZES), tokenizer_steps=5
    )
    before = torch.get_rng_state()
    trained = models.train_image_tokenizer(pixels, args, 7)
    assert torch.equal(torch.get_rng_state(), before), "the run's own random numbers are left as they were"
    assert not trained.training and not any(weight.requires_grad for weight in trained.parameters())

    torch.manual_seed(7)
    ours = VQModel(
        **SIZES,
        num_vq_embeddings=5,
        sample_size=4,
        lookup_from_codebook=True,
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
    )
    draw = torch.Generator().manual_seed(7)
    codes = ours.quantize.embedding.weight
    averages = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in ours.named_parameters()}
    used = set()
    for step in range(5):
        batch = pixels[torch.randint(pictures, (min(64, pictures),), generator=draw)]
        latents = ours.encode(batch).latents
        vectors = latents.permute(0, 2, 3, 1).reshape(-1, 3)
        if step in (0, 2, 4):
            free = [code for code in range(5) if code not in used]
            codes.data[free] = vectors.detach()[torch.randint(len(vectors), (len(free),), generator=draw)]
            used = set()
        nearest = ((vectors.detach()[:, None] - codes.detach()) ** 2).sum(-1).argmin(1)
        used |= set(nearest.tolist())
        chosen = codes[nearest].reshape(len(batch), 2, 2, 3).permute(0, 3, 1, 2)
        seen = latents + (chosen - latents).detach()
        error = ((ours.decoder(ours.post_quant_conv(seen)) - batch) ** 2).mean()
        # As in VQGAN: the encoder is drawn to its codes fully, they to it by a quarter.
        moved = ((chosen.detach() - latents) ** 2).mean() + 0.25 * ((chosen - latents.detach()) ** 2).mean()
        gradients = torch.autograd.grad(error + moved, list(ours.parameters()), allow_unused=True)
        for (name, weight), gradient in zip(ours.named_parameters(), gradients, strict=True):
            if gradient is None:
                continue
            first, second = averages[name]
            first.mul_(0.9).add_(0.1 * gradient), second.mul_(0.999).add_(0.001 * gradient**2)
            change = first / (1 - 0.9 ** (step + 1)) / ((second / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8)
            weight.data -= 2e-3 * (1 - step / 5) * change
    for (name, weight), expected in zip(trained.named_parameters(), ours.parameters(), strict=True):
        torch.testing.assert_close(weight, expected, atol=2e-4, rtol=0, msg=lambda told, name=name: f"{name}: {told}")
