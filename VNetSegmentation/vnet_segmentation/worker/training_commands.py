"""What the worker can be asked about training, on the engine's own calls."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vnet_segmentation.atomic import atomic_path
from vnet_segmentation.datasets.dataset import find_cases
from vnet_segmentation.datasets.inspection import inspect_cases
from vnet_segmentation.device import choose_device
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.evaluation.rows import Row, mean_figures, worst_figures
from vnet_segmentation.images.volume_exchange import write_exchange
from vnet_segmentation.models.library import find_model, list_models
from vnet_segmentation.models.training_state import begun, claim, discard, is_claimed, state_folder
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.preview import iteration_seconds, preview_sample
from vnet_segmentation.training.recipe import load_recipe
from vnet_segmentation.training.train_model import train_model
from vnet_segmentation.training.training_run import Progress
from vnet_segmentation.user_folders import TRAINING_SUFFIX, check_model_name, user_models_folder
from vnet_segmentation.worker.protocol import Channel, Command, Request

REQUEST_FILE = "request.json"
"""In the folder of an unfinished training: what it was asked for."""
_KEPT = ("name", "data", "device", "options", "cases")
"""Fields of a request to train that are kept there."""


def training_commands() -> dict[str, Command]:
    """Every command by name."""
    return {
        "cases": _cases,
        "estimate": _estimate,
        "preview": _preview,
        "train": _train,
        "discard_training": _discard,
    }


def unfinished_trainings() -> list[dict[str, Any]]:
    """The requests of trainings that were paused or interrupted, in the order of their names."""
    requests = []
    for file in sorted(user_models_folder().glob(f"*{TRAINING_SUFFIX}/{REQUEST_FILE}")):
        # One that runs, in another Slicer, is not for this one to go on with.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            if is_claimed(file.parent):
                continue
            request = json.loads(file.read_text("utf-8"))
            if state_folder(user_models_folder() / request["name"]) == file.parent:
                requests.append(request)
    return requests


def _cases(request: Request, send: Channel) -> dict[str, Any]:
    """Reads the cases of a data set; an event "case" for each, with what is wrong with it."""
    cases = [replace(case, label=request["label"]) for case in find_cases(Path(request["data"]))]
    for number, found in enumerate(inspect_cases(cases), start=1):
        case = found.case
        row = {
            "name": case.name,
            "image": str(case.image),
            "mask": str(case.mask),
            "site": case.site,
            "split": case.split,
            "patient": case.patient,
            "volume_ml": found.volume_ml,
            "problem": " ".join(found.problems) or None,
        }
        send("case", number=number, total=len(cases), row=row)
    return {"n_cases": len(cases)}


def _estimate(request: Request, send: Channel) -> dict[str, Any]:
    """How long an iteration takes, and how many a run has."""
    options = _options(request)
    return {
        "iteration_s": iteration_seconds(options, choose_device(request["device"])),
        "iterations": load_recipe(options.preset_name).iterations,
    }


def _preview(request: Request, send: Channel) -> dict[str, Any]:
    """An augmented sample of a case, as `volume_exchange` has volumes."""
    cases = {case.name: replace(case, label=request["label"]) for case in find_cases(Path(request["data"]))}
    case = cases.get(request["case"])
    if case is None:
        raise UserError(f"There is no case {request['case']} any more. Read the folder again.")
    others = [name for name in request["others"] if name in cases and name != case.name]
    seed = request["seed"]
    image, mask = preview_sample(case, _options(request), seed, cases[others[seed % len(others)]] if others else None)
    return {"image": write_exchange(image, request["image"]), "mask": write_exchange(mask, request["mask"])}


def _train(request: Request, send: Channel) -> dict[str, Any]:
    """Trains a model of the user's; an event "training" for each report. A cancelled one can be gone on with."""
    model = _own_model(request)
    name = model.name
    if any(listed.name == name and listed.bundled for listed in list_models()):
        raise UserError(f"{name} is the name of a bundled model. Choose another one.", ExitCode.USAGE)
    state = state_folder(model)
    fraction = 0.0

    def tell(event: str, **fields: Any) -> None:
        # A training that is cancelled is stopped by `should_stop`, after it stored its state.
        with contextlib.suppress(Cancelled):
            send(event, **fields)

    def say(sentence: str) -> None:
        tell("progress", fraction=fraction, message=sentence)

    def report(progress: Progress) -> None:
        nonlocal fraction
        fraction = progress.fraction
        tell(
            "training",
            iteration=progress.iteration,
            fraction=progress.fraction,
            loss=progress.loss,
            validation_dice=progress.validation_dice,
            remaining_s=progress.remaining_s,
        )

    options = _options(request)
    # Not what is left out, but what was chosen: the folder may have got more cases by the time it goes on.
    held_out = {case.name for case in find_cases(Path(request["data"]))} - set(request["cases"])
    had_begun = state.exists()
    if not request["resume"] and had_begun:
        raise UserError(f"There is an unfinished training of {name}. Resume or discard it.", ExitCode.CANNOT_WRITE)
    # Before anything else is stored there, so that it can always be found and discarded; and not where another Slicer
    # is training by its own request.
    with claim(state), atomic_path(state / REQUEST_FILE) as temporary:
        temporary.write_text(json.dumps({key: request[key] for key in _KEPT}), "utf-8")
    try:
        result = train_model(
            Path(request["data"]),
            model,
            replace(options, held_out=tuple(sorted(held_out))),
            choose_device(request["device"]),
            resume=request["resume"],
            say=say,
            report=report,
            should_stop=lambda: send.is_cancelled,
        )
    except UserError:
        if not had_begun and begun(state) is None:
            # Refused, or failed before there was anything to go on with.
            discard(state)
        raise
    # Several hundred MB that nothing needs any more; what cannot be removed is removed with the model.
    discard(state)
    return {
        "name": name,
        "folder": str(model),
        "before": figures(result.before),
        "after": figures(result.after),
        "improvement": result.improvement and result.improvement.as_dict(),
    }


def _discard(request: Request, send: Channel) -> dict[str, Any]:
    """Removes what an unfinished training left."""
    discard(state_folder(_own_model(request)))
    return {}


def _own_model(request: Request) -> Path:
    """Folder of a model of the user's, which need not exist."""
    check_model_name(request["name"])
    return user_models_folder() / request["name"]


def _options(request: Request) -> TrainingOptions:
    fields = dict(request["options"])
    base = fields.pop("base")
    if isinstance(fields.get("validation"), list):
        fields["validation"] = tuple(fields["validation"])
    return TrainingOptions(base=None if base is None else find_model(base or None), **fields)


def figures(rows: Sequence[Row]) -> dict[str, Any]:
    """The metrics of each case, and their mean and worst; these are empty where there are no cases."""
    return {
        "cases": [{"case": row.case, **row.metrics()} for row in rows],
        "mean": mean_figures(rows) if rows else {},
        "worst": worst_figures(rows) if rows else {},
    }
