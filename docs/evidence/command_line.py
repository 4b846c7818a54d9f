"""How long the command line takes to answer: processor seconds of `-h` of every command, and of wrong arguments.

    python docs/evidence/command_line.py > times.md

The machine should be quiet; the smallest of three calls is told. That none of these calls imports torch is tested.
"""

import os
import subprocess
import sys
import time

from hf_effmodels import cli

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
benchmark nope
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
tiny-lm nope
quantize out smaller --bits 99 --dataset text.txt
split out
serve-tail out --port x
measure-split
"""


def calls() -> list[list[str]]:
    """What is asked: `-h` of every command, an option that it does not have, and `WRONG`."""
    commands = [name for group in cli._JOBS.values() for name in group]
    asked = [[name, option] for name in commands for option in ("-h", "--nope")]
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
