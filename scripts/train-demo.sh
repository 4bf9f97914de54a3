#!/bin/sh
# Makes models/demo.onnx: three section sets derived from one HE slide, then a fit on the CPU (minutes on two cores).
# Usage: scripts/train-demo.sh [WORKDIR]    the sets are kept in WORKDIR when one is given
set -eu
cd "$(dirname "$0")/.."

if [ $# -gt 0 ]; then
    sets=$1
    mkdir -p "$sets"
else
    sets=$(mktemp -d)
    trap 'rm -rf "$sets"' EXIT
fi

for n in 1 2 3; do
    cargo run --release --quiet -p xtask -- derive --out "$sets" --seed "$n" --case "demo$n"
done
cargo run --release --quiet -p tissuemap-trainer -- fit --config models/demo.toml --data "$sets" --out models/demo.onnx \
    --patches "$sets/patches.zarr"
