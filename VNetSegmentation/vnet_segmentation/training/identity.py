"""What tells one training from another, so that none goes on with what another one stored."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from vnet_segmentation.arrays import to_array
from vnet_segmentation.errors import UserError, list_names
from vnet_segmentation.models.training_state import begun
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.checkpoint import read_checkpoint

_CASES = ("training cases", "validation cases")


def case_identities(training: Sequence[TrainingCase], validation: Sequence[TrainingCase]) -> dict[str, Any]:
    """What a stored state has of its cases: name, label and source of each."""
    parts = zip(_CASES, (training, validation), strict=True)
    return {key: [[case.name, case.label, case.source] for case in cases] for key, cases in parts}


def weights_digest(network: VNet) -> str:
    """SHA-256 of a network's weights and their names."""
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode())
        digest.update(to_array(value.reshape(-1).view(torch.uint8)).data)
    return digest.hexdigest()


def stored_sources(folder: Path) -> dict[str, str]:
    """`cache.files_digest` of each case, by its name, when the training of a state folder began; empty if that is not
    known."""
    file = begun(folder)
    with suppress(OSError, ValueError, KeyError, TypeError, UserError):
        if file:
            state = json.loads(file.read_text("utf-8")) if file.suffix == ".json" else read_checkpoint(file)[1]
            return {name: source for key in _CASES for name, _, source in state["identity"][key]}
    return {}


def refuse_other_cases(what: str, before: Mapping[str, str], now: Mapping[str, str], otherwise: str) -> None:
    """Raises `UserError`, which names them, if cases came, went or changed since the work on them began.

    Args:
        what: that work.
        before, now: `cache.files_digest` of the cases, by their names.
        otherwise: what to do if the former data are not wanted back.
    """
    changes = {
        "changed": sorted(name for name in before.keys() & now.keys() if before[name] != now[name]),
        "missing": sorted(before.keys() - now.keys()),
        "new": sorted(now.keys() - before.keys()),
    }
    told = "; ".join(f"{change}: {list_names(names)}" for change, names in changes.items() if names)
    if told:
        raise UserError(f"This {what} began with other data ({told}). Give the cases as they were, or {otherwise}.")


def refuse_other_options(what: str, before: Mapping[str, Any], now: Mapping[str, Any], otherwise: str) -> None:
    """Raises `UserError`, which names them, if options differ from those that the work began with.

    Args:
        what: that work.
        before, now: the options by their names, as JSON has them; one that was not known before does not count.
        otherwise: what to do if the former options are not wanted back.
    """
    told = "; ".join(
        f"{name.replace('_', ' ')}: {_shown(before[name])}, now {_shown(value)}"
        for name, value in now.items()
        if name in before and before[name] != value
    )
    if told:
        raise UserError(f"This {what} began with other options ({told}). Give the same ones, or {otherwise}.")


def _shown(value: Any) -> str:
    return "not given" if value is None else list_names(value) if isinstance(value, list) else str(value)
