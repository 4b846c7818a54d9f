"""How long the command line takes to answer: processor seconds of `-h` of every command, and of wrong arguments.

    python docs/evidence/command_line.py > times.md

The machine should be quiet; the smallest of three calls is told. That none of these calls imports torch is tested.
"""

import os
import subprocess
import sys
import time

from hf_effmodels import cli
from hf_effmodels.training.preparation import list_preparations

#: Wrong arguments as somebody may type them; an option that is not there is tried with every command.
WRONG = """
list --task zzz
info ghostnetv3-1x
download nope
convert nope official.pth out
export out edge --format zzz
export out edge --format onnx --precision int3
export ./nope out --format onnx
predict ./nope x.png
predict ghostnetv3-1.0x nowhere.png
predict ghostnetv3-1.0x . --prompt why
benchmark nope
benchmark ghostnetv3-1.0x --rounds 0
benchmark ghostnetv3-1.0x --mode generate
assemble . part
assign ./nope --device board 4M 20M
offload --devices 0 --output agents
decompose ./nope out --dataset digits
train-codec ./nope out --at stages.0 --dataset digits
probe ./nope --dataset digits --output probes
chat ./nope
demo ./nope
publish nope a/b
evaluate --model nope --dataset digits
train --model nope --dataset digits
publish a b c
chat
demo out --port x
quickstart nope
prepare nope
prepare soft-labels --top_k 0 --output labels
prepare label-maps --output maps
prepare super-resolution-masks --scale x
prepare text-embeddings --dataset ./nope.csv --encoder a --output b
prepare visual-sentences --dataset digits
tiny-lm nope
quantize out smaller --bits 99 --dataset text.txt
split out
serve-tail out --port x
measure-split
"""


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
    for words in calls():
        used, seconds = min(measure(words) for _ in range(3))
        print(f"| `{' '.join(words)}` | {used:.2f} | {seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
