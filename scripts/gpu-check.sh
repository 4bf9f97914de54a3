#!/usr/bin/env bash
# Trains and infers on an NVIDIA GPU and compares with the CPU: the same tests, the same data, the training step beside PyTorch's.
#
#   scripts/gpu-check.sh trainer --slides DIR [--python PYTHON] [--device cuda:0]
#   scripts/gpu-check.sh daemon --slides DIR MODEL…
#
# DIR holds the slides of one section set (`xtask derive` makes one). Everything in target/release has to be built already:
# tissuemap-train with its examples training_step and loader for the first, tissuemapd for the second, because machines
# with a GPU often have neither cargo nor a registry. PYTHON (default: python3) has PyTorch 2.11 for CUDA 13, whose libtorch is the
# one that tissuemap-train runs on; with TESTS=FILE, that build of the trainer's unit tests runs on the GPU, too.
# For the daemon, TISSUEMAP_LIB_DIR holds the GPU build of ONNX Runtime and LD_LIBRARY_PATH leads to CUDA 13 and cuDNN 9. Each
# MODEL processes the set on the CPU, by CUDA, and by TensorRT where its provider lies there too, in the confined worker. Prints figures for docs/GPU.md; any failure ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=python3 device=cuda:0 slides='' part='' models=()
while (($#)); do
  case $1 in
    trainer | daemon) part=$1; shift ;;
    --slides) slides=$(realpath "$2"); shift 2 ;;
    --python) python=$2; shift 2 ;;
    --device) device=$2; shift 2 ;;
    --help | -h) sed -n '2,12s/^# \{0,1\}//p' "$0"; exit 0 ;;
    -*) echo "gpu-check: unknown option $1" >&2; exit 64 ;;
    *) models+=("$(realpath "$1")"); shift ;;
  esac
done
[[ $part && $slides ]] || { echo "gpu-check: say trainer or daemon, and --slides DIR; see --help" >&2; exit 64; }
work=$(mktemp -d)
# shellcheck disable=SC2046 # a word a job
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>/dev/null || true

check_trainer() {
  "$python" -c 'import sys, torch; sys.exit(not (torch.__version__.startswith("2.11") and torch.cuda.is_available()))' ||
    { echo "gpu-check: $python has no PyTorch 2.11 that sees a GPU" >&2; exit 69; }
  local libtorch
  libtorch=$("$python" -c 'import os, torch; print(os.path.join(os.path.dirname(torch.__file__), "lib"))')
  export LD_LIBRARY_PATH=$libtorch${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

  echo "---- training step beside PyTorch"
  benches/training_step.py --device "$device" --python "$python" --steps 200 --built

  echo "---- loader beside the training step"
  benches/loader.py --device "$device" --patches 40000 --steps 200 --built

  echo "---- the same fit on the CPU and on $device"
  cat >"$work/train.toml" <<'TOML'
clusters = 4
cpu_threads = 8
[[sets]]
folder = "."
[patches]
mpp = 2.0
per_set = 800
[autoencoder]
epochs = 6
[imsat]
epochs = 30
[joint]
epochs = 2
TOML
  local where begun
  for where in cpu "$device"; do
    begun=$SECONDS
    target/release/tissuemap-train fit --config "$work/train.toml" --data "$slides" --patches "$work/patches.zarr" \
      --out "$work/${where%:*}.onnx" --device "$where"
    echo "$where: $((SECONDS - begun)) s"
    grep -h '^[acj]' "$work/${where%:*}.run/metrics.csv" | awk -F, '{ last[$1] = $0 } END { for (phase in last) print last[phase] }'
  done

  if [[ ${TESTS:-} ]]; then
    echo "---- the trainer's tests of whole fits, on $device"
    TISSUEMAP_TEST_DEVICE=$device "$TESTS" fit:: sweep:: export::
  fi
}

# One set through tissuemapd, from the slide's arrival to its results.
process() { # MODEL PROVIDER FOLDER
  local incoming=$3/incoming daemon
  mkdir -p "$incoming" "$3/state"
  cp "$slides"/*.tif "$incoming"
  cat >"$3/tissuemapd.toml" <<TOML
model = "$1"
state_folder = "$3/state"
[[watch]]
folder = "$incoming"
settle_seconds = 1
scan_seconds = 1
[group]
wait_seconds = 1
incomplete = "run"
[worker]
providers = ["$2"]
[bus]
kind = "none"
TOML
  target/release/tissuemapd run --config "$3/tissuemapd.toml" >"$3/log" 2>&1 &
  daemon=$!
  # TensorRT compiles a model for minutes.
  local slide left=1200
  for slide in "$incoming"/*.tif; do
    while [[ ! -f ${slide%.tif}.tissuemap/result.json ]]; do
      if ! kill -0 $daemon 2>/dev/null || ((left-- == 0)); then
        cat "$3/log"
        kill $daemon 2>/dev/null
        return 1
      fi
      sleep 0.5
    done
  done
  kill $daemon
  wait $daemon || true
  grep -E 'WARN|ERROR|Batch sizes|golden|Ready|Set processed' "$3/log"
}

check_daemon() {
  local model name provider gpu=(cuda)
  [[ ! -f ${TISSUEMAP_LIB_DIR:-}/libonnxruntime_providers_tensorrt.so ]] || gpu+=(tensorrt)
  for model in "${models[@]}"; do
    name=$(basename "$model" .onnx)
    for provider in cpu "${gpu[@]}"; do
      echo "---- $name on $provider"
      process "$model" "$provider" "$work/$name-$provider"
    done
    for provider in "${gpu[@]}"; do compare "$work/$name-$provider/incoming" "$work/$name-cpu/incoming"; done
  done
}

compare() { # FOLDER FOLDER_OF_THE_CPU
  "$python" - "$@" <<'PYTHON'
import pathlib, sys
import numpy
from PIL import Image

ours, theirs = map(pathlib.Path, sys.argv[1:])
for path in sorted(ours.glob("*.tissuemap/clusters.png")):
    a, b = (numpy.asarray(Image.open(file)) for file in (path, theirs / path.relative_to(ours)))
    print(f"{path.parent.name}: {numpy.count_nonzero(a != b)} of {a.size} places differ from the CPU's map")
PYTHON
}

"check_$part"
