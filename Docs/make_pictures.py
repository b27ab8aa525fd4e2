"""Makes the pictures of README and tutorial from the program itself, with synthetic scans: no patient is in them.

    make pictures

The panel is the real one, its code and its form, on the desktop stand-in of the tests; colours and fonts differ from
Slicer's. The slices are drawn by the engine.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ["QT_QPA_PLATFORM"] = "offscreen"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "VNetSegmentation"))
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "Testing"))

import SimpleITK as sitk
from desktop import install
from desktop.fixtures import Desktop, python_slicer

from vnet_segmentation.images.phantom import PhantomGrid, make_phantom

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "Docs" / "pictures"
N_TRAINING_CASES = 4
GRID = PhantomGrid(size=(256, 256, 24), spacing_mm=(0.6, 0.6, 3.3))
COARSE_GRID = PhantomGrid(size=(96, 96, 20), spacing_mm=(1.2, 1.2, 3.6))
SEED = 5


def main() -> None:
    """Writes all pictures, each in place of the one before."""
    PICTURES.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp())
    try:
        os.environ["XDG_DATA_HOME"] = str(folder / "data")
        os.environ["XDG_CONFIG_HOME"] = str(folder / "settings")
        os.environ["PATH"] = f"{python_slicer(folder).parent}{os.pathsep}{os.environ['PATH']}"
        install()
        desktop = Desktop()
        desktop.close()
        _segment(desktop, folder)
        desktop.close()
        _batch(desktop, folder)
        desktop.close()
        _train(desktop, folder)
        desktop.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    for path in sorted(PICTURES.iterdir()):
        print(f"{path.relative_to(ROOT)} {path.stat().st_size / 1000:.0f} kB")


def _segment(desktop: Desktop, folder: Path) -> None:
    import slicer
    from PySide6 import QtGui

    from vnet_segmentation.images.picture import write_picture

    scan, _ = make_phantom(SEED, GRID)
    file = folder / "t2_tse_tra.nrrd"
    sitk.WriteImage(sitk.Cast(scan, sitk.sitkInt16), str(file))
    volume = slicer.util.loadVolume(str(file))
    ui = desktop.open_module().ui
    desktop.click(ui.segmentButton)
    desktop.wait_until(lambda: ui.progressBar.value > 20 or ui.cancelButton.isHidden())
    _picture(desktop, folder, ui, "segment-running", 320)
    desktop.wait_until(lambda: ui.cancelButton.isHidden(), 120)
    ui.psaSpinBox.value = 6.5
    _picture(desktop, folder, ui, "segment", 760)

    segmentation = ui.outputSegmentationSelector.currentNode()
    voxels = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "Prostate", volume)
    mask = sitk.GetImageFromArray(voxels)
    mask.CopyInformation(scan)
    montage = folder / "slices.png"
    write_picture(scan, mask, montage)
    # A tenth of the size, and in a repository that counts.
    assert QtGui.QImage(str(montage)).save(str(PICTURES / "slices.jpg"), quality=85)

    ui.correctCollapsibleButton.collapsed = False
    ui.segmentEditorWidget.saveStateForUndo()
    voxels = voxels.copy()
    voxels[10, 115:135, 100:130] = 1 - voxels[10, 115:135, 100:130]
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, segmentation, "Prostate", volume)
    desktop.wait_until(lambda: not ui.thresholdSlider.enabled)
    _picture(desktop, folder, ui, "correct", 900)
    ui.correctCollapsibleButton.collapsed = True

    desktop.click(ui.saveMaskButton)
    desktop.click(ui.addToTrainingButton)
    desktop.run_for(0.5)
    _picture(desktop, folder, ui, "save", 760)


def _batch(desktop: Desktop, folder: Path) -> None:
    scans = folder / "scans"
    scans.mkdir()
    for seed in range(2):
        sitk.WriteImage(make_phantom(seed, COARSE_GRID)[0], str(scans / f"patient{seed + 1}_t2.nrrd"))
    (scans / "patient3_t2.nrrd").write_bytes(b"NRRD0004\ntype: float\n")
    ui = desktop.open_module().ui
    ui.tabs.currentIndex = 1
    ui.batchInputPath.currentPath = str(scans)
    ui.batchOutputPath.currentPath = str(folder / "masks")
    desktop.wait_until(lambda: ui.batchRunButton.enabled)
    desktop.click(ui.batchRunButton)
    desktop.wait_until(lambda: ui.batchCancelButton.isHidden(), 120)
    _picture(desktop, folder, ui, "batch", 480)


def _train(desktop: Desktop, folder: Path) -> None:
    cases = folder / "cases"
    cases.mkdir()
    for seed in range(N_TRAINING_CASES):
        scan, mask = make_phantom(seed, COARSE_GRID)
        sitk.WriteImage(scan, str(cases / f"case{seed + 1}.nrrd"))
        sitk.WriteImage(mask, str(cases / f"case{seed + 1}_segmentation.nrrd"))
    ui = desktop.open_module().ui
    ui.trainingFolderPath.currentPath = str(cases)
    ui.tabs.currentIndex = 2
    desktop.wait_until(lambda: ui.readCasesButton.enabled and ui.trainingCasesTable.rowCount == N_TRAINING_CASES)
    ui.newModelNameEdit.text = "our-scanner"
    desktop.wait_until(lambda: "iterations" in ui.trainingEstimateLabel.text, 120)
    _picture(desktop, folder, ui, "train-cases", 900)
    # Not what a user would choose: the picture of the end shall not take an hour.
    ui.trainingIterationsSpinBox.value = 8
    desktop.click(ui.trainButton)
    desktop.wait_until(lambda: ui.cancelTrainingButton.isHidden(), 600)
    ui.trainingCasesCollapsibleButton.collapsed = True
    _picture(desktop, folder, ui, "train-result", 760)


def _picture(desktop: Desktop, folder: Path, ui: Any, name: str, height: int) -> None:
    from desktop.pythonqt import unwrap
    from PySide6 import QtWidgets

    tabs = unwrap(ui.tabs)
    tabs.window().resize(460, height)
    desktop.run_for(0.3)
    # Folders as a user might have them, not this run's: for the picture only, and nothing hears of it.
    shown = [*tabs.findChildren(QtWidgets.QLineEdit), *tabs.findChildren(QtWidgets.QLabel)]
    texts = {widget: widget.text() for widget in shown if str(folder) in widget.text()}
    for widget, text in texts.items():
        _set_silently(widget, text.replace(str(folder), "/data"))
    tabs.grab().save(str(PICTURES / f"{name}.png"))
    for widget, text in texts.items():
        _set_silently(widget, text)


def _set_silently(widget: Any, text: str) -> None:
    widget.blockSignals(True)
    widget.setText(text)
    widget.blockSignals(False)


if __name__ == "__main__":
    main()
