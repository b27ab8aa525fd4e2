"""What the panel asks about models: exporting, importing and deleting one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vnet_segmentation.models.library import find_model
from vnet_segmentation.models.transfer import delete_model, export_model, import_model
from vnet_segmentation.worker.protocol import Channel, Command, Request


def model_commands() -> dict[str, Command]:
    """Every command by name."""
    return {"export_model": _export, "import_model": _import, "delete_model": _delete}


def _export(request: Request, send: Channel) -> dict[str, Any]:
    """Writes a model as one file."""
    export_model(find_model(request["model"]), Path(request["file"]), overwrite=True)
    return {}


def _import(request: Request, send: Channel) -> dict[str, Any]:
    """Adds the model in a file to the user's own."""
    return {"name": import_model(Path(request["file"])).name}


def _delete(request: Request, send: Channel) -> dict[str, Any]:
    """Removes a model of the user's and what its training left."""
    delete_model(request["model"])
    return {}
