"""What holds for the tree as a whole."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vnet_segmentation

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "VNetSegmentation" / "vnet_segmentation"

_FOREIGN = {"slicer", "qt", "ctk", "vtk", "PySide6", "monai", "scipy", "matplotlib"}

# Each package imports only from those before it; "" stands for the modules beside the packages.
_PACKAGES = (
    "",
    "images",
    "network",
    "models",
    "segmentation",
    "datasets",
    "evaluation",
    "training",
    "batch",
    "worker",
    "cli",
)
_ENGINE_FILES = sorted(ENGINE.rglob("*.py"))


def _module(path: Path) -> str:
    """Dotted name below the engine; a package's own file counts as the package."""
    parts = path.relative_to(ENGINE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


def _package(module: str) -> str:
    return module.partition(".")[0] if module.partition(".")[0] in _PACKAGES else ""


def _imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def _own_imports(path: Path) -> set[str]:
    names = {name.removeprefix("vnet_segmentation.") for name in _imported_modules(path)}
    return names & {_module(file) for file in _ENGINE_FILES}


def test_no_module_of_the_engine_imports_itself_in_a_circle():
    graphlib.TopologicalSorter({_module(path): _own_imports(path) for path in _ENGINE_FILES}).prepare()


def test_every_package_of_the_engine_has_its_place():
    assert set(_PACKAGES) - {""} == {path.parent.name for path in ENGINE.glob("*/__init__.py")}


@pytest.mark.parametrize("path", _ENGINE_FILES, ids=_module)
def test_imports_point_downwards(path):
    assert not {name.split(".")[0] for name in _imported_modules(path)} & _FOREIGN
    if path.name == "__main__.py":
        return
    rank = _PACKAGES.index(_package(_module(path)))
    assert [module for module in _own_imports(path) if _PACKAGES.index(_package(module)) > rank] == []


@pytest.mark.parametrize("path", _ENGINE_FILES, ids=_module)
def test_numpy_and_torch_meet_in_one_place(path):
    """torch 2.2, which is all that Intel Macs get, refuses these where numpy is 2."""
    refused = {"from_numpy", "numpy", "__array__"}
    used = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    assert used & refused == set()


@pytest.mark.parametrize("path", [path for path in _ENGINE_FILES if path.parent.name != "cli"], ids=_module)
def test_no_sentence_of_the_engine_speaks_of_the_command_line(path):
    """The panel's users, who read it too, have none."""
    nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    texts = [node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    spoken = [text.value for text in texts if id(text) not in docstrings]
    assert [text for text in spoken if re.search(r"(?<=[ (])--[a-z]|vnet-segmentation [a-z]", text)] == []


def test_every_package_and_every_file_of_data_is_in_the_wheel():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    own = {"vnet_segmentation", *(f"vnet_segmentation.{name}" for name in _PACKAGES if name)}
    assert set(setuptools["packages"]) == own | {"vnet_segmentation.bundled_models"}
    packed = {
        file
        for package, patterns in setuptools["package-data"].items()
        for pattern in patterns
        for file in (ENGINE.parent / package.replace(".", "/")).glob(pattern)
    }
    data = {path for path in ENGINE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data == packed
    assert setuptools["package-data"]["vnet_segmentation.bundled_models"] == ["*.txt", "*/*"]


def test_the_wheel_has_the_version_of_the_program():
    # Where nothing says where the version is, setuptools writes 0.0.0 without a word.
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert package["project"]["dynamic"] == ["version"]
    assert package["tool"]["setuptools"]["dynamic"] == {"version": {"attr": "vnet_segmentation.__version__"}}


def test_the_repository_holds_no_images_and_no_pickles():
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    forbidden = re.compile(r"\.(nii|nii\.gz|nrrd|mha|mhd|raw|dcm|npy|npz|pth|pt|ckpt|pkl)$")
    assert [file for file in files if forbidden.search(file)] == []


def test_bundled_models_are_small_enough_and_say_where_they_come_from():
    folders = [path.parent for path in (ROOT / "Resources" / "Models").glob("*/model.json")]
    assert folders, "there is no bundled model"
    for folder in folders:
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 17_000_000
        description = json.loads((folder / "model.json").read_text("utf-8"))
        assert description["name"] == folder.name
        assert "doi.org" in json.dumps(description) or "doi:" in json.dumps(description)
    default = (ROOT / "Resources" / "Models" / "default.txt").read_text("utf-8").strip()
    assert default in {folder.name for folder in folders}


def test_a_clone_with_its_history_stays_under_100_mb():
    # More is refused by Slicer's index of extensions. Loose objects and packs, in kB.
    counted = subprocess.run(
        ["git", "count-objects", "-v"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    sizes = dict(line.split(": ") for line in counted.splitlines())
    assert int(sizes["size"]) + int(sizes["size-pack"]) < 100_000


_DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "Docs").glob("*.md")])


def _anchors(document: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", document.read_text("utf-8"), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_links_and_pictures_of_the_documents_lead_somewhere(document):
    text = re.sub(r"```.*?```", "", document.read_text("utf-8"), flags=re.S)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        path, _, anchor = target.partition("#")
        if "://" in target:
            continue
        file = (document.parent / path).resolve() if path else document
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("document", _DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_a_document_names_exist(document):
    existing = {path.relative_to(ROOT).with_suffix("").as_posix() for path in (ROOT / "Testing").rglob("test_*.py")}
    named = re.findall(r"`((?:\w+/)*test_\w+)(?:\.py)?`", document.read_text("utf-8"))
    assert [name for name in named if not any(f"/{test}".endswith(f"/{name}") for test in existing)] == []


def test_every_picture_is_shown_in_a_document():
    shown = {name for document in _DOCUMENTS for name in re.findall(r"pictures/([\w.-]+)", document.read_text("utf-8"))}
    assert {path.name for path in (ROOT / "Docs" / "pictures").iterdir()} == shown


def test_the_page_of_commands_is_the_codes():
    specification = importlib.util.spec_from_file_location("make_reference", ROOT / "Docs" / "make_reference.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    written = (ROOT / "Docs" / "commands.md").read_text("utf-8")
    assert written == module.make_page(), "run python Docs/make_reference.py"


def test_the_reference_names_every_field_of_a_report():
    source = "".join((ENGINE / "segmentation" / name).read_text("utf-8") for name in ("segmenter.py", "scan_job.py"))
    assigned = set(re.findall(r'^ +"(\w+)": ', source, re.M)) | set(re.findall(r'report\["(\w+)"\] =', source))
    reference = (ROOT / "Docs" / "reference.md").read_text("utf-8")
    assert assigned
    assert {field for field in assigned if f"`{field}`" not in reference} == set()


def test_the_version_to_cite_is_the_programs():
    assert f"\nversion: {vnet_segmentation.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
