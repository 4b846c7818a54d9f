"""Train a model as a recipe says; each key of the recipe can be overridden.

    accelerate launch scripts/train.py --config recipes/quickstart_ghostnetv3_digits.yaml
    accelerate launch --num_processes 2 --cpu scripts/train.py --config recipes/quickstart_ghostnetv3_digits.yaml \
        --learning_rate 0.005 --output_dir outputs/two_processes

A killed run goes on with `--resume_from_checkpoint true`. `--help` lists all keys.
"""

import sys
from pathlib import Path

# This folder has an evaluate.py, which would hide the library of that name.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).resolve().parent]

from hf_effmodels.training import main  # noqa: E402

if __name__ == "__main__":
    main()
