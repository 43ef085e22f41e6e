#!/bin/sh
# Installs what is missing: system packages where apt can, the Python environment from the lock file.
# Usage: install.sh PYTHON VENV SYSTEM_PACKAGE...
#        install.sh --system SYSTEM_PACKAGE...    installs the system packages alone
#        install.sh --which-torch PYTHON          prints the index of PyTorch alone, and to stderr why it is that one
# TORCH_INDEX=URL, or TORCH_INDEX=default for pip's own, overrides the choice of the index of PyTorch.
set -eu
cpu_builds=https://download.pytorch.org/whl/cpu

install_system() {
    missing=""
    for package in "$@"; do
        if command -v dpkg-query >/dev/null 2>&1; then
            dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
        elif [ ! -e /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf ]; then
            missing=" $*"
        fi
    done
    [ -n "$missing" ] || return 0
    as_root=""
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    if command -v apt-get >/dev/null 2>&1 && $as_root true 2>/dev/null; then
        echo "installing these Debian packages as root, by apt-get:$missing"
        $as_root apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $missing >/dev/null
    else
        echo "embedline: these system packages are missing:$missing" >&2
        echo "  Install them (on Debian and Ubuntu: apt-get install$missing), then run make again." >&2
        exit 1
    fi
}

# The builds for NVIDIA GPUs, which pip's own index has, are gigabytes larger than those for CPUs.
which_torch() {
    answers='import sys, urllib.request; urllib.request.urlopen(sys.argv[1] + "/torch/", timeout=5)'
    if [ -n "${TORCH_INDEX:-}" ]; then
        index=$TORCH_INDEX why="TORCH_INDEX says so"
    elif command -v nvidia-smi >/dev/null 2>&1 || [ -e /proc/driver/nvidia ]; then
        index=default why="this machine has an NVIDIA GPU"
    elif "$1" -c "$answers" "$cpu_builds" 2>/dev/null; then
        index=$cpu_builds why="this machine has no NVIDIA GPU"
    else
        index=default why="this machine has no NVIDIA GPU, but $cpu_builds does not answer"
    fi
    echo "PyTorch comes from the index $index: $why (TORCH_INDEX=URL or TORCH_INDEX=default overrides this)" >&2
    echo "$index"
}

install_python() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
        echo "embedline: $1 is $("$1" --version 2>&1), but Python 3.11 or 3.12 is needed" >&2
        echo "  Name one: make run PYTHON=python3.11" >&2
        exit 1
    }
    [ -x "$2/bin/python" ] || "$1" -m venv "$2"
    index=$(which_torch "$1")
    [ "$index" = default ] && extra="" || extra="--extra-index-url $index"
    echo "installing the Python packages of requirements.lock (minutes, once)"
    # Of one version in both indexes pip takes the CPU build: 2.13.0+cpu satisfies ==2.13.0 and sorts after 2.13.0.
    "$2/bin/pip" install --quiet --disable-pip-version-check $extra -r requirements.lock
    "$2/bin/pip" install --quiet --disable-pip-version-check --no-deps -e .
}

case $1 in
--system) shift && install_system "$@" ;;
--which-torch) which_torch "$2" ;;
*)
    python=$1 venv=$2
    shift 2
    install_system "$@"
    install_python "$python" "$venv"
    ;;
esac
