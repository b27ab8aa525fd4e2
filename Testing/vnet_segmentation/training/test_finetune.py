"""Fine-tuning: from a base model to a better one, judged on cases it has not learned from, without naming them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from untrained_model import save_untrained_model

from vnet_segmentation.cli import commands as cli_commands
from vnet_segmentation.cli import main as cli
from vnet_segmentation.datasets.case_folder import add_case
from vnet_segmentation.datasets.dataset import find_cases
from vnet_segmentation.device import Device
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.evaluation.improvement import BETTER
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.images.scans import read_scan, voxel_hash
from vnet_segmentation.models.bundle import read_description
from vnet_segmentation.training import options as training_options
from vnet_segmentation.training import train_model, training_run
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.recipe import load_recipe
from vnet_segmentation.training.train_model import TrainingResult
from vnet_segmentation.training.training_run import Progress, TrainingRun

ENGINE = Path(train_model.__file__).resolve().parents[1]
CPU = Device("cpu", "float32", "It was asked for.")
COARSE = Preprocessing(spacing_mm=(2.0, 2.0, 3.0), size=(32, 32, 16))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """An untrained model."""
    return save_untrained_model(tmp_path / "base", width=2, preprocessing=COARSE)


@pytest.fixture
def data(tmp_path: Path, bright_ball: Any) -> Path:
    """Four cases with names that must not get into a model."""
    folder = tmp_path / "data"
    folder.mkdir()
    for number, name in enumerate(("Doe^John", "Roe-Jane", "Poe 1809", "Moe")):
        scan, mask = bright_ball((2.0 * number, -number, 0.0), 12.0, (40, 40, 16), (1.6, 1.6, 3.0), 160.0)
        sitk.WriteImage(scan, str(folder / f"{name}.nrrd"))
        sitk.WriteImage(mask, str(folder / f"{name}_segmentation.nrrd"))
    return folder


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = replace(
        load_recipe("finetune"),
        synthetic_probability=0.0,
        small_crop_until=0.0,
        start_share=0.0,
        learning_rate=0.01,
        iterations=4,
    )
    monkeypatch.setattr(training_options, "load_recipe", lambda name: recipe)


def options(base: Path, **changes: Any) -> TrainingOptions:
    return TrainingOptions(base=base, **changes)


def train(data: Path, model: Path, settings: TrainingOptions, **arguments: Any) -> TrainingResult:
    return train_model.train_model(data, model, settings, CPU, **arguments)


def test_few_cases_are_cross_validated_and_the_model_learns_from_all(data: Path, base: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    result = train(data, tmp_path / "mine", options(base, iterations=20), report=reports.append)
    names = ["Doe^John", "Moe", "Poe 1809", "Roe-Jane"]
    assert [row.case for row in result.after] == [row.case for row in result.before] == names
    assert result.improvement is not None
    assert result.improvement.verdict == BETTER
    assert result.improvement.mean_gain > 0.15
    fractions = [progress.fraction for progress in reports]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1
    # Three folds and the final run, a quarter each.
    assert [progress.fraction for progress in reports if progress.iteration == 20] == [0.25, 0.5, 0.75, 1.0]
    description = read_description(tmp_path / "mine")
    assert description["network"] == {"layout": "monai", "width": 2, "normalisation": "instance"}
    assert Preprocessing.from_dict(description["preprocessing"]) == COARSE
    assert description["parent"] == {"name": "base", "sha256": read_description(base)["weights"]["sha256"]}
    assert description["training"]["cross_validation"].startswith("3 folds: each case is judged")
    assert "validation cases" not in (tmp_path / "mine" / "README.md").read_text()
    assert description["metrics"]["against_parent"]["verdict"] == BETTER
    # The cases have no sites.
    assert "by site" not in (tmp_path / "mine" / "README.md").read_text()
    assert description["metrics"]["n_cases"] == 4


def test_the_time_left_is_that_of_all_runs(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=0.0)

    def step(run: TrainingRun) -> float:
        # The first one takes longer.
        clock.now += 10.0 if run.iteration else 12.0
        run.iteration += 1
        return 0.5

    monkeypatch.setattr(training_run, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(TrainingRun, "step", step)
    monkeypatch.setattr(TrainingRun, "validation_dice", lambda run: 0.5)
    settings = options(base, iterations=100)
    reports: list[Progress] = []
    train(data, tmp_path / "mine", settings, report=reports.append)
    # 1002 s for each of the four.
    assert [progress.remaining_s for progress in reports if progress.iteration == 100] == [3006, 2004, 1002, 0]
    left = [progress.remaining_s for progress in reports]
    assert left == sorted(left, reverse=True)

    # Those of runs that are done are not forgotten by a pause.
    model, said = tmp_path / "paused", []
    paused: list[Progress] = []
    stop = lambda: any(sentence.startswith("Run 3") for sentence in said)  # noqa: E731
    with pytest.raises(Cancelled, match=r"^Stopped in run 3 of 4, at iteration 1\.$"):
        train(data, model, settings, say=said.append, report=paused.append, should_stop=stop)
    said.clear()
    train(data, model, settings, resume=True, say=said.append, report=paused.append)
    assert said.index("Run 2 of 4 is done") < said.index("Going on at iteration 1")
    left = [progress.remaining_s for progress in paused]
    assert left == sorted(left, reverse=True)


def test_the_cases_that_judge_a_fold_choose_neither_its_weights_nor_its_end(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(training_options.load_recipe("finetune"), schedule="steps", patience=1, averaging_decay=0.0)
    monkeypatch.setattr(training_options, "load_recipe", lambda name: recipe)

    def take_more_for_prostate(run: TrainingRun) -> float:
        with torch.no_grad():
            run.learner.model.output[-1].bias[1] += 1
        run.iteration += 1
        return 0.5

    monkeypatch.setattr(TrainingRun, "step", take_more_for_prostate)
    # It falls all the time: by it the start would be kept, and a run would end after its second measurement of three.
    monkeypatch.setattr(TrainingRun, "validation_dice", lambda run: 0.9 - run.iteration / 100)
    reports: list[Progress] = []
    settings = options(base, iterations=30, held_out=("Moe", "Poe 1809"))
    result = train(data, tmp_path / "mine", settings, report=reports.append)
    # Two folds and the final run.
    assert [progress.fraction for progress in reports if progress.iteration == 30] == pytest.approx([1 / 3, 2 / 3, 1])
    # Each fold is measured with the end of its run, which takes the most for prostate.
    before, after = (
        [row.comparison.whole.relative_volume_difference_percent for row in rows]
        for rows in (result.before, result.after)
    )
    assert min(after) > 1.4 * max(before)


def test_a_run_that_its_time_ended_early_says_so(data: Path, base: Path, tmp_path: Path) -> None:
    # 6 microseconds: over after the first iteration.
    result = train(data, tmp_path / "mine", options(base, iterations=40, minutes=1e-7))
    assert result.improvement is not None
    assert "The time was enough for 1 of 40 iterations: give it more." in result.improvement.sentence
    result = train(data, tmp_path / "whole", options(base, iterations=2))
    assert "The time was enough" not in result.improvement.sentence


def test_a_model_that_no_step_made_better_is_said_to_be_the_one_before(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingRun, "validation_dice", lambda run: 0.9 - run.iteration / 100)
    result = train(data, tmp_path / "mine", options(base, validation=("Moe",)))
    assert result.improvement is not None
    assert "No measured step was better than the model to start from" in result.improvement.sentence
    assert "chose the new weights" not in result.improvement.sentence
    assert result.improvement.mean_gain == pytest.approx(0, abs=1e-3)  # 8-bit weights
    assert read_description(tmp_path / "mine")["training"]["best_iteration"] == 0


def test_too_few_cases_to_judge_are_said_to_be_before_it_begins(data: Path, base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    train(data, tmp_path / "mine", options(base, validation=1, iterations=1), say=said.append)
    sentence = "Whether the new model is better cannot be told with fewer than 4 cases to judge it"
    assert said.index(sentence) < next(n for n, one in enumerate(said) if one.startswith("Training on"))
    said.clear()
    train(data, tmp_path / "other", options(base, iterations=1), say=said.append)
    assert sentence not in said


def test_a_model_carries_no_names_paths_or_headers(data: Path, base: Path, tmp_path: Path) -> None:
    scan = sitk.ReadImage(str(data / "Moe.nrrd"))
    # As a scan that was read from DICOM slices carries them.
    for tag, value in (("0010|0010", "Secret^Patient"), ("0010|0020", "ID-4711"), ("0008|0020", "20260401")):
        scan.SetMetaData(tag, value)
    case = add_case(data, scan, sitk.ReadImage(str(data / "Moe_segmentation.nrrd")))
    for file in (case.image, case.mask):
        assert b"Secret" not in file.read_bytes()
    for name in ("Moe.nrrd", "Moe_segmentation.nrrd"):
        (data / name).unlink()
    train(data, tmp_path / "mine", options(base, iterations=2))
    for file in (tmp_path / "mine").iterdir():
        content = file.read_bytes()
        if file.suffix == ".safetensors":
            # Its header; among a million random bytes after that, any three letters turn up.
            content = content[: 8 + int.from_bytes(content[:8], "little")]
        for secret in (b"Secret", b"4711", b"20260401", b"Doe", b"Roe", b"Poe", case.name.encode(), bytes(data)):
            assert secret not in content, f"{secret!r} is in {file.name}"


def test_what_a_model_has_learned_from_is_known_without_names(data: Path, base: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "first", options(base, iterations=1, validation=0))
    # Gone, as the second model's parent may be, and under other names.
    train(data, tmp_path / "second", options(tmp_path / "first", iterations=1, validation=0, held_out=("Moe",)))
    shutil.rmtree(tmp_path / "first")
    for end in ("", "_segmentation"):
        (data / f"Moe{end}.nrrd").rename(data / f"Zoe{end}.nrrd")
    said: list[str] = []
    result = train(data, tmp_path / "third", options(tmp_path / "second", iterations=1), say=said.append)
    (sentence,) = [one for one in said if one.startswith("It has learned from")]
    assert sentence.startswith("It has learned from Doe^John, Poe 1809, Roe-Jane, Zoe, by voxels or name")
    assert result.improvement is not None
    assert "has learned from all of these, by voxels or name: both look too good" in result.improvement.sentence
    hashes = read_description(tmp_path / "third")["training"]["voxel_hashes"]
    assert hashes == sorted(voxel_hash(read_scan(case.image)) for case in find_cases(data))
    assert hashes[0] not in (tmp_path / "third" / "README.md").read_text()


def test_a_model_that_has_not_learned_from_what_judges_it_is_not_said_to(
    data: Path, base: Path, tmp_path: Path
) -> None:
    train(data, tmp_path / "first", options(base, iterations=1, validation=("Moe",)))
    said: list[str] = []
    settings = options(tmp_path / "first", iterations=1, validation=("Moe",))
    train(data, tmp_path / "second", settings, say=said.append)
    assert not any("It has learned from" in one for one in said)
    result = train(data, tmp_path / "third", options(tmp_path / "first", iterations=1))
    assert result.improvement is not None
    assert "has learned from some of these" in result.improvement.sentence


def test_names_of_public_cases_can_be_kept(data: Path, base: Path, tmp_path: Path) -> None:
    train(data, tmp_path / "mine", options(base, iterations=2, names_cases=True))
    description = read_description(tmp_path / "mine")
    assert "Roe-Jane" in description["training"]["training_cases"]
    assert "Roe-Jane" in [row["case"] for row in description["metrics"]["by_case"]]


def test_a_stopped_training_goes_on_to_the_same_model(data: Path, base: Path, tmp_path: Path) -> None:
    whole = train(data, tmp_path / "whole", options(base))
    for stopped_in in ("Run 2 of 4", "Training on 4 cases"):
        said: list[str] = []
        asked = iter(range(10**6))

        def should_stop(stopped_in: str = stopped_in, said: list[str] = said, asked: Any = asked) -> bool:
            return any(sentence.startswith(stopped_in) for sentence in said) and next(asked) >= 2

        model = tmp_path / stopped_in.replace(" ", "-")
        with pytest.raises(Cancelled):
            train(data, model, options(base), say=said.append, should_stop=should_stop)
        again: list[str] = []
        assert train(data, model, options(base), resume=True, say=again.append) == whole
        assert "Going on at iteration 3" in again
        weights = [(folder / "weights.safetensors").read_bytes() for folder in (tmp_path / "whole", model)]
        assert weights[0] == weights[1]


def test_folds_of_another_training_are_not_taken(data: Path, base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    stop = lambda: any(sentence.startswith("Run 2") for sentence in said)  # noqa: E731
    with pytest.raises(Cancelled):
        train(data, tmp_path / "mine", options(base), say=said.append, should_stop=stop)
    with pytest.raises(UserError, match=r"other options \(deformation strength: 1\.0, now 0\.5; seed: 0, now 1\)\."):
        train(data, tmp_path / "mine", options(base, deformation_strength=0.5, seed=1), resume=True)
    another = save_untrained_model(tmp_path / "another", width=1, preprocessing=COARSE)
    with pytest.raises(UserError, match=r"other options \(base: [0-9a-f]{12}, now [0-9a-f]{12}; width: 2, now 1\)\."):
        train(data, tmp_path / "mine", options(another), resume=True)
    (tmp_path / "mine.training" / "options.json").unlink()
    with pytest.raises(UserError, match="belongs to another training"):
        train(data, tmp_path / "mine", options(base, deformation_strength=0.5), resume=True)
    with pytest.raises(UserError, match="earlier training"):
        train(data, tmp_path / "mine", options(base))


@pytest.mark.parametrize("run", ["Run 2", "Run 4"])
def test_a_training_does_not_go_on_with_other_data(data: Path, base: Path, tmp_path: Path, run: str) -> None:
    said: list[str] = []
    stop = lambda: any(sentence.startswith(run) for sentence in said)  # noqa: E731
    with pytest.raises(Cancelled):
        train(data, tmp_path / "mine", options(base), say=said.append, should_stop=stop)
    mask = sitk.ReadImage(str(data / "Doe^John_segmentation.nrrd"))
    mask[0, 0, 0] = 1
    sitk.WriteImage(mask, str(data / "Doe^John_segmentation.nrrd"))
    for end in ("", "_segmentation"):
        (data / f"Moe{end}.nrrd").rename(data / f"Noe{end}.nrrd")
    said.clear()
    told = re.escape("This training began with other data (changed: Doe^John; missing: Moe; new: Noe).")
    with pytest.raises(UserError, match=told):
        train(data, tmp_path / "mine", options(base), resume=True, say=said.append)
    assert not [sentence for sentence in said if sentence.startswith("Preparing")]


def test_a_damaged_fold_is_made_again(data: Path, base: Path, tmp_path: Path) -> None:
    whole = train(data, tmp_path / "mine", options(base, iterations=2))
    for content in ("{", "[]", '{"identity": {}, "rows": [{"case": "Moe"}]}'):
        (tmp_path / "mine.training" / "fold-1.json").write_text(content)
        said: list[str] = []
        assert train(data, tmp_path / "mine", options(base, iterations=2), resume=True, say=said.append) == whole
        assert "Training on 2 cases. It was asked for." in said


def test_a_training_goes_on_in_folders_that_have_moved(data: Path, base: Path, tmp_path: Path) -> None:
    said: list[str] = []
    stop = lambda: any(sentence.startswith("Run 3") for sentence in said)  # noqa: E731
    with pytest.raises(Cancelled):
        train(data, tmp_path / "mine", options(base, iterations=2), say=said.append, should_stop=stop)
    moved, base_too = data.rename(tmp_path / "moved"), base.rename(tmp_path / "base_too")
    said.clear()
    result = train(
        moved, tmp_path / "mine", replace(options(base_too, iterations=2), minutes=99.0), resume=True, say=said.append
    )
    assert len(result.after) == 4
    # What the first two folds gave is taken as it is.
    assert [sentence[:8] for sentence in said if sentence.startswith("Training")] == ["Training"] * 2


def test_cases_left_out_are_not_even_checked(data: Path, base: Path, tmp_path: Path) -> None:
    (data / "Moe_segmentation.nrrd").write_bytes(b"damaged")
    with pytest.raises(UserError, match="Moe"):
        train(data, tmp_path / "mine", options(base, iterations=2))
    result = train(data, tmp_path / "mine", options(base, iterations=2, held_out=("Moe",)))
    assert len(result.after) == 3


def test_the_prostates_label_can_be_chosen(data: Path, base: Path, tmp_path: Path) -> None:
    file = data / "Moe_segmentation.nrrd"
    mask = sitk.ReadImage(str(file))
    voxels = sitk.GetArrayFromImage(mask)
    voxels[:, :, : voxels.shape[2] // 2] *= 2
    zones = sitk.GetImageFromArray(voxels)
    zones.CopyInformation(mask)
    sitk.WriteImage(zones, str(file))
    with pytest.raises(UserError, match="2 labels"):
        train(data, tmp_path / "mine", options(base, iterations=2))
    volumes = {}
    for label in (0, 1):
        result = train(data, tmp_path / f"mine{label}", options(base, iterations=2, label=label, validation=("Moe",)))
        volumes[label] = result.after[0].comparison.whole
    assert volumes[0] != volumes[1]
    assert np.isfinite(volumes[0].hausdorff95_mm)


def test_the_command_tells_before_and_after(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_commands, "set_cpu_threads", lambda: None)
    command = ["finetune", str(data), "--base", str(base), "-o", str(tmp_path / "mine"), "--device", "cpu"]
    # bfloat16 needs larger crops than these.
    assert cli.run([*command, "--iterations", "2", "--precision", "float32"]) == ExitCode.OK
    out = capsys.readouterr().out
    assert out.index("Before:") < out.index("After:") < out.index("Mean Dice")
    assert json.loads((tmp_path / "mine" / "model.json").read_text())["parent"]["name"] == "base"


def test_a_stop_before_the_first_checkpoint_promises_nothing_to_go_on_with(
    data: Path, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli_commands, "set_cpu_threads", lambda: None)

    def stop(*_: object) -> None:
        raise Cancelled("Stopped while the model was measured.")

    command = ["finetune", str(data), "--base", str(base), "-o", str(tmp_path / "mine"), "--device", "cpu"]
    command += ["--iterations", "2", "--precision", "float32"]
    with monkeypatch.context() as patch:
        # The first thing that is measured is the model to start from.
        patch.setattr(train_model, "measure", stop)
        assert cli.run(command) == ExitCode.CANCELLED
    assert capsys.readouterr().err.endswith("model was measured. Give the same command to begin again.\n")
    with monkeypatch.context() as patch:
        patch.setattr("vnet_segmentation.training.job.evaluate_cases", stop)
        patch.setattr(train_model, "measure", lambda *_: [])
        assert cli.run(command) == ExitCode.CANCELLED
    assert capsys.readouterr().err.endswith("model was measured. Add --resume to the same command to go on.\n")
    assert cli.run([*command, "--resume"]) == ExitCode.OK
    assert "nothing to go on with" not in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither SIGKILL nor limits of a file's size")
def test_a_killed_process_and_a_full_disk_cost_no_model(
    data: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # As in the processes: that it goes on to the same model holds for the same number of threads.
    torch.set_num_threads(1)
    monkeypatch.setattr(cli_commands, "set_cpu_threads", lambda: None)
    monkeypatch.setattr(training_options, "load_recipe", load_recipe)

    def arguments(model: str) -> list[str]:
        # A preset without phantoms, which each process would wait for.
        options = ["--validation", "1", "--preset", "paper", "--iterations", "30", "--precision", "float32"]
        return ["finetune", str(data), "--base", str(base), "-o", str(tmp_path / model), "--device", "cpu", *options]

    def command(model: str, *more: str, largest_file: int | None = None) -> subprocess.Popen[str]:
        def limit() -> None:
            if largest_file is not None:
                import resource  # not on Windows

                resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

        return subprocess.Popen(
            [sys.executable, "-m", "vnet_segmentation", *arguments(model), *more],
            cwd=ENGINE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=limit,
        )

    checkpoint = tmp_path / "mine.training" / "checkpoint.safetensors"
    killed = command("mine")
    assert killed.stdout is not None
    for line in killed.stdout:
        # The checkpoint of the iteration before is written; the next one may be under way.
        if "iteration 20" in line:
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate(timeout=60)
    assert not (tmp_path / "mine").exists()

    before = checkpoint.read_bytes()
    full = command("mine", "--resume", largest_file=len(before) // 2)
    _, error = full.communicate(timeout=240)
    assert full.returncode == ExitCode.CANNOT_WRITE, error
    assert "Choose a folder that can be written and has space." in error
    assert "Traceback" not in error
    assert checkpoint.read_bytes() == before
    assert sorted(path.name for path in checkpoint.parent.iterdir()) == [
        "cache",
        "checkpoint.safetensors",
        "lock",
        "options.json",
    ]
    assert not (tmp_path / "mine").exists()

    assert cli.run([*arguments("mine"), "--resume"]) == ExitCode.OK
    assert "Going on at iteration" in capsys.readouterr().out
    assert cli.run(arguments("whole")) == ExitCode.OK
    weights = [(tmp_path / model / "weights.safetensors").read_bytes() for model in ("whole", "mine")]
    assert weights[0] == weights[1]
