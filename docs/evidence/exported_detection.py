"""AP of a detector before and after its export to OpenVINO, for docs/systems/gold_yolo.md.

    python docs/evidence/exported_detection.py MODEL

MODEL is a folder of a trained detector (`hf-effmodels train --config quickstart/object-detection`); it is measured on
the digits it did not see. OpenVINO is asked once for float32 and once for what it takes by itself, which is bfloat16
on a CPU that has it. Milliseconds are processor time of the network alone, for one picture on one thread.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from transformers import AutoImageProcessor, AutoModelForObjectDetection
from transformers.utils import ModelOutput

import hf_effmodels  # noqa: F401
from hf_effmodels.edge import export
from hf_effmodels.training.tasks.object_detection.data import DetectionDataArguments, load_evaluation_data
from hf_effmodels.training.tasks.object_detection.evaluation import measure
from hf_effmodels.training.tasks.object_detection.transforms import DetectionDataset


class Program(torch.nn.Module):
    """An exported detector in the place of the model, at a precision of OpenVINO (None: its own choice)."""

    def __init__(self, model, folder: Path, precision: str | None):
        super().__init__()
        import openvino

        self.config, self.device = model.config, torch.device("cpu")
        [file] = folder.glob("*.xml")
        options = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
        self.compiled = openvino.Core().compile_model(file, "CPU", {**options, "INFERENCE_NUM_THREADS": 1})
        self.names = [output.get_any_name() for output in self.compiled.outputs]

    def forward(self, pixel_values: torch.Tensor, **kwargs) -> ModelOutput:
        results = self.compiled(pixel_values.numpy())
        return ModelOutput({name: torch.from_numpy(results[n].copy()) for n, name in enumerate(self.names)})


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--pictures", type=int, default=None, help="as many as there are by default")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model = AutoModelForObjectDetection.from_pretrained(arguments.model).eval()
    processor = AutoImageProcessor.from_pretrained(arguments.model)
    data = load_evaluation_data(DetectionDataArguments(dataset="digits"), None)
    dataset = DetectionDataset(data)
    if arguments.pictures is not None:
        dataset = torch.utils.data.Subset(dataset, range(arguments.pictures))
    print("| | AP50 | AP | ms a picture |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        written = Path(folder) / "openvino"
        export(model, written, "openvino", processor=processor)
        model.reparameterize()
        rows = {"PyTorch, float32": model, "OpenVINO, float32": Program(model, written, "f32")}
        rows["OpenVINO, its own choice"] = Program(model, written, None)
        pixels = processor(dataset[0]["image"], return_tensors="pt")["pixel_values"]
        times = {name: [] for name in rows}
        for _ in range(51):
            for name, row in rows.items():
                began = time.process_time()
                row(pixel_values=pixels)
                times[name].append(1000 * (time.process_time() - began))
        for name, row in rows.items():
            found = measure(row, processor, dataset, batch_size=1).metrics
            shown = " | ".join(f"{100 * found[key]:.2f}" for key in ("map_50", "map"))
            print(f"| {name} | {shown} | {statistics.median(times[name]):.1f} |", flush=True)


if __name__ == "__main__":
    main()
