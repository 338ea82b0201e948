#!/usr/bin/env bash
# Shows the installed layout as links in build/types/hyperfields: mypy and the API reference cannot follow the
# package mapping of an editable install (scenes/ and viewer/ lie beside hyperfields/).
set -euo pipefail
cd "$(dirname "$0")/.."
rm -rf build/types
mkdir -p build/types/hyperfields
ln -s "$PWD"/hyperfields/* "$PWD/scenes" "$PWD/viewer" build/types/hyperfields/
