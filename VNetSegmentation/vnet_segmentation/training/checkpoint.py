"""Training checkpoints: tensors and plain values in one safetensors file. Nothing is pickled."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from vnet_segmentation.arrays import to_array
from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.errors import UserError


def write_checkpoint(path: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes a checkpoint atomically: a crash leaves the one before.

    Args:
        tensors: on any device, in any memory format.
        state: plain values, as JSON can hold them; floats come back exactly.

    Raises:
        UserError: the file cannot be written.
    """
    # Tensors that share memory (an optimiser's step counters) are refused by safetensors: each gets its own.
    own = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    text = json.dumps(state)
    with atomic_path(path) as temporary:
        try:
            save_file(own, temporary, metadata={"state": text, "crc32": _checksum(own, text)})
        except SafetensorError as error:
            # Of a full disk it makes an exception of its own.
            raise OSError(str(error)) from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and state of a checkpoint.

    Raises:
        UserError: the file is missing, damaged or no checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as stored:
            metadata = stored.metadata()
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - not a dict
        # safetensors finds a file out that is too short, and not one whose bytes are wrong.
        if metadata["crc32"] != _checksum(tensors, metadata["state"]):
            raise ValueError("the checksum is wrong")
        return tensors, json.loads(metadata["state"])
    except FileNotFoundError as error:
        raise UserError(f"There is no checkpoint {path}. Start the training without it.") from error
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"The checkpoint {path} is damaged or was not made by this version. Delete it and start the training again."
        ) from error


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    checksum = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        checksum = zlib.crc32(f"{name} {tensor.dtype} {list(tensor.shape)}".encode(), checksum)
        checksum = zlib.crc32(to_array(tensor.reshape(-1).view(torch.uint8)).data, checksum)
    return f"{checksum:08x}"
