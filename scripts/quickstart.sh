#!/usr/bin/env bash
# From nothing to predictions: environment, a small GhostNetV3 trained on real digits, evaluated, folded, reloaded.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup_environment train

output=outputs/quickstart_ghostnetv3_digits
accelerate launch --num_processes 1 --cpu scripts/train.py \
    --config quickstart/image-classification --overwrite_output_dir true "$@"
python scripts/eval.py --model "$output" --dataset digits
python scripts/quickstart_predict.py "$output"
