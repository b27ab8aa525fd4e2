"""What holds for the tree as a whole."""

from __future__ import annotations

import ast
import graphlib
import importlib.util
import json
import re
import subprocess
from pathlib import Path

import pytest

import vnet_segmentation

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "VNetSegmentation" / "vnet_segmentation"

_FOREIGN = {"slicer", "qt", "ctk", "vtk", "PySide6", "monai", "scipy", "matplotlib"}

# Each layer imports only from itself and from those before it.
_LAYERS = (
    {
        "errors",
        "atomic",
        "paths",
        "arrays",
        "volume_exchange",
        "processes",
        "improvement",
        "user_folders",
        "worker_protocol",
        "terminal",
    },
    {
        "network",
        "loss",
        "deformation",
        "appearance",
        "metrics",
        "measurements",
        "preprocessing",
        "phantom",
        "confidence",
        "masks",
        "quantisation",
        "model_card",
        "dice_histogram",
    },
    {
        "device",
        "inference",
        "recipe",
        "checkpoint",
        "scans",
        "file_headers",
        "dicom",
        "mask_files",
        "picture",
        "dataset",
        "dataset_splits",
        "training_split",
        "bundle",
    },
    {"model_library", "segmenter", "training_cache", "training_plan", "training_state", "evaluation"},
    {"augmentation", "training", "model_files", "training_description"},
    {"scan_job", "batch_cases", "batch_tables", "batch", "demo", "train_model", "training_folder"},
    {"cluster", "crossvalidation", "training_preview"},
    {"model_commands", "training_commands"},
    {"worker_commands", "cli_commands"},
    {"worker", "cli"},
    {"__main__"},
)


def _imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def test_no_module_of_the_engine_imports_itself_in_a_circle():
    names = {path.stem for path in ENGINE.glob("*.py")}
    imports = {
        path.stem: {name.split(".")[1] for name in _imported_modules(path) if name.startswith("vnet_segmentation.")}
        & names
        for path in ENGINE.glob("*.py")
    }
    graphlib.TopologicalSorter(imports).prepare()


def test_every_module_of_the_engine_has_a_layer():
    assert set().union(*_LAYERS) == {path.stem for path in ENGINE.glob("*.py")} - {"__init__"}


@pytest.mark.parametrize("path", sorted(ENGINE.glob("*.py")), ids=lambda path: path.stem)
def test_imports_point_downwards(path):
    imported = _imported_modules(path)
    assert not {name.split(".")[0] for name in imported} & _FOREIGN
    rank = {module: i for i, layer in enumerate(_LAYERS) for module in layer}
    own = {name.split(".")[1] for name in imported if name.startswith("vnet_segmentation.")} & set(rank)
    assert [module for module in own if rank[module] > rank.get(path.stem, len(_LAYERS))] == []


@pytest.mark.parametrize("path", sorted(ENGINE.glob("*.py")), ids=lambda path: path.stem)
def test_numpy_and_torch_meet_in_one_place(path):
    """torch 2.2, which is all that Intel Macs get, refuses these where numpy is 2."""
    refused = {"from_numpy", "numpy", "__array__"}
    used = {node.attr for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Attribute)}
    assert used & refused == set()


def test_every_preset_and_model_is_in_a_pattern_of_the_package_data():
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    assert '"presets/*.json", "presets/recipes/*.json"' in text
    assert '"vnet_segmentation.models" = ["*.txt", "*/*"]' in text
    stray = [path for path in (ENGINE / "presets").rglob("*") if path.is_file() and path.suffix != ".json"]
    assert stray == []


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
    source = (ENGINE / "segmenter.py").read_text("utf-8") + (ENGINE / "scan_job.py").read_text("utf-8")
    assigned = set(re.findall(r'^ +"(\w+)": ', source, re.M)) | set(re.findall(r'report\["(\w+)"\] =', source))
    reference = (ROOT / "Docs" / "reference.md").read_text("utf-8")
    assert assigned
    assert {field for field in assigned if f"`{field}`" not in reference} == set()


def test_the_version_to_cite_is_the_programs():
    assert f"\nversion: {vnet_segmentation.__version__}\n" in (ROOT / "CITATION.cff").read_text("utf-8")
