"""The published variants of SAM-DiffSR: their networks, their numbers and where they come from.

Plain data: importing it loads neither torch nor diffusers.
"""

TITLE = "SAM-DiffSR"
PAPER = "SAM-DiffSR: Structure-Modulated Diffusion Model for Image Super-Resolution"
ARXIV = "2402.17133"
REPOSITORY = "https://github.com/lose4578/SAM-DiffSR"

#: Modules beside `model_index.json` where this package is not installed; those of the components lie beside them.
CODE = ("pipeline_sam_diffsr", "image_inputs", "matlab_resize")

_NOTE = "the official repository states no licence for code or weights"
_ENCODER = {"hidden_size": 64, "num_blocks": 17, "growth": 32, "scale": 4}
_UNET = {"hidden_size": 64, "dim_mults": [1, 2, 3, 4], "condition_channels": 64, "num_conditions": 6, "scale": 4}

#: Parameters in millions; `macs`: multiply-adds in millions of one denoising step (with the projection of the
#: condition) for a 64×64 image, `encoder_macs` those of the condition encoder, once per image. PSNR and SSIM as the
#: official README gives them: on luma, no border cut.
PRESETS: dict[str, dict] = {
    "sam-diffsr-x4": {
        "encoder": _ENCODER,
        "unet": _UNET,
        "scheduler": {"num_train_timesteps": 100, "structure_coefficient": "code"},
        "parameters": 25.31,
        "encoder_parameters": 12.38,
        "unet_parameters": 12.93,
        "macs": 49_300.0,
        "encoder_macs": 55_800.0,
        "psnr": {"Set5": 30.99, "Set14": 27.14, "Urban100": 25.54, "BSDS100": 26.47, "Manga109": 29.43},
        "ssim": {"Set5": 0.8731, "Set14": 0.7484, "Urban100": 0.7721, "BSDS100": 0.7003, "Manga109": 0.8899},
        "weights": REPOSITORY,
        "weights_license": None,
        "weights_license_note": _NOTE,
    },
    # The baseline of the paper: SRDiff with the same networks, trained without masks.
    "srdiff-x4": {
        "encoder": _ENCODER,
        "unet": _UNET,
        "scheduler": {"num_train_timesteps": 100, "structure_coefficient": "code"},
        "parameters": 25.31,
        "encoder_parameters": 12.38,
        "unet_parameters": 12.93,
        "macs": 49_300.0,
        "encoder_macs": 55_800.0,
        "weights": None,
        "weights_license": None,
        "weights_license_note": _NOTE,
    },
}
