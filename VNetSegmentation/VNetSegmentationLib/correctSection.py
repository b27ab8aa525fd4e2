"""Slicer's segment editor in the panel."""

import slicer
from slicer.i18n import tr as _

from VNetSegmentationLib.dialogs import tellWarning
from VNetSegmentationLib.prostateSegment import ProstateSegment

_EFFECTS = (
    "Paint",
    "Erase",
    "Draw",
    "Scissors",
    "Islands",
    "Smoothing",
    "Margin",
    "Fill between slices",
    "Level tracing",
)


class CorrectSection:
    """Keeps the embedded editor on the segmentation and volume of the panel, and remembers states for its undo."""

    def __init__(self, ui):
        self._ui = ui
        self._editor = ui.segmentEditorWidget
        self._editor.setSegmentationNodeSelectorVisible(False)
        self._editor.setSourceVolumeNodeSelectorVisible(False)
        self._editor.setSwitchToSegmentationsButtonVisible(False)
        self._editor.setEffectNameOrder(list(_EFFECTS))
        self._editor.unorderedEffectsVisible = False
        self._editor.setMaximumNumberOfUndoStates(20)
        # What the slice views show is the panel's choice, or the scene's. The hidden choice of a segmentation would
        # take the first one of each scene, and the editor label volumes out of the views.
        self._editor.setAutoShowSourceVolumeNode(False)
        # The editor's own, not one in the options of an effect.
        for child in self._editor.children():
            if child.objectName == "SegmentationNodeComboBox":
                child.noneEnabled = True
        self._wish = (None, None, None)
        self._isShown = self._isActive = False
        _keepOtherSegments(self._useEditorNode())
        self._editor.connect("segmentationNodeChanged(vtkMRMLSegmentationNode*)", self._keepWish)
        ui.correctCollapsibleButton.connect("contentsCollapsed(bool)", lambda isCollapsed: self._activate())
        ui.tabs.connect("currentChanged(int)", lambda index: self._activate())

    def edit(self, segmentationNode, volumeNode, segmentId: str | None = None) -> None:
        """Points the editor at a segmentation, a volume and a segment; None each for none.

        While another module is open it waits: the editor changes what the slice views show.
        """
        self._wish = (segmentationNode and segmentationNode.GetID(), volumeNode and volumeNode.GetID(), segmentId)
        if segmentationNode is not None and not self._isShown:
            return
        self._useEditorNode()
        self._editor.setSegmentationNode(segmentationNode)
        if segmentationNode is not None:
            self._leaveLightboxes()
            # Without a segmentation the editor takes no volume, and says so in the log as a critical error.
            self._editor.setSourceVolumeNode(volumeNode)
        if segmentId is not None:
            self._editor.setCurrentSegmentID(segmentId)

    def remember(self, segment: ProstateSegment) -> None:
        """Makes the change that follows one that the editor's undo takes back, if it is on this segmentation."""
        self.edit(segment.segmentationNode, segment.volumeNode, segment.segmentId)
        if self._editor.segmentationNode() is segment.segmentationNode:
            self._editor.saveStateForUndo()

    def enter(self) -> None:
        """The panel is shown."""
        self._isShown = True
        self._useEditorNode()
        self._fulfilWish()
        self._leaveLightboxes()
        self._editor.updateWidgetFromMRML()
        self._activate()

    def exit(self) -> None:
        """The panel is left."""
        self._isShown = False
        self._activate()

    def _activate(self) -> None:
        """Gives the editor mouse and keys while it can be seen, and only then: a digit starts an effect, and the next
        click into a view changes the mask."""
        ui = self._ui
        wanted = self._isShown and ui.tabs.currentIndex == 0 and not ui.correctCollapsibleButton.collapsed
        if wanted == self._isActive:
            return
        self._isActive = wanted
        if wanted:
            self._editor.setupViewObservations()
            self._editor.installKeyboardShortcuts()
        else:
            self._editor.setActiveEffect(None)
            self._editor.uninstallKeyboardShortcuts()
            self._editor.removeViewObservations()

    def cleanup(self) -> None:
        """The panel goes, or stays hidden after a reload, where its editor must choose nothing for the next one."""
        self.exit()
        self.edit(None, None)
        self._editor.setMRMLSegmentEditorNode(None)

    def sceneClosed(self) -> None:
        """The scene was closed: the node of the editor's settings is still there, with the settings of a new one."""
        _keepOtherSegments(self._useEditorNode())

    def _keepWish(self, editedNode) -> None:
        """The editor has a choice of its own, which is hidden here and takes the first segmentation of a scene."""
        if (editedNode and editedNode.GetID()) != self._wish[0]:
            self._fulfilWish()

    def _fulfilWish(self) -> None:
        *nodeIds, segmentId = self._wish
        nodes = [nodeId and slicer.mrmlScene.GetNodeByID(nodeId) for nodeId in nodeIds]
        self.edit(*nodes, segmentId)

    def _leaveLightboxes(self) -> None:
        """The editor's effects do not work in them; without a segmentation it leaves them alone."""
        if self._isShown and self._editor.turnOffLightboxes():
            tellWarning(
                _("Slice views that show several slices at once were reset: masks cannot be corrected in them.")
            )

    def _useEditorNode(self):
        """Gives the editor the node of its settings, which is made when the scene has none, and returns it."""
        node = slicer.mrmlScene.GetSingletonNode("VNetSegmentation", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.vtkMRMLSegmentEditorNode()
            node.SetSingletonTag("VNetSegmentation")
            # A scene that is read shall not choose what is edited.
            node.SetSaveWithScene(False)
            _keepOtherSegments(node)
            node = slicer.mrmlScene.AddNode(node)
        if self._editor.mrmlSegmentEditorNode() is not node:
            self._editor.setMRMLSegmentEditorNode(node)
        return node


def _keepOtherSegments(editorNode) -> None:
    """Painting the prostate must not erase the user's other segments."""
    editorNode.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
