#!/usr/bin/env bash
# The whole test-suite in the quickstart's environment. Arguments go to pytest: bash scripts/test.sh -k ghostnet
# With the newest versions of all libraries instead of the pinned ones: CONSTRAINTS=newest bash scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
setup_environment test

export OMP_NUM_THREADS=1
if [ "${CONSTRAINTS:-}" != newest ]; then # a newer ruff has other rules
    ruff check .
    ruff format --check .
fi
if [ -d ../shared/golden ]; then
    set -- --cases=../shared/golden "$@"
fi
exec python -m pytest -n 2 --dist worksteal "$@"
