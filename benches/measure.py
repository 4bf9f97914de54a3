"""What a process costs, and where the packages come from that only the benches need."""

import os
import subprocess
import time
import venv
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass
class Cost:
    """Processor seconds of all threads, seconds on the wall, and the largest memory in MB (2^20 bytes)."""

    cpu_s: float
    wall_s: float
    peak_mb: float


def run(command):
    """Runs a program to its end and returns its cost; what it prints goes to our own output."""
    begun = time.monotonic()
    # This process stays small: what it holds at the fork counts in the child's peak.
    pid = os.posix_spawnp(str(command[0]), [str(part) for part in command], os.environ)
    _, status, usage = os.wait4(pid, 0)
    if status != 0:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {os.waitstatus_to_exitcode(status)}")
    return Cost(usage.ru_utime + usage.ru_stime, time.monotonic() - begun, usage.ru_maxrss / 1024)


def python_with(packages, folder):
    """A Python of its own in `folder` that has these packages."""
    venv.create(folder, with_pip=True)
    python = Path(folder) / "bin/python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *packages], check=True)
    return python


def program(name, package, example=False, built=False):
    """A program or example of a package, built as it is shipped unless it is `built` already."""
    if not built:
        which = ["--example", name] if example else []
        subprocess.run(["cargo", "build", "--release", "--quiet", "-p", package, *which], cwd=REPOSITORY, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return target / "release" / ("examples" if example else "") / name


def xtask():
    """The developers' errands."""
    return program("xtask", "xtask")
