"""Where ITK would read another file than the one that was asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PLAIN = (".nii", ".hdr", ".img")
_PACKED = tuple(f"{ending}.gz" for ending in _PLAIN)


@contextmanager
def apart(path: Path) -> Iterator[Path]:
    """The path of a file, while the block runs, at which ITK reads this file and no other.

    Of "scan.nii.gz" it reads a "scan.nii" that lies beside it, and of a gzipped pair of .hdr and .img the plain files;
    of a pair in capitals it does not find the second one.

    Raises:
        OSError: the file cannot be linked or copied to the system's temporary files.
    """
    files = [path, *other_of_pair(path)]
    if not any(_is_shadowed(file) or _is_in_capitals(file) for file in files):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="VNetSegmentation-") as folder:
        for file in files:
            _link(file, Path(folder, file.name.lower()))
        yield Path(folder, path.name.lower())


def _is_shadowed(file: Path) -> bool:
    return file.name.lower().endswith(_PACKED) and file.with_suffix("").exists()


def _is_in_capitals(file: Path) -> bool:
    endings = (*_PLAIN, *_PACKED)
    return file.name.lower().endswith(endings) and not file.name.endswith(endings)


def other_of_pair(path: Path) -> list[Path]:
    """The second file of a pair of .hdr and .img, of which each may be gzipped or in capitals; none of other files."""
    is_packed = path.suffix.lower() == ".gz"
    plain = path.with_suffix("") if is_packed else path
    other = {".hdr": ".img", ".img": ".hdr"}.get(plain.suffix.lower())
    if other is None:
        return []
    # First what is as the given file is.
    packings = sorted(("", ".gz", ".GZ"), key=lambda packing: bool(packing) != is_packed)
    letters = sorted((str.lower, str.upper), key=lambda change: change(plain.suffix) != plain.suffix)
    candidates = [plain.with_suffix(change(other) + packing) for packing in packings for change in letters]
    return [file for file in candidates if file.is_file()][:1]


def header_of(path: Path) -> Path:
    """The .hdr of a pair, whichever of its two files is given; any other file itself."""
    is_voxels = path.name.lower().endswith((".img", ".img.gz"))
    return next(iter(other_of_pair(path)), path) if is_voxels else path


def _link(file: Path, path: Path) -> None:
    try:
        path.symlink_to(file.absolute())
    except OSError:
        # Windows lets few users make links.
        shutil.copyfile(file, path)
