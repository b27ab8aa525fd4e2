"""A model bundle: a folder with the weights (safetensors, never a pickle), model.json and a model card."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from vnet_segmentation import __version__
from vnet_segmentation.atomic import cannot_write, patiently, remove_leftovers, temporary_beside
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.models.card import model_card
from vnet_segmentation.models.description import FIELDS, FORMAT_VERSION, WEIGHTS_FILE, description_problem
from vnet_segmentation.models.quantisation import expected_tensors, restored_tensors, stored_tensors
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.user_folders import check_model_name

DESCRIPTION_FILE = "model.json"
CARD_FILE = "README.md"

_BUNDLE_FILES = {WEIGHTS_FILE, DESCRIPTION_FILE, CARD_FILE}
_MAX_DESCRIPTION_BYTES = 2**20
_SAFETENSORS_TYPES = {torch.float32: "F32", torch.int8: "I8", torch.int64: "I64"}


def save_bundle(
    folder: Path, network: VNet, description: dict[str, Any], quantise: bool, overwrite: bool = False
) -> dict[str, Any]:
    """Writes a bundle: all of it or nothing. The same network and description give the same bytes.

    Args:
        folder: the bundle to make; its parents are made if need be.
        network: on any device, in any memory format.
        description: name, title, preprocessing, labels, training, metrics and parent, see `description`.
            The other fields are filled in here.
        quantise: store the large convolutions as 8-bit integers: a quarter of the size.
        overwrite: replace a bundle of the same name.

    Returns:
        The description as it was written.

    Raises:
        UserError: see `check_destination`; or the folder cannot be written.
        ValueError: the description lacks a field, or a weight is not finite.
    """
    folder = Path(folder).resolve()
    check_destination(folder, description["name"], overwrite)
    quantisation = "int8-per-channel" if quantise else "none"
    weights = save(stored_tensors(network, quantisation))
    complete = {
        **dict.fromkeys(FIELDS),
        **description,
        "format_version": FORMAT_VERSION,
        "network": {"layout": network.layout, "width": network.width, "normalisation": network.normalisation},
        "versions": {
            "torch": str(torch.__version__),
            "vnet_segmentation": __version__,
        },
        "weights": {
            "file": WEIGHTS_FILE,
            "sha256": hashlib.sha256(weights).hexdigest(),
            "quantisation": quantisation,
        },
    }
    problem = description_problem(complete)
    if problem:
        raise ValueError(f"Not a model description: {problem}.")
    text = json.dumps(complete, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    files = {WEIGHTS_FILE: weights, DESCRIPTION_FILE: text.encode(), CARD_FILE: model_card(complete).encode()}
    _write_folder(folder, files)
    return complete


def check_destination(folder: Path, name: str, overwrite: bool = False) -> None:
    """Whether `save_bundle` may write there; for asking before a long training, not after it.

    Raises:
        UserError: the name cannot be a model's, or the folder exists and is neither empty nor (with `overwrite`) a
            bundle of the same name.
    """
    check_model_name(name)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (overwrite and _is_bundle_named(folder, name)):
        raise UserError(f"{folder} exists already. Choose another folder, or remove it first.", ExitCode.CANNOT_WRITE)


def read_description(folder: Path) -> dict[str, Any]:
    """model.json of a bundle, checked for its fields and their types; the weights are not opened.

    Raises:
        UserError: `ExitCode.BAD_MODEL`: the bundle is incomplete or model.json ill-formed.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise _bad_model(folder, "there is no such folder")
    for file in (DESCRIPTION_FILE, WEIGHTS_FILE):
        if not (folder / file).is_file():
            raise _bad_model(folder, f"{file} is missing")
    try:
        with open(folder / DESCRIPTION_FILE, "rb") as stream:
            text = stream.read(_MAX_DESCRIPTION_BYTES + 1)
        if len(text) > _MAX_DESCRIPTION_BYTES:
            raise ValueError("it is too large")
        description = json.loads(text.decode("utf-8"), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise _bad_model(folder, f"{DESCRIPTION_FILE} cannot be read ({error})") from error
    problem = description_problem(description)
    if problem:
        raise _bad_model(folder, f"{DESCRIPTION_FILE}: {problem}")
    return description


def check_weights_hash(folder: Path, description: dict[str, Any]) -> None:
    """Whether the weights are the ones that model.json was written for.

    Raises:
        UserError: `ExitCode.BAD_MODEL`: they are not, or cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(Path(folder) / WEIGHTS_FILE, "rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    except OSError as error:
        raise _bad_model(folder, f"{WEIGHTS_FILE} cannot be read ({error.strerror})") from error
    if digest.hexdigest() != description["weights"]["sha256"]:
        raise _bad_model(folder, f"{WEIGHTS_FILE} is damaged or foreign: its SHA-256 is not the one in model.json")


def load_bundle(folder: Path) -> tuple[VNet, dict[str, Any]]:
    """The network of a bundle and its description.

    Checked in this order: files, model.json, SHA-256 of the weights, names, shapes and types of all tensors. Nothing
    is unpickled, and no memory is taken for weights that are not in the file.

    Returns:
        The network, float32 on the CPU in evaluation mode; the description as in model.json.

    Raises:
        UserError: `ExitCode.BAD_MODEL`: any of the checks failed.
    """
    folder = Path(folder)
    description = read_description(folder)
    check_weights_hash(folder, description)
    quantisation = description["weights"]["quantisation"]
    with torch.device("meta"):
        network = VNet(**description["network"])
    try:
        with safe_open(folder / WEIGHTS_FILE, framework="pt") as file:
            problem = _tensors_problem(file, expected_tensors(network, quantisation))
            if problem:
                raise _bad_model(folder, f"{WEIGHTS_FILE}: {problem}")
            # Own memory: the file may be replaced while the network is in use.
            stored = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise _bad_model(folder, f"{WEIGHTS_FILE} is not a safetensors file ({error})") from error
    if not all(bool(tensor.isfinite().all()) for tensor in stored.values()):
        raise _bad_model(folder, f"{WEIGHTS_FILE} has weights that are not finite")
    network.load_state_dict(restored_tensors(network, stored, quantisation), assign=True)
    return network.eval(), description


def _tensors_problem(file: Any, expected: dict[str, tuple[torch.dtype, list[int]]]) -> str | None:
    names = set(file.keys())
    if names != expected.keys():
        missing, extra = sorted(expected.keys() - names), sorted(names - expected.keys())
        return f"it lacks {len(missing)} tensors and has {len(extra)} foreign ones, for example {[*missing, *extra][0]}"
    for name, (dtype, shape) in expected.items():
        tensor = file.get_slice(name)
        if tensor.get_shape() != shape:
            return f"the tensor {name} has the shape {tensor.get_shape()} instead of {shape}"
        if tensor.get_dtype() != _SAFETENSORS_TYPES[dtype]:
            return f"the tensor {name} has the type {tensor.get_dtype()} instead of {_SAFETENSORS_TYPES[dtype]}"
    return None


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _bad_model(folder: Path, problem: str) -> UserError:
    # A message is one line, whatever a hostile file holds.
    problem = " ".join(problem.split())[:300]
    return UserError(
        f"The model {folder} cannot be used: {problem}. Copy it again, or choose another model.", ExitCode.BAD_MODEL
    )


def _is_bundle_named(folder: Path, name: str) -> bool:
    """Only what `save_bundle` made may be replaced, and nothing that someone has put beside it."""
    try:
        return read_description(folder)["name"] == name and {f.name for f in folder.iterdir()} <= _BUNDLE_FILES
    except UserError:
        return False


def _write_folder(folder: Path, files: dict[str, bytes]) -> None:
    # Dotted names in front: a listing of models in the meantime passes them over.
    new = temporary_beside(folder)
    # Not a temporary name, so that nothing ever removes it: a process that is killed between the two renames leaves
    # the only copy there.
    old = folder.with_name(f".{folder.name}{new.name}-before")
    remove_leftovers(folder.parent)
    try:
        try:
            new.mkdir(parents=True)
            for name, content in files.items():
                with open(new / name, "wb") as file:
                    file.write(content)
                    os.fsync(file.fileno())
            # A folder that is not empty cannot be renamed over: the former bundle steps aside.
            if folder.exists():
                patiently(os.rename, folder, old)
            try:
                patiently(os.rename, new, folder)
            except OSError:
                if old.exists():
                    patiently(os.rename, old, folder)
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    shutil.rmtree(old, ignore_errors=True)
