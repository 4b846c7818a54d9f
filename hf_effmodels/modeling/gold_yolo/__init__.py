"""Gold-YOLO."""

from ...architecture import Architecture

ENTRIES = (
    Architecture(
        model_type="gold_yolo",
        title="Gold-YOLO",
        package=__name__,
        config="GoldYoloConfig",
        auto_classes={
            "AutoModel": "GoldYoloModel",
            "AutoModelForObjectDetection": "GoldYoloForObjectDetection",
            "AutoBackbone": "GoldYoloBackbone",
        },
        image_processor={"pil": "GoldYoloImageProcessorPil", "torchvision": "GoldYoloImageProcessor"},
        own_image_processor=True,
        paper="Gold-YOLO: Efficient Object Detector via Gather-and-Distribute Mechanism",
        arxiv="2309.11331",
        repository="https://github.com/huawei-noah/Efficient-Computing/tree/master/Detection/Gold-YOLO",
    ),
)
