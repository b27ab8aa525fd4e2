"""A batch of 200 scans, 5 % of them damaged, killed half-way and started again; and the same on a full disk.

python Testing/robustness/damaged_batch.py [--scans 200]
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from vnet_segmentation.images.phantom import PhantomGrid, make_phantom

ENGINE = Path(__file__).resolve().parents[2] / "VNetSegmentation"
# A field as large as the network's: the gland is not searched for, which takes up to a minute.
GRID = PhantomGrid(size=(80, 80, 20), spacing_mm=(1.5, 1.5, 4.5))
N_PHANTOMS = 10
_DAMAGED_EVERY = 20


def main() -> int:
    """Prints what became of the scans. Exit code 1 if one was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        return run(options.scans, Path(name))


def run(n_scans: int, folder: Path) -> int:
    """The whole story; returns the exit code of `main`."""
    scans, masks = folder / "scans", folder / "masks"
    n_damaged = _write_scans(n_scans, scans)
    started = time.monotonic()
    killed = _batch(scans, masks)
    while len(list(masks.glob("*.nii.gz"))) < n_scans // 2:
        if killed.poll() is not None:
            break
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    n_at_kill = len(list(masks.glob("*.nii.gz")))
    full = _batch(scans, masks, largest_file=100)
    code_full = full.wait()
    n_after_full = len(list(masks.glob("*.nii.gz")))
    code = _batch(scans, masks).wait()
    elapsed_s = time.monotonic() - started
    with open(masks / "results.csv", newline="", encoding="utf-8") as file:
        counts = Counter(row["status"] for row in csv.DictReader(file))
    whole = sum(_is_mask(path) for path in masks.glob("*_prostate.nii.gz"))
    stray = [path.name for path in masks.iterdir() if path.name.startswith(".")]
    print(f"killed after {n_at_kill} masks; on a full disk: exit code {code_full}, {n_after_full} masks")
    print(f"started again: exit code {code}, {dict(counts)}, {whole} masks can be read, stray files: {stray or 'none'}")
    print(f"{n_scans} scans, {n_damaged} damaged, {elapsed_s:.0f} s")
    is_sound = counts["failed"] == n_damaged and whole == n_scans - n_damaged and n_after_full == n_at_kill
    return 0 if is_sound and code == 1 and code_full != 0 and not stray else 1


def _write_scans(n_scans: int, folder: Path) -> int:
    """Returns how many were damaged, each in one of three ways."""
    folder.mkdir()
    phantoms = [sitk.Cast(make_phantom(seed, GRID)[0], sitk.sitkInt16) for seed in range(N_PHANTOMS)]
    n_damaged = 0
    for number in range(n_scans):
        file = folder / f"scan{number:03}.nii.gz"
        sitk.WriteImage(phantoms[number % N_PHANTOMS], str(file))
        if number % _DAMAGED_EVERY == 3:
            content = bytearray(file.read_bytes())
            kind = n_damaged % 3
            file.write_bytes(b"" if kind == 0 else content[: len(content) // 2] if kind == 1 else b"no scan" * 100)
            n_damaged += 1
    return n_damaged


def _batch(scans: Path, masks: Path, largest_file: int | None = None) -> subprocess.Popen[bytes]:
    """A file-size limit fails writes as a full disk does."""

    def limit() -> None:
        if largest_file is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.Popen(
        [sys.executable, "-m", "vnet_segmentation", "batch", str(scans), "-o", str(masks)],
        env={**os.environ, "PYTHONPATH": str(ENGINE)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=limit,
    )


def _is_mask(path: Path) -> bool:
    try:
        return set(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).ravel().tolist()) <= {0, 1}
    except RuntimeError:
        return False


if __name__ == "__main__":
    sys.exit(main())
