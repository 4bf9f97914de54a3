#!/usr/bin/env bash
# Trains on an NVIDIA GPU and compares with the CPU: the same tests' road, the same data, the training step beside PyTorch's.
#
#   scripts/gpu-check.sh [--python PYTHON] [--device cuda:0]
#
# PYTHON has PyTorch 2.11 for CUDA 13 (default: python3); its libtorch is the one that tissuemap-train runs on. Needs a built
# target/release (tissuemap-train, xtask, examples training_step and loader). Prints figures for docs/GPU.md; any failure ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=python3 device=cuda:0
while (($#)); do
  case $1 in
    --python) python=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --help | -h) sed -n '2,8s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) echo "gpu-check: unknown option $1" >&2; exit 64 ;;
  esac
done

libtorch=$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
"$python" -c 'import sys, torch; sys.exit(not (torch.__version__.startswith("2.11") and torch.cuda.is_available()))' ||
  { echo "gpu-check: $python has no PyTorch 2.11 that sees a GPU" >&2; exit 69; }
export LD_LIBRARY_PATH=$libtorch${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true

echo "---- the same fit on the CPU and on $device"
target/release/xtask derive --seed 5 --case small --out "$work"
cat >"$work/train.toml" <<'TOML'
clusters = 4
[[sets]]
folder = "."
[patches]
mpp = 2.0
per_set = 800
[autoencoder]
epochs = 10
[imsat]
epochs = 60
lambda = 0.4
[joint]
epochs = 4
TOML
for where in cpu "$device"; do
  begun=$SECONDS
  target/release/tissuemap-train fit --config "$work/train.toml" --patches "$work/patches.zarr" \
    --out "$work/${where%:*}.onnx" --device "$where"
  echo "$where: $((SECONDS - begun)) s"
  tail -n 1 "$work/${where%:*}.run/metrics.csv"
done

echo "---- training step beside PyTorch"
benches/training_step.py --device "$device" --python "$python" --steps 50

echo "---- loader beside the training step"
benches/loader.py --device "$device" --patches 20000 --steps 50
