"""Writes ssim.json beside itself: what scikit-image says, for the tests of tissuemap-trainer.

    python3 -m venv VENV && VENV/bin/pip install scikit-image==0.26.0
    VENV/bin/python trainer/golden/ssim.py

The pictures are scikit-image's own immunohistochemistry sample (colon, DAB with haematoxylin), cut small: against a blurred,
a darkened and a noisy copy of itself, and against other tissue of the same section.
"""

import json
import pathlib

import numpy as np
from skimage import data, filters
from skimage.metrics import structural_similarity

HERE = pathlib.Path(__file__).parent


def case(a, b):
    value = structural_similarity(
        a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255, channel_axis=2
    )
    planes = [[int(v) for v in image.transpose(2, 0, 1).ravel()] for image in (a, b)]
    return {"width": a.shape[1], "height": a.shape[0], "a": planes[0], "b": planes[1], "ssim": float(value)}


def main():
    rng = np.random.default_rng(1)
    section = data.immunohistochemistry()
    tissue, elsewhere = section[200:216, 300:320], section[60:76, 100:120]
    blurred = np.round(filters.gaussian(tissue, 1.0, preserve_range=True, channel_axis=2)).astype(np.uint8)
    noisy = np.clip(tissue + rng.normal(0, 25, tissue.shape), 0, 255).astype(np.uint8)
    smallest = section[200:211, 300:311]
    cases = {
        "equal": case(tissue, tissue),
        "blurred": case(tissue, blurred),
        "darkened": case(tissue, (tissue * 0.6).astype(np.uint8)),
        "noisy": case(tissue, noisy),
        "other": case(tissue, elsewhere),
        "one_window": case(smallest, section[201:212, 300:311]),
    }
    (HERE / "ssim.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")


main()
