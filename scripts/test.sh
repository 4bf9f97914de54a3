#!/usr/bin/env bash
# Builds everything and runs every test: the crates' own and the integration binary in tests/.
#
#   scripts/test.sh                        all of it
#   scripts/test.sh register               tests with "register" in their name
#   scripts/test.sh -- --test-threads=1    what follows -- goes to the test programs
#
# Other arguments go to `cargo test`. The release profile is used on purpose: debug builds of pixel loops take many times as
# long, the demo and CI then share one build, and what is tested (overflow checks included) is what is shipped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh --test
started=$SECONDS

# The integration tests start the real programs, so these are built first.
cargo build --locked --release --workspace

# --show-output, so that a test that had to skip (no test data beside the repository) cannot do so unseen.
case " $* " in
  *' -- '*) set -- "$@" --show-output ;;
  *) set -- "$@" -- --show-output ;;
esac
# Many tests wait for a daemon most of their time: on two cores, twice as many at once end in little more than half the time.
export RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))}
# --tests: no example is linked for it (clippy checks them in .ci/run). There are no doc tests; the first one needs a run of
# its own here: cargo test --doc.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
status=0
cargo test --locked --release --workspace --tests --no-fail-fast "$@" 2>&1 | tee "$log" || status=$?

echo
echo "---- scripts/test.sh: $((SECONDS - started)) s"
grep -E '^test .* \.\.\. FAILED$' "$log" | sort -u || true
grep -hoE 'SKIPPED: .*' "$log" | sort -u || true
awk '/^test result: / { passed += $4; failed += $6; skipped += $8 }
     END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped; exit passed + failed == 0 }' "$log" ||
  { echo "no test ran: nothing matches, or the tests did not build (see above)"; status=1; }
exit "$status"
