#!/bin/sh
# Installs what is missing: system packages where apt can, the Python environment from the lock file.
# Usage: install.sh PYTHON VENV SYSTEM_PACKAGE...
set -eu
python=$1 venv=$2
shift 2

missing=""
for package in "$@"; do
    if command -v dpkg-query >/dev/null 2>&1; then
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q "install ok installed" || missing="$missing $package"
    elif [ ! -e /usr/share/fonts/truetype/noto/NotoColorEmoji.ttf ]; then
        missing="$*"
    fi
done
if [ -n "$missing" ]; then
    as_root=""
    [ "$(id -u)" = 0 ] || as_root="sudo -n"
    if command -v apt-get >/dev/null 2>&1 && $as_root true 2>/dev/null; then
        echo "installing$missing"
        $as_root apt-get update -qq
        DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq $missing >/dev/null
    else
        echo "embedline: these system packages are missing:$missing" >&2
        echo "  Install them (on Debian and Ubuntu: apt-get install$missing), then run make again." >&2
        exit 1
    fi
fi

"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || {
    echo "embedline: $python is $("$python" --version 2>&1), but Python 3.11 or 3.12 is needed" >&2
    echo "  Name one: make run PYTHON=python3.11" >&2
    exit 1
}
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
echo "installing the Python packages of requirements.lock (minutes, once)"
"$venv/bin/pip" install --quiet --disable-pip-version-check -r requirements.lock
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps -e .
