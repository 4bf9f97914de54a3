#!/usr/bin/env python3
"""Registers the ten landmark pairs with tissuemap and with the numpy oracle, and tells what each costs.

    benches/registration.py                        data and oracle from ../shared beside the repository
    benches/registration.py --oracle FILE --data FOLDER

Every pair is registered by a process of its own, start and decoding of the pictures included; what these two alone cost is
measured in the same run ("floor"). The oracle's packages are installed into a folder that is removed at the end. The time
of both depends on the machine and on what else it does: compare within one run only. Results: README.md beside this file.
"""

import argparse
import csv
import math
import statistics
import tempfile
from pathlib import Path

import measure

PACKAGES = ["numpy", "scipy", "opencv-python-headless"]
# 5 % of a scan with 0.174 micrometres per pixel.
SECTION_MPP = 3.48
# What the design allows a pair: processor seconds, MB.
BOUNDS = (2.0, 250.0)

# Called as: FOLDER-OF-ORACLE MODULE FIXED MOVING LANDMARKS [OUT]; without OUT only as far as the decoded pictures.
ORACLE = """
import csv, importlib, sys
folder, module, fixed, moving, landmarks, *out = sys.argv[1:]
sys.path.insert(0, folder)
oracle = importlib.import_module(module)
read = lambda path: oracle.cv2.imread(path, oracle.cv2.IMREAD_COLOR)[:, :, ::-1]
fixed, moving = read(fixed), read(moving)
rows = list(csv.DictReader(open(landmarks)))
if out:
    points = oracle.np.array([[float(row["x"]), float(row["y"])] for row in rows])
    mapped = oracle.register(fixed, moving, points)
    with open(out[0], "w") as file:
        file.write("id,x,y\\n")
        file.writelines(f"{row['id']},{x},{y}\\n" for row, (x, y) in zip(rows, mapped))
"""


def landmarks(path):
    with open(path) as file:
        return {row["id"]: (float(row["x"]), float(row["y"])) for row in csv.DictReader(file)}


def median_rtre(mapped, moving, diagonal):
    mapped, moving = landmarks(mapped), landmarks(moving)
    return statistics.median(math.dist(mapped[i], moving[i]) / diagonal for i in mapped.keys() & moving.keys())


def main():
    beside = measure.REPOSITORY.parent / "shared"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--oracle", type=Path, default=beside / "design/prototype_ngf.py")
    parser.add_argument("--data", type=Path, default=beside / "data/section-sets", help="folder of pairs.csv")
    args = parser.parse_args()
    with open(args.data / "pairs.csv") as file:
        pairs = list(csv.DictReader(file))
    xtask = measure.xtask()
    with tempfile.TemporaryDirectory() as folder:
        python = measure.python_with(PACKAGES, Path(folder) / "venv")
        out = Path(folder) / "mapped.csv"

        def ours(fixed, moving, points, to):
            command = [xtask, "register-pair", "--fixed", fixed, "--moving", moving, "--mpp", SECTION_MPP]
            return measure.run([*command, "--landmarks", points, *(["--out", to] if to else [])])

        def oracle(fixed, moving, points, to):
            command = [python, "-c", ORACLE, args.oracle.resolve().parent, args.oracle.stem, fixed, moving, points]
            return measure.run([*command, *([to] if to else [])])

        print("| pair | rTRE ours / oracle | CPU-s ours / oracle | ratio | s ours / oracle | MB ours / oracle |")
        print("|---|---|---|---|---|---|")
        costs = []
        for pair in pairs:
            files = [args.data / pair[name] for name in ("fixed_image", "moving_image", "fixed_landmarks")]
            diagonal = math.hypot(float(pair["fixed_w"]), float(pair["fixed_h"]))
            errors, both = [], []
            for program in (ours, oracle):
                both.append(program(*files, out))
                errors.append(median_rtre(out, args.data / pair["moving_landmarks"], diagonal))
            line(pair["pair"], "{:.4f} / {:.4f}".format(*errors), *both)
            costs.append(both)
        line("floor", "–", *(program(*files, None) for program in (ours, oracle)))
        mean = [
            measure.Cost(*(statistics.mean(getattr(c, name) for c in column) for name in ("cpu_s", "wall_s", "peak_mb")))
            for column in zip(*costs)
        ]
        line("mean", "–", *mean)
        worst = max(c.cpu_s for c, _ in costs), max(c.peak_mb for c, _ in costs)
        print(f"\nours at most {worst[0]:.2f} CPU-s (bound {BOUNDS[0]:g}), {worst[1]:.0f} MB (bound {BOUNDS[1]:g})")
        if worst[0] > BOUNDS[0] or worst[1] > BOUNDS[1]:
            raise SystemExit("beyond the bounds")


def line(name, errors, ours, oracle):
    print(
        f"| {name} | {errors} | {ours.cpu_s:.2f} / {oracle.cpu_s:.2f} | {oracle.cpu_s / max(ours.cpu_s, 0.01):.1f} "
        f"| {ours.wall_s:.2f} / {oracle.wall_s:.2f} | {ours.peak_mb:.0f} / {oracle.peak_mb:.0f} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
