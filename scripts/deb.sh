#!/usr/bin/env bash
# Makes the Debian package: both programs, what systemd and the bus need, libraries, licences, man pages, completions.
#
# The package lands in target/debian/. Other arguments go to `cargo build`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo deb --version >/dev/null 2>&1 || { echo "deb: needs cargo-deb 3.8: cargo install cargo-deb --version 3.8.0 --locked" >&2; exit 1; }
scripts/setup.sh
cargo build --locked --release -p tissuemap-daemon "$@"

programs=${CARGO_TARGET_DIR:-target}/release pages=target/pages
rm -rf "$pages"
mkdir -p "$pages/man" "$pages/bash" "$pages/zsh" "$pages/fish"
for program in tissuemapd tissuemapctl; do
  "$programs/$program" man "$pages/man"
  "$programs/$program" completions bash >"$pages/bash/$program"
  "$programs/$program" completions zsh >"$pages/zsh/_$program"
  "$programs/$program" completions fish >"$pages/fish/$program.fish"
done

# Most licences ask that their text goes along with the program. Each text is there once.
licences() {
  local crate licence name version file sum
  local -A seen
  while IFS='|' read -r crate licence; do
    read -r name version _ <<<"$crate"
    printf '==== %s %s: %s\n' "$name" "$version" "$licence"
    for file in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/"$name-${version#v}"/*; do
      [[ -f $file && ${file##*/} =~ ^(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE) ]] || continue
      sum=$(sha256sum <"$file")
      printf -- '---- %s%s\n' "${file##*/}" "${seen[$sum]+: as that of ${seen[$sum]}}"
      [[ -n ${seen[$sum]+there} ]] || cat "$file"
      seen[$sum]=${seen[$sum]-$name $version}
    done
  done < <(cargo tree --locked -p tissuemap-daemon --edges normal --prefix none --format '{p}|{l}' | sed 's/ (.*)|/|/; s/ (\*)$//' | sort -u)
}
licences | gzip -9n >"$pages/crates.txt.gz"

# What explains backtraces is larger than all the rest: it goes into a package of its own.
cargo deb --no-build --dbgsym --package tissuemap-daemon
