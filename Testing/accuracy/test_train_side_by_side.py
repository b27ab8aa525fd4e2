"""Models that are trained side by side learn, each from its own cases, and become bundles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
from accuracy import train_side_by_side
from accuracy.batch_samples import CaseTable
from accuracy.train_side_by_side import Member, instance_normalisation, main, train
from torch import nn

from vnet_segmentation.device import Device
from vnet_segmentation.errors import Cancelled, UserError
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.images.scans import read_scan, voxel_hash
from vnet_segmentation.models.bundle import read_description
from vnet_segmentation.network.loss import LOSSES
from vnet_segmentation.training.cache import TrainingCase
from vnet_segmentation.training.crossvalidation import cross_validate
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.recipe import load_recipe

RECIPE = replace(
    load_recipe("default"),
    width=2,
    iterations=40,
    warm_up_iterations=2,
    learning_rate=0.01,
    averaging_decay=0.8,
    preprocessing=Preprocessing((1.5, 1.5, 2.0), (32, 32, 16)),
    centre_jitter_mm=(4.0, 4.0, 4.0),
    anywhere_probability=0.0,
)


def ball(brightness: float) -> TrainingCase:
    z, y, x = torch.meshgrid(*(torch.arange(n) - n / 2 for n in (24, 44, 44)), indexing="ij")
    inside = x**2 + y**2 + 2 * z**2 < 100
    image = torch.where(inside, brightness, 0.0) + 0.1 * torch.randn(inside.shape)
    return TrainingCase.from_arrays("ball", image, 255 * inside.to(torch.uint8))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two cases of each of two sites."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        case = ball(1.0)
        for values, ending in ((case.image, ""), (case.coverage // 255, "_segmentation")):
            sitk.WriteImage(sitk.GetImageFromArray(values.numpy()), str(folder / f"Case{number}{ending}.nrrd"))
    (folder / "cases.csv").write_text("case,site\nCase0,a\nCase1,a\nCase2,b\nCase3,b\n")
    return folder


def learn_nothing(monkeypatch: pytest.MonkeyPatch, diverged: int | None = None) -> None:
    """Instead of training; the member of this number diverges."""

    def train(members: Sequence[Member], iterations: int) -> None:
        if diverged is not None:
            members[diverged].averaged[0].fill_(float("nan"))

    monkeypatch.setattr(train_side_by_side, "load_recipe", lambda name: replace(RECIPE, n_synthetic_cases=1))
    monkeypatch.setattr(train_side_by_side, "train", train)


def test_a_member_that_diverged_costs_no_other_its_model(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    learn_nothing(monkeypatch, diverged=1)
    assert main([str(data), "-o", str(tmp_path / "out"), "--folds", "2"]) == 1
    assert "fold-1 was not written" in capsys.readouterr().out
    written = {str(path.parent.relative_to(tmp_path / "out")) for path in tmp_path.glob("out/**/model.json")}
    assert written == {"final", "folds/fold-2", "sites/fold-1", "sites/fold-2"}
    learned = read_description(tmp_path / "out" / "sites" / "fold-1")["training"]
    assert learned["training_cases"] == ["Case2", "Case3"]
    scans = [read_scan(data / f"{name}.nrrd") for name in learned["training_cases"]]
    assert learned["voxel_hashes"] == sorted(map(voxel_hash, scans))


def test_models_are_measured_by_the_folds_that_they_have_not_seen_and_no_others(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_nothing(monkeypatch)
    assert main([str(data), "-o", str(tmp_path / "out"), "--folds", "2"]) == 0

    def measure(n_folds: int, options: TrainingOptions) -> None:
        device = Device("cpu", "float32", "")
        cross_validate(data, tmp_path / "out" / "folds", n_folds, options, device, should_stop=lambda: True)

    for n_folds, options in ((3, TrainingOptions()), (2, TrainingOptions(seed=1))):
        with pytest.raises(UserError, match="began with other options"):
            measure(n_folds, options)
    with pytest.raises(Cancelled):
        measure(2, TrainingOptions())


def test_what_would_fail_in_the_end_is_refused_at_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learn_nothing(monkeypatch)
    (tmp_path / "out" / "sites" / "fold-2").mkdir(parents=True)
    (tmp_path / "out" / "sites" / "fold-2" / "notes.txt").touch()
    with pytest.raises(UserError, match="fold-2 exists already"):
        main([str(data), "-o", str(tmp_path / "out"), "--folds", "2"])
    for ending in ("", "_segmentation"):
        (data / f"Case1{ending}.nrrd").write_bytes((data / f"Case0{ending}.nrrd").read_bytes())
    with pytest.raises(UserError, match="Case1"):
        main([str(data), "-o", str(tmp_path / "other"), "--folds", "2"])
    assert not (tmp_path / "other").exists()


def test_members_learn_each_from_its_own_cases() -> None:
    torch.manual_seed(0)
    # What is the gland is bright to one and dark to the other.
    table = CaseTable.of([ball(1.0), ball(-1.0)], torch.device("cpu"))
    members = [
        Member(RECIPE, table, [case], [], seed, lambda model, x, t: LOSSES[RECIPE.loss](model(x), t))
        for seed, case in enumerate((0, 1))
    ]
    train(members, RECIPE.iterations)
    for member, case in zip(members, (0, 1), strict=True):
        image = table.volumes[case, 0][4:20, 6:38, 6:38]
        gland = table.volumes[case, 1][4:20, 6:38, 6:38] > 0.5
        image = (image - image.mean()) / image.std()
        with torch.inference_mode():
            found = member.averaged_network()(image[None, None]).argmax(1)[0] == 1
            other_way = member.averaged_network()(-image[None, None]).argmax(1)[0] == 1
        dice = 2 * (found & gland).sum() / (found.sum() + gland.sum())
        assert dice > 0.8
        assert 2 * (other_way & gland).sum() / (other_way.sum() + gland.sum()) < 0.5


def test_instance_normalisation_is_torchs() -> None:
    layer = nn.InstanceNorm3d(3, affine=True)
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    x = 2 + torch.randn(2, 3, 4, 6, 8)
    torch.testing.assert_close(instance_normalisation(layer, x), layer(x))
    assert instance_normalisation(layer, x.bfloat16()).dtype == torch.bfloat16
