"""The published variants of SAM-DiffSR: their networks, their numbers and where they come from.

Plain data: importing it loads neither torch nor diffusers.
"""

from ...architecture import Preset, Published

_ENCODER = {"hidden_size": 64, "num_blocks": 17, "growth": 32, "scale": 4}
_UNET = {"hidden_size": 64, "dim_mults": [1, 2, 3, 4], "condition_channels": 64, "num_conditions": 6, "scale": 4}


def _preset(**more) -> Preset:
    return Preset(
        model_type="sam_diffsr",
        config={
            "encoder": _ENCODER,
            "unet": _UNET,
            "scheduler": {"num_train_timesteps": 100, "structure_coefficient": "code"},
        },
        parameters=25.31,
        part_parameters={"encoder": 12.38, "unet": 12.93},
        macs=49_300.0,
        part_macs={"encoder": 55_800.0},
        weights_license_note="the official repository states no licence for code or weights",
        **more,
    )


def _quality(**values: tuple[float, float]) -> tuple[Published, ...]:
    """PSNR and SSIM by data set."""
    return tuple(
        Published(metric, value, dataset, "official repository")
        for dataset, pair in values.items()
        for metric, value in zip(("PSNR", "SSIM"), pair, strict=True)
    )


#: Parameters in millions; `macs`: multiply-adds in millions of one denoising step (with the projection of the
#: condition) for a 64×64 image, those of the condition encoder, once per image, in `part_macs`. PSNR and SSIM as the
#: official README gives them: on luma, no border cut.
PRESETS: dict[str, Preset] = {
    "sam-diffsr-x4": _preset(
        published=_quality(
            Set5=(30.99, 0.8731),
            Set14=(27.14, 0.7484),
            Urban100=(25.54, 0.7721),
            BSDS100=(26.47, 0.7003),
            Manga109=(29.43, 0.8899),
        ),
        weights="https://github.com/lose4578/SAM-DiffSR",
    ),
    # The baseline of the paper: SRDiff with the same networks, trained without masks.
    "srdiff-x4": _preset(),
}
