"""Time presets beside their peers.

    python scripts/benchmark.py --presets ghostnetv3-1.0x --against timm,official-like --batch 1,32 --threads 1,2 \
        --backends eager,compile,onnx,openvino --output benchmark/
    python scripts/benchmark.py --presets ghostnetv3-1.0x --against official-like --mode train --batch 32
"""

import sys

from hf_effmodels.cli import main

if __name__ == "__main__":
    sys.exit(main(["benchmark", *sys.argv[1:]]))
