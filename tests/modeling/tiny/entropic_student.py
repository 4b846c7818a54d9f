"""A code of four channels, told by a side code of two, in the place of a ResNet's first stage."""

from .mahppo import RESNET

TINY = {
    "coded_classifier": {
        "network": RESNET,
        "at": "resnet.encoder.stages.0",
        "widths": [4],
        "target_channels": 6,
        "prior": "mean_scale_hyperprior",
        "hyper_channels": 2,
        "image_size": 64,
    }
}
