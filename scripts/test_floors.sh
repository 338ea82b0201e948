#!/usr/bin/env bash
# Installs the lowest versions that pyproject.toml claims (`NAME>=VERSION`, of the package and its extra `shapes`) and runs
# the smoke tests with them. The lowest torch may only be had as a CUDA build: count on 4 GB of downloads and 8 GB on disk.
# FLOOR_PYTHON is the interpreter, python3.11 unless said. KEEP=1 keeps build/floors.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
room=$root/build/floors
rm -rf "$room" build/lib build/bdist.*
mkdir -p "$room/away/tests"
[ -n "${KEEP:-}" ] || trap 'rm -rf "$room"' EXIT

python=${FLOOR_PYTHON:-python3.11}
lowest=$(sed -n 's/^requires-python = ">=\(.*\)"$/\1/p' pyproject.toml)
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$version" = "$lowest" ] || { echo "floors: $python is $version, pyproject.toml claims $lowest (FLOOR_PYTHON=...)"; exit 1; }

"$python" -m venv "$room/venv"
pip() { "$room/venv/bin/python" -m pip --disable-pip-version-check "$@"; }
"$room/venv/bin/python" - >"$room/floors.txt" <<'PY'
import re, tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for line in [*project["dependencies"], *project["optional-dependencies"]["shapes"]]:
    requirement, _, marker = line.partition(";")
    floor = re.match(r"([\w.-]+)>=([\w.]+)", requirement)
    if floor:
        print(f"{floor[1]}=={floor[2]}", f"; {marker.strip()}" if marker else "")
PY
cat "$room/floors.txt"
pip install -q -r "$room/floors.txt"
pip install -q pytest build 'setuptools>=77' wheel
"$room/venv/bin/python" -m build --wheel --no-isolation -o "$room" . >"$room/build.log" 2>&1 || { cat "$room/build.log"; exit 1; }
pip install -q -c "$room/floors.txt" "$(echo "$room"/*.whl)[shapes]"
pip list | grep -iE "$(sed 's/==.*//' "$room/floors.txt" | paste -sd '|')"

cp tests/{conftest,test_smoke}.py "$room/away/tests"
cp pyproject.toml "$room/away"
cd "$room/away"
unset PYTHONPATH
"$room/venv/bin/python" -m pytest -m smoke -W default # old versions may warn
echo "floors: passed with Python $version"
