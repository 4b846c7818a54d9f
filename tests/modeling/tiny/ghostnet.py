"""Five stages and two blocks with an attention gate: the smallest network that has every kind of layer."""

GHOSTNET = {
    "stem_size": 8,
    "stages": (
        ((3, 8, 8, 0, 1),),
        ((3, 24, 12, 0, 2),),
        ((5, 24, 16, 0.25, 2), (5, 32, 16, 0.25, 1)),
        ((3, 32, 20, 0, 2),),
        ((5, 40, 24, 0.25, 2), (5, 48, 24, 0, 1)),
    ),
    "final_size": 48,
    "head_size": 32,
    "image_size": 64,
}

TINY = {"ghostnet": GHOSTNET, "ghostnetv2": GHOSTNET, "ghostnetv3": GHOSTNET}
