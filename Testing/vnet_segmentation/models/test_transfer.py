"""A model travels as one file, comes back byte for byte, and a foreign file harms nothing."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.models.library import bundled_models_folder, find_model
from vnet_segmentation.models.training_state import claim, state_folder
from vnet_segmentation.models.transfer import delete_model, export_model, import_model

Entries = dict[str, bytes]


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "library"
    folder.mkdir()
    monkeypatch.setenv("VNET_SEGMENTATION_MODELS", str(folder))
    return folder


@pytest.fixture
def exported(tiny_model: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.zip"
    export_model(tiny_model, file)
    return file


def test_a_model_comes_back_byte_for_byte(tiny_model: Path, exported: Path, library: Path) -> None:
    (tiny_model / "notes.txt").write_text("not a part of it")
    folder = import_model(exported)
    assert folder == library / "tiny" == find_model("tiny")
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.json", "weights.safetensors"]
    for file in folder.iterdir():
        assert file.read_bytes() == (tiny_model / file.name).read_bytes()


def test_the_same_model_gives_the_same_file(tiny_model: Path, exported: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.zip"
    export_model(tiny_model, again)
    assert again.read_bytes() == exported.read_bytes()


def test_a_file_is_not_replaced_unasked(tiny_model: Path, exported: Path) -> None:
    before = exported.read_bytes()
    with pytest.raises(UserError, match="exists already"):
        export_model(tiny_model, exported)
    export_model(tiny_model, exported, overwrite=True)
    assert exported.read_bytes() == before


def test_a_damaged_model_is_not_exported(tiny_model: Path, tmp_path: Path) -> None:
    weights = tiny_model / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(UserError) as raised:
        export_model(tiny_model, tmp_path / "out.zip")
    assert raised.value.exit_code == ExitCode.BAD_MODEL
    assert not (tmp_path / "out.zip").exists()


def test_a_file_has_the_name_of_a_zip_file(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"end in \.zip"):
        export_model(tiny_model, tmp_path / "tiny.model")


def _renamed(entries: Entries, name: str) -> Entries:
    description = json.loads(entries["tiny/model.json"]) | {"name": name}
    return entries | {"tiny/model.json": json.dumps(description).encode()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: e | {"../../evil.txt": b"x"}, "does not belong"),
        (lambda e: e | {"/etc/evil": b"x"}, "does not belong"),
        (lambda e: e | {"tiny/evil.py": b"x"}, "does not belong"),
        (lambda e: e | {"other/README.md": b"x"}, "does not belong"),
        (lambda e: {("other/README.md" if "README" in k else k): v for k, v in e.items()}, "one model"),
        (lambda e: {k: v for k, v in e.items() if "weights" not in k}, "one model"),
        (lambda e: e | {"tiny/weights.safetensors": b"x" * 100}, "SHA-256"),
        (lambda e: e | {"tiny/model.json": b"{}"}, "model.json"),
        (lambda e: e | {"tiny/README.md": b"x" * (2**20 + 1)}, "too large"),
        (lambda e: {}, "one model"),
        (lambda e: _renamed(e, "../evil"), "ill-formed"),
        (lambda e: _renamed(e, "prostate-t2"), "already. It came with the program"),
        (lambda e: _renamed(e, "PROSTATE-T2"), "already"),
    ],
)
def test_what_is_no_model_is_refused_and_leaves_nothing(
    exported: Path, library: Path, change: Callable[[Entries], Entries], words: str
) -> None:
    with zipfile.ZipFile(exported) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(exported, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in change(entries).items():
            archive.writestr(name, content)
    with pytest.raises(UserError, match=words):
        import_model(exported)
    assert list(library.iterdir()) == []
    assert not (library.parent / "evil").exists()


def test_a_file_that_is_cut_off_or_none_at_all(exported: Path, library: Path, tmp_path: Path) -> None:
    exported.write_bytes(exported.read_bytes()[:-200])
    with pytest.raises(UserError, match="damaged or no zip file"):
        import_model(exported)
    with pytest.raises(UserError, match="There is no file"):
        import_model(tmp_path / "none.zip")
    assert list(library.iterdir()) == []


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_damaged_file_that_someone_compressed_by_hand(exported: Path, library: Path, method: int) -> None:
    with zipfile.ZipFile(exported) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(exported, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    whole = exported.read_bytes()
    # Not in the list of entries at the end, whose damage is another error.
    for part in range(1, 7):
        start = len(whole) * part // 9
        exported.write_bytes(
            whole[:start] + bytes(byte ^ 0xFF for byte in whole[start : start + 40]) + whole[start + 40 :]
        )
        with pytest.raises(UserError, match="damaged or no zip file"):
            import_model(exported)
    assert list(library.iterdir()) == []


def test_a_model_that_is_there_stays_as_it_is(exported: Path, library: Path) -> None:
    folder = import_model(exported)
    before = (folder / "model.json").stat().st_mtime_ns
    with pytest.raises(UserError, match=re.escape(f"a model tiny already. Delete it first; its folder is {folder}.")):
        import_model(exported)
    assert (folder / "model.json").stat().st_mtime_ns == before
    assert [path.name for path in library.iterdir()] == ["tiny"]


def test_a_model_is_not_imported_beside_an_unfinished_training_of_its_name(exported: Path, library: Path) -> None:
    state = state_folder(library / "tiny")
    state.mkdir(parents=True)
    with pytest.raises(UserError, match=re.escape(f"discard it first; its folder is {state}.")):
        import_model(exported)
    assert list(library.iterdir()) == [state]


def test_deleting_takes_what_the_training_left_too(exported: Path, library: Path) -> None:
    import_model(exported)
    (library / "tiny.training" / "cache").mkdir(parents=True)
    delete_model("tiny")
    assert list(library.iterdir()) == []


def test_a_model_that_is_being_trained_is_not_deleted(exported: Path, library: Path) -> None:
    folder = import_model(exported)
    with claim(state_folder(folder)):
        (library / "tiny.training" / "checkpoint.safetensors").touch()
        with pytest.raises(UserError, match="tiny is being trained by another process"):
            delete_model("tiny")
    assert sorted(path.name for path in library.iterdir()) == ["tiny", "tiny.training"]
    assert (library / "tiny.training" / "checkpoint.safetensors").exists()
    delete_model("tiny")
    assert list(library.iterdir()) == []


@pytest.mark.parametrize("name", ["prostate-t2", "none", "..", ".", ""])
def test_only_ones_own_models_are_deleted(library: Path, name: str) -> None:
    bundled = bundled_models_folder()
    assert bundled is not None
    with pytest.raises(UserError, match=r"of your own|came with the program"):
        delete_model(name)
    assert (bundled / "prostate-t2" / "model.json").is_file()
    assert library.is_dir()
