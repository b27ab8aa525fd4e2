"""Which scans a batch takes, and which files it writes for each."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.apart import header_of
from vnet_segmentation.images.scans import find_scans, scan_stem
from vnet_segmentation.segmentation.scan_job import Outputs


@dataclass(frozen=True)
class BatchOptions:
    """Which scans a batch takes, and what it writes for each."""

    suffix: str = ".nii.gz"
    """Format of the masks; see `mask_files`."""
    threshold: float = 0.5
    pictures: bool = False
    probabilities: bool = False
    overwrite: bool = False
    """Segment scans again that have a mask already; otherwise they are left alone, so a batch can be resumed."""
    pattern: str = "*"
    """The names of the files or DICOM folders to take, as a shell has it; upper and lower case are the same."""


@dataclass(frozen=True)
class Case:
    """One scan of a batch."""

    name: str
    """The scan's path below the folder that all inputs have in common."""
    scan: Path
    outputs: Outputs
    threshold: float
    overwrite: bool
    """See `BatchOptions`."""


def find_cases(inputs: Sequence[Path], output_folder: Path, options: BatchOptions) -> list[Case]:
    """The scans of a batch, each once and in the order of their paths, with the files to write.

    Raises:
        UserError: there are none.
    """
    # Absolute, and the same for two spellings of one path: so the tables, and workers elsewhere, find the files.
    inputs = [Path(os.path.abspath(path)) for path in inputs]
    output_folder = Path(os.path.abspath(output_folder))
    found = [find_scans(path) if os.path.isdir(path) else [header_of(path)] for path in inputs]
    scans = sorted({scan for scans in found for scan in scans})
    names = _names(inputs, scans, output_folder)
    # Of all scans, before the pattern: a mask's name does not depend on what else a run takes.
    bases = _mask_bases(names)
    cases = [
        Case(name.as_posix(), scan, _outputs(output_folder / base, options), options.threshold, options.overwrite)
        for scan, name, base in zip(scans, names, bases, strict=True)
        if fnmatchcase(scan.name.lower(), options.pattern.lower())
    ]
    if not cases:
        places = ", ".join(str(path) for path in inputs[:3]) + ", ..." * (len(inputs) > 3)
        like = "" if options.pattern == "*" else f" with a name like {options.pattern}"
        raise UserError(
            f"There are no scans{like} in {places}. Known formats are NIfTI, NRRD, MetaImage and DICOM.", ExitCode.USAGE
        )
    return cases


def _names(inputs: Sequence[Path], scans: Sequence[Path], output_folder: Path) -> list[Path]:
    """Below the inputs' common folder; of a scan in the output folder below that: its mask lies beside it."""
    inside = {scan for scan in scans if scan.is_relative_to(output_folder)}
    outside = [path for path in inputs if not path.is_relative_to(output_folder)]
    try:
        common = Path(os.path.commonpath([path if os.path.isdir(path) else path.parent for path in outside or inputs]))
    except ValueError as error:
        raise UserError("The inputs are on different drives. Run a batch for each drive.", ExitCode.USAGE) from error
    # A folder of DICOM slices may be an input itself.
    root = common.parent if common in scans else common
    below = [scan.relative_to(output_folder if scan in inside else root) for scan in scans]
    # A DICOM folder that is the output folder itself, or a whole drive, has no name below it.
    return [name if name.name else Path(scan.name or "scan") for name, scan in zip(below, scans, strict=True)]


def _mask_bases(names: Sequence[Path]) -> list[Path]:
    """A mask's path, without its suffix, for each scan; where two would be the same, they have the scans' suffixes."""
    stems = [(name.parent, scan_stem(name)) for name in names]
    full = [(name.parent, name.name) for name in names]
    # In small letters: the masks of "A.nii" and "a.mha" would be one file on Windows and macOS.
    keys = [[str(folder / name).lower() for folder, name in pair] for pair in zip(stems, full, strict=True)]
    taken = Counter(key for pair in keys for key in set(pair))
    chosen = [stem if taken[key] == 1 else whole for stem, whole, (key, _) in zip(stems, full, keys, strict=True)]
    return [folder / f"{name}_prostate" for folder, name in chosen]


def _outputs(base: Path, options: BatchOptions) -> Outputs:
    def beside(ending: str) -> Path:
        return base.with_name(base.name + ending)

    return Outputs(
        mask=beside(options.suffix),
        probability=beside("_probability.nii.gz") if options.probabilities else None,
        picture=beside(".png") if options.pictures else None,
        report=beside(".json"),
    )
