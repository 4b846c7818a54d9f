#!/usr/bin/env bash
# The whole test-suite in the quickstart's environment. Arguments go to pytest: bash scripts/test.sh -k ghostnet
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup_environment test

export OMP_NUM_THREADS=1
ruff check .
ruff format --check .
if [ -d ../shared/golden ]; then
    set -- --cases=../shared/golden "$@"
fi
exec python -m pytest -n 2 --dist worksteal "$@"
