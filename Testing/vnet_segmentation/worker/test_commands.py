"""What the worker does with requests."""

from __future__ import annotations

import shutil
from pathlib import Path

from untrained_model import save_untrained_model

from vnet_segmentation.worker.commands import commands


def test_a_model_stays_loaded_until_it_is_trained_again_under_its_name(tmp_path: Path) -> None:
    folder, load = tmp_path / "own", commands()["load"]

    def is_loaded_now() -> bool:
        told: list[str] = []
        load({"model": str(folder), "device": "cpu"}, lambda event, **fields: told.append(fields["message"]))
        return told == ["Loading the model"]

    save_untrained_model(folder)
    assert [is_loaded_now(), is_loaded_now()] == [True, False]
    shutil.rmtree(folder)
    save_untrained_model(folder, width=2)
    assert [is_loaded_now(), is_loaded_now()] == [True, False]
