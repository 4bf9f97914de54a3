"""Writes indices.json and agreement.json beside itself: what scikit-learn says, for the tests of tissuemap-trainer.

    python3 -m venv VENV && VENV/bin/pip install scikit-learn==1.9.1 onnxruntime==1.31.1 pillow
    VENV/bin/python trainer/golden/make.py FOLDER_OF_HE_TILES

The tiles (published: 100 PNG, 224 x 224, of the colorectal textures of Kather et al. 2016) go through models/demo.onnx,
the one stain in the place of each of its five; the latent vectors of a real autoencoder on real tissue come out. (Those kept
here are of the demo model with SHA-256 264bece1…; another gives other vectors, as good for the purpose.) Values are rounded to 4 decimals first, so that the file holds exactly what was measured.
"""

import json
import pathlib
import sys

import numpy as np
import onnxruntime
from PIL import Image
from scipy.optimize import linear_sum_assignment
from sklearn import metrics
from sklearn.cluster import KMeans

HERE = pathlib.Path(__file__).parent


def tissue_latents(folder, side=64, most=240):
    session = onnxruntime.InferenceSession(HERE / "../../models/demo.onnx")
    tiles = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(pathlib.Path(folder).glob("*.png"))]
    cut = [t[y : y + side, x : x + side] for t in tiles for y in (0, 112) for x in (0, 112)][:most]
    planes = np.tile(np.stack(cut).transpose(0, 3, 1, 2), (1, 5, 1, 1))
    return session.run(["latent"], {"patches": planes})[0]


def indices(points, labels):
    points = np.round(points.astype(np.float64), 4).astype(np.float32)
    exact = points.astype(np.float64)
    return {
        "dims": points.shape[1],
        "values": [round(float(v), 4) for v in points.ravel()],
        "labels": [int(label) for label in labels],
        "silhouette": float(metrics.silhouette_score(exact, labels)),
        "davies_bouldin": float(metrics.davies_bouldin_score(exact, labels)),
        "calinski_harabasz": float(metrics.calinski_harabasz_score(exact, labels)),
    }


def agreement(truth, found):
    counts = metrics.cluster.contingency_matrix(truth, found)
    return {
        "truth": [int(v) for v in truth],
        "found": [int(v) for v in found],
        "nmi": float(metrics.normalized_mutual_info_score(truth, found)),
        "accuracy": float(counts[linear_sum_assignment(counts, maximize=True)].sum() / len(truth)),
        "purity": float(counts.max(axis=0).sum() / len(truth)),
        "ari": float(metrics.adjusted_rand_score(truth, found)),
    }


def main():
    rng = np.random.default_rng(1)
    latents = tissue_latents(sys.argv[1])
    clusters = KMeans(6, n_init=4, random_state=1).fit_predict(latents)
    singleton = rng.integers(0, 4, 90)
    singleton[17] = 4
    write("indices.json", {
        "random labels on random points": indices(rng.normal(size=(120, 5)), rng.integers(0, 7, 120)),
        "a cluster of one point": indices(rng.normal(size=(90, 3)) + 1000, singleton),
        "k-means on latents of tissue": indices(latents, clusters),
    })
    truth = rng.integers(0, 5, 200)
    noisy = np.where(rng.random(200) < 0.7, (truth + 2) % 5, rng.integers(0, 8, 200))
    write("agreement.json", {
        "unrelated": agreement(rng.integers(0, 4, 150), rng.integers(0, 6, 150)),
        "related, more clusters than classes": agreement(truth, noisy),
        "finer": agreement(truth, truth * 2 + rng.integers(0, 2, 200)),
        "equal": agreement(truth, 4 - truth),
        "one cluster": agreement(truth, np.zeros(200)),
    })


def write(name, cases):
    (HERE / name).write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in cases.items()) + "\n}\n")


main()
