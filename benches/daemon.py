#!/usr/bin/env python3
"""What tissuemapd costs while it waits: time until it is ready, memory with many slides in the journal, idle processor time.

    benches/daemon.py

A real daemon with a socket in place of systemd's and a bus of its own, over small slides that OpenSlide opens. It is paused, so that
every set stays in the queue and the journal: the largest status that so many slides can make.
"""

import argparse
import contextlib
import os
import pathlib
import signal
import socket
import sqlite3
import subprocess
import tempfile
import threading
import time

import measure

PACKAGES = ["numpy", "tifffile"]
STAINS = ("HE", "CD31", "KI67", "CD3", "CD20")


def resident_mib(process):
    lines = pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


class Bus:
    """A message bus of its own."""

    def __init__(self):
        command = ["dbus-daemon", "--session", "--print-address", "--nofork", "--nopidfile"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.address = self.process.stdout.readline().strip()

    def end(self):
        self.process.terminate()
        self.process.wait()


class Daemon:
    def __init__(self, program, folder):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = folder / "notify"
        path.unlink(missing_ok=True)
        self.socket.bind(str(path))
        self.bus = Bus()
        self.environment = dict(
            os.environ,
            NOTIFY_SOCKET=str(path),
            WATCHDOG_USEC="60000000",
            RUST_LOG="warn",
            DBUS_SESSION_BUS_ADDRESS=self.bus.address,
        )
        self.begun = time.monotonic()
        self.log = folder / "log"
        self.process = subprocess.Popen([program, "run", "--config", folder / "tissuemapd.toml"], env=self.environment, stderr=open(self.log, "w"))
        self.ready = None
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        """Whoever does not read makes the other wait."""
        while True:
            if "READY=1" in self.socket.recv(65536).decode():
                self.ready = time.monotonic() - self.begun

    def seconds_until_ready(self):
        while self.ready is None:
            assert self.process.poll() is None and time.monotonic() - self.begun < 120, self.log.read_text()
            time.sleep(0.001)
        return self.ready

    def resident_mib(self):
        return resident_mib(self.process)

    def ask(self, program):
        """Seconds until the whole queue has been listed, and its number of lines."""
        begun = time.monotonic()
        command = [program.with_name("tissuemapctl"), "--bus", "session", "queue"]
        listed = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True)
        return time.monotonic() - begun, len(listed.stdout.splitlines())

    def processor_seconds(self):
        """Of the supervisor and its workers."""
        def ticks(pid):
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            return int(fields[11]) + int(fields[12])
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        return sum(map(ticks, [self.process.pid, *children])) / os.sysconf("SC_CLK_TCK")

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) == 0
        self.bus.end()


def configure(folder, model):
    (folder / "incoming").mkdir(exist_ok=True)
    (folder / "tissuemapd.toml").write_text(
        f'model = "{model}"\nstate_folder = "state"\n[[watch]]\nfolder = "incoming"\nsettle_seconds = 1\nmpp = 0.5\n'
        '[group]\nwait_seconds = 0\nincomplete = "run"\n[bus]\nkind = "session"\n[worker]\nproviders = ["cpu"]\n'
        '[metrics]\nfile = "tissuemap.prom"\n'
    )


def metric(folder, name):
    path = folder / "tissuemap.prom"
    lines = path.read_text().splitlines() if path.exists() else []
    return next((float(line.split()[1]) for line in lines if line.startswith(f"tissuemap_{name} ")), None)


def write_slide(path):
    import numpy
    import tifffile

    pixels = numpy.random.default_rng(1).integers(0, 255, (256, 256, 3), numpy.uint8)
    tifffile.imwrite(path, pixels, tile=(256, 256), photometric="rgb", compression=None)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--model", type=pathlib.Path, default=measure.REPOSITORY / "models/demo.onnx")
    arguments.add_argument("--slides", type=int, default=10_000)
    arguments.add_argument("--idle-seconds", type=int, default=120)
    arguments.add_argument("--write-slide", help=argparse.SUPPRESS)  # this script as its own child, with packages
    options = arguments.parse_args()
    if options.write_slide:
        return write_slide(options.write_slide)
    program = measure.program("tissuemapd", "tissuemap-daemon")
    os.environ.setdefault("TISSUEMAP_LIB_DIR", str(measure.REPOSITORY / ".deps/lib"))
    model = options.model.resolve()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {model.stat().st_size / 1e6:.1f} MB of model")

    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        configure(folder, model)
        for what in ("first start, batch sizes measured", "second start", "third start"):
            daemon = Daemon(program, folder)
            ready = daemon.seconds_until_ready()
            print(f"ready after {ready:.2f} s ({what}), {daemon.resident_mib():.1f} MiB resident")
            daemon.end()

        with contextlib.closing(sqlite3.connect(folder / "state/journal.sqlite")) as journal:
            journal.execute("UPDATE daemon SET paused = 1")
            journal.commit()
        python = measure.python_with(PACKAGES, folder / "venv")
        measure.run([python, __file__, "--write-slide", folder / "slide.tif"])
        content = (folder / "slide.tif").read_bytes()
        for index in range(options.slides):
            case, stain = divmod(index, len(STAINS))
            (folder / f"incoming/case{case:05}_{STAINS[stain]}.tif").write_bytes(content)
        sets = -(-options.slides // len(STAINS))
        daemon = Daemon(program, folder)
        daemon.seconds_until_ready()
        while metric(folder, "queue_length") != sets or metric(folder, "arriving_slides"):
            assert daemon.process.poll() is None and time.monotonic() - daemon.begun < 1800, daemon.log.read_text()
            time.sleep(1)
        print(f"{options.slides} slides in {sets} queued sets after {time.monotonic() - daemon.begun:.0f} s")
        before, begun = daemon.processor_seconds(), time.monotonic()
        time.sleep(options.idle_seconds)
        used, passed = daemon.processor_seconds() - before, time.monotonic() - begun
        listed, lines = daemon.ask(program)
        print(f"bus {resident_mib(daemon.bus.process):.1f} MiB resident; `tissuemapctl queue` lists {lines} lines in {listed:.2f} s")
        print(f"{daemon.resident_mib():.1f} MiB resident; idle {100 * used / passed:.2f} % of one core over {passed:.0f} s")
        daemon.end()

        daemon = Daemon(program, folder)
        print(f"ready after {daemon.seconds_until_ready():.2f} s with that journal")
        daemon.end()


if __name__ == "__main__":
    main()
