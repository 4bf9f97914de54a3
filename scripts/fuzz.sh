#!/usr/bin/env bash
# Runs the fuzz targets of fuzz/ with coverage, one after the other.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
  cat <<'TEXT'
usage: scripts/fuzz.sh [SECONDS] [TARGET...]

Fuzzes each target (default: all of them) for so many seconds (default: 600), starting from the inputs in
fuzz/corpus/TARGET. Needs a nightly toolchain; cargo-fuzz is installed if it is missing. Ends with 1 if a target failed.

  TISSUEMAP_FUZZ_OUT   where logs, new inputs and the table of figures go (default: target/fuzz)

An input that fails lies in fuzz/artifacts/TARGET afterwards; docs/FUZZING.md says what to do with it.
TEXT
}

say() { printf 'fuzz: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

seconds=600
case ${1:-} in
  --help | -h) usage; exit 0 ;;
  '' | *[!0-9]*) ;;
  *) seconds=$1; shift ;;
esac

mapfile -t all < <(sed -n 's/^name = "\([a-z]*\)"$/\1/p' fuzz/Cargo.toml)
for target in "$@"; do
  [[ " ${all[*]} " == *" $target "* ]] || { usage >&2; die "no target $target; there are ${all[*]}"; }
done
(($#)) || set -- "${all[@]}"

RUSTUP_AUTO_INSTALL=0 cargo +nightly --version >/dev/null 2>&1 ||
  die "no nightly toolchain, whose compiler alone can measure coverage: 'rustup toolchain install nightly --profile minimal'"
if ! cargo fuzz --version >/dev/null 2>&1; then
  say "installing cargo-fuzz 0.13.2"
  cargo install --quiet --locked cargo-fuzz@0.13.2
fi

scripts/setup.sh
out=${TISSUEMAP_FUZZ_OUT:-target/fuzz}
mkdir -p "$out"
out=$(cd "$out" && pwd)
figures=$out/figures.tsv
[[ -s $figures ]] || printf 'target\tseconds\texecutions\tper second\tedges\tfeatures\tinputs\tpeak MiB\toutcome\n' >"$figures"

# Most targets write small files: no disk need wear out.
for folder in /dev/shm "${TMPDIR:-/tmp}"; do
  if [[ -d $folder && -w $folder ]]; then
    scratch=$(mktemp -d "$folder/tissuemap-fuzz.XXXXXX")
    break
  fi
done
trap 'rm -rf "$scratch"' EXIT
export TISSUEMAP_LIB_DIR=${TISSUEMAP_LIB_DIR:-$PWD/.deps/lib}

run() { # TARGET
  local target=$1 found=$out/found/$1 log=$out/$1.log longest=16384 outcome=ok started=$SECONDS
  mkdir -p "$found"
  if [[ $target == slide ]]; then
    # Slides are opened by the real worker of the real supervisor.
    cargo build --locked --release -p tissuemap-daemon
    export TISSUEMAPD=${CARGO_TARGET_DIR:-$PWD/target}/release/tissuemapd
    longest=512
  fi
  cargo +nightly fuzz run "$target" "$found" "fuzz/corpus/$target" -- \
    -max_total_time="$seconds" -max_len="$longest" -timeout=30 -rss_limit_mb=3072 -malloc_limit_mb=1024 \
    -print_final_stats=1 >"$log" 2>&1 || outcome=FAILED
  local last executions peak
  last=$(grep -E '^#[0-9]+' "$log" | tail -n 1)
  executions=$(sed -n 's/^stat::number_of_executed_units: //p' "$log")
  peak=$(sed -n 's/^stat::peak_rss_mb: *//p' "$log")
  field() { grep -oE "$1: [0-9]+" <<<"$last" | grep -oE '[0-9]+' || echo '?'; }
  printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$target" "$((SECONDS - started))" "${executions:-?}" "$(field 'exec\/s')" \
    "$(field cov)" "$(field ft)" "$(field corp)" "${peak:-?}" "$outcome" | tee -a "$figures"
  if [[ $outcome != ok ]]; then
    say "$target failed; the end of $log:"
    tail -n 25 "$log" >&2
    return 1
  fi
}

status=0
for target in "$@"; do
  say "$target: building, then $seconds s"
  TMPDIR=$scratch run "$target" || status=1
done
exit "$status"
