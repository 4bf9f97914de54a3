#!/usr/bin/env bash
# The whole road on one machine, without a scanner: five sections arrive in a watched folder, tissuemapd makes maps.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/demo.sh [--out DIR] [--seed N]

Derives five differently stained sections from a real HE slide, starts tissuemapd on an empty folder and a bus of its
own, lets the sections arrive as a scanner would deliver them, and waits for the cluster maps.

  --out DIR   where everything goes; must be new or empty (default: a temporary folder, which is kept)
  --seed N    which set of sections is derived (default: 1)
  --help      this text

Environment: TISSUEMAP_DEMO_TIMEOUT, seconds to wait for the maps (default: 600).
TEXT
}

say() { printf '[%4d s] %s\n' "$SECONDS" "$*" >&2; }
die() { say "demo: $*"; exit 1; }

out='' seed=1
while (($#)); do
  case $1 in
    --out) out=${2:?--out needs a folder}; shift ;;
    --seed) seed=${2:?--seed needs a number}; shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; die "unknown option $1" ;;
  esac
  shift
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
timeout=${TISSUEMAP_DEMO_TIMEOUT:-600}
model=$root/models/demo.onnx
[[ -f $model ]] || die "$model is missing: the checkout is incomplete"

if [[ -n $out ]]; then
  mkdir -p "$out"
  [[ -z $(ls -A "$out") ]] || die "$out is not empty: results of an earlier run could pass for new ones"
  out=$(cd "$out" && pwd)
else
  out=$(mktemp -d "${TMPDIR:-/tmp}/tissuemap-demo.XXXXXX")
fi

# Each step reports how long it took; whatever the way out, the two processes end and a step that failed is named.
current='' daemon='' bus=''
step() { # TEXT COMMAND...
  local started=$SECONDS
  current=$1
  shift
  say "$current"
  "$@"
  say "done: $current ($((SECONDS - started)) s)"
  current=''
}

stop() {
  local pid
  if [[ -n $current ]]; then say "failed: $current"; fi
  for pid in $daemon $bus; do
    kill "$pid" 2>/dev/null || continue
    wait "$pid" 2>/dev/null || true
  done
}
trap stop EXIT
trap 'exit 130' INT TERM

# ---- build and derive ----------------------------------------------------------------------------------------------

build() { cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml" -p tissuemap-daemon -p xtask; }

step 'bringing libraries (scripts/setup.sh)' "$root/scripts/setup.sh"
export TISSUEMAP_LIB_DIR=${TISSUEMAP_LIB_DIR:-$root/.deps/lib}
step 'building tissuemapd and xtask' build
bin=${CARGO_TARGET_DIR:-$root/target}/release

sections=$out/sections incoming=$out/incoming log=$out/tissuemapd.log
mkdir "$incoming"
step 'deriving five sections from one HE slide' "$bin/xtask" derive --out "$sections" --seed "$seed" --case demo

# ---- the daemon on a bus of its own --------------------------------------------------------------------------------

await() { # SECONDS WHAT COMMAND...: polls until the command succeeds
  local deadline=$((SECONDS + $1)) what=$2
  shift 2
  until "$@"; do
    if [[ -n $daemon ]] && ! kill -0 "$daemon" 2>/dev/null; then
      give_up "tissuemapd ended while waiting for $what"
    fi
    ((SECONDS < deadline)) || give_up "no $what in time"
    sleep 0.5
  done
}

give_up() {
  say "$1; tissuemapd's log ($log) ends so:"
  if [[ -f $log ]]; then tail -n 40 "$log" >&2; fi
  exit 1
}

start_daemon() {
  dbus-daemon --session --nofork --print-address=1 >"$out/bus-address" 2>/dev/null &
  bus=$!
  await 10 'bus address' test -s "$out/bus-address"
  DBUS_SESSION_BUS_ADDRESS=$(<"$out/bus-address")
  export DBUS_SESSION_BUS_ADDRESS
  cat >"$out/tissuemapd.toml" <<TOML
model = "$model"
state_folder = "$out/state"

[[watch]]
folder = "$incoming"
# The copies below pause for less than a second. A real scanner needs more patience: the default is 30.
settle_seconds = 3
scan_seconds = 5

[bus]
kind = "session"
TOML
  "$bin/tissuemapd" run --config "$out/tissuemapd.toml" 2>"$log" &
  daemon=$!
  await 60 'answer from tissuemapd on the bus' "$bin/tissuemapctl" --bus session status >/dev/null 2>&1
}

step 'starting tissuemapd' start_daemon

# ---- slides arrive -------------------------------------------------------------------------------------------------

# Grows under its final name, with pauses, as a scanner or cp to a share writes it.
grow() { # FROM TO
  local size block=$((4 << 20)) at
  size=$(stat --format %s "$1")
  for ((at = 0; at * block < size; at++)); do
    dd if="$1" of="$2" bs=$block count=1 skip="$at" seek="$at" conv=notrunc status=none
    sleep 0.5
  done
}

# Has its final size at once and is filled afterwards, as some SMB clients do.
fill() { # FROM TO
  truncate --size "$(stat --format %s "$1")" "$2"
  grow "$1" "$2"
}

# Appears whole by a rename, as rsync does.
appear() { # FROM TO
  cp "$1" "$2.part"
  mv "$2.part" "$2"
}

deliver() { "$2" "$sections/demo_$1.tif" "$incoming/demo_$1.tif"; }

step 'HE arrives: grows under its final name' deliver HE grow
step 'CD31 arrives: temporary name, then rename' deliver CD31 appear
step 'KI67 arrives: preallocated, then filled' deliver KI67 fill
step 'PANCK arrives: temporary name, then rename' deliver PANCK appear
step 'COL1 arrives: grows under its final name' deliver COL1 grow

# ---- results -------------------------------------------------------------------------------------------------------

stains=(HE CD31 KI67 PANCK COL1)
all_results() {
  local stain
  for stain in "${stains[@]}"; do
    [[ -f $incoming/demo_$stain.tissuemap/result.json ]] || return 1
  done
}
step 'tissuemapd registers, infers and draws' await "$timeout" 'set of results' all_results

untouched() {
  local stain
  for stain in "${stains[@]}"; do cmp "$sections/demo_$stain.tif" "$incoming/demo_$stain.tif"; done
}
step 'checking that no slide was changed' untouched

say 'open these:'
for stain in "${stains[@]}"; do printf '%s\n' "$incoming/demo_$stain.tissuemap/overlay.png"; done
cat >&2 <<TEXT

What you see: the HE section is real tissue (the test slide that comes with the crate openslide-rs). The four
"immunostains" are computed from it: no antibody was used, and their maps say nothing about biology.
$sections/demo_origin.txt has the details.
Everything is in $out (the daemon's log: $log).
TEXT
