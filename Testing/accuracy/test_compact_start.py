"""The start of the compact model: the old kernels' answers on the new grid."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from accuracy import compact_start
from untrained_model import save_untrained_model

from vnet_segmentation.bundle import load_bundle, read_description
from vnet_segmentation.network import VNet
from vnet_segmentation.preprocessing import Preprocessing
from vnet_segmentation.recipe import load_recipe

OLD_GRID = Preprocessing(spacing_mm=(1.0, 1.0, 1.5), size=(32, 32, 16))
NEW_GRID = Preprocessing(spacing_mm=(1.5, 1.5, 2.0), size=(32, 32, 16))


def test_a_kernel_answers_to_a_ramp_as_before() -> None:
    old = VNet("paper", 1, "none")
    kernel = old.down_stages[1].convolutions[0][0]
    with torch.no_grad():
        # What lies beyond the new kernel's reach cannot be kept.
        reach = torch.zeros_like(kernel.weight)
        reach[:, :, 1:4, 1:4, 1:4] = 1
        kernel.weight *= reach
    new_kernel = compact_start.resample_kernels(old, OLD_GRID, NEW_GRID).down_stages[1].convolutions[0][0]

    def answer(convolution: torch.nn.Module, grid: Preprocessing) -> torch.Tensor:
        x, y, z = (spacing * torch.arange(-4.0, 5.0) for spacing in grid.spacing_mm)
        ramp = 3 + 0.5 * x - 0.2 * y[:, None] + 0.7 * z[:, None, None]
        return convolution(ramp.expand(1, 2, 9, 9, 9))[0, :, 4, 4, 4]

    torch.testing.assert_close(answer(new_kernel, NEW_GRID), answer(kernel, OLD_GRID))


def test_what_is_no_kernel_of_five_is_kept() -> None:
    old = VNet("paper", 2, "instance")
    new = compact_start.resample_kernels(old, OLD_GRID, NEW_GRID)
    assert new.layout == "compact"
    for name, weight in old.state_dict().items():
        if weight.shape[2:] == (5, 5, 5):
            torch.testing.assert_close(new.state_dict()[name].sum((2, 3, 4)), weight.sum((2, 3, 4)))
        else:
            torch.testing.assert_close(new.state_dict()[name], weight)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def run(model: Path) -> None:
        monkeypatch.setattr(sys, "argv", ["compact_start.py", str(model), str(tmp_path / "new")])
        compact_start.main()

    old = save_untrained_model(tmp_path / "old", layout="paper", preprocessing=OLD_GRID)
    learned = {"data_terms": "For tests.", "training_cases": ["Case00"]}
    (old / "model.json").write_text(json.dumps(read_description(old) | {"training": learned}))
    run(old)
    network, description = load_bundle(tmp_path / "new")
    assert (network.layout, network.width) == ("compact", 1)
    assert description["training"] == learned
    default = load_recipe("default").preprocessing
    assert Preprocessing.from_dict(description["preprocessing"]).spacing_mm == default.spacing_mm
    expected = compact_start.resample_kernels(load_bundle(old)[0], OLD_GRID, default).state_dict()
    for name, weight in network.state_dict().items():
        torch.testing.assert_close(weight, expected[name])
    assert description["parent"] == {"name": "old", "sha256": read_description(old)["weights"]["sha256"]}
    with pytest.raises(SystemExit):
        run(save_untrained_model(tmp_path / "other", layout="monai"))
    assert "Choose a model of the layout paper." in capsys.readouterr().err
