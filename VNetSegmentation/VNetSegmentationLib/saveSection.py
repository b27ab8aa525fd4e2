"""Saving the mask, and keeping scan and mask for training."""

import logging

from slicer.i18n import tr as _

from vnet_segmentation.datasets.case_folder import add_case
from vnet_segmentation.errors import UserError
from vnet_segmentation.images.mask_files import write_mask
from vnet_segmentation.images.scans import scan_stem
from VNetSegmentationLib import settings
from VNetSegmentationLib.dialogs import ask, tellError
from VNetSegmentationLib.maskName import DEFAULT_PATTERN, FORMATS, maskPath
from VNetSegmentationLib.prostateSegment import ProstateSegment
from VNetSegmentationLib.volumeNodes import imageFromVolume, loadedFile, scanFile
from VNetSegmentationLib.wrappedText import showWrapped


class SaveSection:
    """Writes the current mask, as it is with all corrections, on the scan's own grid."""

    def __init__(self, ui):
        self._ui = ui
        self._segment = None
        self._source = None  # the scan's ID and the file of its mask, by which the folder was proposed
        settings.bindText(ui.saveNameEdit, "SaveName", DEFAULT_PATTERN)
        settings.bindChoice(ui.saveFormatComboBox, "SaveFormat", [(suffix, suffix) for suffix in FORMATS])
        ui.saveMaskButton.connect("clicked()", self._saveMask)
        ui.addToTrainingButton.connect("clicked()", self._addToTraining)
        self.show(None)

    def show(self, segment: ProstateSegment | None) -> None:
        """Takes the segment to save; None if there is none."""
        self._segment = segment
        self._ui.saveCollapsibleButton.enabled = segment is not None
        showWrapped(self._ui.saveStatusLabel, "")
        if segment is None:
            return
        volume, maskFile = segment.volumeNode, loadedFile(segment.segmentationNode)
        if (volume.GetID(), maskFile) != self._source:
            self._source = (volume.GetID(), maskFile)
            # A mask that was loaded, as one of a batch, goes back to where it lies.
            file = maskFile or scanFile(volume)
            # Not the folder of the mask before: it was another patient's, whose scan may have the same name.
            self._ui.saveFolderPath.currentPath = str(file.parent) if file else ""

    def forgetScan(self) -> None:
        """The scene is closed or read: a scan of the next one may have the ID of the last."""
        self._source = None

    def _saveMask(self) -> None:
        self._attempt(self._writeMask)

    def _addToTraining(self) -> None:
        self._attempt(self._writeCase)

    def _attempt(self, action) -> None:
        try:
            problem = self._segment.problem()
            if problem:
                raise UserError(problem)
            sentence = action()
        except UserError as error:
            sentence = str(error)
            tellError(sentence)
        except Exception as error:
            # Qt would only put it into the log, and the click would seem to do nothing.
            logging.exception("The mask could not be saved")
            sentence = _("The mask could not be saved: {error}").format(error=error)
            tellError(sentence)
        showWrapped(self._ui.saveStatusLabel, sentence)

    def _writeMask(self) -> str:
        ui, volume = self._ui, self._segment.volumeNode
        file = scanFile(volume)
        path = maskPath(
            ui.saveFolderPath.currentPath,
            ui.saveNameEdit.text,
            scan_stem(file) if file else volume.GetName(),
            settings.chosen(ui.saveFormatComboBox),
        )
        if file is not None and path.resolve() == file.resolve():
            raise UserError(_("{name} is the scan itself. Give the mask another name.").format(name=path.name))
        if path.exists() and not ask(_("{path} exists already. Replace it?").format(path=path)):
            return _("Nothing was saved.")
        write_mask(self._segment.read(), path)
        return _("Saved {path}").format(path=path)

    def _writeCase(self) -> str:
        folder = self._ui.trainingFolderPath.currentPath
        if not folder:
            raise UserError(_("Choose a folder for the training cases in the Train tab."))
        case = add_case(folder, imageFromVolume(self._segment.volumeNode), self._segment.read())
        text = (
            _("The mask of {name} was replaced: this scan is in {folder} already.")
            if case.replaced
            else _("Added to {folder} as {name}.")
        )
        return text.format(name=case.name, folder=folder)
