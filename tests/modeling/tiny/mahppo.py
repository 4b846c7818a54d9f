"""Two of six channels are sent after a ResNet's first stage."""

RESNET = {
    "model_type": "resnet",
    "embedding_size": 6,
    "hidden_sizes": [6, 8],
    "depths": [1, 1],
    "layer_type": "basic",
}
TINY = {
    "channel_coded_classifier": {
        "network": RESNET,
        "at": "resnet.encoder.stages.0",
        "channels": 6,
        "shrink": 3,
        "bits": 8,
        "image_size": 64,
    }
}
