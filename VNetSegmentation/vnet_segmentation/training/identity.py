"""What tells one training from another, so that none goes on with what another one stored."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from vnet_segmentation.arrays import to_array
from vnet_segmentation.errors import UserError, list_names
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.training.cache import TrainingCase

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


def refuse_changed_cases(stored: dict[str, Any], own: dict[str, Any]) -> None:
    """Raises `UserError` if a stored state is of the same run, but for what the files of its cases hold.

    Args:
        stored, own: with what `case_identities` gave, and all else that tells runs apart.
    """
    if any(stored.get(key) != value for key, value in own.items() if key not in _CASES):
        return
    changed = []
    for key in _CASES:
        if [case[:2] for case in stored.get(key, [])] != [case[:2] for case in own[key]]:
            return
        changed += [case[0] for case, before in zip(own[key], stored[key], strict=True) if case != before]
    if changed:
        raise changed_since("training", changed, "begin a new training")


def changed_since(what: str, names: Sequence[str], otherwise: str) -> UserError:
    """The sentence for cases whose files have changed since the work on them began.

    Args:
        what: that work.
        names: of the cases.
        otherwise: what to do if the former files are not wanted back.
    """
    return UserError(
        f"Since this {what} began, {list_names(names)} changed. Put the former files back, or {otherwise}."
    )
