#!/usr/bin/env python3
"""A training step of ours beside the same networks in PyTorch: how much of its throughput is reached?

    benches/training_step.py                                   # 2 CPU threads
    benches/training_step.py --device cuda:0 --python python3  # a Python that has PyTorch 2.11

Both do the same work on the same libtorch version: batch 128, 15 planes of 64 x 64 pixels, the default autoencoder, then the
IMSAT clusterer with its adversarial passes. They take turns, so that other load on the machine meets both; each figure is
the median over the rounds. Without --python, PyTorch is installed into a folder that is removed at the end (3 GB).
Results: README.md beside this file.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import measure

PACKAGES = ["torch==2.11.0", "numpy"]


def torch_side(batch, steps, device, threads):
    """Prints what the example prints, for PyTorch."""
    import time

    import torch
    import torch.nn as nn
    import torch.nn.functional as F

    torch.set_num_threads(threads)
    torch.manual_seed(1)
    device = torch.device(device)
    widths, latent_dim, planes = [32, 64, 128, 128], 32, 15

    encoder, inputs = [], planes
    for width in widths:
        encoder += [nn.Conv2d(inputs, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    encoder += [nn.Flatten(), nn.Linear(inputs * 16, latent_dim, bias=False), nn.BatchNorm1d(latent_dim, affine=False)]
    decoder = [nn.Linear(latent_dim, inputs * 16), nn.ReLU(), nn.Unflatten(1, (inputs, 4, 4))]
    for width in [128, 64, 32]:
        decoder += [nn.ConvTranspose2d(inputs, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
    decoder += [nn.ConvTranspose2d(inputs, planes, 4, 2, 1)]
    network = nn.Sequential(*encoder, *decoder).to(device)
    adam = torch.optim.Adam(network.parameters(), lr=0.001)
    patches = torch.randint(256, (batch, planes, 64, 64), dtype=torch.uint8)

    def autoencoder_step():
        x = (patches.to(device).float() - 128) / 64
        loss = (network(x) - x).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    clusterer = nn.Sequential(
        nn.Linear(latent_dim, 1200, bias=False), nn.BatchNorm1d(1200), nn.ReLU(),
        nn.Linear(1200, 1200, bias=False), nn.BatchNorm1d(1200), nn.ReLU(), nn.Linear(1200, 8),
    ).to(device)
    norms = [layer for layer in clusterer if isinstance(layer, nn.BatchNorm1d)]
    other = torch.optim.Adam(clusterer.parameters(), lr=0.002)
    latent = torch.randn(batch, latent_dim, device=device)
    distances = torch.cdist(latent, latent)
    distances.fill_diagonal_(float("inf"))
    radius = 0.25 * distances.topk(10, 1, largest=False)[0][:, -1:]

    def divergence(p, q):
        return (p.exp() * (p - q)).sum(1).mean()

    def imsat_step():
        log_probs = clusterer(latent).log_softmax(1)
        probs = log_probs.exp()
        conditional, mean = -(probs * log_probs).sum(1).mean(), probs.mean(0)
        marginal = -torch.xlogy(mean, mean).sum()
        clean = log_probs.detach()
        for norm in norms:
            norm.track_running_stats = False
        probe = F.normalize(torch.randn_like(latent), dim=1).requires_grad_()
        (gradient,) = torch.autograd.grad(divergence(clean, clusterer(latent + 10 * probe).log_softmax(1)), probe)
        vat = divergence(clean, clusterer(latent + radius * F.normalize(gradient, dim=1)).log_softmax(1))
        for norm in norms:
            norm.track_running_stats = True
        loss = vat + 0.1 * (conditional - 4 * marginal)
        other.zero_grad()
        loss.backward()
        other.step()

    for name, step in [("autoencoder", autoencoder_step), ("imsat", imsat_step)]:
        for _ in range(3):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        begun = time.perf_counter()
        for _ in range(steps):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        print(name, f"{(time.perf_counter() - begun) / steps:.6f}")


def figures(command):
    """Seconds of each step, and the peak memory in MB, of one run."""
    with tempfile.TemporaryFile("w+") as out:
        saved = os.dup(1)
        os.dup2(out.fileno(), 1)
        try:
            cost = measure.run(command)
        finally:
            os.dup2(saved, 1)
            os.close(saved)
        out.seek(0)
        lines = dict(line.split() for line in out.read().splitlines())
    return {name: float(seconds) for name, seconds in lines.items()}, cost.peak_mb


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--python", help="a Python that has PyTorch 2.11")
    parser.add_argument("--built", action="store_true", help="the example is built already: a machine without cargo")
    parser.add_argument("--torch-side", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.torch_side:
        return torch_side(options.batch, options.steps, options.device, options.threads)

    program = measure.program("training_step", "tissuemap-trainer", example=True, built=options.built)
    with tempfile.TemporaryDirectory() as folder:
        python = options.python or measure.python_with(PACKAGES, folder)
        shared = ["--batch", options.batch, "--steps", options.steps, "--device", options.device]
        ours = [program, *shared, "--cpu-threads", options.threads]
        theirs = [python, Path(__file__).resolve(), "--torch-side", *shared, "--threads", options.threads]
        rounds = [(figures(ours), figures(theirs)) for _ in range(options.rounds)]
    print(f"{options.device}, {options.threads} threads, batch {options.batch}, median of {options.rounds} rounds")
    for name in ["autoencoder", "imsat"]:
        mine, other = (statistics.median(both[side][0][name] for both in rounds) for side in (0, 1))
        print(f"{name}: ours {1000 * mine:.3g} ms, PyTorch {1000 * other:.3g} ms, throughput ratio {other / mine:.2f}")
    mine, other = (max(both[side][1] for both in rounds) for side in (0, 1))
    print(f"peak memory: ours {mine:.0f} MB, PyTorch {other:.0f} MB")


if __name__ == "__main__":
    sys.exit(main())
