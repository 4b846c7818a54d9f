"""`python -m hf_effmodels`: the command `hf-effmodels`, also for `accelerate launch -m`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
