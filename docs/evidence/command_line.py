"""How long the command line takes to answer: processor seconds of `-h` of every command, and of wrong arguments.

    python docs/evidence/command_line.py > times.md

The machine should be quiet; the smallest of three calls is told. That none of these calls imports torch is tested.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hf_effmodels import cli
from hf_effmodels.training.preparation import list_preparations

#: What wrong arguments name: file -> what it holds.
PLACES = {
    "llama/config.json": b'{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}',
    "resnet/config.json": b'{"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}',
    "bert/config.json": b'{"model_type": "bert", "architectures": ["BertForMaskedLM"]}',
    "detr/config.json": b'{"model_type": "detr", "architectures": ["DetrForObjectDetection"]}',
    "half/config.json": b'{"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}',
    "half/split.json": b"{}",
    "program/config.json": b'{"model_type": "resnet", "architectures": ["ResNetForImageClassification"]}',
    "program/export.json": b'{"export_format": "onnx"}',
    "pipeline/model_index.json": b"{}",
    "adapter/adapter_config.json": b"{}",
    "hub/config.json": b'{"model_type": "resnet", "auto_map": {"AutoModel": "code.Net"}}',
    "hub/code.py": b"# hf_effmodels ",
    "other/thesis.tex": b"",
    "text.txt": b"no model",
    "cut.pth": b"PK\x03\x04",
    "noise.safetensors": bytes(100),
    "x.png": b"",
}
#: Wrong arguments as somebody may type them; an option that is not there is tried with every command.
WRONG = """
list --task zzz
info ghostnetv3-1x
download nope
convert nope official.pth out
convert ghostnetv3-1.0x nowhere.pth out
convert ghostnetv3-1.0x text.txt out
convert ghostnetv3-1.0x cut.pth out
convert ghostnetv3-1.0x noise.safetensors out
convert ghostnetv3-1.0x cut.pth other
convert ghostnetv3-1.0x cut.pth out --license mitt
convert delvm-300m nowhere out
convert delvm-300m other out --image-tokenizer nowhere.pth
convert delvm-300m other out --image-tokenizer cut.pth
download ghostnetv3-1.0x --source zzz
export ghostnetv3-1.0x out --format onnx --checkpoint nowhere.pth
export out edge --format zzz
export out edge --format onnx --precision int3
export ghostnetv3-1.0x edge --format onnx --min-agreement 0.8
export gold-yolo-n edge --format onnx --nms --precision fp16
export ./nope out --format onnx
export program edge --format onnx
export adapter edge --format onnx
export half edge --format onnx
export resnet edge --format onnx --nms
export detr edge --format onnx --nms
export detr edge --format onnx --precision int8
export detr edge --format onnx --precision fp16 --calibrate other
export resnet edge --format onnx --precision int4
export resnet edge --format onnx --precision int8 --calibrate nowhere
export resnet edge --format onnx --precision int8 --calibrate other
export resnet edge --format onnx --calibrate other
export llama edge --format onnx --calibrate ./nowhere
export gold-yolo-n edge --format onnx --precision int8
predict ./nope x.png
predict ghostnetv3-1.0x nowhere.png
predict ghostnetv3-1.0x . --prompt why
benchmark nope
benchmark half
benchmark bert
benchmark other
benchmark ghostnetv3-1.0x --rounds 0
benchmark ghostnetv3-1.0x --mode generate
assemble . part
assign ./nope --device board 4M 20M
offload --devices 0 --output agents
decompose ./nope out --dataset digits
train-codec ./nope out --at stages.0 --dataset digits
train-codec nope out --at stages.0 --dataset digits --prior x
train-codec nope out --at stages.0 --dataset digits --channels 4 4
probe ./nope --dataset digits --output probes
probe llama --dataset digits --output probes
probe resnet --dataset digits --output probes
probe program --dataset digits --output probes
chat ./nope
chat resnet
chat text.txt
chat llama --device zzz
predict llama x.png --task image-classification
predict resnet x.png --task object-detection
demo resnet --task text-generation
split ./nope out --at x
split llama out --at x
split text.txt out --at x
split resnet resnet --at x
split resnet text.txt --at x
split resnet out --at x --bits 9
serve-tail ./nope
serve-tail resnet
serve-tail llama --images
serve-tail out --token é
measure-split ./nope
measure-split llama
measure-split resnet --watts 0
measure-split resnet --output text.txt
measure-split resnet --picture out.jpg
decompose resnet out --dataset digits
decompose resnet resnet --dataset digits --parts 2 --macs 0.6
decompose llama out --dataset digits
assemble out resnet
assign llama --device board 4M 20M
train-codec resnet resnet --at stages.0 --dataset digits
train-codec llama out --at stages.0 --dataset digits
train-codec resnet out --at stages.0 --dataset digits --betas -1
train-codec resnet out --at stages.0 --dataset digits --qualities 0
offload --output agents --profile zzz
offload --output agents --steps 0
offload --output other
prune ./nope out --target-parameters 0.5 --dataset pydoc_topics
prune resnet out --target-parameters 0.5 --dataset pydoc_topics
prune llama out --target-parameters 0.5
prune llama out --dataset pydoc_topics
prune llama out --target-parameters 0.5 --dataset ./nope
prune llama out --target-parameters 2x --dataset pydoc_topics
prune llama out --target-parameters 0.5 --dataset pydoc_topics --way zzz
prune llama out --target-parameters 0.5 --dataset pydoc_topics --method zzz
prune llama out --target-parameters 0.5 --dataset pydoc_topics --select-layers zzz
prune llama out --target-parameters 0.5 --dataset pydoc_topics --device zzz
prune llama llama/small --target-parameters 0.5 --dataset pydoc_topics
prune llama other --target-parameters 0.5 --dataset pydoc_topics
quantize ./nope out --dataset pydoc_topics
quantize resnet out --dataset pydoc_topics
quantize llama out --dataset ./nope
quantize llama out --dataset pydoc_topics --license zzz
quantize llama out --dataset pydoc_topics --device zzz
quantize llama out --dataset pydoc_topics --format zzz
quantize llama other --dataset pydoc_topics
quantize llama llama --dataset pydoc_topics
quantize llama llama/small --dataset pydoc_topics
quantize bert out --dataset pydoc_topics
quantize half out --dataset pydoc_topics
demo ./nope
demo program
demo cls --space out
publish nope a/b
publish a/b
publish other a/b
publish resnet a/b
publish resnet a
publish resnet a/b --license mitt
publish resnet a/b --revision x --create-pr
publish resnet a/b --space --create-pr
publish hub a/b
publish hub a/b --space --dry-run
evaluate --model nope --dataset digits
evaluate --model llama --dataset digits
evaluate --model program --dataset digits
evaluate --task causal-lm --model resnet --dataset pydoc_topics
train --model nope --dataset digits
train --model llama --dataset digits
train --model program --dataset digits
train --model pipeline --dataset digits
train --model resnet --dataset digits --output_dir resnet --overwrite_output_dir true
train --model adapter --dataset digits
train --model other --dataset digits
train --task object-detection --model resnet --dataset digits
train --task distillation --model ghostnetv3-1.0x --dataset digits --teacher llama
train --task visual-sequence-modeling --model llama --dataset digits --image_tokenizer resnet
publish a b c
chat
demo out --port x
quickstart nope
prepare nope
prepare soft-labels --top_k 0 --output labels
prepare label-maps --output maps
prepare super-resolution-masks --scale x
prepare super-resolution-masks --dataset skimage_photos --output out
prepare super-resolution-masks --dataset skimage_photos --output out --segmenter slic --model a/b
prepare super-resolution-masks --dataset skimage_photos --output out --segmenter slic --tile_size 12
prepare super-resolution-masks --dataset skimage_photos --output out --model resnet
prepare text-embeddings --dataset ./nope.csv --encoder a --output b
prepare visual-sentences --dataset digits
prepare visual-sentences --dataset digits --output out --image_tokenizer resnet
tiny-lm nope
tiny-lm inherit --model ./nope --output out
tiny-lm inherit --model resnet --output out
tiny-lm inherit --model llama --like resnet --output out
tiny-lm inherit --model llama --method zzz --output out
tiny-lm inherit --model llama --select-layers zzz --output out
tiny-lm inherit --model llama --output other
tiny-lm compress-tokenizer --tokenizer ./nope --vocab-size 9 --dataset pydoc_topics --output out
tiny-lm compress-tokenizer --tokenizer llama --dataset pydoc_topics --output out
tiny-lm compress-tokenizer --tokenizer llama --vocab-size 9 --output out
tiny-lm compress-tokenizer --tokenizer llama --vocab-size 9 --dataset pydoc_topics --model resnet --output out
tiny-lm select-rounds --model llama --output out.json --rate 2
tiny-lm select-rounds --model llama --output out.json --dataset pydoc_topics --nope 1
tiny-lm train-rounds --output_dir out --rounds 0
tiny-lm train-rounds --output_dir out --model llama --dataset pydoc_topics --learning_rate fast
tiny-lm suggest-config --params x --vocab 1k
tiny-lm suggest-config --params 1M --vocab 1k --model-type zzz
tiny-lm scale-lr --new-batch-tokens x
quantize out smaller --bits 99 --dataset text.txt
split out
serve-tail out --port x
measure-split
offload --output agents --learning-rate nan
"""


def make_places(folder: str | Path) -> None:
    """Write `PLACES` into a folder, in which the calls are to be made."""
    for name, content in PLACES.items():
        file = Path(folder, name)
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)


def calls() -> list[list[str]]:
    """What is asked: `-h` of every command and preparation, an option that a command does not have, and `WRONG`."""
    commands = [name for group in cli._JOBS.values() for name in group]
    asked = [[name, option] for name in commands for option in ("-h", "--nope")]
    asked += [["prepare", name, "-h"] for name in list_preparations()]
    return [["-h"], *asked, *(line.split() for line in WRONG.strip().splitlines())]


def measure(words: list[str]) -> tuple[float, float]:
    """Processor and wall-clock seconds of one call in a process of its own."""
    before, start = os.times(), time.perf_counter()
    code = "import sys; from hf_effmodels.cli import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", code, *words], capture_output=True, check=False)
    seconds, after = time.perf_counter() - start, os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return used, seconds


def main() -> None:
    print("| call | processor seconds | seconds |\n| --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        make_places(folder)
        os.chdir(folder)
        for words in calls():
            used, seconds = min(measure(words) for _ in range(3))
            print(f"| `{' '.join(words)}` | {used:.2f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
