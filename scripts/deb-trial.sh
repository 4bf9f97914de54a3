#!/usr/bin/env bash
# Tries the Debian package in a clean Debian: installs it, has the installed programs make maps of real slides, removes it.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: scripts/deb-trial.sh PACKAGE.deb

Makes a minimal Debian in a temporary folder and tries the package in there, with a message bus but without a systemd that
runs: install, `tissuemapctl check`, five sections worked off by the user tissuemap, upgrade, removal, purge. Prints what it
saw and ends at the first thing that is not as it should be. Needs root, debootstrap and a Debian mirror; takes minutes.

Environment: SUITE, the Debian to try (default: bookworm); MIRROR (default: debootstrap's).
TEXT
}

say() { printf '\n==== %s\n' "$*"; }

# ---- outside: a private view of the file system, so that nothing in there can reach this machine's /tmp, /run or mounts --------

outside() {
  local package root
  package=$(realpath "$1")
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  root=$(mktemp -d "${TMPDIR:-/var/tmp}/tissuemap-trial.XXXXXX")
  # shellcheck disable=SC2064 # the folder of now is meant
  trap "rm -rf --one-file-system '$root'" EXIT
  chmod 755 "$root"
  say "slides"
  cargo run --release --locked --quiet -p xtask -- derive --out "$root/slides" --seed 1 --case demo
  say "a clean Debian ${SUITE:-bookworm}"
  # shellcheck disable=SC2016 # expanded in there
  unshare --mount --pid --fork --kill-child --propagation private bash -euc '
    debootstrap --variant=minbase "${SUITE:-bookworm}" "$1" ${MIRROR:+"$MIRROR"} >"$1/debootstrap.log" 2>&1 ||
      { tail "$1/debootstrap.log"; exit 1; }
    mkdir "$1/trial"
    mv "$1/slides" "$1/srv/slides"
    cp "$2" "$1/trial/tissuemap.deb"
    cp models/demo.onnx scripts/deb-trial.sh "$1/trial/"
    mountpoint -q "$1/proc" || mount -t proc proc "$1/proc"
    for folder in tmp run dev/shm; do mkdir -p "$1/$folder"; mount -t tmpfs -o mode=1777 tmpfs "$1/$folder"; done
    exec env --ignore-environment PATH=/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
      chroot "$1" bash /trial/deb-trial.sh --inside' trial "$root" "$package"
}

# ---- inside --------------------------------------------------------------------------------------------------------

# As the unit sets it. Not runuser, which would stand between the daemon and its signals.
tissuemap=(env STATE_DIRECTORY=/var/lib/tissuemap setpriv --reuid tissuemap --regid tissuemap --init-groups)
nobody=(setpriv --reuid nobody --regid nogroup --clear-groups)
refused() { ! "$@" || { echo "was not refused: $*"; exit 1; }; }
get() { apt-get -qq --yes --no-install-recommends "$@" >/trial/apt.log 2>&1 || { cat /trial/apt.log; exit 1; }; }
state() { stat --format '%A %U:%G %n' /etc/tissuemap /etc/tissuemap/* /var/lib/tissuemap /var/lib/tissuemap/*; }
all_maps() { [[ $(find /srv/slides -path '*.tissuemap/result.json' | wc -l) == 5 ]]; }
await() { # SECONDS COMMAND...
  local deadline=$((SECONDS + $1))
  until "${@:2}"; do ((SECONDS < deadline)) || { echo "in vain: ${*:2}"; tail -n 20 /trial/log; exit 1; }; sleep 0.5; done
}

inside() {
  trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
  get update
  get install man-db
  say "install: what it depends on, user, folders"
  get install /trial/tissuemap.deb
  dpkg-query --show --showformat '${Status}; ${Version}; ${Depends}; ${Installed-Size} KiB\n' tissuemap
  getent passwd tissuemap
  state
  [[ $(state | grep -cE '^(drwxr-x--- .* /var/lib/tissuemap|drwxrws--- .* /var/lib/tissuemap/models)$') == 2 ]]

  say "the unit, the configuration as it comes, man pages, completions"
  systemd-analyze verify tissuemapd.service
  # What the unit calls; systemd-analyze looks at the first only.
  sed -n 's/^Exec[A-Za-z]*=-\?\([^ ]*\).*/\1/p' /lib/systemd/system/tissuemapd.service | sort -u | xargs ls
  refused systemctl is-enabled tissuemapd.service
  tissuemapd config --check /etc/tissuemap/tissuemapd.toml
  for program in tissuemapd tissuemapctl; do
    MANWIDTH=100 man "$program" | sed -n '/^NAME/,/^SYNOPSIS/p'
    bash -euc "source /usr/share/bash-completion/completions/$program; complete -p $program"
    ls "/usr/share/zsh/vendor-completions/_$program" "/usr/share/fish/vendor_completions.d/$program.fish"
  done

  say "tissuemapctl check, before the daemon runs"
  chgrp tissuemap /srv/slides
  chmod 2775 /srv/slides
  install --mode 0644 /trial/demo.onnx /var/lib/tissuemap/models/
  printf '[[watch]]\nfolder = "/srv/slides"\nsettle_seconds = 3\n' >/etc/tissuemap/tissuemapd.toml
  mkdir -p /run/dbus
  dbus-daemon --system --nopidfile
  "${tissuemap[@]}" tissuemapctl check

  say "five sections by the user tissuemap, orders on the bus"
  "${tissuemap[@]}" tissuemapd run 2>/trial/log &
  await 60 tissuemapctl status
  refused "${nobody[@]}" tissuemapctl pause
  tissuemapctl pause
  tissuemapctl resume
  await 600 all_maps
  "${nobody[@]}" tissuemapctl verify /srv/slides
  "${nobody[@]}" tissuemapctl status
  "${tissuemap[@]}" tissuemapctl check
  tissuemapd audit /var/lib/tissuemap/audit.jsonl
  stat --format '%A %U:%G %n' /srv/slides/*_HE.tissuemap /srv/slides/*_HE.tissuemap/*

  say "upgrade over itself, removal, purge"
  kill %1
  wait %1
  cp /etc/tissuemap/tissuemapd.toml /trial/mine.toml
  dpkg --install /trial/tissuemap.deb >/trial/dpkg.log
  cmp /etc/tissuemap/tissuemapd.toml /trial/mine.toml
  get remove tissuemap
  refused ls -d /usr/bin/tissuemapd /usr/lib/tissuemap
  state
  get purge tissuemap
  refused ls -d /etc/tissuemap /var/lib/tissuemap
  all_maps
  get install /trial/tissuemap.deb
  tissuemapd config --check /etc/tissuemap/tissuemapd.toml
  say "all of it: as it should be"
}

case ${1:-} in
  --inside) inside ;;
  --help | -h) usage ;;
  *.deb) outside "$1" ;;
  *) usage >&2; exit 64 ;;
esac
