"""The panel from its opening to its end, and what of it outlives scenes, reloads and itself."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from desktop.panel_user import PanelUser, wait_for_end


def test_an_empty_scene_says_what_to_do(panel):
    assert not panel.ui.segmentButton.enabled
    assert "Load" in panel.ui.statusLabel.text
    assert panel.ui.segmentButton.toolTip == panel.ui.statusLabel.text
    assert not panel.ui.resultCollapsibleButton.enabled
    assert not panel.ui.saveCollapsibleButton.enabled


@pytest.fixture
def no_main_window(desktop, monkeypatch):
    """As Slicer is with --no-main-window: no views, and a dialog would wait for ever."""
    import slicer

    def fail(*_, **__):
        raise AttributeError("'NoneType' object has no attribute 'sliceViewNames'")

    monkeypatch.setattr(slicer.util, "mainWindow", lambda verbose=True: None)
    monkeypatch.setattr(slicer.app, "layoutManager", lambda: None)
    monkeypatch.setattr(slicer.util, "setSliceViewerLayers", fail)


@pytest.mark.usefixtures("no_main_window")
def test_a_panel_that_a_script_uses_without_a_main_window_works_and_asks_nothing(
    desktop, add_scan, monkeypatch, tmp_path
):
    """No module is ever entered there."""
    from VNetSegmentationLib import panelWorker

    widget = desktop.open_module(enter=False)
    widget.ui.inputVolumeSelector.setCurrentNode(add_scan())
    assert widget.ui.segmentButton.enabled
    widget.ui.segmentButton.click()
    desktop.wait_until(lambda: widget.ui.outputSegmentationSelector.currentNode() is not None)
    assert widget.ui.volumeLabel.text.endswith("ml")
    widget.ui.saveMaskButton.click()
    assert "folder" in widget.ui.saveStatusLabel.text
    widget.ui.saveFolderPath.currentPath = str(tmp_path)
    (tmp_path / "t2_tse_tra_prostate.seg.nrrd").write_text("a colleague's work")
    widget.ui.saveMaskButton.click()
    assert widget.ui.saveStatusLabel.text == "Nothing was saved."
    monkeypatch.setattr(panelWorker, "missingPackages", lambda path: ["torch"])
    widget.ui.segmentButton.click()
    assert "pip install" in widget.ui.statusLabel.text
    assert desktop.dialogs == []


def test_slicers_process_needs_nothing_that_a_new_slicer_lacks():
    """Nor does it load what is there. In a process of its own, for here the tests have loaded it."""
    import subprocess
    import sys

    # Importing what is None there fails.
    lacking = ("torch", "safetensors", "tqdm", "filelock")
    code = (
        f"import sys; from desktop import install; install(); sys.modules.update(dict.fromkeys({lacking})); "
        "import VNetSegmentation; from VNetSegmentationLib import panel, selfTest, segmentAndWait, headlessBatch, "
        "headlessTraining"
    )
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "VNetSegmentation"), str(root / "Testing")])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)


def test_no_process_and_no_file_is_left_behind(desktop, add_scan, tmp_path, monkeypatch):
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = set(tmp_path.iterdir())
    panel = PanelUser(desktop)
    panel.segment(add_scan())
    pid = panel.widget.logic.client.pid
    desktop.close()
    with pytest.raises(ProcessLookupError):
        wait_for_end(pid)
    assert set(tmp_path.iterdir()) - before <= {tmp_path / "settings"}


def test_settings_outlive_the_panel(desktop, tmp_path):
    first = PanelUser(desktop)
    first.ui.trainingFolderPath.currentPath = str(tmp_path)
    first.ui.saveNameEdit.text = "{scan}_gland"
    first.ui.saveFormatComboBox.currentText = ".nii.gz"
    first.ui.deviceComboBox.currentText = "CPU"
    first.ui.batchInputPath.currentPath = str(tmp_path)
    second = PanelUser(desktop)
    assert second.ui.trainingFolderPath.currentPath == str(tmp_path)
    assert second.ui.saveNameEdit.text == "{scan}_gland"
    assert second.ui.saveFormatComboBox.currentText == ".nii.gz"
    assert second.ui.deviceComboBox.currentText == "CPU"
    assert second.ui.batchInputPath.currentPath == str(tmp_path)


def test_long_paths_do_not_widen_the_panel(desktop, tmp_path):
    def width():
        return desktop.open_module().ui.tabs.minimumSizeHint.width()

    from VNetSegmentationLib.settings import setSetting

    for name in ("BatchInput", "BatchOutput", "TrainingFolder"):
        setSetting(name, "/data")
    usual = width()
    for name in ("BatchInput", "BatchOutput", "TrainingFolder"):
        setSetting(name, "/data/a folder in a folder" * 5)
    assert width() == usual


def test_long_names_of_nodes_do_not_widen_the_panel(desktop, add_scan):
    import slicer

    usual = desktop.open_module().ui.tabs.minimumSizeHint.width()
    add_scan("5: t2_tse_tra_p2_320 as a frame volume ScalarVolume " * 2)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "A segmentation with a long name " * 3)
    ui = desktop.open_module().ui
    assert ui.tabs.minimumSizeHint.width() == usual
    assert ui.inputVolumeSelector.width > 100


@pytest.mark.parametrize("name", ["saveFolderPath", "batchInputPath", "batchOutputPath", "trainingFolderPath"])
def test_the_button_beside_a_folder_asks_for_a_folder(panel, desktop, tmp_path, name):
    desktop.answers["getExistingDirectory"] = str(tmp_path)
    path_edit = getattr(panel.ui, name)
    path_edit.browse()
    assert path_edit.currentPath == str(tmp_path)


def test_a_panel_that_was_cleaned_up_writes_no_parameters(panel):
    """Reload leaves the old panel where it is, hidden."""
    node = panel.widget.logic.getParameterNode()
    panel.widget.cleanup()
    before = node.GetParameter("threshold")
    panel.ui.thresholdSlider.value = 0.2
    assert node.GetParameter("threshold") == before


def test_a_panel_that_was_cleaned_up_waits_for_nothing_any_more(panel, add_scan, desktop):
    """Its widgets may be gone by then."""
    import slicer

    panel.choose(add_scan())
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    panel.ui.outputSegmentationSelector.setCurrentNode(segmentation)
    desktop.run_for(0.2)
    segmentation.GetSegmentation().AddEmptySegment("other")
    panel.ui.tabs.currentIndex = 1
    panel.widget.cleanup()
    panel.ui.segmentButton.toolTip = "as it was left"
    desktop.run_for(0.2)
    assert panel.ui.segmentButton.toolTip == "as it was left"


def test_a_panel_that_was_cleaned_up_leaves_keys_views_and_the_editors_node_to_others(panel, add_scan, desktop):
    import slicer
    from desktop.pythonqt import unwrap

    panel.choose(add_scan())
    panel.ui.outputSegmentationSelector.setCurrentNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode"))
    panel.ui.segmentEditorWidget.setActiveEffectByName("Paint")
    old, node = unwrap(panel.ui.segmentEditorWidget), panel.ui.segmentEditorWidget.mrmlSegmentEditorNode()
    panel.widget.cleanup()
    assert not old.shortcuts_installed
    assert not old.views_observed
    assert node.GetActiveEffectName() == ""
    successor = PanelUser(desktop)
    assert successor.ui.segmentEditorWidget.segmentationNode() is successor.segmentation
    successor.ui.outputSegmentationSelector.setCurrentNode(None)
    assert node.GetSegmentationNode() is None


def test_a_closed_scene_adds_no_connection(panel, monkeypatch):
    import slicer

    from VNetSegmentationLib import panel as panelModule

    made = []
    original = panelModule.PanelParameters
    monkeypatch.setattr(panelModule, "PanelParameters", lambda node: (made.append(node), original(node))[1])
    for _ in range(3):
        slicer.mrmlScene.Clear(0)
    assert made == []
    panel.ui.thresholdSlider.value = 0.2
    assert panel.widget.logic.getParameterNode().GetParameter("threshold") == str(panel.ui.thresholdSlider.value)


def test_a_scene_that_lost_the_parameters_gets_them_anew(panel, add_scan):
    import slicer

    slicer.mrmlScene.RemoveNode(panel.widget.logic.getParameterNode())
    slicer.mrmlScene.Clear(0)
    volume = add_scan()
    panel.choose(volume)
    assert panel.widget.logic.getParameterNode().GetNodeReference("inputVolume") is volume


def _save_scene(path: Path) -> None:
    import slicer

    for kind in ("vtkMRMLScalarVolumeNode", "vtkMRMLSegmentationNode"):
        for node in slicer.util.getNodesByClass(kind):
            if node.GetStorageNode() is None:
                node.AddDefaultStorageNode()
            suffix = "seg.nrrd" if kind == "vtkMRMLSegmentationNode" else "nrrd"
            file = path.parent / f"{node.GetID()}.{suffix}"
            node.GetStorageNode().SetFileName(str(file))
            assert node.GetStorageNode().WriteData(node)
    slicer.mrmlScene.SetURL(str(path))
    slicer.mrmlScene.Commit(str(path))


def test_a_scene_that_is_added_leaves_the_result_as_it_is(segmented, tmp_path):
    import slicer

    (tmp_path / "empty.mrml").write_text('<MRML version="Slicer 5"></MRML>')
    threshold, said = segmented.ui.thresholdSlider.enabled, segmented.ui.runLabel.text
    assert threshold
    assert said
    slicer.mrmlScene.SetURL(str(tmp_path / "empty.mrml"))
    slicer.mrmlScene.Import()
    assert segmented.ui.thresholdSlider.enabled
    assert segmented.ui.runLabel.text == said


@pytest.mark.parametrize("way", ["loaded", "added"])
def test_a_scene_that_is_read_into_an_open_panel_is_shown(segmented, add_scan, tmp_path, way):
    """Its own choice of a scan, which is not the newest one, and of a segmentation, for looking, saving, correcting."""
    import slicer

    segmented.ui.thresholdSlider.value = 0.4
    segmented.desktop.run_for(0.2)
    voxels, text = segmented.voxels().copy(), segmented.ui.volumeLabel.text
    name = segmented.ui.inputVolumeSelector.currentNode().GetName()
    add_scan("a later one")
    _save_scene(tmp_path / "scene.mrml")
    segmented.desktop.close()
    panel = PanelUser(segmented.desktop)
    if way == "loaded":
        slicer.mrmlScene.Connect()
    else:
        add_scan("there before")
        panel.desktop.wait_until(lambda: panel.ui.inputVolumeSelector.currentNode() is not None)
        slicer.mrmlScene.Import()
    assert panel.ui.inputVolumeSelector.currentNode().GetName() == name
    assert panel.ui.thresholdSlider.value == pytest.approx(0.4)
    np.testing.assert_array_equal(panel.voxels(), voxels)
    assert panel.ui.volumeLabel.text == text
    assert panel.ui.saveCollapsibleButton.enabled
    editor = panel.ui.segmentEditorWidget
    assert editor.segmentationNode() is panel.segmentation
    assert editor.mrmlSegmentEditorNode().GetOverwriteMode() == slicer.vtkMRMLSegmentEditorNode.OverwriteNone
    panel.widget.exit()
    panel.widget.enter()
    assert panel.ui.inputVolumeSelector.currentNode().GetName() == name


def test_a_scene_that_replaces_another_keeps_its_own_choice_of_a_scan(segmented, add_scan, tmp_path):
    """Its nodes have the IDs of those that were there."""
    import slicer

    name = segmented.ui.inputVolumeSelector.currentNode().GetName()
    text = segmented.ui.volumeLabel.text
    add_scan("a later one")
    _save_scene(tmp_path / "scene.mrml")
    slicer.mrmlScene.Clear(0)
    segmented.choose(add_scan("of another patient"))
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Connect()
    assert segmented.ui.inputVolumeSelector.currentNode().GetName() == name
    assert segmented.ui.volumeLabel.text == text


def test_node_choices_live_in_the_scene(segmented):
    import slicer

    node = slicer.mrmlScene.GetSingletonNode("VNetSegmentation", "vtkMRMLScriptedModuleNode")
    assert node.GetNodeReference("inputVolume") is segmented.ui.inputVolumeSelector.currentNode()
    assert node.GetNodeReference("outputSegmentation") is segmented.segmentation


def test_reload_reads_the_packages_anew(panel):
    import sys

    packages = ("VNetSegmentationLib", "vnet_segmentation")
    before = {name: module for name, module in sys.modules.items() if name.partition(".")[0] in packages}
    try:
        panel.widget.onReload()
        successor = panel.widget.successor
        assert sys.modules["VNetSegmentationLib.panel"] is not before["VNetSegmentationLib.panel"]
        assert isinstance(successor.panel, sys.modules["VNetSegmentationLib.panel"].Panel)
        successor.cleanup()
    finally:
        # Other tests have what they imported.
        for name in [name for name in sys.modules if name.partition(".")[0] in packages]:
            del sys.modules[name]
        sys.modules.update(before)


def test_a_panel_that_is_reloaded_while_it_is_open_is_open_again(panel, add_scan):
    import importlib

    from desktop.pythonqt import unwrap

    scan = add_scan()
    panel.widget.cleanup()
    successor = importlib.import_module("VNetSegmentation").VNetSegmentationWidget(panel.widget.parent)
    successor.setup()
    assert successor.ui.inputVolumeSelector.currentNode() is scan
    successor.ui.correctCollapsibleButton.collapsed = False
    assert unwrap(successor.ui.segmentEditorWidget).shortcuts_installed
    successor.cleanup()


def test_a_script_can_make_a_panel_of_its_own(desktop, add_scan):
    import importlib

    desktop.open_module(enter=False)
    widget = importlib.import_module("VNetSegmentation").VNetSegmentationWidget()
    widget.enter()
    assert widget.ui.inputVolumeSelector.currentNode() is None
    add_scan()
    desktop.wait_until(lambda: widget.ui.segmentButton.enabled)
    widget.cleanup()


def test_a_panel_that_could_not_be_set_up_says_so_once(desktop, monkeypatch):
    import slicer

    def fail(path):
        raise RuntimeError("Could not find UI file")

    monkeypatch.setattr(slicer.util, "loadUI", fail)
    with pytest.raises(RuntimeError, match="UI file"):
        desktop.open_module()
    # Slicer goes on calling it.
    ((widget, _root),) = desktop._panels
    widget.enter()
    widget.exit()
    widget.cleanup()


def test_a_scene_that_is_read_while_another_module_is_open_keeps_its_slice_views(segmented, tmp_path):
    import slicer
    from desktop.pythonqt import unwrap

    editor = unwrap(segmented.ui.segmentEditorWidget)
    _save_scene(tmp_path / "scene.mrml")
    segmented.widget.exit()
    slicer.mrmlScene.Clear(0)
    before = editor.view_changes
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Import()
    assert segmented.segmentation is not None
    assert editor.view_changes == before
    segmented.widget.enter()
    assert editor.segmentationNode() is segmented.segmentation
    assert editor.currentSegmentID() == "Prostate"
