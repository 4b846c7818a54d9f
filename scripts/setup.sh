# Sourced by quickstart.sh and test.sh: `setup_environment EXTRA` makes .venv where it is not there yet, installs the
# package with that extra into it, and activates it. Installed again only when the requirements have changed.

setup_environment() {
    local extra=$1 python=${PYTHON:-python3} stamp
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "error: $python is $("$python" -V 2>&1), hf_effmodels needs Python 3.10 or later; set PYTHON=" >&2; return 1; }
    if [ ! -x .venv/bin/python ]; then
        echo "Making the environment .venv"
        rm -rf .venv
        "$python" -m venv .venv
    fi
    # shellcheck disable=SC1091
    . .venv/bin/activate
    stamp=.venv/installed-$extra-$(cat setup.cfg constraints.txt | cksum | tr ' ' -)
    if [ ! -e "$stamp" ]; then
        echo "Installing hf_effmodels[$extra] (a minute or two)"
        python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$extra]"
        touch "$stamp"
    fi
}
