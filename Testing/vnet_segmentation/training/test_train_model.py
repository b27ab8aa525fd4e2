"""From a data set to a model: nothing starts with bad data, nothing is lost on the way, and the model works."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import small_command

import vnet_segmentation
from vnet_segmentation.cli import commands as cli_commands
from vnet_segmentation.cli import main as cli
from vnet_segmentation.device import Device
from vnet_segmentation.errors import Cancelled, ExitCode, UserError
from vnet_segmentation.evaluation.rows import Row
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.models.bundle import read_description
from vnet_segmentation.models.training_state import claim, state_folder
from vnet_segmentation.processes import Processes
from vnet_segmentation.training import job, train_model
from vnet_segmentation.training import options as training_options
from vnet_segmentation.training.appearance import AppearanceSettings
from vnet_segmentation.training.deformation import DeformationSettings
from vnet_segmentation.training.options import TrainingOptions
from vnet_segmentation.training.recipe import load_recipe
from vnet_segmentation.training.train_model import TrainingResult
from vnet_segmentation.training.training_run import Progress, TrainingRun

CPU = Device("cpu", "float32", "It was asked for.")
COARSE = Preprocessing(spacing_mm=(2.0, 2.0, 3.0), size=(32, 32, 16))
QUICK = TrainingOptions(preset="paper", layout="monai", width=1, validation=1, iterations=4, preprocessing=COARSE)


def write_case(folder: Path, number: int) -> None:
    """A bright ball of 7 ml in noise, anywhere near the middle of 64 x 64 x 48 mm, on a tilted grid."""
    random = np.random.default_rng(number)
    spacing_mm, size, radius_mm = (1.6, 1.6, 3.0), (40, 40, 16), 12.0
    middle = (np.array(size) - 1) / 2 + random.uniform(-1, 1, 3) * (7, 7, 2)
    k, j, i = np.meshgrid(*(np.arange(n) for n in size[::-1]), indexing="ij")
    from_middle_mm = [(x - m) * s for x, m, s in zip((i, j, k), middle, spacing_mm, strict=True)]
    ball = np.square(from_middle_mm).sum(0) <= radius_mm**2
    scan = sitk.GetImageFromArray((100 + 60 * ball + random.normal(0, 15, ball.shape)).astype(np.float32))
    scan.SetSpacing(spacing_mm)
    scan.SetOrigin(random.uniform(-50, 50, 3).tolist())
    scan.SetDirection((1, 0, 0, 0, 0.96, -0.28, 0, 0.28, 0.96))
    mask = sitk.GetImageFromArray(ball.astype(np.uint8))
    mask.CopyInformation(scan)
    sitk.WriteImage(scan, str(folder / f"Case{number:02}.nii.gz"))
    sitk.WriteImage(mask, str(folder / f"Case{number:02}_segmentation.nii.gz"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six cases in PROMISE12 naming, of two sites."""
    folder = tmp_path_factory.mktemp("data")
    for number in range(6):
        write_case(folder, number)
    sites = "".join(f"Case{number:02},{'ab'[number % 2]}\n" for number in range(6))
    (folder / "cases.csv").write_text(f"case,site\n{sites}")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tmp_path / "models" / "mine"


def checkpoint_of(model: Path) -> Path:
    return model.with_name("mine.training") / "checkpoint.safetensors"


class Training:
    """Trains, and keeps what is said and reported."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.reports: list[Progress] = []

    def __call__(
        self,
        data: Path,
        model: Path,
        options: TrainingOptions = QUICK,
        cache: Path | None = None,
        resume: bool = False,
        stop_after: int | None = None,
    ) -> TrainingResult:
        self.said, self.reports = [], []
        n_asked = iter(range(10**6))

        def should_stop() -> bool:
            # The first questions come before the cases are prepared.
            return stop_after is not None and next(n_asked) >= stop_after

        return train_model.train_model(
            data, model, options, CPU, cache, resume, self.said.append, self.reports.append, should_stop
        )

    def refusal(self, *arguments: Any, **options: Any) -> UserError:
        with pytest.raises(UserError) as raised:
            self(*arguments, **options)
        return raised.value


@pytest.fixture
def train() -> Training:
    return Training()


# To the end


def test_a_model_is_made_and_says_what_it_was_made_from(data: Path, model: Path, train: Training) -> None:
    options = replace(QUICK, validation=2, seed=3, title="Mine", data_terms="Balls in noise, CC0.", names_cases=True)
    result = train(data, model, options)
    assert {path.name for path in model.iterdir()} == {"weights.safetensors", "model.json", "README.md"}
    description = read_description(model)
    assert (description["name"], description["title"]) == ("mine", "Mine")
    assert description["network"] == {"layout": "monai", "width": 1, "normalisation": "none"}
    assert description["weights"]["quantisation"] == "int8-per-channel"
    assert Preprocessing.from_dict(description["preprocessing"]) == COARSE
    assert description["labels"] == ["background", "prostate"]
    trained = description["training"]
    assert sorted(trained["training_cases"] + trained["validation_cases"]) == [f"Case{i:02}" for i in range(6)]
    assert len(trained["validation_cases"]) == 2
    assert (trained["data_terms"], trained["preset"], trained["seed"]) == ("Balls in noise, CC0.", "paper", 3)
    assert trained["iterations"] == trained["recipe"]["iterations"] == 4
    assert trained["recipe"]["learning_rate"] == 1e-4
    assert trained["device"]["precision"] == "float32"
    assert description["metrics"]["n_cases"] == 2
    assert [row.case for row in result.after] == trained["validation_cases"]
    assert {row.site for row in result.after} == {"a", "b"}
    assert "Balls in noise, CC0." in (model / "README.md").read_text()
    # Progress, and sentences for the user.
    assert [progress.iteration for progress in train.reports] == [1, 4]
    assert train.reports[-1].validation_dice is not None
    assert train.said[0] == "Checking 6 cases"
    assert [said for said in train.said if said.startswith("Preparing")] == [
        f"Preparing {name}" for name in trained["training_cases"] + trained["validation_cases"]
    ]
    assert "Training on 4 cases. It was asked for." in train.said


@pytest.mark.parametrize("name", [".0123456789ab-checkpoint.safetensors", "cache/.0123456789ab-Case00-1.npz"])
def test_half_a_file_of_a_killed_run_is_removed(data: Path, model: Path, train: Training, name: str) -> None:
    half = state_folder(model) / name
    half.parent.mkdir(parents=True)
    half.write_text("half")
    train(data, model, replace(QUICK, iterations=1))
    assert not half.exists()


def test_a_measured_model_that_cannot_be_removed_costs_no_training(
    data: Path, model: Path, train: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_elsewhere(folder: Path, ignore_errors: bool = False) -> None:
        if not ignore_errors:
            raise PermissionError(13, "The process cannot access the file")
        (folder / "model.json").unlink(missing_ok=True)

    with monkeypatch.context() as patch:
        patch.setattr(job.shutil, "rmtree", open_elsewhere)
        assert train(data, model).after
    left = state_folder(model) / "candidate"
    assert [path.name for path in left.iterdir() if path.name == "model.json"] == []
    # Nor does half of it the next time.
    assert train(data, model, resume=True).after
    assert not left.exists()


def test_a_model_that_has_learned_segments_new_scans(
    data: Path, model: Path, train: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(
        load_recipe("default"),
        learning_rate=0.01,
        warm_up_iterations=5,
        averaging_decay=0.8,
        synthetic_probability=0.0,
        small_crop_until=0.0,
        deformation=DeformationSettings(0.3, 3.0, 5.0, 0.1, 0.5),
        appearance=AppearanceSettings(),
    )
    monkeypatch.setattr(training_options, "load_recipe", lambda name: recipe)
    result = train(data, model, replace(QUICK, width=2, iterations=80, validation=2))
    # On the scans' own, tilted grids, through the 8-bit weights.
    assert min(row.comparison.whole.dice for row in result.after) > 0.8
    assert read_description(model)["metrics"]["worst"]["dice"] > 0.8


def test_without_validation_there_are_no_metrics(data: Path, model: Path, train: Training) -> None:
    assert train(data, model, replace(QUICK, validation=0)) == TrainingResult([], [], None)
    description = read_description(model)
    assert description["metrics"] == {}
    assert description["training"]["training_cases"] == 6
    assert train.reports[-1].validation_dice is None


def test_a_limit_in_minutes(data: Path, model: Path, train: Training) -> None:
    # 6 microseconds: over after the first iteration.
    train(data, model, replace(QUICK, iterations=1000, minutes=1e-7))
    assert read_description(model)["training"]["iterations"] == 1
    assert (train.reports[-1].fraction, train.reports[-1].remaining_s) == (1.0, 0.0)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_phantoms_are_made_as_they_are_drawn(
    data: Path, model: Path, train: Training, monkeypatch: pytest.MonkeyPatch, probability: float
) -> None:
    recipe = replace(load_recipe("paper"), synthetic_probability=probability, n_synthetic_cases=1)
    monkeypatch.setattr(training_options, "load_recipe", lambda name: recipe)
    train(data, model, replace(QUICK, iterations=2))
    assert len(list((state_folder(model) / "cache").glob("phantom-*"))) == probability


# Data and options


def test_all_problems_are_listed_before_anything_starts(data: Path, model: Path, train: Training) -> None:
    bad = model.parent / "bad"
    bad.mkdir(parents=True)
    for file in data.glob("Case0[0-3]*"):
        (bad / file.name).write_bytes(file.read_bytes())
    (bad / "Case00_segmentation.nii.gz").unlink()
    mask = sitk.ReadImage(str(bad / "Case01_segmentation.nii.gz"))
    sitk.WriteImage(mask * 0, str(bad / "Case01_segmentation.nii.gz"))
    (bad / "Case02.nii.gz").write_bytes((bad / "Case02.nii.gz").read_bytes()[:500])
    lines = str(train.refusal(bad, model)).splitlines()
    assert lines[0] == "3 cases have problems; mend or remove what is listed:"
    assert [line.split(":")[0] for line in lines[1:]] == ["  Case00", "  Case01", "  Case02"]
    for line, name in zip(lines[1:], ("Case00_seg", "Case01_seg", "Case02.nii"), strict=True):
        assert name in line
    assert list(model.parent.iterdir()) == [bad]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": 65}, "width is 65"),
        ({"iterations": 0}, "at least 1 iteration"),
        ({"minutes": 0.0}, "more than 0 minutes"),
        ({"minutes": float("nan")}, "more than 0 minutes"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": 2**63}, "seed is 9223372036854775808"),
        ({"title": "two\nlines"}, "title"),
        ({"preset": "none"}, "Unknown preset 'none'"),
        ({"validation": 5}, "5 of 6 cases cannot be set apart"),
        ({"validation": ("Case01", "Case99")}, "no case Case99"),
    ],
)
def test_options_that_cannot_work_are_refused_at_once(
    data: Path, model: Path, train: Training, change: dict[str, Any], sentence: str
) -> None:
    error = train.refusal(data, model, replace(QUICK, **change))
    assert sentence in str(error)
    assert error.exit_code == ExitCode.USAGE
    # Before any case is read, which may take minutes.
    assert train.said == []
    assert not model.parent.exists()


@pytest.mark.parametrize("place", [".", "/", "a b"])
def test_a_place_that_names_no_model_is_refused_at_once(
    data: Path, train: Training, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    error = train.refusal(data, Path(place))
    assert str(error).startswith(f"{place!r} cannot name a model")
    assert error.exit_code == ExitCode.USAGE
    assert sorted(tmp_path.iterdir()) == before


def test_an_existing_folder_is_not_replaced(data: Path, model: Path, train: Training) -> None:
    model.mkdir(parents=True)
    (model / "notes.txt").touch()
    error = train.refusal(data, model)
    assert "exists already" in str(error)
    assert error.exit_code == ExitCode.CANNOT_WRITE
    assert list(model.parent.iterdir()) == [model]


# Stopping and going on


def test_a_stopped_training_goes_on_to_the_same_model(data: Path, model: Path, train: Training) -> None:
    train(data, model)
    expected = (model / "weights.safetensors").read_bytes()
    stopped = model.with_name("stopped")
    # Six questions while the cases are prepared, then one after each iteration.
    with pytest.raises(Cancelled, match="Stopped at iteration 2"):
        train(data, stopped, stop_after=7)
    assert not stopped.exists()
    result = train(data, stopped, resume=True)
    assert "Going on at iteration 2" in train.said
    # The cases were in the cache.
    assert not any(said.startswith("Preparing") for said in train.said)
    assert (stopped / "weights.safetensors").read_bytes() == expected
    assert len(result.after) == 1


def test_a_finished_training_says_that_it_is(data: Path, model: Path, train: Training) -> None:
    first = train(data, model)
    assert train(data, model, resume=True) == first
    assert "This training has ended, at iteration 4: nothing is left to learn" in train.said
    assert not [said for said in train.said if said.startswith(("Going on", "Training on"))]


def test_a_finished_training_keeps_its_words_unless_others_are_given(data: Path, model: Path, train: Training) -> None:
    def words() -> tuple[str, str]:
        description = read_description(model)
        return description["title"], description["training"]["data_terms"]

    train(data, model, replace(QUICK, title="Mine", data_terms="CC0."))
    train(data, model, resume=True)
    assert words() == ("Mine", "CC0.")
    train(data, model, replace(QUICK, title="Ours"), resume=True)
    assert words() == ("Ours", "CC0.")
    train(data, model, replace(QUICK, data_terms="CC BY."), resume=True)
    assert words() == ("Ours", "CC BY.")


def test_stopping_while_cases_are_prepared(data: Path, model: Path, train: Training) -> None:
    with pytest.raises(Cancelled, match="before the training began"):
        train(data, model, stop_after=2)
    assert not checkpoint_of(model).exists()
    # Nor is there anything that other options would spoil.
    train(data, model, replace(QUICK, iterations=2))
    assert read_description(model)["training"]["iterations"] == 2
    assert len([said for said in train.said if said.startswith("Preparing")]) == 4
    assert model.is_dir()


def test_an_unfinished_training_is_not_overwritten(data: Path, model: Path, train: Training) -> None:
    with pytest.raises(Cancelled):
        train(data, model, stop_after=6)
    before = checkpoint_of(model).read_bytes()
    error = train.refusal(data, model)
    assert "Resume it" in str(error)
    assert error.exit_code == ExitCode.CANNOT_WRITE
    assert checkpoint_of(model).read_bytes() == before


def test_a_training_is_not_gone_on_with_otherwise(data: Path, model: Path, train: Training) -> None:
    with pytest.raises(Cancelled):
        train(data, model, stop_after=6)
    other = replace(QUICK, width=2, iterations=5, validation=("Case00", "Case01"), minutes=99.0, title="Other")
    error = train.refusal(data, model, other, resume=True)
    # A longer time and another title are no other training.
    assert str(error) == (
        "This training began with other options (width: 1, now 2; validation: 1, now Case00, Case01; iterations: 4, "
        "now 5). Give the same ones, or begin a new training."
    )
    assert error.exit_code == ExitCode.BAD_INPUT
    # Before the cases are read.
    assert train.said == []
    # Without what was asked for then, the checkpoint tells.
    (state_folder(model) / "options.json").unlink()
    error = train.refusal(data, model, replace(QUICK, width=2), resume=True)
    assert "belongs to another run: recipe differ" in str(error)
    assert error.exit_code == ExitCode.BAD_INPUT
    checkpoint_of(model).write_bytes(checkpoint_of(model).read_bytes()[:-1])
    error = train.refusal(data, model, resume=True)
    assert "damaged" in str(error)
    assert error.exit_code == ExitCode.BAD_INPUT
    assert not model.exists()


def test_cases_that_are_set_apart_by_name_are_the_same_in_any_order(data: Path, model: Path, train: Training) -> None:
    with pytest.raises(Cancelled):
        train(data, model, replace(QUICK, validation=("Case03", "Case00")), stop_after=7)
    train(data, model, replace(QUICK, validation=("Case00", "Case03")), resume=True)
    assert any(said.startswith("Going on") for said in train.said)


def test_a_place_that_cannot_be_written_is_a_sentence(data: Path, tmp_path: Path, train: Training) -> None:
    (tmp_path / "file").touch()
    error = train.refusal(data, tmp_path / "file" / "model")
    assert str(error).startswith(f"Cannot write {tmp_path / 'file' / 'model.training'}")
    assert error.exit_code == ExitCode.CANNOT_WRITE
    assert (tmp_path / "file").is_file()


def test_resume_without_a_checkpoint_begins(data: Path, model: Path, train: Training) -> None:
    train(data, model, resume=True)
    assert read_description(model)["training"]["iterations"] == 4


def test_an_interrupted_evaluation_loses_nothing(
    data: Path, model: Path, train: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> Iterator[Row]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("vnet_segmentation.training.job.evaluate_cases", interrupt)
        with pytest.raises(KeyboardInterrupt):
            train(data, model)
    # A model that nobody has measured is none.
    assert not model.exists()
    result = train(data, model, resume=True)
    assert train.reports == []
    assert read_description(model)["metrics"]["n_cases"] == len(result.after) == 1


def test_an_evaluation_that_is_stopped_is_gone_on_with(data: Path, model: Path, train: Training) -> None:
    # Six questions while the cases are prepared, four after the iterations but the last, one before the case.
    with pytest.raises(Cancelled, match="while the model was measured"):
        train(data, model, stop_after=9)
    assert not model.exists()
    train(data, model, resume=True)
    assert train.reports == []


def test_two_processes_do_not_train_one_model(data: Path, model: Path, train: Training) -> None:
    with claim(state_folder(model)):
        assert "another process" in str(train.refusal(data, model, resume=True))
    train(data, model)


def test_a_model_holds_no_names_of_cases_or_sites_unless_asked(
    data: Path, model: Path, train: Training, tmp_path: Path
) -> None:
    named = tmp_path / "named"
    shutil.copytree(data, named)
    cases = [f"Case{number:02}" for number in range(6)]
    (named / "cases.csv").write_text("case,site\n" + "".join(f"{name},St Mary\n" for name in cases))
    train(named, model)
    written = (model / "model.json").read_text() + (model / "README.md").read_text()
    assert "St Mary" not in written
    assert not any(name in written for name in cases)
    assert "site 1" in written


def test_a_model_of_which_there_is_no_checkpoint_is_not_replaced(data: Path, model: Path, train: Training) -> None:
    train(data, model)
    checkpoint_of(model).unlink()
    assert "exists already" in str(train.refusal(data, model, resume=True))


def test_a_cache_serves_several_trainings(data: Path, model: Path, train: Training, tmp_path: Path) -> None:
    train(data, model, cache=tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 6
    assert {path.name for path in checkpoint_of(model).parent.iterdir()} == {
        "checkpoint.safetensors",
        "lock",
        "options.json",
    }
    train(data, model.with_name("other"), replace(QUICK, seed=1), cache=tmp_path / "cache")
    assert not any(said.startswith("Preparing") for said in train.said)


# The command


@pytest.fixture
def same_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command would set torch's threads for the tests that follow, too."""
    monkeypatch.setattr(cli_commands, "set_cpu_threads", lambda: None)


@pytest.fixture
def recorded(same_threads: None, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], tuple[Any, ...]]:
    """Gives the arguments that a command trains with, instead of training."""
    calls: list[tuple[Any, ...]] = []

    def record(*arguments: Any, say: Any, report: Any, should_stop: Any, processes: Processes) -> TrainingResult:
        assert processes == Processes()
        say("Begun")
        report(Progress(7, 0.125, 0.75, None, 5400.0))
        report(Progress(50, 0.5, 0.25, 0.875, 30.0))
        calls.append((*arguments, should_stop()))
        return TrainingResult([], [], None)

    monkeypatch.setattr(train_model, "train_model", record)

    def run(arguments: list[str]) -> tuple[Any, ...]:
        assert cli.run(["train", "data", "-o", "mine", "--device", "cpu", *arguments]) == ExitCode.OK
        return calls[-1]

    return run


def test_the_command_tells_loss_dice_and_remaining_time(
    recorded: Callable[[list[str]], tuple[Any, ...]], capsys: pytest.CaptureFixture[str]
) -> None:
    recorded([])
    assert capsys.readouterr().out.splitlines() == [
        "Begun",
        " 12.5%  iteration 7  loss 0.7500  1.5 h left",
        " 50.0%  iteration 50  loss 0.2500  validation Dice 0.875  30 s left",
        "mine.training, which the training kept to go on, can be removed.",
        # A name alone could be that of another model.
        f"The model is in mine. To use it: --model {os.path.join('.', 'mine')}",
    ]


def test_the_commands_options(recorded: Callable[[list[str]], tuple[Any, ...]]) -> None:
    data, model, options, device, cache, resume, stopped = recorded([])
    assert (data, model, cache, resume, stopped) == (Path("data"), Path("mine"), None, False, False)
    assert options == TrainingOptions()
    assert device.name == "cpu"
    arguments = "--preset paper --layout caffe --width 16 --validation 3 --iterations 9 --minutes 2.5 --seed 4"
    arguments += " --bias-correction --title T --data-terms D --cache c --resume --precision float32"
    arguments += " --label 2 --deformation 0.5 --no-histogram-matching --name-cases --leave-out a b"
    _, _, options, device, cache, resume, _ = recorded(arguments.split())
    assert options == TrainingOptions(
        preset="paper",
        layout="caffe",
        width=16,
        validation=3,
        iterations=9,
        minutes=2.5,
        seed=4,
        bias_correction=True,
        title="T",
        data_terms="D",
        label=2,
        deformation_strength=0.5,
        histogram_matching=False,
        names_cases=True,
        held_out=("a", "b"),
    )
    assert (device.precision, cache, resume) == ("float32", Path("c"), True)
    assert recorded(["--no-bias-correction"])[2].bias_correction is False
    assert recorded(["--validation-cases", "a", "b"])[2].validation == ("a", "b")


@pytest.mark.usefixtures("same_threads")
def test_problems_are_told_without_a_traceback(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["train", str(tmp_path / "none"), "-o", str(tmp_path / "mine")]) == ExitCode.BAD_INPUT
    assert cli.run(["train", str(data), "-o", str(tmp_path / "mine"), "--minutes", "0"]) == ExitCode.USAGE
    (tmp_path / "mine.training").mkdir()
    (tmp_path / "mine.training" / "checkpoint.safetensors").touch()
    assert cli.run(["train", str(data), "-o", str(tmp_path / "mine")]) == ExitCode.CANNOT_WRITE
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("vnet-segmentation: There is no data set")
    assert second.startswith("vnet-segmentation: The time")
    assert third.endswith(f"Resume it, or remove {tmp_path / 'mine.training'}. See the option --resume.")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot send Ctrl+C to one process")
@pytest.mark.usefixtures("same_threads")
def test_ctrl_c_leaves_a_checkpoint_from_which_the_command_finishes(
    data: Path, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So many that they are not over before the signal comes.
    arguments = ["train", str(data), "-o", str(model), "--preset", "paper", "--layout", "monai", "--width", "1"]
    arguments += ["--validation", "1", "--iterations", "1000", "--device", "cpu", "--precision", "float32"]
    with subprocess.Popen(
        [sys.executable, small_command.__file__, *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(vnet_segmentation.__file__).parents[1])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if "iteration 1 " in line:
                    process.send_signal(signal.SIGINT)
                    break
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == ExitCode.CANCELLED
    assert errors.startswith("vnet-segmentation: Stopped at iteration ")
    assert errors.count("\n") == 1
    assert not model.exists()
    assert checkpoint_of(model).is_file()

    def learn_nothing(run: TrainingRun) -> float:
        run.iteration += 1
        return 0.5

    monkeypatch.setattr(training_options, "load_recipe", small_command.small_recipe)
    monkeypatch.setattr(TrainingRun, "step", learn_nothing)
    assert cli.run([*arguments, "--resume"]) == ExitCode.OK
    said = capsys.readouterr()
    assert said.err == ""
    assert "Going on at iteration " in said.out
    assert "100.0%  iteration 1000  loss 0.5" in said.out
    assert said.out.endswith(f"The model is in {model}. To use it: --model {model}\n")
    assert json.loads((model / "model.json").read_text("utf-8"))["metrics"]["n_cases"] == 1


def test_memory_that_is_too_small_is_a_sentence(data: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: TrainingRun) -> float:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(TrainingRun, "step", fail)
    with pytest.raises(UserError, match="smaller width") as caught:
        Training()(data, model)
    assert caught.value.exit_code == ExitCode.OUT_OF_MEMORY
