"""Data sets on disk: where scans and their reference masks are, in the layouts in use."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vnet_segmentation.errors import ExitCode, UserError, list_names
from vnet_segmentation.images.dicom import names_t2
from vnet_segmentation.images.scans import MASK_STEMS, MASK_SUFFIX, SCAN_SUFFIXES
from vnet_segmentation.paths import walk

VOLUME_SUFFIXES = (MASK_SUFFIX, *SCAN_SUFFIXES)
"""What a data set's files may end in; a `.mhd`, `.nhdr` or `.hdr` header stands for the voxels beside it."""

_MASK_ENDING = "_segmentation"
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")
_FIRST_CHANNEL = "0000"
_NAME = re.compile(r"[^\W_][\w .+-]*")
_SPLITS = {
    "": "",
    "train": "training",
    "training": "training",
    "val": "validation",
    "validation": "validation",
    "test": "test",
}


@dataclass(frozen=True)
class Case:
    """A scan and its reference mask."""

    name: str
    """Unique in its data set, and fit to be a file name."""
    image: Path
    mask: Path
    site: str = ""
    """Hospital or scanner that the scan comes from; empty if not known."""
    split: str = ""
    """"training", "validation" or "test" where the data set says so itself."""
    label: int | None = None
    """Of the prostate in the mask, see `mask_files.read_mask`."""
    patient: str = ""
    """Who was scanned, unique in the data set; empty if not known: then a patient of its own."""


def find_cases(path: Path) -> list[Case]:
    """Cases of a data set, in the order of their names (a manifest: in its own order).

    Nothing is opened but tables: a file that belongs to a case and is absent is found by `inspection.inspect_cases`.

    Args:
        path: one of
            a folder in PROMISE12 naming (``Case00.mhd`` and ``Case00_segmentation.mhd``, any name and format), with
            sites and patients in a ``cases.csv`` (columns case, and site or patient or both) if there is one; a batch's
            own ``Case00_prostate.nii.gz`` beside them is passed over;
            a folder in the layout of nnU-Net or the Medical Segmentation Decathlon (``imagesTr`` and ``labelsTr``),
            of whose channels (files that end in ``_0000`` and so on) the first is taken, or of several in a
            ``dataset.json`` the one that is called T2; a 4D image, which holds several channels in one file as
            Task05_Prostate does, is found but not read: `inspection.inspect_cases` asks for one channel of it;
            a CSV file with the columns image and mask, and optionally name, site, patient and split (training,
            validation or test), its paths relative to the CSV file.

    Raises:
        UserError: there is nothing, or nothing of these; a table is ill-formed or names a case that is not there; two
            cases have the same name but for capitals; a case has two sites or patients, or a
            patient's scans different splits; of several channels none, or more than one, is called T2.
    """
    path = Path(path)
    if os.path.isfile(path) and path.suffix.lower() == ".csv":
        return _manifest_cases(path)
    if not os.path.isdir(path):
        problem = f"{path} is no data set" if os.path.exists(path) else f"There is no data set {path}"
        raise UserError(f"{problem}. Give a folder, or a CSV file with the columns image and mask.")
    cases = _nnunet_cases(path) if (path / "imagesTr").is_dir() else _promise12_cases(path)
    below = [] if cases else _data_sets_in(path)
    if below:
        raise UserError(f"There are no cases in {path} itself. Give the data set in it: {list_names(below)}.")
    if not cases:
        raise UserError(
            f"There are no cases in {path}. Known are folders with Case00.nii.gz with Case00_segmentation.nii.gz "
            "(PROMISE12) or imagesTr with labelsTr (nnU-Net, Medical Segmentation Decathlon), and a CSV file with the "
            "columns image and mask."
        )
    _refuse_alike(path, cases)
    return cases


def check_names(names: Iterable[str], cases: Sequence[Case]) -> None:
    """Raises `UserError` (`ExitCode.USAGE`) for a name that no case has."""
    unknown = set(names) - {case.name for case in cases}
    if unknown:
        known = list_names(sorted(case.name for case in cases))
        raise UserError(
            f"There is no case {', '.join(sorted(unknown))} in the data set. It has {known}.", ExitCode.USAGE
        )


def leave_out(cases: Sequence[Case], names: Sequence[str]) -> list[Case]:
    """The cases without those of these names.

    Raises:
        UserError: see `check_names`.
    """
    check_names(names, cases)
    return [case for case in cases if case.name not in names]


def _data_sets_in(folder: Path) -> list[str]:
    """Sub-folders that look like data sets: nnU-Net keeps several in a folder, and an unpacked archive is often one.

    Raises:
        UserError: the folder cannot be read.
    """
    _, names, _ = next(walk(folder))
    return [
        str(folder / name)
        for name in names
        if os.path.isdir(folder / name / "imagesTr") or any((folder / name).glob(f"*{_MASK_ENDING}.*"))
    ]


def _promise12_cases(folder: Path) -> list[Case]:
    files = _volumes(folder)
    masks = {stem.removesuffix(_MASK_ENDING): file for stem, file in files.items() if stem.endswith(_MASK_ENDING)}
    if not masks:
        return []
    images = {
        stem: file
        for stem, file in files.items()
        if not stem.endswith(_MASK_ENDING) and not _is_result(stem, masks.keys())
    }
    cases = [
        Case(
            name,
            images.get(name) or folder / f"{name}{_suffix(masks[name])}",
            masks.get(name) or folder / f"{name}{_MASK_ENDING}{_suffix(images[name])}",
        )
        for name in sorted(images.keys() | masks.keys())
    ]
    return _with_origins(folder, cases)


def _nnunet_cases(folder: Path) -> list[Case]:
    if not (folder / "labelsTr").is_dir():
        raise UserError(f"{folder} has a folder imagesTr but no labelsTr. Put the masks into a folder labelsTr.")
    labels = _volumes(folder / "labelsTr")
    scans = _volumes(folder / "imagesTr")
    # In the Decathlon's own layout the image is named like its label, even if that ends in four digits.
    has_channels = any(stem.endswith(f"_{_FIRST_CHANNEL}") and stem not in labels for stem in scans)
    channel = _t2_channel(folder / "dataset.json") if has_channels else ""
    images: dict[str, Path] = {}
    # Of a case whose channel is missing another file still tells that there is the case.
    known = dict(labels)
    for stem, file in scans.items():
        if _is_result(stem, labels.keys()):
            continue
        parts = _CHANNEL.fullmatch(stem) if has_channels and stem not in labels else None
        name = parts["case"] if parts else stem
        known.setdefault(name, file)
        if parts is None or parts["channel"] == channel:
            images[name] = file
    ending = f"_{channel}" if has_channels else ""
    cases = [
        Case(
            name,
            images.get(name) or folder / "imagesTr" / f"{name}{ending}{_suffix(known[name])}",
            labels.get(name) or folder / "labelsTr" / f"{name}{_suffix(known[name])}",
        )
        for name in sorted(known)
    ]
    return _with_origins(folder, cases)


def _is_result(stem: str, with_mask: Iterable[str]) -> bool:
    """Whether an image is named like what a batch may have put beside a scan, and is not a case itself."""
    return stem.endswith(MASK_STEMS) and stem not in with_mask


def _t2_channel(table: Path) -> str:
    """The four digits of the channel to take: the T2-weighted one, by dataset.json; without that, the first."""
    if not table.is_file():
        return _FIRST_CHANNEL
    try:
        description = json.loads(table.read_text("utf-8"))
        # Of version 2 and of version 1, where they stand for the files' endings.
        named = description.get("channel_names") or description.get("modality") or {}
        names = {int(number): str(name) for number, name in named.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(
            f"{table} cannot be read ({error}). Mend it, or remove it to take the first channel."
        ) from error
    if len(names) < 2:
        return _FIRST_CHANNEL
    t2 = [number for number, name in names.items() if names_t2(name)]
    if len(t2) != 1:
        raise UserError(
            f"Of the channels in {table}, {list_names(list(names.values()))}, {'none' if not t2 else 'more than one'} "
            "is called T2. Give the right one a name with T2 there."
        )
    return f"{t2[0]:04}"


def _refuse_alike(folder: Path, cases: Iterable[Case]) -> None:
    known: dict[str, str] = {}
    for case in cases:
        other = known.setdefault(case.name.lower(), case.name)
        if other != case.name:
            raise UserError(
                f"{folder} has the cases {other} and {case.name}: capitals alone tell one from the other. Give each "
                "its own name, and its scan and mask the same one."
            )


def _manifest_cases(path: Path) -> list[Case]:
    # By name in small letters: the masks of "A" and "a" would be one file on Windows and macOS.
    cases: dict[str, Case] = {}
    for line, row in _read_table(path, ("image", "mask")):
        if not row["image"] or not row["mask"]:
            raise UserError(f"{path.name}, line {line}: the image or the mask is missing. Fill in both.")
        image, mask = path.parent / row["image"], path.parent / row["mask"]
        name = row.get("name") or image.name.removesuffix(_suffix(image))
        split = row.get("split", "").lower()
        if not _NAME.fullmatch(name):
            raise UserError(f"{path.name}, line {line}: {name!r} cannot name a case. Use letters, digits, - and _.")
        if name.lower() in cases:
            known = cases[name.lower()].name
            but = "" if name == known else f", and capitals alone tell {name} from it"
            raise UserError(f"{path.name}, line {line}: there is already a case {known}{but}. Give each its own name.")
        if split not in _SPLITS:
            raise UserError(f"{path.name}, line {line}: unknown split {split!r}. Use training, validation or test.")
        cases[name.lower()] = Case(
            name, image, mask, row.get("site", ""), _SPLITS[split], patient=row.get("patient", "")
        )
    if not cases:
        raise UserError(f"{path} lists no case. Add a line for each image and mask.")
    _refuse_divided_patients(path, cases.values())
    return list(cases.values())


def _refuse_divided_patients(path: Path, cases: Iterable[Case]) -> None:
    first: dict[str, Case] = {}
    for case in cases:
        other = first.setdefault(case.patient, case)
        # No split means training where other cases have one.
        if case.patient and (case.split or "training") != (other.split or "training"):
            raise UserError(
                f"{path.name}: {other.name} and {case.name} are of the patient {case.patient} but in different splits. "
                "Give them the same one."
            )


def _suffix(file: Path) -> str:
    return next((file.name[-len(s) :] for s in VOLUME_SUFFIXES if file.name.lower().endswith(s)), file.suffix)


def _volumes(folder: Path) -> dict[str, Path]:
    """The folder's image files by their name without the suffix."""
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        # macOS leaves "._Case00.nii.gz" beside files that it copied.
        if file.name.startswith(".") or not file.name.lower().endswith(VOLUME_SUFFIXES):
            continue
        stem = file.name.removesuffix(_suffix(file))
        if stem in found:
            raise UserError(f"{folder} has both {found[stem].name} and {file.name}. Remove one of them.")
        found[stem] = file
    return found


def _with_origins(folder: Path, cases: Sequence[Case]) -> list[Case]:
    """The cases with site and patient, as far as the folder's table has them. A name of no case is refused where a case
    has no row: it may be that one's, written otherwise."""
    table = folder / "cases.csv"
    if not table.is_file():
        return list(cases)
    origins: dict[str, tuple[str, str]] = {}
    for line, row in _read_table(table, ("case",)):
        if "site" not in row and "patient" not in row:
            raise UserError(f"{table} has no column site and no column patient. Name one of them in its first line.")
        origin = row.get("site", ""), row.get("patient", "")
        if origins.setdefault(row["case"], origin) != origin:
            raise UserError(
                f"{table.name}, line {line}: the case {row['case']} has another line with another site or patient. "
                "Correct one of them."
            )
    unknown = origins.keys() - {case.name for case in cases}
    if unknown and any(case.name not in origins for case in cases):
        raise UserError(
            f"There is no case {list_names(sorted(unknown))} in {folder}. Correct or remove its line in {table.name}."
        )
    return [
        replace(case, site=site, patient=patient)
        for case, (site, patient) in ((case, origins.get(case.name, ("", ""))) for case in cases)
    ]


def _read_table(path: Path, needed: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """Rows of a CSV file as (line number, text by column in lower case)."""
    try:
        # Excel puts a byte order mark in front.
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            columns = [column.strip().lower() for column in next(reader, [])]
            rows = [
                (reader.line_num, dict(zip(columns, map(str.strip, row), strict=False))) for row in reader if any(row)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read ({error}). Save it as CSV with commas, in UTF-8.") from error
    missing = [column for column in needed if column not in columns]
    if missing:
        raise UserError(
            f"{path} has no column {' and no column '.join(missing)}. "
            f"Its first line must name the columns {', '.join(needed)}, with commas between them."
        )
    # A row that ends early has its last cells empty.
    return [(line, {column: row.get(column, "") for column in columns}) for line, row in rows]
