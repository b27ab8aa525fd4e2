"""The models on this computer: those that come with the program and the user's own."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.models.bundle import check_weights_hash, read_description
from vnet_segmentation.user_folders import TRAINING_SUFFIX, user_models_folder

DEFAULT_MODEL_FILE = "default.txt"
"""In the folder of bundled models: the name of the one that is used when none is asked for."""

_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class ListedModel:
    """A model as a list shows it."""

    name: str
    """The folder's name, by which `find_model` finds it."""
    folder: Path
    bundled: bool
    """Came with the program; otherwise the user's own."""
    title: str
    """For a person; the folder's name where model.json cannot be read."""
    problem: str | None
    """Why the model cannot be used, in a sentence; None for a sound one."""


def bundled_models_folder(package: Path = _PACKAGE) -> Path | None:
    """Where the models are that came with the program; None if there are none.

    Args:
        package: folder of this package: in a wheel, in the installed Slicer module or in the source tree.
    """
    candidates = (
        package / "bundled_models",  # wheel
        package.parent / "Resources" / "Models",  # Slicer
        package.parent.parent / "Resources" / "Models",  # source tree
    )
    return next((folder for folder in candidates if folder.is_dir()), None)


def list_models() -> list[ListedModel]:
    """Bundled models, then the user's, each by name. A damaged one is listed with what is wrong with it.

    The SHA-256 of the weights is checked: about 10 ms for a bundled model.
    """
    bundled = bundled_models_folder()
    return [_listed(folder, folder.parent == bundled) for folder in _model_folders()]


def find_model(name_or_path: str | None) -> Path:
    """Folder of a model; `bundle.load_bundle` checks what is in it.

    Args:
        name_or_path: a model's name as `list_models` gives it, or else the path of a bundle's folder; None for the
            default model.

    Raises:
        UserError: `ExitCode.BAD_MODEL`: unknown, or the name is both a bundled model's and the user's.
    """
    name = _default_name() if name_or_path is None else name_or_path
    folders = list(_model_folders())
    found = [folder for folder in folders if folder.name == name]
    if len(found) > 1:
        raise UserError(
            f"Two models are called {name}. Give the folder of one: {found[0]} or {found[1]}.", ExitCode.BAD_MODEL
        )
    if found:
        return found[0]
    if name_or_path and os.path.isdir(name_or_path):
        return Path(name_or_path)
    known = ", ".join(sorted(folder.name for folder in folders)) or "none"
    raise UserError(
        f"There is no model {name}. Known models: {known}. Choose one of them or give the folder of a model.",
        ExitCode.BAD_MODEL,
    )


def known_cases(description: dict[str, Any], voxel_hashes: Mapping[str, str]) -> list[str]:
    """Which of these cases a model, or one that it was made from, has learned from: by the voxels of their scans, or by
    their names, as far as the models name any.

    Args:
        description: see `bundle.read_description`.
        voxel_hashes: of the cases' scans, by the cases' names.
    """
    names, scans = _learned(description, "training_cases"), learned_scans(description)
    return [name for name, scan in voxel_hashes.items() if name in names or scan in scans]


def learned_scans(description: dict[str, Any]) -> set[str]:
    """`scans.voxel_hash` of the scans that a model, and those that it was made from, have learned from."""
    return _learned(description, "voxel_hashes")


def description_of(weights_sha256: str | None) -> dict[str, Any] | None:
    """Of the model with these weights; None if it is not on this computer."""
    for folder in _model_folders():
        with contextlib.suppress(UserError):
            description = read_description(folder)
            if description["weights"]["sha256"] == weights_sha256:
                return description
    return None


def _learned(description: dict[str, Any], field: str) -> set[str]:
    entries = (one["training"].get(field) for one in _lineage(description))
    # A file may claim anything.
    return {entry for one in entries if isinstance(one, list) for entry in one if isinstance(entry, str)}


def _lineage(description: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A model's description and those of the models that it was made from, as far as they are on this computer."""
    seen: set[str] = set()
    current: dict[str, Any] | None = description
    while current:
        yield current
        parent = str((current["parent"] or {}).get("sha256"))
        # A file may claim to be its own ancestor.
        current = None if parent in seen else description_of(parent)
        seen.add(parent)


def _model_folders() -> Iterator[Path]:
    for library in (bundled_models_folder(), user_models_folder()):
        if library is not None and library.is_dir():
            yield from sorted(folder for folder in library.iterdir() if _may_be_model(folder))


def _may_be_model(folder: Path) -> bool:
    # Dotted folders are bundles that are being written; __pycache__ appears in a package.
    return folder.is_dir() and not folder.name.startswith((".", "_")) and not folder.name.endswith(TRAINING_SUFFIX)


def _default_name() -> str:
    bundled = bundled_models_folder()
    try:
        if bundled is not None:
            return (bundled / DEFAULT_MODEL_FILE).read_text(encoding="utf-8").strip()
    except OSError:
        pass
    raise UserError("No model came with this installation. Install it again, or name a model.", ExitCode.BAD_MODEL)


def _listed(folder: Path, bundled: bool) -> ListedModel:
    title = folder.name
    try:
        description = read_description(folder)
        title = description["title"]
        check_weights_hash(folder, description)
    except UserError as error:
        return ListedModel(folder.name, folder, bundled, title, str(error))
    return ListedModel(folder.name, folder, bundled, title, None)
