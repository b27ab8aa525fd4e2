"""A model bundle: a folder with the weights (safetensors, never a pickle), model.json and a model card.

model.json says what the weights are and travels with them:

    format_version   of this file, an integer
    name, title      for a command line and for a person
    network          layout, width, normalisation: the arguments of `VNet`
    preprocessing    settings that the network was trained with, as `preprocessing.Preprocessing` knows them
    labels           names of the network's output channels
    training         data, their terms, recipe; voxel_hashes: `scans.voxel_hash` of each scan that it, or a model that
                     it was made from, has learned from
    metrics          what was measured, on which cases
    parent           name and SHA-256 of the weights that training started from, or null
    versions         of torch and of this package, when it was saved
    weights          file, sha256, quantisation ("none" or "int8-per-channel")
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from vnet_segmentation import __version__
from vnet_segmentation.atomic import cannot_write, patiently, remove_leftovers, temporary_beside
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.models.card import model_card
from vnet_segmentation.models.quantisation import quantise_weight, restore_weight
from vnet_segmentation.network.vnet import LAYOUTS, MAX_WIDTH, NORMALISATIONS, VNet
from vnet_segmentation.user_folders import MODEL_NAME, check_model_name

FORMAT_VERSION = 1
WEIGHTS_FILE = "weights.safetensors"
DESCRIPTION_FILE = "model.json"
CARD_FILE = "README.md"
QUANTISATIONS = ("none", "int8-per-channel")

_BUNDLE_FILES = {WEIGHTS_FILE, DESCRIPTION_FILE, CARD_FILE}
_MAX_DESCRIPTION_BYTES = 2**20
_MIN_QUANTISED_ELEMENTS = 1000  # below, 8 bits save nothing that counts
_SCALE_ENDING = ".scale"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SAFETENSORS_TYPES = {torch.float32: "F32", torch.int8: "I8", torch.int64: "I64"}

_FIELDS: dict[str, tuple[type, ...]] = {
    "format_version": (int,),
    "name": (str,),
    "title": (str,),
    "network": (dict,),
    "preprocessing": (dict,),
    "labels": (list,),
    "training": (dict,),
    "metrics": (dict,),
    "parent": (dict, type(None)),
    "versions": (dict,),
    "weights": (dict,),
}
_NETWORK_FIELDS: dict[str, tuple[type, ...]] = {"layout": (str,), "width": (int,), "normalisation": (str,)}
_WEIGHTS_FIELDS: dict[str, tuple[type, ...]] = {"file": (str,), "sha256": (str,), "quantisation": (str,)}


def save_bundle(
    folder: Path, network: VNet, description: dict[str, Any], quantise: bool, overwrite: bool = False
) -> dict[str, Any]:
    """Writes a bundle: all of it or nothing. The same network and description give the same bytes.

    Args:
        folder: the bundle to make; its parents are made if need be.
        network: on any device, in any memory format.
        description: name, title, preprocessing, labels, training, metrics and parent, see the module's docstring.
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
    weights = save(_stored_tensors(network, quantisation))
    complete = {
        **dict.fromkeys(_FIELDS),
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
    problem = _description_problem(complete)
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
    problem = _description_problem(description)
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
            problem = _tensors_problem(file, _expected_tensors(network, quantisation))
            if problem:
                raise _bad_model(folder, f"{WEIGHTS_FILE}: {problem}")
            # Own memory: the file may be replaced while the network is in use.
            stored = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a dict
    except (OSError, SafetensorError) as error:
        raise _bad_model(folder, f"{WEIGHTS_FILE} is not a safetensors file ({error})") from error
    if not all(bool(tensor.isfinite().all()) for tensor in stored.values()):
        raise _bad_model(folder, f"{WEIGHTS_FILE} has weights that are not finite")
    network.load_state_dict(_restored_tensors(network, stored, quantisation), assign=True)
    return network.eval(), description


def _output_axes(network: VNet, quantisation: str) -> dict[str, int]:
    """Names of the weights that are stored as integers, with their axis of output channels."""
    if quantisation == "none":
        return {}
    return {
        f"{name}.weight": 1 if isinstance(module, nn.ConvTranspose3d) else 0
        for name, module in network.named_modules()
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d) and module.weight.numel() > _MIN_QUANTISED_ELEMENTS
    }


def _stored_tensors(network: VNet, quantisation: str) -> dict[str, Tensor]:
    output_axes = _output_axes(network, quantisation)
    stored: dict[str, Tensor] = {}
    for name, tensor in network.state_dict().items():
        tensor = tensor.detach().cpu().contiguous()
        if tensor.is_floating_point():
            tensor = tensor.float()
        if not tensor.isfinite().all():
            raise ValueError(f"The weights {name} are not finite: the network has diverged.")
        if name in output_axes:
            stored[name], stored[name + _SCALE_ENDING] = quantise_weight(tensor, output_axes[name])
        else:
            stored[name] = tensor
    return stored


def _expected_tensors(network: VNet, quantisation: str) -> dict[str, tuple[torch.dtype, list[int]]]:
    expected = {name: (tensor.dtype, list(tensor.shape)) for name, tensor in network.state_dict().items()}
    for name, axis in _output_axes(network, quantisation).items():
        shape = expected[name][1]
        expected[name] = (torch.int8, shape)
        expected[name + _SCALE_ENDING] = (torch.float32, [shape[axis]])
    return expected


def _restored_tensors(network: VNet, stored: dict[str, Tensor], quantisation: str) -> dict[str, Tensor]:
    restored = dict(stored)
    for name, axis in _output_axes(network, quantisation).items():
        restored[name] = restore_weight(stored[name], restored.pop(name + _SCALE_ENDING), axis)
    return restored


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


def _description_problem(description: Any) -> str | None:
    """The first thing that is wrong with a model.json; None if it can be relied on."""
    problem = _fields_problem("the file", description, _FIELDS)
    if problem:
        return problem
    if description["format_version"] != FORMAT_VERSION:
        return f"format {description['format_version']} is not known to this version, which reads {FORMAT_VERSION}"
    network, weights, labels = description["network"], description["weights"], description["labels"]
    problem = _fields_problem("network", network, _NETWORK_FIELDS) or _fields_problem(
        "weights", weights, _WEIGHTS_FIELDS
    )
    if problem:
        return problem
    if network.keys() != _NETWORK_FIELDS.keys():
        return "network has unknown fields"
    if network["layout"] not in LAYOUTS or network["normalisation"] not in NORMALISATIONS:
        return f"unknown layout {network['layout']!r} or normalisation {network['normalisation']!r}"
    if not 1 <= network["width"] <= MAX_WIDTH:
        return f"the width {network['width']} is not within 1 to {MAX_WIDTH}"
    # The one name that is allowed: a path could lead anywhere.
    if weights["file"] != WEIGHTS_FILE:
        return f"weights.file is {weights['file']!r} instead of {WEIGHTS_FILE!r}"
    if not _SHA256.fullmatch(weights["sha256"]) or weights["quantisation"] not in QUANTISATIONS:
        return "weights.sha256 or weights.quantisation is ill-formed"
    if (
        not MODEL_NAME.fullmatch(description["name"])
        or not description["title"]
        or not description["title"].isprintable()
    ):
        return "the name or the title is ill-formed"
    try:
        Preprocessing.from_dict(description["preprocessing"])
    except (TypeError, ValueError):
        return "its preprocessing settings are unknown to this version"
    if len(labels) != 2 or not all(isinstance(label, str) for label in labels):
        return "labels must name the two output channels"
    return None


def _fields_problem(where: str, value: Any, fields: dict[str, tuple[type, ...]]) -> str | None:
    if not isinstance(value, dict):
        return f"{where} is not a JSON object"
    for field, types in fields.items():
        if field not in value:
            return f"{field!r} is missing"
        # Not isinstance: True is an int to Python, not to a reader of the file.
        if type(value[field]) not in types:
            return f"{field!r} is not of the right type"
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
