"""Damages valid scans at random, in header and voxels, and reads them: each must be read or refused with a sentence.

    python Testing/robustness/fuzz_inputs.py [--inputs 10000] [--seed 0] [--keep DIR]

The reader runs in a child process, so that a crash of a file library is counted, too, and does not end the run. An
input that raised anything but `UserError`, crashed its process or took longer than 20 s is kept in DIR.
"""

from __future__ import annotations

import argparse
import faulthandler
import gzip
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "VNetSegmentation"))

from vnet_segmentation.errors import UserError
from vnet_segmentation.images.scans import read_scan

FORMATS = (".nii", ".nii.gz", ".img", ".nrrd", ".nhdr", ".mha", ".mhd", "dicom")
_TIMEOUT_S = 20.0
_TEXT_VALUES = (
    b"-1",
    b"0",
    b"1",
    b"3",
    b"99999999999",
    b"nan",
    b"inf",
    b"1e308",
    b"-1e-30",
    b"",
    b"MET_UCHAR",
    b"gzip",
)
_BINARY_HEADERS = {".nii": 352, ".nii.gz": 352, ".img": 348, "dicom": 1500}
_TEXT_HEADERS = (".nrrd", ".nhdr", ".mha", ".mhd")


def main() -> int:
    """Prints the counts. Exit code 1 if an input got through."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), metavar="DIR")
    options = parser.parse_args()
    started = time.monotonic()
    counts, failures = fuzz(options.inputs, options.seed, options.keep)
    for outcome, n in sorted(counts.items()):
        print(f"{outcome:20}{n:8}")
    print(f"{options.inputs} inputs in {time.monotonic() - started:.0f} s, {len(failures)} got through")
    print(f"peak memory of a reading process: {_peak_memory_gb():.1f} GB")
    for failure in failures:
        print(failure)
    return 1 if failures else 0


def fuzz(n_inputs: int, seed: int, keep: Path) -> tuple[Counter[str], list[str]]:
    """Reads damaged inputs.

    Returns:
        How many of each format were read and refused, and a line for each that was neither.
    """
    counts: Counter[str] = Counter()
    failures: list[str] = []
    folder = Path(tempfile.mkdtemp())
    # Not a fork: threads of the parent's libraries would not come along.
    context = multiprocessing.get_context("spawn")
    number = 0
    try:
        while number < n_inputs:
            here, there = context.Pipe()
            child = context.Process(target=_read_many, args=(there, folder, range(number, n_inputs), seed), daemon=True)
            child.start()
            there.close()
            while number < n_inputs:
                outcome = _receive(here, child)
                format_name = FORMATS[number % len(FORMATS)]
                if outcome in ("read", "refused"):
                    counts[f"{format_name} {outcome}"] += 1
                else:
                    failures.append(f"input {number} of seed {seed}, {format_name}: {outcome}")
                    shutil.copytree(folder / str(number), keep / str(number), dirs_exist_ok=True)
                shutil.rmtree(folder / str(number), ignore_errors=True)
                number += 1
                if outcome in ("crash", "timeout"):
                    break
            child.kill()
            child.join()
            here.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return counts, failures


def _peak_memory_gb() -> float:
    """Of the processes that have ended; 0 where the system does not tell."""
    try:
        import resource
    except ImportError:
        return 0.0
    # In kB, but in bytes on macOS.
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def _receive(pipe: Any, child: Any) -> str:
    try:
        # The first input waits for the child's imports.
        return str(pipe.recv()) if pipe.poll(_TIMEOUT_S) else "timeout"
    except EOFError:
        return "crash"


def _read_many(pipe: Any, folder: Path, numbers: range, seed: int) -> None:
    faulthandler.enable()
    valid = {name: _valid_input(name, folder) for name in FORMATS}
    for number in numbers:
        name = FORMATS[number % len(FORMATS)]
        path = _damaged(name, valid[name], folder / str(number), random.Random(f"{seed} {number}"))
        try:
            read_scan(path)
            outcome = "read"
        except UserError as error:
            sentence = str(error)
            outcome = "refused" if sentence.strip() and "Traceback" not in sentence else f"empty sentence: {sentence!r}"
        except Exception:
            outcome = traceback.format_exc()
        pipe.send(outcome)


def _valid_input(name: str, folder: Path) -> dict[str, bytes]:
    """The files of a small scan, by their names."""
    values = np.random.default_rng(0).integers(0, 900, (12, 24, 24)).astype(np.int16)
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((4.0, 4.0, 4.0))
    made = Path(tempfile.mkdtemp(dir=folder))
    if name == "dicom":
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        for index in range(12):
            piece = image[:, :, index]
            for tag, value in (
                ("0008|0060", "MR"),
                ("0020|000d", "1.2.3.1"),
                ("0020|000e", "1.2.3.2"),
                ("0008|0018", f"1.2.3.3.{index}"),
                ("0020|0032", f"0\\0\\{4 * index}"),
                ("0020|0037", "1\\0\\0\\0\\1\\0"),
                ("0020|0013", str(index)),
            ):
                piece.SetMetaData(tag, value)
            writer.SetFileName(str(made / f"{index:02}.dcm"))
            writer.Execute(piece)
    else:
        sitk.WriteImage(image, str(made / f"scan{name}"), useCompression=name != ".nhdr")
    return {path.name: path.read_bytes() for path in sorted(made.iterdir())}


def _damaged(name: str, files: dict[str, bytes], folder: Path, dice: random.Random) -> Path:
    folder.mkdir()
    # An .img has its header in the .hdr; a DICOM series has many files.
    victim = dice.choice(sorted(files)) if name == "dicom" else f"scan{'.hdr' if name == '.img' else name}"
    if name != "dicom" and len(files) > 1 and dice.random() < 0.2:
        victim = dice.choice(sorted(files))
    for file, content in files.items():
        (folder / file).write_bytes(_damage(name, content, dice) if file == victim else content)
    return folder if name == "dicom" else folder / f"scan{name}"


def _damage(name: str, content: bytes, dice: random.Random) -> bytes:
    # Inside the compressed data as well as of it.
    inner = name == ".nii.gz" and dice.random() < 0.7
    if inner:
        content = gzip.decompress(content)
    for _ in range(dice.choice((1, 1, 2, 5))):
        content = _damage_once(name, content, dice)
    return gzip.compress(content, 1) if inner else content


def _damage_once(name: str, content: bytes, dice: random.Random) -> bytes:
    data = bytearray(content)
    kind = dice.random()
    if name in _TEXT_HEADERS and kind < 0.6:
        return _damage_text(bytes(data), dice)
    end = min(len(data), _BINARY_HEADERS.get(name, 400) if kind < 0.8 else len(data))
    if not end:
        return bytes(data)
    if kind < 0.9:
        for _ in range(dice.choice((1, 1, 2, 4, 16))):
            data[dice.randrange(end)] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
    elif kind < 0.96:
        del data[dice.randrange(len(data)) :]
    else:
        at = dice.randrange(end)
        data[at:at] = dice.randbytes(dice.randrange(1, 40))
    return bytes(data)


def _damage_text(content: bytes, dice: random.Random) -> bytes:
    """A header's line lost, doubled or with another value."""
    head, separator, tail = content.partition(b"\n\n")
    lines = head.split(b"\n")
    # A MetaImage has no empty line: what follows its ten or so lines is voxels.
    at = dice.randrange(min(len(lines), 14))
    words = lines[at].split(b" ")
    action = dice.random()
    if action < 0.15:
        del lines[at]
    elif action < 0.25:
        lines.insert(at, lines[at])
    else:
        words[dice.randrange(len(words))] = dice.choice(_TEXT_VALUES)
        lines[at] = b" ".join(words)
    return b"\n".join(lines) + separator + tail


if __name__ == "__main__":
    sys.exit(main())
