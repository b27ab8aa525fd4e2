"""Segments many volumes in one worker process, and watches its memory, its open files and what it leaves on disk.

    python Testing/robustness/soak_worker.py [--volumes 500]

Sizes and fields of view change from volume to volume; every tenth request is cancelled, every tenth is damaged.
Linux only: memory and files are read from /proc.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from vnet_segmentation.images.phantom import PhantomGrid, make_phantom
from vnet_segmentation.images.volume_exchange import write_exchange

ENGINE = Path(__file__).resolve().parents[2] / "VNetSegmentation"
# Fields as large as the network's: the gland is not searched for, which takes up to a minute.
GRIDS = (
    PhantomGrid(size=(192, 192, 28), spacing_mm=(0.65, 0.65, 3.3)),
    PhantomGrid(size=(256, 256, 30), spacing_mm=(0.5, 0.5, 3.0)),
    PhantomGrid(size=(96, 96, 40), spacing_mm=(1.3, 1.3, 2.2)),
)


def main() -> int:
    """Prints the table. Exit code 1 if memory, files or a worker were lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--volumes", type=int, default=500)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return soak(options.volumes, Path(name))


def soak(n_volumes: int, folder: Path) -> int:
    """Segments volumes and returns the exit code of `main`."""
    scans = [write_exchange(make_phantom(i, grid)[0], folder / f"scan{i}.npy") for i, grid in enumerate(GRIDS)]
    damaged = {**scans[0], "voxels": str(folder / "damaged.npy")}
    (folder / "damaged.npy").write_bytes(b"not a volume")
    kept = sorted(path.name for path in folder.iterdir())
    environment = {**os.environ, "PYTHONPATH": str(ENGINE), "TMPDIR": str(folder)}
    worker = subprocess.Popen(
        [sys.executable, "-m", "vnet_segmentation.worker"],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    pid = json.loads(worker.stdout.readline())["pid"]
    counts = dict.fromkeys(("result", "cancelled", "error"), 0)
    samples: list[tuple[int, float, int]] = []
    started = time.monotonic()
    for number in range(1, n_volumes + 1):
        outcome = _segment(worker, number, damaged if number % 10 == 5 else scans[number % len(scans)], folder)
        counts[outcome] += 1
        # The first volumes claim memory and choose kernels.
        if number % max(1, n_volumes // 10) == 0:
            samples.append((number, _memory_mb(pid), len(os.listdir(f"/proc/{pid}/fd"))))
    elapsed_s = time.monotonic() - started
    worker.stdin.close()
    code = worker.wait(timeout=60)
    left = sorted({path.name for path in folder.iterdir()} - set(kept))
    print(f"{'volumes':>8}{'memory MB':>11}{'open files':>12}")
    for number, memory_mb, n_files in samples:
        print(f"{number:8}{memory_mb:11.0f}{n_files:12}")
    print(f"{counts}, {elapsed_s:.0f} s, exit code {code}, files left: {left or 'none'}")
    # Of the second half: the allocator's own ups and downs are over by then.
    half = samples[len(samples) // 2 :]
    growth_mb = max(0.0, float(np.polyfit([s[0] for s in half], [s[1] for s in half], 1)[0]) * n_volumes)
    print(f"growth of memory, by the second half: {growth_mb:.0f} MB in {n_volumes} volumes")
    n_expected = n_volumes // 10
    is_sound = code == 0 and not left and samples[-1][2] == samples[0][2] and growth_mb < 100
    return 0 if is_sound and abs(counts["error"] - n_expected) <= 1 else 1


def _segment(worker: Any, number: int, scan: dict[str, Any], folder: Path) -> str:
    """Asks for one volume, takes it off the disk, and says how it ended."""
    probability = folder / "probability.npy"
    request = {"id": number, "command": "segment", "name": "scan", "scan": scan, "threshold": 0.5}
    request |= {"model": None, "device": "auto", "probability": str(probability)}
    _send(worker, request)
    if number % 10 == 0:
        _send(worker, {"command": "cancel", "id": number})
    for line in itertools.chain.from_iterable(iter(lambda: [worker.stdout.readline()], [""])):
        event = json.loads(line)
        if event.get("id") == number and event["event"] in ("result", "cancelled", "error"):
            probability.unlink(missing_ok=True)
            return str(event["event"])
    raise RuntimeError("The worker ended.")


def _send(worker: Any, message: dict[str, Any]) -> None:
    worker.stdin.write(json.dumps(message) + "\n")
    worker.stdin.flush()


def _memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS"))


if __name__ == "__main__":
    sys.exit(main())
