#!/usr/bin/env bash
# A real daemon for an hour, with faults: see `scanner-simulator soak --help`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: scripts/soak.sh --keep DIR [--hours H] [--seed N] [--parallel N] [--program FILE]

Builds tissuemapd and scanner-simulator, and runs `scanner-simulator soak` with these options. Disks are mounted in a mount
namespace of its own, so that nothing of them is left, however it ends; without root, in a user namespace where the kernel
allows that, else without those faults that need a mount.
TEXT
}

case " $* " in *' --help '* | *' -h '*) usage; exit 0 ;; esac
scripts/setup.sh
cargo build --locked --release -p tissuemap-daemon -p tissuemap-scanner
export TISSUEMAP_LIB_DIR=${TISSUEMAP_LIB_DIR:-$PWD/.deps/lib}
soak=("${CARGO_TARGET_DIR:-$PWD/target}/release/scanner-simulator" soak "$@")

own=(unshare --mount --propagation private)
((EUID == 0)) || own+=(--user --map-root-user)
if "${own[@]}" true 2>/dev/null; then
  exec "${own[@]}" -- "${soak[@]}"
fi
echo "SKIPPED: full disks and mounts: no mount namespace can be made here" >&2
exec "${soak[@]}"
