from __future__ import annotations

import csv
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
from small_command import small_recipe

from vnet_segmentation.cli import main as cli
from vnet_segmentation.device import Device
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.evaluation.dice_histogram import write_histogram
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.models.bundle import read_description
from vnet_segmentation.training import crossvalidation
from vnet_segmentation.training import options as training_options
from vnet_segmentation.training.crossvalidation import cross_validate
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.train_model import train_model

CPU = Device("cpu", "float32", "It was asked for.")
QUICK = TrainingOptions(
    preset="paper",
    layout="monai",
    width=1,
    iterations=2,
    names_cases=True,
    preprocessing=Preprocessing(spacing_mm=(2.0, 2.0, 3.0), size=(32, 32, 16)),
)


@pytest.fixture
def small_field(monkeypatch):
    """For the command, which has no option for it."""
    monkeypatch.setattr(training_options, "load_recipe", small_recipe)


@pytest.fixture
def data(tmp_path, bright_ball) -> Path:
    """Four cases."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number in range(4):
        scan, mask = bright_ball((2.0 * number, -number, 0.0), 12.0, (40, 40, 16), (1.6, 1.6, 3.0))
        sitk.WriteImage(scan, str(folder / f"Case{number}.nrrd"))
        sitk.WriteImage(mask, str(folder / f"Case{number}_segmentation.nrrd"))
    return folder


def test_each_case_is_measured_once_by_a_model_that_has_not_seen_it(data, tmp_path):
    output = tmp_path / "out"
    # Whatever a training by itself would set apart.
    rows = cross_validate(data, output, 2, replace(QUICK, validation=1), CPU)
    assert [row.case for row in rows] == ["Case0", "Case1", "Case2", "Case3"]
    seen = [set(read_description(output / f"fold-{n}")["training"]["training_cases"]) for n in (1, 2)]
    assert [len(cases) for cases in seen] == [2, 2]
    assert seen[0] | seen[1] == {"Case0", "Case1", "Case2", "Case3"}
    # No case chose the weights that it was measured on.
    assert [read_description(output / f"fold-{n}")["training"]["validation_cases"] for n in (1, 2)] == [[], []]
    with open(output / "results.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert {row["case"] for row in table} >= {"Case0", "Case3"}
    reports = [json.loads((output / "masks" / f"{row['case']}_prostate.json").read_text()) for row in table]
    assert [float(row["confidence"]) for row in table] == [report["confidence"]["value"] for report in reports]
    assert "4 cases" in (output / "dice_histogram.svg").read_text()
    assert (output / "masks" / "Case2_prostate.json").exists()
    assert not list(output.glob("*.training"))


def test_what_is_done_is_not_done_again(data, tmp_path, monkeypatch):
    output = tmp_path / "out"
    rows = cross_validate(data, output, 2, QUICK, CPU)

    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr(crossvalidation, "train_model", fail)
    monkeypatch.setattr(crossvalidation, "segment_file", fail)
    half = output / "masks" / ".0123456789ab-Case0_prostate.nii.gz"
    half.write_text("of a process that was killed")
    os.utime(half, (0, 0))
    assert cross_validate(data, output, 2, QUICK, CPU) == rows
    assert not half.exists()


def test_a_stopped_run_goes_on_where_it_was(data, tmp_path, monkeypatch):
    output, said = tmp_path / "out", []

    def stop() -> bool:
        return "Fold 2 of 2" in said

    with pytest.raises(Cancelled):
        cross_validate(data, output, 2, QUICK, CPU, say=said.append, should_stop=stop)
    # Nobody asked to go on with anything.
    assert not any("nothing to go on with" in sentence for sentence in said)
    assert len(list((output / "masks").glob("*.nii.gz"))) == 2
    assert not (output / "results.csv").exists()
    trained = []
    real = crossvalidation.train_model
    monkeypatch.setattr(
        crossvalidation, "train_model", lambda data, model, *a: (trained.append(model), real(data, model, *a))
    )
    rows = cross_validate(data, output, 2, QUICK, CPU)
    assert [model.name for model in trained] == ["fold-2"]
    assert len(rows) == 4


def test_a_fold_that_was_stopped_while_it_trained_goes_on(data, tmp_path):
    output, said = tmp_path / "out", []

    def stop() -> bool:
        return any(sentence.startswith("Training on") for sentence in said)

    with pytest.raises(Cancelled):
        cross_validate(data, output, 2, QUICK, CPU, say=said.append, should_stop=stop)
    assert (output / "fold-1.training" / "checkpoint.safetensors").exists()
    assert len(cross_validate(data, output, 2, QUICK, CPU)) == 4


def test_a_fold_that_was_killed_after_its_last_mask_keeps_no_checkpoint(data, tmp_path, monkeypatch):
    output = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(crossvalidation, "discard", lambda folder: None)
        cross_validate(data, output, 2, QUICK, CPU)
    assert (output / "fold-1.training").exists()
    cross_validate(data, output, 2, QUICK, CPU)
    assert not list(output.glob("*.training"))


def test_a_case_may_be_called_like_the_mask_of_another_one(data, tmp_path):
    for end in ("", "_segmentation"):
        (data / f"Case1{end}.nrrd").rename(data / f"Case0_prostate{end}.nrrd")
    rows = cross_validate(data, tmp_path / "out", 2, QUICK, CPU)
    assert [row.case for row in rows] == ["Case0", "Case0_prostate", "Case2", "Case3"]


def test_cases_of_all_folds_are_checked_before_anything_starts(data, tmp_path):
    for end in ("", "_segmentation"):
        shutil.copy(data / f"Case1{end}.nrrd", data / f"Copy{end}.nrrd")
    mask = sitk.ReadImage(str(data / "Case2_segmentation.nrrd"))
    sitk.WriteImage(mask * 0, str(data / "Case2_segmentation.nrrd"))
    with pytest.raises(UserError) as raised:
        cross_validate(data, tmp_path / "out", 5, QUICK, CPU)
    assert "Case2_segmentation.nrrd is empty" in str(raised.value)
    assert "Copy.nrrd is the same scan as that of Case1" in str(raised.value)
    assert not (tmp_path / "out").exists()


def brighten(data: Path, case: str) -> None:
    scan = sitk.ReadImage(str(data / f"{case}.nrrd"))
    sitk.WriteImage(scan + 1, str(data / f"{case}.nrrd"))


def test_a_cross_validation_does_not_go_on_over_data_that_changed(data, tmp_path):
    cross_validate(data, tmp_path / "out", 2, QUICK, CPU, only=[1])
    brighten(data, "Case2")
    with pytest.raises(UserError, match=r"cross-validation began with other data \(changed: Case2\)"):
        cross_validate(data, tmp_path / "out", 2, QUICK, CPU, only=[2])
    assert not (tmp_path / "out" / "fold-2").exists()


def test_cases_that_came_or_went_are_named(data, tmp_path):
    cross_validate(data, tmp_path / "out", 2, QUICK, CPU, only=[1])
    for end in ("", "_segmentation"):
        (data / f"Case1{end}.nrrd").rename(data / f"Case9{end}.nrrd")
    with pytest.raises(
        UserError, match=r"data \(missing: Case1; new: Case9\)\. Give the cases as they were, or choose"
    ):
        cross_validate(data, tmp_path / "out", 2, QUICK, CPU)


def test_data_that_change_between_two_folds_stop_it(data, tmp_path):
    def say(sentence: str) -> None:
        if sentence == "Fold 2 of 2":
            brighten(data, "Case2")
            (data / "Case3.nrrd").unlink()

    with pytest.raises(UserError, match=r"began with other data \(changed: Case2, Case3\)"):
        cross_validate(data, tmp_path / "out", 2, QUICK, CPU, say=say)
    assert not (tmp_path / "out" / "fold-2").exists()


def test_no_fold_learns_from_a_case_that_came_since(data, tmp_path):
    def say(sentence: str) -> None:
        if sentence == "Fold 2 of 2":
            for end in ("", "_segmentation"):
                shutil.copy(data / f"Case0{end}.nrrd", data / f"Copy{end}.nrrd")

    assert len(cross_validate(data, tmp_path / "out", 2, QUICK, CPU, say=say)) == 4
    seen = read_description(tmp_path / "out" / "fold-2")["training"]["training_cases"]
    assert len(seen) == 2
    assert "Copy" not in seen


def test_a_plan_of_an_earlier_version_is_not_gone_on_with(data, tmp_path):
    cross_validate(data, tmp_path / "out", 2, QUICK, CPU, only=[1])
    plan = json.loads((tmp_path / "out" / "crossvalidation.json").read_text())
    del plan["cases"]
    (tmp_path / "out" / "crossvalidation.json").write_text(json.dumps(plan))
    with pytest.raises(UserError, match="another cross-validation, or one of an earlier version"):
        cross_validate(data, tmp_path / "out", 2, QUICK, CPU)


@pytest.mark.parametrize("names_cases", [True, False])
def test_a_model_that_has_learned_from_the_unseen_cases_is_not_taken(data, tmp_path, names_cases):
    output, options = tmp_path / "out", replace(QUICK, names_cases=names_cases, validation=0)
    train_model(data, tmp_path / "all" / "fold-1", options, CPU)
    shutil.copytree(tmp_path / "all" / "fold-1", output / "fold-1")
    with pytest.raises(UserError, match=r"fold-1 has learned from Case\d, Case\d, and so cannot be judged"):
        cross_validate(data, output, 2, options, CPU)
    assert not (output / "masks").exists()
    # Nor to start from.
    with pytest.raises(UserError, match="fold-1 has learned from"):
        cross_validate(data, tmp_path / "base", 2, replace(options, base=tmp_path / "all" / "fold-1"), CPU)


def test_models_that_were_made_elsewhere_are_measured(data, tmp_path):
    rows = cross_validate(data, tmp_path / "out", 2, QUICK, CPU)
    for fold in ("fold-1", "fold-2"):
        shutil.copytree(tmp_path / "out" / fold, tmp_path / "again" / fold)
    said: list[str] = []
    assert cross_validate(data, tmp_path / "again", 2, QUICK, CPU, say=said.append) == rows
    assert not any(sentence.startswith("Training") for sentence in said)


@pytest.mark.parametrize("name", ["masks/Case0_prostate.nrrd", "results.csv", "dice_histogram.svg"])
def test_files_that_are_not_of_a_cross_validation_are_neither_taken_nor_replaced(data, tmp_path, name):
    output = tmp_path / "out"
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("of a batch")
    with pytest.raises(UserError, match="exists already and is not of a cross-validation") as raised:
        cross_validate(data, output, 2, QUICK, CPU)
    assert raised.value.exit_code == ExitCode.CANNOT_WRITE
    assert [path for path in output.rglob("*") if path.is_file()] == [output / name]
    assert (output / name).read_text() == "of a batch"


def test_too_many_folds_are_a_sentence(data, tmp_path):
    with pytest.raises(UserError, match="5 folds"):
        cross_validate(data, tmp_path / "out", 5, QUICK, CPU)
    assert not (tmp_path / "out").exists()


def test_folds_can_be_shared_out(data, tmp_path):
    output = tmp_path / "out"
    first = cross_validate(data, output, 2, QUICK, CPU, only=[2])
    assert len(first) == 2
    assert not (output / "fold-1").exists()
    assert len(cross_validate(data, output, 2, QUICK, CPU, only=[1])) == 4
    with pytest.raises(UserError, match="no fold 3"):
        cross_validate(data, output, 2, QUICK, CPU, only=[1, 3])


def test_a_site_is_measured_by_a_model_that_has_seen_none_of_it(data, tmp_path):
    (data / "cases.csv").write_text("case,site\nCase0,B\nCase1,A\nCase2,A\nCase3,A\n")
    rows = cross_validate(data, tmp_path / "out", None, QUICK, CPU)
    assert {row.case: row.site for row in rows} == {"Case0": "B", "Case1": "A", "Case2": "A", "Case3": "A"}
    seen = [read_description(tmp_path / "out" / f"fold-{n}")["training"]["training_cases"] for n in (1, 2)]
    assert seen == [["Case0"], ["Case1", "Case2", "Case3"]]


def test_one_site_cannot_be_left_out(data, tmp_path):
    with pytest.raises(UserError, match="two sites"):
        cross_validate(data, tmp_path / "out", None, QUICK, CPU)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"n_folds": 4}, r"began with other options \(folds: 2, now 4\)"),
        ({"options": replace(QUICK, iterations=1, label=1)}, r"\(label: not given, now 1; iterations: 2, now 1\)"),
    ],
)
def test_models_of_another_cross_validation_measure_nothing(data, tmp_path, change, told):
    cross_validate(data, tmp_path / "out", 2, QUICK, CPU, only=[1])
    with pytest.raises(UserError, match=told):
        cross_validate(data, tmp_path / "out", **{"n_folds": 2, "options": QUICK, "device": CPU} | change)


def test_the_histogram_counts_by_twentieths(tmp_path):
    # 0.85 begins its bin, and so does 0.9, whatever their division by 0.05 gives; 1 belongs to the last one.
    write_histogram([0.85, 0.86, 0.9, 0.949, 0.95, 1.0, 0.72], tmp_path / "h.svg")
    picture = (tmp_path / "h.svg").read_text()
    counts = re.findall(r'">(\d*)</text><text x="\d+" y="\d+">(\d\.\d\d)</text>', picture)
    assert counts == [("1", "0.70"), ("", "0.75"), ("", "0.80"), ("2", "0.85"), ("2", "0.90"), ("2", "0.95")]
    assert "7 cases" in picture


@pytest.mark.usefixtures("small_field")
def test_the_command(data, tmp_path, capsys):
    arguments = ["crossvalidate", str(data), "-o", str(tmp_path / "out"), "--folds", "2", "--preset", "paper"]
    assert cli.run([*arguments, "--layout", "monai", "--width", "1", "--iterations", "1", "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "Fold 2 of 2" in printed
    assert "Case3" in printed
    assert cli.run([*arguments, "--only", "3", "--device", "cpu"]) == ExitCode.USAGE
    with_sites = ["crossvalidate", str(data), "-o", str(tmp_path / "sites"), "--by-site", "--device", "cpu"]
    assert cli.run(with_sites) == ExitCode.BAD_INPUT
    assert "two sites" in capsys.readouterr().err
    assert cli.run(["crossvalidate", str(tmp_path / "missing"), "-o", str(tmp_path / "out2")]) == ExitCode.BAD_INPUT


@pytest.mark.usefixtures("small_field")
def test_masks_with_several_labels_are_trained_on_and_measured_by_the_one_that_is_named(data, tmp_path, capsys):
    for file in data.glob("*_segmentation.nrrd"):
        mask = sitk.ReadImage(str(file))
        # A second structure, in a corner of every mask.
        mask[0:3, 0:3, 0:3] = 2
        sitk.WriteImage(mask, str(file))
    arguments = ["crossvalidate", str(data), "-o", str(tmp_path / "out"), "--folds", "2", "--preset", "paper"]
    arguments += ["--layout", "monai", "--width", "1", "--iterations", "1", "--device", "cpu"]
    assert cli.run([*arguments, "--label", "1"]) == 0
    evaluate = ["evaluate", str(data), "--results", str(tmp_path / "out" / "masks")]
    capsys.readouterr()
    assert cli.run(evaluate) == ExitCode.BAD_INPUT
    assert "Choose the label" in capsys.readouterr().err
    assert cli.run([*evaluate, "--label", "1"]) == 0
