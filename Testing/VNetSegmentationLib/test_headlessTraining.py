"""How the options of a Slicer without a window become those of the engine."""

from __future__ import annotations

import pytest


@pytest.fixture
def commands(desktop, monkeypatch, tmp_path) -> list[list[str]]:
    """The engine's command lines, none of which is run; the current folder is an empty one."""
    from VNetSegmentationLib import headlessTraining

    made: list[list[str]] = []
    monkeypatch.setattr(headlessTraining, "runEngine", lambda command, folder: made.append(command) or 0)
    monkeypatch.chdir(tmp_path)
    return made


def _run(*arguments: str) -> int:
    from VNetSegmentationLib.headlessTraining import runHeadlessTraining

    return runHeadlessTraining(["--data", "data", *arguments])


def test_each_option_reaches_the_engine(commands, tmp_path):
    options = ["--minutes=5", "--iterations=9", "--validation-cases", "a", "b", "--leave-out", "c", "--label=2"]
    options += ["--deformation=0.5", "--no-histogram-matching", "--device=cpu", "--seed=4", "--resume"]
    assert _run("--output", "mine", "--base=x", *options, "--model-title", "My model") == 0
    assert _run("--output", "mine", "--from-scratch") == 0
    place = [str(tmp_path / "data"), "-o", str(tmp_path / "mine")]
    (word, *first), second = commands
    assert (word, first[:3]) == ("finetune", place)
    assert set(first[3:]) == {"--base=x", "--title=My model", *options}
    assert second == ["train", *place]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--output"),
        (["--output", "mine", "--base", "x", "--from-scratch"], "not allowed with"),
    ],
)
def test_wrong_arguments_are_told(commands, capsys, arguments, words):
    with pytest.raises(SystemExit) as stopped:
        _run(*arguments)
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err
    assert commands == []
