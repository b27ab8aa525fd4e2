"""A user's own models as single files: exported, imported, deleted."""

from __future__ import annotations

import lzma
import os
import shutil
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from vnet_segmentation.atomic import atomic_path, patiently, remove_leftovers, temporary_beside
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.models.bundle import CARD_FILE, DESCRIPTION_FILE, check_destination, load_bundle
from vnet_segmentation.models.description import WEIGHTS_FILE
from vnet_segmentation.models.library import list_models
from vnet_segmentation.models.training_state import discard, state_folder
from vnet_segmentation.user_folders import user_models_folder

FILE_SUFFIX = ".zip"

_MAX_BYTES = {WEIGHTS_FILE: 5 * 2**30, DESCRIPTION_FILE: 2**20, CARD_FILE: 2**20}
_SAME_TIME = (1980, 1, 1, 0, 0, 0)
"""In every entry, so that the same model gives the same bytes."""


def export_model(model: Path, file: Path, overwrite: bool = False) -> None:
    """Writes a model as one zip file.

    Args:
        model: folder of a bundle.
        file: to write; its name must end in ``.zip``.
        overwrite: replace the file if it exists.

    Raises:
        UserError: the bundle is damaged (`ExitCode.BAD_MODEL`), or the file cannot be written.
    """
    if file.suffix.lower() != FILE_SUFFIX:
        raise UserError(f"The name of a model's file must end in {FILE_SUFFIX}, unlike {file.name}.", ExitCode.USAGE)
    if file.exists() and not overwrite:
        raise UserError(f"{file} exists already. Choose another name.", ExitCode.CANNOT_WRITE)
    _, description = load_bundle(model)
    with atomic_path(file) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in _MAX_BYTES:
            if (model / name).exists():
                entry = zipfile.ZipInfo(f"{description['name']}/{name}", _SAME_TIME)
                # Weights are noise to a compressor: it would take a second and save a tenth.
                archive.writestr(entry, (model / name).read_bytes())


def import_model(file: Path) -> Path:
    """Adds the model in a file that `export_model` wrote to the user's own; all of it or nothing.

    Returns:
        The model's folder.

    Raises:
        UserError: the file is none or holds something else, the model is damaged (`ExitCode.BAD_MODEL`), there is one
            of its name already, or an unfinished training of it, or it cannot be written (`ExitCode.CANNOT_WRITE`).
    """
    library = user_models_folder()
    remove_leftovers(library)
    unpacked = temporary_beside(library / "import")
    try:
        try:
            with zipfile.ZipFile(file) as archive:
                entries = _model_entries(archive)
                unpacked.mkdir(parents=True)
                for name, entry in entries.items():
                    _unpack(archive, entry, unpacked / name)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError) as error:
            raise _no_model(file, "it is damaged or no zip file") from error
        except ValueError as error:
            raise _no_model(file, str(error)) from error
        try:
            _, description = load_bundle(unpacked)
        except UserError as error:
            # In place of the temporary folder, which tells the user nothing.
            raise UserError(str(error).replace(str(unpacked), str(file)), error.exit_code) from error
        name = description["name"]
        for model in list_models():
            if model.name.lower() == name.lower():
                what_to_do = (
                    "It came with the program: the one in the file needs another name."
                    if model.bundled
                    else f"Delete it first; its folder is {model.folder}."
                )
                raise UserError(f"There is a model {model.name} already. {what_to_do}", ExitCode.CANNOT_WRITE)
        state = state_folder(library / name)
        if state.exists():
            raise UserError(
                f"There is an unfinished training of {name}. Finish or discard it first; its folder is {state}.",
                ExitCode.CANNOT_WRITE,
            )
        # A folder that is no model may have the name, too.
        check_destination(library / name, name)
        patiently(os.rename, unpacked, library / name)
        return library / name
    except FileNotFoundError as error:
        raise UserError(f"There is no file {file}. Choose the file of a model.") from error
    except IsADirectoryError as error:
        raise _no_model(file, "it is a folder") from error
    except OSError as error:
        raise UserError(f"Cannot import {file}: {error.strerror or error}.", ExitCode.CANNOT_WRITE) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)


def delete_model(name: str) -> None:
    """Removes a model of the user's, and what its training left beside it.

    Raises:
        UserError: it is not the user's, is being trained, or cannot be removed.
    """
    own = {model.name: model.folder for model in list_models() if not model.bundled}
    if name not in own and any(model.name == name for model in list_models()):
        raise UserError(f"{name} came with the program and cannot be deleted.", ExitCode.BAD_MODEL)
    if name not in own:
        raise UserError(
            f"There is no model {name} of your own. Your own models: {', '.join(own) or 'none'}.", ExitCode.BAD_MODEL
        )
    folder = own[name]
    # A training that runs would write the model again.
    discard(state_folder(folder))
    # First out of sight: nobody finds half a model.
    hidden = temporary_beside(folder)
    try:
        patiently(os.rename, folder, hidden)
    except OSError as error:
        raise UserError(
            f"Cannot delete {folder}: {error.strerror or error}. Close what uses it and try again.",
            ExitCode.CANNOT_WRITE,
        ) from error
    shutil.rmtree(hidden, ignore_errors=True)


def _model_entries(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """The entries by the names that a bundle's files have.

    Raises:
        ValueError: there is anything else, or less, in the archive.
    """
    entries: dict[str, zipfile.ZipInfo] = {}
    folders = set()
    for entry in archive.infolist():
        path = PurePosixPath(entry.filename)
        # Whatever the folder is called, it is not used: nothing can lead out of the library.
        if entry.is_dir() or len(path.parts) != 2 or path.name not in _MAX_BYTES or path.name in entries:
            raise ValueError(f"{entry.filename!r} does not belong into it")
        if entry.file_size > _MAX_BYTES[path.name]:
            raise ValueError(f"{path.name} is too large")
        entries[path.name] = entry
        folders.add(path.parts[0])
    if len(folders) != 1 or not {WEIGHTS_FILE, DESCRIPTION_FILE} <= entries.keys():
        raise ValueError("it does not hold one model")
    return entries


def _unpack(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: Path) -> None:
    # Never more than the entry's size, which was looked at: zipfile stops there, and finds the checksum wrong.
    with archive.open(entry) as packed, open(file, "wb") as stream:
        shutil.copyfileobj(packed, stream)
        stream.flush()
        os.fsync(stream.fileno())


def _no_model(file: Path, why: str) -> UserError:
    return UserError(f"{file} is not a model's file: {why}. Export the model again.", ExitCode.BAD_MODEL)
