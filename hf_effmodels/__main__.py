"""`python -m hf_effmodels ...` is `hf-effmodels ...`: what `accelerate launch -m` and torchrun start."""

import sys

from .cli import main
from .training.run.launch import start_missing_processes

if __name__ == "__main__":
    try:
        start_missing_processes()
    except OSError as error:
        sys.exit(f"hf-effmodels: error: {error}")
    sys.exit(main())
