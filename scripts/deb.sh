#!/usr/bin/env bash
# Makes the Debian package: both programs, what systemd and the bus need, libraries, man pages, completions.
#
# The package lands in target/debian/. Other arguments go to `cargo build`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo deb --version >/dev/null 2>&1 || { echo "deb: needs cargo-deb 3.8: cargo install cargo-deb --version 3.8.0 --locked" >&2; exit 1; }
scripts/setup.sh
cargo build --locked --release -p tissuemap-daemon "$@"

pages=target/pages
rm -rf "$pages"
mkdir -p "$pages/man" "$pages/bash" "$pages/zsh" "$pages/fish"
for program in tissuemapd tissuemapctl; do
  "target/release/$program" man "$pages/man"
  "target/release/$program" completions bash >"$pages/bash/$program"
  "target/release/$program" completions zsh >"$pages/zsh/_$program"
  "target/release/$program" completions fish >"$pages/fish/$program.fish"
done
cargo deb --no-build --package tissuemap-daemon
