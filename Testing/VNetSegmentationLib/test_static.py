"""What can be seen without running: the panel's form against the code, imports, translatable text."""

from __future__ import annotations

import ast
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "VNetSegmentation"
FORM = MODULE / "Resources" / "UI" / "VNetSegmentation.ui"
SOURCES = [MODULE / "VNetSegmentation.py", *sorted((MODULE / "VNetSegmentationLib").glob("*.py"))]

NAMES_FOR_SCRIPTS = [
    "tabs",
    "inputVolumeSelector",
    "outputSegmentationSelector",
    "segmentButton",
    "cancelButton",
    "progressBar",
    "statusLabel",
    "modelComboBox",
    "deviceComboBox",
    "thresholdSlider",
    "keepProbabilityCheckBox",
    "volumeLabel",
    "confidenceLabel",
    "psaSpinBox",
    "saveMaskButton",
    "addToTrainingButton",
    "segmentEditorWidget",
    "batchInputPath",
    "batchOutputPath",
    "batchRunButton",
    "batchTable",
    "trainingFolderPath",
    "trainingCasesTable",
    "baseModelComboBox",
    "trainingMinutesSpinBox",
    "previewAugmentationButton",
    "trainButton",
    "cancelTrainingButton",
    "trainingProgressBar",
    "trainingResultTable",
    "newModelNameEdit",
]

_PLAIN = {"QLabel", "QWidget", "QTabWidget", "qMRMLWidget", "qMRMLSegmentEditorWidget"}
"""Widgets that need no tool tip: captions, containers, and one that brings its own."""


@pytest.fixture(scope="module")
def form() -> ElementTree.Element:
    return ElementTree.parse(FORM).getroot()


def _trees():
    return [(path, ast.parse(path.read_text("utf-8"))) for path in SOURCES]


def _property(widget: ElementTree.Element, name: str) -> str | None:
    found = widget.find(f"property[@name='{name}']")
    return None if found is None else "".join(found.itertext()).strip()


def test_names_that_scripts_rely_on_are_there_once(form):
    names = [widget.get("name") for widget in form.iter("widget")]
    assert len(names) == len(set(names))
    assert [name for name in NAMES_FOR_SCRIPTS if name not in names] == []


def test_every_widget_that_the_code_names_is_in_the_form(form):
    names = {widget.get("name") for widget in form.iter("widget")}
    used = set()
    for _, tree in _trees():
        for node in ast.walk(tree):
            # ui.name and self._ui.name
            if isinstance(node, ast.Attribute) and isinstance(node.value, (ast.Name, ast.Attribute)):
                owner = node.value.id if isinstance(node.value, ast.Name) else node.value.attr
                if owner in ("ui", "_ui"):
                    used.add(node.attr)
    assert used, "the test finds no use of the form"
    assert used - names == set()


def test_parameters_and_widgets_agree(form):
    tree = ast.parse((MODULE / "VNetSegmentationLib" / "parameters.py").read_text("utf-8"))
    (parameters,) = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    fields = {node.target.id for node in parameters.body if isinstance(node, ast.AnnAssign)}
    bound = [name for widget in form.iter("widget") if (name := _property(widget, "SlicerParameterName"))]
    assert sorted(bound) == sorted(fields)


def test_everything_a_user_can_touch_has_a_tool_tip(form):
    bare = [
        widget.get("name")
        for widget in form.iter("widget")
        if widget.get("class") not in _PLAIN and not _property(widget, "toolTip")
    ]
    assert bare == []


def test_every_scene_widget_gets_the_scene(form):
    receivers = {
        connection.findtext("receiver")
        for connection in form.iter("connection")
        if connection.findtext("signal") == "mrmlSceneChanged(vtkMRMLScene*)"
        and connection.findtext("slot") == "setMRMLScene(vtkMRMLScene*)"
        and connection.findtext("sender") == form.find("widget").get("name")
    }
    widgets = {
        widget.get("name")
        for widget in form.iter("widget")
        if widget.get("class").startswith("qMRML") and widget is not form.find("widget")
    }
    assert receivers == widgets


def test_designer_knows_every_custom_widget(form):
    declared = {custom.findtext("class") for custom in form.iter("customwidget")}
    used = {widget.get("class") for widget in form.iter("widget")}
    assert {name for name in used if not name.startswith("Q")} == declared


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_modules_import_at_file_scope_only_what_every_slicer_has(path):
    allowed = {"slicer", "qt", "ctk", "vtk", "SimpleITK", "numpy", "vnet_segmentation", "VNetSegmentationLib"}
    tops = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import):
            tops |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(node.module.split(".")[0])
    assert tops - allowed - set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize(
    "name",
    [
        "volumeNodes",
        "prostateSegment",
        "segmentationResult",
        "segmentationRun",
        "maskName",
        "shownCase",
        "trainingPlot",
    ],
)
def test_the_scene_adapter_knows_no_widgets(name):
    text = (MODULE / "VNetSegmentationLib" / f"{name}.py").read_text("utf-8")
    assert not re.search(r"^\s*(import qt|import ctk|from qt|from ctk)", text, re.MULTILINE)


def test_the_workers_client_knows_no_scene():
    text = (MODULE / "VNetSegmentationLib" / "workerClient.py").read_text("utf-8")
    assert "MRML" not in text.replace("knows nothing of MRML", "")
    assert "mrmlScene" not in text


def test_translated_text_is_a_plain_literal():
    """What is put together inside of _() is in no catalogue of translations."""
    bad, count = [], 0
    for path, tree in _trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "_":
                count += 1
                if not (len(node.args) == 1 and isinstance(node.args[0], ast.Constant)):
                    bad.append(f"{path.name}:{node.lineno}")
    assert count > 30
    assert bad == []


def test_texts_that_are_shown_are_translated():
    """Texts given to widgets and dialogs are not bare literals with words in them."""
    bad = []
    shown = {"errorDisplay", "warningDisplay", "infoDisplay", "confirmYesNoDisplay", "tellError", "ask"}
    for path, tree in _trees():
        for node in ast.walk(tree):
            value = None
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
                if node.targets[0].attr in ("text", "toolTip", "title", "helpText", "acknowledgementText"):
                    value = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in shown:
                value = node.args[0]
            if isinstance(value, (ast.Constant, ast.JoinedStr)) and re.search("[a-z]{2}", ast.unparse(value)):
                bad.append(f"{path.name}:{node.lineno}")
    assert bad == []
