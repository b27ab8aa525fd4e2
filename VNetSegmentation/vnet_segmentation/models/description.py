"""model.json, which says what a model's weights are and travels with them.

Its fields:

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

import re
from typing import Any

from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.network.vnet import LAYOUTS, MAX_WIDTH, NORMALISATIONS
from vnet_segmentation.user_folders import MODEL_NAME

FORMAT_VERSION = 1
WEIGHTS_FILE = "weights.safetensors"
QUANTISATIONS = ("none", "int8-per-channel")

_SHA256 = re.compile(r"[0-9a-f]{64}")

FIELDS: dict[str, tuple[type, ...]] = {
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


def description_problem(description: Any) -> str | None:
    """The first thing that is wrong with a model.json; None if it can be relied on."""
    problem = _fields_problem("the file", description, FIELDS)
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
