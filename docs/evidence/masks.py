"""The tables of docs/systems/tinysam.md: everything in a picture in two rounds, and the quantised forms.

    python docs/evidence/masks.py everything MODEL PICTURES [--predicted-iou 0.88 --stability 0.95 --confident 8.5]
    python docs/evidence/masks.py quantised MODEL OUTPUT

MODEL is a folder of a trained SAM (`hf-effmodels train --config quickstart/mask-generation`). `everything`: each row
runs in a process of its own, on one thread; pictures are made `--longest` pixels long, which transformers' pipeline
needs memory for. Times are processor time.
Where torchvision is missing, transformers' pipeline is given this package's suppression of overlapping boxes, whose
time is not counted against it. `quantised`: mean IoU of the shapes that the training evaluates on, milliseconds of a
picture with one point.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from PIL import Image

ROWS = ("transformers", "whole grid", "two rounds")


def everything(arguments) -> None:
    rows = {}
    for row in ROWS:
        command = [sys.executable, __file__, "row", str(arguments.model), str(arguments.pictures), "--row", row]
        for name in ("predicted_iou", "stability", "confident", "longest", "grid"):
            command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
        rows[row] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    first = rows[ROWS[0]]
    print(
        "| | seconds a picture | times faster, each picture | decoder calls | prompts | masks | MB above the model |"
    )
    print("|---|---|---|---|---|---|---|")
    for row, measured in rows.items():
        ratios = [theirs / own for theirs, own in zip(first["seconds"], measured["seconds"], strict=True)]
        shown = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
        counts = " | ".join(f"{statistics.mean(measured[name]):.1f}" for name in ("calls", "prompts", "masks"))
        print(f"| {row} | {statistics.mean(measured['seconds']):.2f} | {shown} | {counts} | {measured['peak']:.0f} |")


def run_row(arguments) -> None:
    from transformers import AutoImageProcessor, AutoModelForMaskGeneration, pipeline

    import hf_effmodels  # noqa: F401

    torch.set_num_threads(1)
    model = AutoModelForMaskGeneration.from_pretrained(arguments.model).eval()
    if hasattr(model, "reparameterize"):
        model.reparameterize()
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    counted = {"calls": 0, "prompts": 0}

    def count(module, inputs, keywords):
        counted["calls"] += 1
        counted["prompts"] += keywords["sparse_prompt_embeddings"].shape[1]

    model.mask_decoder.register_forward_pre_hook(count, with_kwargs=True)
    options = {"points_per_batch": 64, "pred_iou_thresh": arguments.predicted_iou}
    options |= {"stability_score_thresh": arguments.stability, "points_per_crop": arguments.grid}
    task = "mask-generation"
    if arguments.row != ROWS[0]:
        task = "hierarchical-mask-generation"
        options |= {"hierarchical": arguments.row == ROWS[2], "high_score_thresh": arguments.confident}
    pipe = pipeline(task, model=model, image_processor=processor)
    apart = _lend_suppression(processor) if task == "mask-generation" else [0.0]
    pictures = []
    for file in sorted(Path(arguments.pictures).glob("*.jpg")):
        picture = Image.open(file).convert("RGB")
        picture.thumbnail((arguments.longest, arguments.longest))
        pictures.append(picture)
    pipe(pictures[0].resize((64, 64)), **options)  # what is loaded by the first call
    before = _resident()
    measured = {"seconds": [], "calls": [], "prompts": [], "masks": []}
    for picture in pictures:
        counted.update(calls=0, prompts=0)
        apart[0] = 0.0
        began = time.process_time()
        result = pipe(picture, **options)
        measured["seconds"].append(time.process_time() - began - apart[0])
        measured["masks"].append(len(result["masks"]))
        for name in ("calls", "prompts"):
            measured[name].append(counted[name])
    measured["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before
    print(json.dumps(measured))


def _lend_suppression(processor) -> list[float]:
    """Let transformers' pipeline run without torchvision; the list's number grows by the seconds that this takes."""
    import types

    from transformers.utils.import_utils import is_torchvision_available

    from hf_effmodels.modeling.layers.nms import nms

    apart = [0.0]
    if is_torchvision_available():
        return apart

    def batched_nms(boxes, scores, idxs, iou_threshold):
        began = time.process_time()
        kept = nms(boxes, scores, iou_threshold)
        apart[0] += time.process_time() - began
        return kept

    for name in ("torchvision", "torchvision.ops", "torchvision.ops.boxes"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision.ops.boxes"].batched_nms = batched_nms
    # The decorator asks for an installed torchvision; what is below it takes the suppression alone.
    function = type(processor).post_process_for_mask_generation.__wrapped__
    processor.post_process_for_mask_generation = types.MethodType(function, processor)
    return apart


def _resident() -> float:
    """MB of this process that are in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def quantised(arguments) -> None:
    from transformers import AutoImageProcessor, AutoModelForMaskGeneration

    import hf_effmodels  # noqa: F401
    from hf_effmodels.edge_masks import export_promptable, load_promptable
    from hf_effmodels.quantization import quantize_promptable
    from hf_effmodels.training.tasks.mask_generation.data import Shapes, collate, load_photographs

    torch.set_num_threads(1)
    processor = AutoImageProcessor.from_pretrained(arguments.model)

    def load():
        return AutoModelForMaskGeneration.from_pretrained(arguments.model).eval()

    side = load().config.vision_config.image_size
    options = {"prompts": 4, "shapes": 6, "rounds": 0, "mean": processor.image_mean, "deviation": processor.image_std}
    data = Shapes(load_photographs(None, "evaluation", "eval_photographs"), arguments.pictures, side, **options)
    held_out = [collate([data[number]]) for number in range(len(data))]
    own = Shapes(load_photographs(None, "train", "photographs"), 8, side, seed=0, **options)
    samples = [collate([own[number]]) for number in range(8)]
    samples = [{"pixel_values": batch["pixel_values"], "input_points": _points(batch)} for batch in samples]
    print("| form | MB | mean IoU by a point | by a box | ms, encoder and one point |")
    print("|---|---|---|---|---|")
    for weights, activations in ((None, None), (8, 8), (6, 6)):
        model, name = load(), "float32"
        if weights is None:
            model.reparameterize()
        else:
            name = f"W{weights}A{activations}"
            quantize_promptable(model, samples, weight_bits=weights, activation_bits=activations)
        folder = arguments.output / name
        model.save_pretrained(folder)
        _show(name, _megabytes(folder, "*.safetensors"), model, held_out)
    graphs = arguments.output / "onnx"
    if not graphs.exists():
        export_promptable(load(), graphs)
    _show("float32, ONNX Runtime", _megabytes(graphs, "*.onnx*"), load_promptable(graphs), held_out)
    for name, calibration in (("dynamic", None), ("calibrated encoder", samples)):
        integers = arguments.output / f"onnx-int8-{name.partition(' ')[0]}"
        if not integers.exists():
            _to_integers(graphs, integers, calibration)
        _show(f"int8, ONNX Runtime ({name})", _megabytes(integers, "*.onnx*"), load_promptable(integers), held_out)


def _to_integers(graphs: Path, folder: Path, samples: list[dict] | None) -> None:
    """transformers' quantisers of its ONNX exporter: 8-bit weights, and activations whose ranges are found in each
    call, or, where there are samples, those of the encoder beforehand."""
    import shutil

    import onnx_ir
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig
    from transformers.exporters.configs import ExportFormat

    shutil.copytree(graphs, folder, ignore=shutil.ignore_patterns("*.onnx*"))
    for name in ("encoder", "decoder"):
        quantizer = OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig(op_types_to_quantize=["MatMul", "Gemm"]))
        if samples and name == "encoder":
            pixels = [{"pixel_values": batch["pixel_values"]} for batch in samples]
            quantizer = OnnxRuntimeQuantizer(OnnxRuntimeStaticConfig(per_channel=True), calibration_dataset=pixels)
        graph = onnx_ir.load(graphs / f"{name}.onnx")
        onnx_ir.save(quantizer.quantize(graph, {}, ExportFormat.ONNX), folder / f"{name}.onnx")


def _points(batch: dict) -> torch.Tensor:
    from hf_effmodels.training.tasks.mask_generation.prompts import points_in

    return points_in(batch["masks"], batch["draws"][..., 0])[:, :, None].float()


@torch.no_grad()
def _show(name: str, megabytes: float, model, held_out: list[dict]) -> None:
    from hf_effmodels.training.losses.mask_distillation import mask_iou
    from hf_effmodels.training.tasks.mask_generation.prompts import best_masks, boxes_around

    found, times = {"point": [], "box": []}, []
    for batch in held_out:
        masks, pixels = batch["masks"], batch["pixel_values"]
        began = time.process_time()
        embeddings = model.get_image_embeddings(pixels)
        model(image_embeddings=embeddings, input_points=_points(batch)[:, :1])
        times.append(1000 * (time.process_time() - began))
        for kind, prompts in (
            ("point", {"input_points": _points(batch)}),
            ("box", {"input_boxes": boxes_around(masks).float()}),
        ):
            outputs = model(image_embeddings=embeddings, **prompts)
            answers = best_masks(outputs.pred_masks, outputs.iou_scores)
            answers = torch.nn.functional.interpolate(answers, masks.shape[-2:], mode="bilinear") > 0
            found[kind].append(float(mask_iou(answers, masks).mean()))
    shown = " | ".join(f"{100 * statistics.mean(values):.1f}" for values in found.values())
    print(f"| {name} | {megabytes:.2f} | {shown} | {statistics.median(times):.1f} |", flush=True)


def _megabytes(folder: Path, pattern: str) -> float:
    return sum(file.stat().st_size for file in folder.glob(pattern)) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, function in (("everything", everything), ("row", run_row)):
        command = commands.add_parser(name)
        command.add_argument("model", type=Path)
        command.add_argument("pictures", type=Path)
        command.add_argument("--row", choices=ROWS, default=ROWS[0])
        command.add_argument("--predicted-iou", type=float, default=0.88)
        command.add_argument("--stability", type=float, default=0.95)
        command.add_argument("--confident", type=float, default=8.5)
        command.add_argument("--longest", type=int, default=640)
        command.add_argument("--grid", type=int, default=32)
        command.set_defaults(function=function)
    command = commands.add_parser("quantised")
    command.add_argument("model", type=Path)
    command.add_argument("output", type=Path)
    command.add_argument("--pictures", type=int, default=64)
    command.set_defaults(function=quantised)
    arguments = parser.parse_args()
    arguments.function(arguments)


if __name__ == "__main__":
    main()
