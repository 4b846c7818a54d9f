# Sourced by quickstart.sh and test.sh: `setup_environment EXTRA` makes .venv where it is not there yet, installs the
# package with that extra into it, and activates it. Installed again only when the requirements have changed.
# CONSTRAINTS names another file of pins than constraints.txt. CONSTRAINTS=newest takes the newest versions that setup.cfg
# allows, in an environment of its own, .venv-newest, which is brought up to date once a day. ENVIRONMENT names another
# folder than .venv, and BASE an environment whose packages are seen there, too: only what differs is installed.

setup_environment() {
    local extra=$1 python=${PYTHON:-python3} pins=${CONSTRAINTS:-constraints.txt} folder=${ENVIRONMENT:-.venv} stamp
    local -a how
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "error: $python is $("$python" -V 2>&1), hf_effmodels needs Python 3.10 or later; set PYTHON=" >&2; return 1; }
    if [ "$pins" = newest ]; then
        folder=.venv-newest
        how=(--upgrade --upgrade-strategy eager)
        stamp=$(date +%F)-$(cksum <setup.cfg | tr ' ' -)
    elif [ -f "$pins" ]; then
        how=(-c "$pins")
        stamp=$(cat setup.cfg "$pins" | cksum | tr ' ' -)
    else
        echo "error: CONSTRAINTS: got '$pins', accepted are a file of pins and newest" >&2
        return 1
    fi
    if [ ! -x "$folder/bin/python" ]; then
        echo "Making the environment $folder"
        rm -rf "$folder"
        "$python" -m venv "$folder"
        if [ -n "${BASE:-}" ]; then
            "$folder/bin/python" - "$("$BASE/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" <<'PYTHON'
import sys, sysconfig

with open(sysconfig.get_path("purelib") + "/base.pth", "w") as file:
    file.write(f"import site; site.addsitedir({sys.argv[1]!r})\n")
PYTHON
        fi
    fi
    # shellcheck disable=SC1090
    . "$folder/bin/activate"
    stamp=$folder/installed-$extra-$stamp
    if [ ! -e "$stamp" ]; then
        echo "Installing hf_effmodels[$extra] (a minute or two)"
        python -m pip install --quiet --disable-pip-version-check "${how[@]}" -e ".[$extra]"
        touch "$stamp"
    fi
}
