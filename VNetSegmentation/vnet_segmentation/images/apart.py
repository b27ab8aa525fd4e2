"""Where ITK would read another file than the one that was asked for."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PACKED_NIFTI = (".nii.gz", ".hdr.gz", ".img.gz")


@contextmanager
def apart(path: Path) -> Iterator[Path]:
    """The path of a file, while the block runs, at which ITK reads this file and no other.

    Of "scan.nii.gz" it reads a "scan.nii" that lies beside it, and of a gzipped pair of .hdr and .img the plain files.

    Raises:
        OSError: the file cannot be linked or copied to the system's temporary files.
    """
    files = [path]
    suffix = "".join(path.suffixes[-2:]).lower()
    if suffix in (".hdr.gz", ".img.gz"):
        plain = path.with_suffix("").with_suffix(".img" if suffix == ".hdr.gz" else ".hdr")
        packed = plain.with_name(f"{plain.name}.gz")
        files.append(packed if packed.is_file() else plain)
    packed_files = [file for file in files if file.suffix.lower() == ".gz"] if suffix in _PACKED_NIFTI else []
    if not any(file.with_suffix("").exists() for file in packed_files):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="VNetSegmentation-") as folder:
        for file in files:
            _link(file, Path(folder, file.name.lower()))
        yield Path(folder, path.name.lower())


def _link(file: Path, path: Path) -> None:
    try:
        path.symlink_to(file.absolute())
    except OSError:
        # Windows lets few users make links.
        shutil.copyfile(file, path)
