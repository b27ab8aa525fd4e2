"""Bundled models and the user's are found by name or folder, damaged ones with what is wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from vnet_segmentation.datasets.dataset import find_cases
from vnet_segmentation.datasets.inspection import refuse_problems
from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.models import library as model_library
from vnet_segmentation.models.bundle import read_description, save_bundle
from vnet_segmentation.models.library import bundled_models_folder, find_model, known_cases, learned_scans, list_models
from vnet_segmentation.network.vnet import VNet
from vnet_segmentation.user_folders import user_models_folder


def make_model(folder: Path) -> Path:
    description = {
        "name": folder.name,
        "title": f"Title of {folder.name}",
        "preprocessing": {},
        "labels": ["background", "prostate"],
        "training": {},
        "metrics": {},
    }
    save_bundle(folder, VNet("paper", 1), description, quantise=True)
    return folder


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for the bundled models: "alpha", which is the default, and "beta"."""
    folder = tmp_path / "bundled"
    make_model(folder / "beta")
    make_model(folder / "alpha")
    (folder / "default.txt").write_text("beta\n", encoding="utf-8")
    monkeypatch.setattr(model_library, "bundled_models_folder", lambda: folder)
    return folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's models: "mine"."""
    folder = tmp_path / "own"
    make_model(folder / "mine")
    monkeypatch.setenv("VNET_SEGMENTATION_MODELS", str(folder))
    return folder


@pytest.mark.parametrize(
    ("package", "models"),
    [
        ("site-packages/vnet_segmentation", "site-packages/vnet_segmentation/bundled_models"),
        ("qt-scripted-modules/vnet_segmentation", "qt-scripted-modules/Resources/Models"),
        ("checkout/VNetSegmentation/vnet_segmentation", "checkout/Resources/Models"),
    ],
    ids=["wheel", "Slicer", "source tree"],
)
def test_bundled_models_are_found_in_each_kind_of_installation(tmp_path: Path, package: str, models: str) -> None:
    (tmp_path / package).mkdir(parents=True)
    # The panel's resources lie beside the package in the source tree, too, and are not the models.
    (tmp_path / package).parent.joinpath("Resources", "Icons").mkdir(parents=True)
    assert bundled_models_folder(tmp_path / package) is None
    (tmp_path / models).mkdir(parents=True)
    assert bundled_models_folder(tmp_path / package) == tmp_path / models


def test_list_has_bundled_models_first_and_each_group_by_name(bundled: Path, own: Path) -> None:
    models = list_models()
    assert [(m.name, m.bundled, m.title, m.problem) for m in models] == [
        ("alpha", True, "Title of alpha", None),
        ("beta", True, "Title of beta", None),
        ("mine", False, "Title of mine", None),
    ]
    assert models[2].folder == own / "mine"


def test_damaged_models_are_listed_with_their_problem(bundled: Path, own: Path) -> None:
    (bundled / "alpha" / "weights.safetensors").write_bytes(b"damaged")
    (bundled / "beta" / "model.json").unlink()
    (own / "nothing").mkdir()
    by_name = {model.name: model for model in list_models()}
    assert "SHA-256" in (by_name["alpha"].problem or "")
    assert by_name["alpha"].title == "Title of alpha"
    assert "model.json is missing" in (by_name["beta"].problem or "")
    assert by_name["beta"].title == "beta"
    assert "model.json is missing" in (by_name["nothing"].problem or "")
    assert by_name["mine"].problem is None


def test_bundles_being_written_and_caches_are_no_models(bundled: Path, own: Path) -> None:
    (own / ".0123456789ab-mine").mkdir()
    (bundled / "__pycache__").mkdir()
    assert [model.name for model in list_models()] == ["alpha", "beta", "mine"]


def test_no_models_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_library, "bundled_models_folder", lambda: None)
    monkeypatch.setenv("VNET_SEGMENTATION_MODELS", str(tmp_path / "none"))
    assert list_models() == []
    with pytest.raises(UserError, match="No model came with this installation") as raised:
        find_model(None)
    assert raised.value.exit_code == ExitCode.BAD_MODEL


def test_find_by_name(bundled: Path, own: Path) -> None:
    assert find_model("alpha") == bundled / "alpha"
    assert find_model("mine") == own / "mine"


def test_default_is_the_one_that_the_bundled_folder_names(bundled: Path, own: Path) -> None:
    assert find_model(None) == bundled / "beta"


def test_find_by_folder(bundled: Path, own: Path, tmp_path: Path) -> None:
    elsewhere = make_model(tmp_path / "elsewhere" / "model")
    assert find_model(str(elsewhere)) == elsewhere


def test_a_name_goes_before_a_folder_of_the_same_name_here(
    bundled: Path, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / "alpha").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert find_model("alpha") == bundled / "alpha"
    assert find_model("./alpha").resolve() == tmp_path / "here" / "alpha"


def test_unknown_name_lists_the_known_ones(bundled: Path, own: Path) -> None:
    with pytest.raises(UserError, match=r"no model gamma\. Known models: alpha, beta, mine\.") as raised:
        find_model("gamma")
    assert raised.value.exit_code == ExitCode.BAD_MODEL


def test_a_name_that_two_models_have_is_refused(bundled: Path, own: Path) -> None:
    make_model(own / "alpha")
    with pytest.raises(UserError, match="Two models are called alpha") as raised:
        find_model("alpha")
    assert raised.value.exit_code == ExitCode.BAD_MODEL
    assert find_model(str(own / "alpha")) == own / "alpha"


def test_the_variable_names_the_users_folder(own: Path) -> None:
    assert user_models_folder() == own


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux", "share/VNetSegmentation/Models"),
        ("win32", "Local/VNetSegmentation/Models"),
        ("darwin", "home/Library/Application Support/VNetSegmentation/Models"),
    ],
)
def test_users_folder_is_where_the_platform_keeps_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str, expected: str
) -> None:
    monkeypatch.delenv("VNET_SEGMENTATION_MODELS", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "Local"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(sys, "platform", platform)
    assert user_models_folder() == tmp_path / expected


def test_cases_are_known_by_name_or_by_voxels_through_all_parents(own: Path) -> None:
    parent = read_description(own / "mine")
    parent["training"] = {"training_cases": ["a"], "voxel_hashes": ["0", 1, None]}
    (own / "mine" / "model.json").write_text(json.dumps(parent), encoding="utf-8")
    child = {
        "training": {"training_cases": 1, "voxel_hashes": ["3"]},
        "parent": {"name": "mine", "sha256": parent["weights"]["sha256"]},
    }
    assert known_cases(child, {"a": "9", "b": "0", "c": "1", "d": "3", "e": ""}) == ["a", "b", "d"]
    assert learned_scans(child) == {"0", "3"}
    assert known_cases({"training": {}, "parent": None}, {"a": "9"}) == []


def test_the_bundled_model_knows_the_scans_that_it_has_learned_from(promise12: Path) -> None:
    hashes = refuse_problems(find_cases(promise12))
    unnamed = {f"scan-{number}": scan for number, scan in enumerate(hashes.values())}
    assert known_cases(read_description(find_model("prostate-t2")), unnamed) == list(unnamed)
