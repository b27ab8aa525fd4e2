"""What a panel asks of a training: paused at any moment, it is there to go on with, whatever was done meanwhile."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk
from untrained_model import save_untrained_model

from vnet_segmentation.errors import Cancelled, UserError
from vnet_segmentation.images.preprocessing import Preprocessing
from vnet_segmentation.models.training_state import claim, is_claimed, state_folder
from vnet_segmentation.models.transfer import export_model, import_model
from vnet_segmentation.training import job
from vnet_segmentation.training import options as training_options
from vnet_segmentation.training.recipe import load_recipe
from vnet_segmentation.worker.training_commands import training_commands, unfinished_trainings


class Panel:
    """Keeps the events, and cancels when one of them fits."""

    def __init__(self, cancels: Callable[[str, dict[str, Any]], bool] = lambda event, fields: False) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.is_cancelled = False
        self._cancels = cancels

    def __call__(self, event: str, **fields: Any) -> None:
        if self.is_cancelled:
            raise Cancelled
        self.events.append((event, fields))
        self.is_cancelled = self._cancels(event, fields)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "models"
    monkeypatch.setenv("VNET_SEGMENTATION_MODELS", str(folder))
    recipe = replace(load_recipe("finetune"), synthetic_probability=0.0, small_crop_until=0.0, iterations=2)
    monkeypatch.setattr(training_options, "load_recipe", lambda name: recipe)
    save_untrained_model(folder / "tiny", preprocessing=Preprocessing(spacing_mm=(2.0, 2.0, 3.0), size=(32, 32, 16)))
    return folder


@pytest.fixture
def add(tmp_path: Path, bright_ball: Any) -> Callable[[int], Path]:
    """Function that adds a case to the data set, and gives its folder."""
    folder = tmp_path / "data"
    folder.mkdir()

    def add_case(number: int) -> Path:
        scan, mask = bright_ball((2.0 * number, -number, 0.0), 12.0, (40, 40, 16), (1.6, 1.6, 3.0), 160.0)
        sitk.WriteImage(scan, str(folder / f"Case{number}.nrrd"))
        sitk.WriteImage(mask, str(folder / f"Case{number}_segmentation.nrrd"))
        return folder

    for number in range(3):
        add_case(number)
    return add_case


@pytest.fixture
def request_(models: Path, add: Callable[[int], Path]) -> dict[str, Any]:
    return {
        "name": "mine",
        "data": str(add(2)),
        "device": "cpu",
        "options": {"base": "tiny", "minutes": 10.0, "validation": None, "label": None},
        "cases": ["Case0", "Case1", "Case2"],
        "resume": False,
    }


def train(request: dict[str, Any], panel: Panel | None = None) -> dict[str, Any]:
    return training_commands()["train"](request, panel or Panel())


def is_said(words: str) -> Callable[[str, dict[str, Any]], bool]:
    return lambda event, fields: words in fields.get("message", "")


@pytest.mark.parametrize(
    "moment", ["Preparing Case1", "Measuring the model", "Run 2 of 4", "Run 4 of 4", "Training on 3 cases"]
)
def test_a_training_paused_at_any_moment_goes_on_after_a_case_was_added(
    request_: dict[str, Any], models: Path, add: Callable[[int], Path], moment: str
) -> None:
    with pytest.raises(Cancelled):
        train(request_, Panel(is_said(moment)))
    assert not (models / "mine").exists()
    (kept,) = unfinished_trainings()
    assert kept == {key: request_[key] for key in kept}
    add(3)
    result = train({**kept, "resume": True})
    assert {row["case"] for row in result["after"]["cases"]} == {"Case0", "Case1", "Case2"}
    assert (models / "mine" / "model.json").is_file()
    assert unfinished_trainings() == []
    assert not state_folder(models / "mine").exists()


@pytest.mark.parametrize("name", ["../victim", "", "a/b", "x.training"])
def test_a_name_leads_nowhere_else(request_: dict[str, Any], models: Path, tmp_path: Path, name: str) -> None:
    victim = tmp_path / "victim.training"
    victim.mkdir()
    (victim / "kept").touch()
    for command in ("train", "discard_training"):
        with pytest.raises(UserError, match="cannot name a model"):
            training_commands()[command](request_ | {"name": name}, Panel())
    assert (victim / "kept").exists()
    assert sorted(path.name for path in models.iterdir()) == ["tiny"]


def test_a_request_in_another_ones_folder_is_not_offered(request_: dict[str, Any], models: Path) -> None:
    for folder, text in (("a", '{"name": "b"}'), ("c", "{}"), ("d", "[]"), ("e", '{"name": 5}')):
        state = state_folder(models / folder)
        state.mkdir()
        (state / "request.json").write_text(text)
    assert unfinished_trainings() == []


def test_a_training_that_is_refused_leaves_nothing(request_: dict[str, Any], models: Path) -> None:
    (Path(request_["data"]) / "Case1_segmentation.nrrd").write_bytes(b"damaged")
    with pytest.raises(UserError, match="Case1"):
        train(request_)
    assert sorted(path.name for path in models.iterdir()) == ["tiny"]


def test_a_training_that_fails_after_a_fold_keeps_the_fold(
    request_: dict[str, Any], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_run = job.train_run

    def fail_in_the_second(what: Any, number: int, split: Any) -> Any:
        if number == 1:
            raise UserError("The memory is too small.")
        return train_run(what, number, split)

    monkeypatch.setattr(job, "train_run", fail_in_the_second)
    with pytest.raises(UserError, match="memory"):
        train(request_)
    (kept,) = unfinished_trainings()
    assert kept["name"] == "mine"
    assert (state_folder(models / "mine") / "fold-1.json").is_file()


def test_a_running_training_is_nobody_elses(request_: dict[str, Any], models: Path) -> None:
    with pytest.raises(Cancelled):
        train(request_, Panel(is_said("Run 2 of 4")))
    folder = state_folder(models / "mine")
    with claim(folder):
        assert is_claimed(folder)
        assert unfinished_trainings() == []
        with pytest.raises(UserError, match="another process"):
            training_commands()["discard_training"]({"name": "mine"}, Panel())
        # Nor does a request that is refused change what the running training was asked for.
        with pytest.raises(UserError, match="another process"):
            train(request_ | {"resume": True, "options": {"base": None}})
    assert unfinished_trainings() == [{key: request_[key] for key in unfinished_trainings()[0]}]
    assert not is_claimed(folder)
    training_commands()["discard_training"]({"name": "mine"}, Panel())
    assert not folder.exists()


def test_an_unfinished_training_keeps_its_name(request_: dict[str, Any], models: Path, tmp_path: Path) -> None:
    """A model of that name that came in the meantime would be replaced at its end."""
    train(request_)
    export_model(models / "mine", tmp_path / "mine.zip")
    shutil.rmtree(models / "mine")
    with pytest.raises(Cancelled):
        train(request_, Panel(is_said("Run 2 of 4")))
    with pytest.raises(UserError, match="unfinished training"):
        import_model(tmp_path / "mine.zip")
    with pytest.raises(UserError, match="unfinished training"):
        train(request_)


def test_the_users_choice_overrules_the_data_sets_split(request_: dict[str, Any], tmp_path: Path) -> None:
    rows = "".join(f"Case{n}.nrrd,Case{n}_segmentation.nrrd,Case{n},{'validation' if n else ''}\n" for n in range(3))
    manifest = Path(request_["data"]) / "cases.csv"
    manifest.write_text(f"image,mask,name,split\n{rows}")
    request_["data"] = str(manifest)
    request_["options"]["validation"] = ["Case2"]
    assert [row["case"] for row in train(request_)["after"]["cases"]] == ["Case2"]
    # None of them: each is judged by a model that has not seen it.
    request_["options"]["validation"] = []
    assert len(train({**request_, "name": "mine-2"})["after"]["cases"]) == 3
