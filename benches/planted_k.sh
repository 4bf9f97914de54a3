#!/bin/sh
# Is the number of clusters right? Plants tissue with 5, 9 and 13 kinds, lets the trainer count them, prints what it found.
# Usage: benches/planted_k.sh WORKDIR [SEED...]    what is done already is not done again; 3 seeds: 9 runs of minutes each
set -eu
cd "$(dirname "$0")/.."
work=$1
shift
[ $# -gt 0 ] || set -- 1 2 3
cargo build --release --quiet -p xtask -p tissuemap-trainer --bins --examples
for kinds in 5 9 13; do
    for seed in "$@"; do
        run="$work/$kinds-$seed"
        mkdir -p "$run/slides"
        [ -f "$run/slides/truth/planted2_HE.png" ] ||
            target/release/xtask plant --out "$run/slides" --kinds "$kinds" --seed "$((1000 * kinds + seed))" >"$run/kinds.txt"
        # The default configuration, with a smaller autoencoder for fewer epochs, fewer patches, and one thread, so that runs go side
        # by side.
        target/release/tissuemap-train config |
            sed -e 's/^widths = .*/widths = [16, 32, 64, 64]/' -e 's/^latent_dim = .*/latent_dim = 32/' \
                -e '/^\[autoencoder\]/,/^\[/s/^epochs = .*/epochs = 20/' -e 's/^per_set = .*/per_set = 1500/' \
                -e '/^\[autoencoder\]/,/^\[/s/^learning_rate = .*/learning_rate = 0.002/' \
                -e 's/^cpu_threads = .*/cpu_threads = 1/' >"$run/train.toml"
        target/release/tissuemap-train sweep --config "$run/train.toml" --out "$run/model.onnx" >"$run/sweep.csv" 2>"$run/log"
        printf '%s seed %s: ' "$kinds" "$seed"
        target/release/examples/planted_k --run "$run/model.run" --planted "$run/slides"
    done
done
