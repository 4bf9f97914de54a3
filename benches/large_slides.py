#!/usr/bin/env python3
"""Registers five stains as slides of 10,000 and of 100,000 pixels a side, and compares what the two cost.

    benches/large_slides.py                        sections from ../shared beside the repository
    benches/large_slides.py --sections FOLDER

Registration reads the level it needs and nothing finer, so its memory must not depend on the size of the scan. The slides
are BigTIFF pyramids whose fine levels are all the same few tiles, which costs next to nothing, and show no tissue: sections
register only if these levels are left alone. Results: README.md beside this file.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import measure

PACKAGES = ["numpy", "opencv-python-headless"]
STAINS = ["HE", "CC10", "CD31", "KI67", "PROSPC"]
SIDES = [10_000, 100_000]
# Both slides show the same 25 mm of glass.
GLASS_UM = 25_000
# Levels whose side is at most this show the section.
LARGEST_TRUE_SIDE = 3200
TILE = 256


def write_slide(path, section, side):
    """Writes one slide: `section` is a picture (RGB) as wide as the glass, centred on it."""
    import struct
    import zlib

    import cv2
    import numpy as np

    glass = (243, 242, 244)
    checks = np.indices((TILE, TILE)).sum(0) // 16 % 2
    false_tiles = [np.full((TILE, TILE, 3), glass, np.uint8), np.where(checks[..., None], glass, 120).astype(np.uint8)]
    with open(path, "wb") as file:
        # Little-endian BigTIFF; where the first directory lies is filled in at the end.
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0))

        def put(data):
            at = file.tell()
            file.write(data)
            return at, len(data)

        false = [put(zlib.compress(tile.tobytes())) for tile in false_tiles]
        levels = []
        level_side = side
        while level_side >= 1000:
            count = -(-level_side // TILE)
            if level_side > LARGEST_TRUE_SIDE:
                tiles = [false[(x // 7 + y // 5) % 2] for y in range(count) for x in range(count)]
            else:
                canvas = np.full((count * TILE, count * TILE, 3), glass, np.uint8)
                height = round(section.shape[0] * level_side / section.shape[1])
                top = (level_side - height) // 2
                canvas[top : top + height, :level_side] = cv2.resize(section, (level_side, height), interpolation=cv2.INTER_CUBIC)
                cut = lambda x, y: canvas[y * TILE : (y + 1) * TILE, x * TILE : (x + 1) * TILE]
                tiles = [put(zlib.compress(cut(x, y).tobytes(), 1)) for y in range(count) for x in range(count)]
            levels.append((level_side, tiles))
            level_side //= 2

        previous = 8
        for index, (level_side, tiles) in enumerate(levels):
            offsets, sizes = (put(struct.pack(f"<{len(tiles)}Q", *column)) for column in zip(*tiles))
            per_cm = (round(10_000 * level_side * 1000 / GLASS_UM), 1000)
            resolution = struct.unpack("<Q", struct.pack("<II", *per_cm))[0]
            bits = struct.unpack("<Q", struct.pack("<4H", 8, 8, 8, 0))[0]
            # Tag, type (3: u16, 4: u32, 5: fraction, 16: u64), count, value or where it lies.
            entries = [
                (254, 4, 1, int(index > 0)),  # a reduced picture
                (256, 4, 1, level_side),
                (257, 4, 1, level_side),
                (258, 3, 3, bits),
                (259, 3, 1, 8),  # deflate
                (262, 3, 1, 2),  # RGB
                (277, 3, 1, 3),
                (282, 5, 1, resolution),
                (283, 5, 1, resolution),
                (284, 3, 1, 1),  # channels side by side
                (296, 3, 1, 3),  # resolution a centimetre
                (322, 4, 1, TILE),
                (323, 4, 1, TILE),
                (324, 16, len(tiles), offsets[0]),
                (325, 16, len(tiles), sizes[0]),
            ]
            file.write(b"\0" * (-file.tell() % 8))
            at, _ = put(struct.pack("<Q", len(entries)) + b"".join(struct.pack("<HHQQ", *entry) for entry in entries))
            link = file.tell()
            put(struct.pack("<Q", 0))
            file.seek(previous)
            file.write(struct.pack("<Q", at))
            file.seek(0, os.SEEK_END)
            previous = link


def write_slides(sections, folder):
    import cv2

    for side in SIDES:
        for stain in STAINS:
            section = cv2.imread(os.path.join(sections, f"{stain}.jpg"), cv2.IMREAD_COLOR)[:, :, ::-1]
            write_slide(os.path.join(folder, f"{side}_{stain}.tif"), section, side)


def main():
    beside = measure.REPOSITORY.parent / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=Path, default=beside / "data/section-sets/lung-lesion_3")
    parser.add_argument("--write-to", type=Path, help=argparse.SUPPRESS)  # this script as its own child, with packages
    args = parser.parse_args()
    if args.write_to:
        return write_slides(args.sections, args.write_to)
    xtask = measure.xtask()
    with tempfile.TemporaryDirectory() as folder:
        python = measure.python_with(PACKAGES, Path(folder) / "venv")
        measure.run([python, __file__, "--sections", args.sections, "--write-to", folder])
        costs = []
        for side in SIDES:
            slides = [Path(folder) / f"{side}_{stain}.tif" for stain in STAINS]
            costs.append(measure.run([xtask, "register-slides", *slides]))
        print("\n| side in pixels | CPU-s | s | MB |\n|---|---|---|---|")
        for side, cost in zip(SIDES, costs):
            print(f"| {side:,} | {cost.cpu_s:.2f} | {cost.wall_s:.2f} | {cost.peak_mb:.0f} |")
        small, large = costs
        print(f"| ratio | {large.cpu_s / small.cpu_s:.2f} | {large.wall_s / small.wall_s:.2f} | {large.peak_mb / small.peak_mb:.2f} |")


if __name__ == "__main__":
    sys.exit(main())
