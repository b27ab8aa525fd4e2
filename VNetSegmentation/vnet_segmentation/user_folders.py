"""Where a user's own models and training cases are kept."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from vnet_segmentation.errors import ExitCode, UserError

MODELS_VARIABLE = "VNET_SEGMENTATION_MODELS"
"""Environment variable: a folder of models to use instead of the user's usual one."""

TRAINING_SUFFIX = ".training"
"""Of the folder beside a model's that holds what its unfinished training needs to go on; no model has such a name."""

MODEL_NAME = re.compile(
    r"(?!(?i:con|prn|aux|nul|com\d|lpt\d)(\.|$))[A-Za-z0-9][A-Za-z0-9._-]{0,63}(?<!\.)(?<!\.training)"
)
"""What a model, and its folder, can be called: on any system, since models travel. Windows drops a dot at the end, and
keeps the names of its devices."""


def check_model_name(name: str) -> None:
    """Raises `UserError` (`ExitCode.USAGE`) unless a model can be called so."""
    if not MODEL_NAME.fullmatch(name):
        raise UserError(
            f"{name!r} cannot name a model. Use at most 64 letters, digits, dots, - and _, with no dot at the end, and "
            "no name that Windows keeps for itself, such as CON.",
            ExitCode.USAGE,
        )


def user_models_folder() -> Path:
    """Where the user's own models are kept; it need not exist. `MODELS_VARIABLE` names another one."""
    chosen = os.environ.get(MODELS_VARIABLE)
    return Path(chosen).expanduser() if chosen else _user_data_folder() / "Models"


def training_cases_folder() -> Path:
    """Where training cases are collected unless the user chooses another folder; it need not exist."""
    return _user_data_folder() / "TrainingCases"


def _user_data_folder() -> Path:
    home = Path.home()
    if sys.platform == "win32":
        data = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        data = home / "Library" / "Application Support"
    else:
        data = Path(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share")
    return data / "VNetSegmentation"
