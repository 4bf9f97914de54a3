#!/usr/bin/env python3
"""Loads patches in random order from a store on the disk: how far from plain reading, and fast enough for training?

    benches/loader.py                              8,000 patches of five stains at 64 px: 490 MB
    benches/loader.py --patches 100000 --folder DIR --device cuda:0

"cold" is after the system was told to forget the files (posix_fadvise), "warm" after they were read once. The floor reads
the same files from front to back. The Python package zarr then reads the store too, and has to find the same bytes as
plain reading does. Results: README.md beside this file.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

PACKAGES = ["zarr"]
CHECK = """
import sys, numpy as np, zarr
folder = sys.argv[1]
group = zarr.open_group(folder, mode="r")
patches = group["patches"]
assert patches.shape[1:] == (15, 64, 64) and patches.dtype == np.uint8, patches.info
count = patches.shape[0]
assert count == group["set"].shape[0] == group["origin"].shape[0] == group.attrs["sets"][0]["patches"]
assert (group["origin"][:, 0] == np.arange(count)).all() and not group["held_out"][:].any()
for row in np.random.default_rng(1).permutation(count)[:100]:
    raw = np.fromfile(f"{folder}/patches/c/{row // 256}/0/0/0", np.uint8, 15 * 64 * 64, offset=row % 256 * 15 * 64 * 64)
    assert (patches[row].ravel() == raw).all(), row
"""


def forget(folder):
    """Drops the files of `folder` from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=8000)
    parser.add_argument("--steps", type=int, default=20, help="training steps that are timed, after 24 that are not")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="where the store is made (without it: the temporary folder)")
    parser.add_argument("--built", action="store_true", help="as on a machine without cargo and registries: no build, no zarr")
    args = parser.parse_args()
    loader = measure.program("loader", "tissuemap-trainer", example=True, built=args.built)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        store = Path(folder) / "patches.zarr"

        def ask(*what):
            output = subprocess.run([loader, "--store", store, *map(str, what)], check=True, capture_output=True, text=True)
            return [float(line) for line in output.stdout.split()]

        ask("fill", "--patches", args.patches)
        print("\n| | floor, patches/s | loader, patches/s | loader / floor | two views of each, patches/s |")
        print("|---|---|---|---|---|")
        for name in ["cold", "warm"]:
            rates = []
            for what in [["floor"], ["load", "--device", args.device], ["load", "--views", "--device", args.device]]:
                if name == "cold":
                    forget(store)
                rates += ask(*what)
            floor, loaded, views = rates
            print(f"| {name} | {floor:,.0f} | {loaded:,.0f} | {loaded / floor:.2f} | {views:,.0f} |")
        alone, loaded = ask("train", "--steps", args.steps, "--device", args.device)
        print("\n| training step of the default autoencoder | patches/s |\n|---|---|")
        print(f"| one batch over and over | {alone:,.0f} |\n| loaded batches | {loaded:,.0f} |\n| ratio | {loaded / alone:.2f} |")
        if args.built:
            return
        python = measure.python_with(PACKAGES, Path(folder) / "venv")
        subprocess.run([python, "-c", CHECK, store], check=True)
        print("\nzarr reads the same bytes")


if __name__ == "__main__":
    sys.exit(main())
