"""What the worker can be asked, on the engine's own calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import SimpleITK as sitk

from vnet_segmentation.batch.cases import BatchOptions
from vnet_segmentation.batch.run import check_batch, exit_code, run_batch
from vnet_segmentation.batch.tables import BatchRow
from vnet_segmentation.device import choose_device, list_gpus, set_cpu_threads
from vnet_segmentation.images.scans import check_scan
from vnet_segmentation.images.volume_exchange import read_exchange, write_exchange
from vnet_segmentation.models.library import find_model, list_models
from vnet_segmentation.segmentation.segmenter import Segmenter
from vnet_segmentation.worker.model_commands import model_commands
from vnet_segmentation.worker.protocol import Channel, Command, Request
from vnet_segmentation.worker.training_commands import training_commands, unfinished_trainings


def commands() -> dict[str, Command]:
    """Every command by name. They share one loaded model."""
    set_cpu_threads()
    # What ITK has to say of odd headers is in the errors that the user gets.
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    loaded = _LoadedModel()
    return {
        "describe": _describe,
        "load": loaded.load,
        "segment": loaded.segment,
        "batch": loaded.batch,
        **model_commands(),
        **training_commands(),
    }


def _describe(request: Request, send: Channel) -> dict[str, Any]:
    """The models and GPUs of this computer."""
    models = [
        {"name": model.name, "title": model.title, "bundled": model.bundled, "problem": model.problem}
        for model in list_models()
    ]
    automatic = choose_device()
    return {
        "models": models,
        "default_model": find_model(None).name,
        "gpus": [{"name": name, "title": title} for name, title in list_gpus().items()],
        "unfinished_trainings": unfinished_trainings(),
        "automatic_device": {"name": automatic.name, "reason": automatic.reason},
    }


class _LoadedModel:
    """The model that was asked for last stays loaded."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] = ()
        self._segmenter: Segmenter | None = None

    def load(self, request: Request, send: Channel) -> dict[str, Any]:
        """Makes the next segmentation as fast as any later one."""
        self._get(request, send).warm_up()
        return {}

    def segment(self, request: Request, send: Channel) -> dict[str, Any]:
        """A volume in, its probability out, both as `volume_exchange` has them."""
        segmenter = self._get(request, send)
        scan = check_scan(read_exchange(request["scan"]), request["name"])
        result = segmenter.segment(scan, request["threshold"], _progress(send))
        return {"probability": write_exchange(result.probability, request["probability"]), "report": result.report}

    def batch(self, request: Request, send: Channel) -> dict[str, Any]:
        """A folder in, a folder out; an event "case" for each scan."""
        options = BatchOptions(**request["options"])
        inputs, output = [Path(path) for path in request["inputs"]], Path(request["output"])
        check_batch(inputs, output, options)

        def report(number: int, total: int, row: BatchRow) -> None:
            send("case", number=number, total=total, row=row.as_dict())

        rows = run_batch(self._get(request, send), inputs, output, options, report, _progress(send))
        return {"exit_code": exit_code(rows)}

    def _get(self, request: Request, send: Channel) -> Segmenter:
        folder, device = find_model(request["model"]), choose_device(request["device"])
        # A model that was trained again under its old name is another one.
        key = (folder, device, (folder / "model.json").stat().st_mtime_ns)
        if self._segmenter is None or key != self._key:
            # Not two models in memory at once.
            self._segmenter = None
            send("progress", fraction=0.0, message="Loading the model")
            self._segmenter, self._key = Segmenter(folder, device), key
        return self._segmenter


def _progress(send: Channel) -> Any:
    return lambda fraction, sentence: send("progress", fraction=fraction, message=sentence)
