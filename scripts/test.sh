#!/usr/bin/env bash
# The whole test-suite in the quickstart's environment. Arguments go to pytest: bash scripts/test.sh -k ghostnet
# With the newest versions of all libraries instead of the pinned ones: CONSTRAINTS=newest bash scripts/test.sh
# With further models, formats and processes for what the default says of one: SUITE=thorough bash scripts/test.sh
# The tutorials' notebooks, each from its first cell to its last: SUITE=tutorials bash scripts/test.sh
# The demo's apps, also in a browser where Chromium is installed: SUITE=demo bash scripts/test.sh
# The environment alone: INSTALL=only
# transformers' own common tests over the models here, from its source distribution: SUITE=transformers bash scripts/test.sh
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/setup.sh
if [ "${SUITE:-own}" = demo ]; then
    # gradio has no release for the pillow that all other numbers are of: .venv-demo has another, over .venv.
    pins=$(mktemp)
    trap 'rm -f "$pins"' EXIT
    grep -v '^pillow==' constraints.txt >"$pins"
    setup_environment test
    BASE=.venv ENVIRONMENT=.venv-demo CONSTRAINTS=$pins setup_environment demo,browser
else
    setup_environment test
fi
[ "${INSTALL:-}" != only ] || exit 0

export OMP_NUM_THREADS=1
case "${SUITE:-own}" in
own) ;;
tutorials) set -- tests/test_tutorials.py -m tutorial "$@" ;;
demo) set -- tests/demo -m "thorough or not thorough" "$@" ;;
thorough) set -- -m "thorough or not thorough" "$@" ;;
transformers)
    version=$(python -c 'import transformers; print(transformers.__version__)')
    unpacked=$(mktemp -d)
    trap 'rm -rf "$unpacked"' EXIT
    python -m pip download --quiet --no-deps --no-binary transformers --dest "$unpacked" \
        "transformers==$version"
    python -m pip install --quiet --target "$unpacked/libraries" --no-deps parameterized
    tar -xzf "$unpacked"/transformers-*.tar.gz -C "$unpacked" --strip-components 1
    touch "$unpacked/tests/__init__.py"
    TRANSFORMERS_TESTS=$unpacked/tests PYTHONPATH=$unpacked/libraries:${PYTHONPATH:-} python -m pytest --noconftest \
        -c /dev/null -p no:cacheprovider -W ignore::pytest.PytestUnknownMarkWarning --rootdir "$unpacked" "$PWD/scripts/suites/test_transformers.py" "$@"
    exit
    ;;
*)
    echo "error: SUITE: got '$SUITE', accepted are own, thorough, tutorials, demo and transformers" >&2
    exit 2
    ;;
esac
if [ "${CONSTRAINTS:-}" != newest ] && [ "${SUITE:-own}" != demo ]; then # a newer ruff has other rules
    ruff check .
    ruff format --check .
fi
if [ -d ../shared/golden ]; then
    set -- --cases=../shared/golden "$@"
fi
exec python -m pytest -n 2 --dist worksteal "$@"
