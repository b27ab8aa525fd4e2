"""Slicer's widgets that are bound to a scene."""

from __future__ import annotations

import shiboken6
import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Signal

_EFFECTS = (
    "Threshold",
    "Paint",
    "Draw",
    "Erase",
    "Level tracing",
    "Grow from seeds",
    "Fill between slices",
    "Margin",
    "Hollow",
    "Smoothing",
    "Scissors",
    "Islands",
    "Logical operators",
    "Mask volume",
)


class qMRMLWidget(QtWidgets.QWidget):
    """Passes the scene on to the widgets that are connected in the form."""

    mrmlSceneChanged = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None

    def setMRMLScene(self, scene):
        """Sets the scene and tells it."""
        if scene is self._scene:
            return
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    def mrmlScene(self):
        """The scene."""
        return self._scene


class qMRMLNodeComboBox(QtWidgets.QComboBox):
    """The scene's nodes of some classes, in the scene's order, and none."""

    currentNodeChanged = Signal(object)
    currentNodeIDChanged = Signal(str)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._scene = None
        self._tags = []
        self._node_tags = {}
        self._current = None
        self._listed = []
        self._types, self._none_display = [], "None"
        self._flags = {"none": False, "add": True, "remove": True, "rename": False, "children": True, "edit": False}
        self.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(12)
        self.activated.connect(lambda index: self._select(self._node_at(index)))

    def setMRMLScene(self, scene):
        """Binds the box to a scene."""
        if scene is self._scene:
            return
        self._stop_observing()
        self._scene = scene
        if scene is not None:
            for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
                self._tags.append(scene.AddObserver(event, lambda *_: self._refresh()))
        self._refresh()

    def _stop_observing(self):
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        for node, tag in self._node_tags.values():
            node.RemoveObserver(tag)
        self._tags, self._node_tags = [], {}

    def currentNode(self):
        """The chosen node; None for none, and for one that has gone."""
        return self._current if self._current is None or self._scene.IsNodePresent(self._current) else None

    def setCurrentNode(self, node):
        """Chooses a node; None for none, or for one that the box does not list yet."""
        self._select(node if node in self._listed else None)

    def setCurrentNodeID(self, node_id):
        """Chooses a node by its ID; an empty one clears the choice."""
        self.setCurrentNode(self._scene.GetNodeByID(node_id) if self._scene and node_id else None)

    def _nodes(self):
        found = []
        for index in range(self._scene.GetNumberOfNodes() if self._scene else 0):
            node = self._scene.GetNthNode(index)
            if node.GetHideFromEditors():
                continue
            if any(node.IsA(t) if self._flags["children"] else node.GetClassName() == t for t in self._types):
                found.append(node)
        return found

    def _node_at(self, index):
        node_id = self.itemData(index)
        return self._scene.GetNodeByID(node_id) if node_id else None

    def _refresh(self):
        if not shiboken6.isValid(self):
            # The widget is gone, and its observers are not.
            self._stop_observing()
            return
        if self._scene is not None and self._scene.IsBatchProcessing():
            # While a scene is closed or read the list stays as it is.
            return
        was_empty, nodes = not self._listed, self._nodes()
        self._listed = nodes
        for tag_node, tag in self._node_tags.values():
            tag_node.RemoveObserver(tag)
        self._node_tags = {
            node.GetID(): (node, node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._rename()))
            for node in nodes
        }
        blocker = QtCore.QSignalBlocker(self)
        self.clear()
        if self._flags["none"]:
            self.addItem(self._none_display, "")
        for node in nodes:
            self.addItem(node.GetName() or "", node.GetID())
        blocker.unblock()
        current = self._current if self._current in nodes else None
        if current is None and not self._flags["none"] and nodes and (was_empty or self._current is not None):
            # Without "none" something is chosen by itself, unless a program has chosen nothing.
            current = nodes[0]
        self._select(current)

    def _rename(self):
        for index in range(self.count()):
            node = self._node_at(index)
            if node is not None and self.itemText(index) != node.GetName():
                self.setItemText(index, node.GetName())

    def _select(self, node):
        index = self.findData(node.GetID()) if node is not None else (0 if self._flags["none"] else -1)
        blocker = QtCore.QSignalBlocker(self)
        self.setCurrentIndex(index)
        blocker.unblock()
        if node is not self._current:
            self._current = node
            self.currentNodeChanged.emit(node)
            self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def _flag(name):
        def get(self):
            return self._flags[name]

        def put(self, value):
            self._flags[name] = value
            self._refresh()

        return Property(bool, get, put)

    noneEnabled, addEnabled, removeEnabled = _flag("none"), _flag("add"), _flag("remove")
    renameEnabled, showChildNodeTypes, editEnabled = _flag("rename"), _flag("children"), _flag("edit")

    def _set_types(self, types):
        self._types = list(types)
        self._refresh()

    def _set_none_display(self, text):
        self._none_display = text
        self._refresh()

    nodeTypes = Property("QStringList", lambda self: self._types, _set_types)
    noneDisplay = Property(str, lambda self: self._none_display, _set_none_display)
    currentNodeID = Property(
        str, lambda self: self._current.GetID() if self._current is not None else "", setCurrentNodeID
    )


class qMRMLSegmentEditorWidget(qMRMLWidget):
    """The segment editor: its state, its undo, and buttons that stand for its effects.

    Its box of segmentations has no "none": the first segmentation of a scene becomes the edited one by itself.
    """

    segmentationNodeChanged = Signal(object)

    def __init__(self, parent=None):
        super().__init__(parent)
        self._node, self._node_tag, self._shown = None, None, None
        self._history = slicer.vtkSegmentationHistory()
        self._order, self._all_visible = [], True
        self._selectors = {"segmentation": True, "source": True, "switch": True}
        self.shortcuts_installed = self.views_observed = self.lightboxes = False
        self._auto_show = True
        self.view_changes = 0
        layout = QtWidgets.QVBoxLayout(self)
        self._segments = QtWidgets.QListWidget(objectName="SegmentsTableView", maximumHeight=70)
        self._segments.currentRowChanged.connect(self._row_selected)
        self._combo = qMRMLNodeComboBox()
        self._combo.setObjectName("SegmentationNodeComboBox")
        self._combo.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._combo.currentNodeChanged.connect(self._combo_changed)
        add_segment = QtWidgets.QPushButton("Add", objectName="AddSegmentButton")
        add_segment.clicked.connect(self._add_segment)
        for widget in (self._combo, add_segment, self._segments):
            layout.addWidget(widget)
        self._grid = QtWidgets.QGridLayout()
        layout.addLayout(self._grid)
        self._buttons = {}
        for name in _EFFECTS:
            button = QtWidgets.QToolButton(objectName=name, text=name)
            button.clicked.connect(lambda _=False, effect=name: self.setActiveEffectByName(effect))
            self._buttons[name] = button
        for name, slot in (("UndoButton", self.undo), ("RedoButton", self.redo)):
            self._buttons[name] = QtWidgets.QToolButton(objectName=name, text=name.removesuffix("Button"))
            self._buttons[name].clicked.connect(slot)
        self._arrange()

    # Nodes
    def setMRMLScene(self, scene):
        """Sets the scene, without taking what the hidden box of segmentations chooses by itself now."""
        if scene is self.mrmlScene():
            return
        blocker = QtCore.QSignalBlocker(self._combo)
        super().setMRMLScene(scene)
        self._combo.setMRMLScene(scene)
        blocker.unblock()
        self.updateWidgetFromMRML()
        self._scene_tag = scene.AddObserver(scene.EndBatchProcessEvent, lambda *_: self._scene_settled())

    def _combo_changed(self, node):
        if not self.mrmlScene().IsBatchProcessing():
            self.setSegmentationNode(node)

    def _scene_settled(self):
        if not shiboken6.isValid(self):
            self.mrmlScene().RemoveObserver(self._scene_tag)
            return
        if self._node is not None and self._node.GetSegmentationNode() is not self._combo.currentNode():
            self.setSegmentationNode(self._combo.currentNode())
        self.updateWidgetFromMRML()

    def setMRMLSegmentEditorNode(self, node):
        """Sets the node that holds the editor's settings."""
        if node is self._node:
            return
        if self._node is not None:
            self._node.RemoveObserver(self._node_tag)
        self._node = node
        if node is not None:
            self._node_tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self.updateWidgetFromMRML())
            self.updateWidgetFromMRML()

    def mrmlSegmentEditorNode(self):
        """The node that holds the editor's settings."""
        return self._node

    def setSegmentationNode(self, node):
        """Sets what is edited, and ends the effect."""
        if self._node is None or self._node.GetSegmentationNode() is node:
            return
        self.setActiveEffect(None)
        self._node.SetAndObserveSegmentationNode(node)

    def segmentationNode(self):
        """What is edited."""
        return self._combo.currentNode()

    def setSourceVolumeNode(self, node):
        """Sets the volume it is edited on; without a segmentation there is none."""
        if self._node is None or self.segmentationNode() is None:
            # The real one logs this as critical and goes on; a test must not overlook it.
            assert node is None, "need to set segment editor and segmentation nodes first"
            return
        self._node.SetAndObserveSourceVolumeNode(node)
        self.view_changes += self._auto_show and node is not None

    def setAutoShowSourceVolumeNode(self, shown):
        """Whether a source volume appears in all slice views by itself."""
        self._auto_show = shown

    def sourceVolumeNode(self):
        """The volume it is edited on."""
        return self._node.GetSourceVolumeNode() if self._node else None

    def setCurrentSegmentID(self, segment_id):
        """Selects a segment."""
        if self._node is not None:
            self._node.SetSelectedSegmentID(segment_id)

    def currentSegmentID(self):
        """The selected segment; empty for none."""
        return (self._node.GetSelectedSegmentID() or "") if self._node else ""

    def updateWidgetFromMRML(self):
        """Shows the node's segmentation and its segments; not while the scene is closed or read."""
        scene = self.mrmlScene()
        if not shiboken6.isValid(self) or scene is None or scene.IsBatchProcessing() or self._node is None:
            return
        was_modifying = self._node.StartModify()
        self._show_segmentation(self._node.GetSegmentationNode())
        self._show_segments(self._node.GetSegmentationNode())
        self._node.EndModify(was_modifying)

    def _show_segmentation(self, node):
        if node is not self._combo.currentNode():
            blocker = QtCore.QSignalBlocker(self._combo)
            self._combo.setCurrentNode(node)
            blocker.unblock()
        if node is self._shown:
            return
        self._shown = node
        # The real one takes label volumes out of all slice views.
        self.view_changes += 1
        self._history.RemoveAllStates()
        self._history.SetSegmentation(node.GetSegmentation() if node is not None else None)
        if node is not None:
            role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
            self._node.SetAndObserveSourceVolumeNode(node.GetNodeReference(role))
            ids = node.GetSegmentation().GetSegmentIDs()
            self._node.SetSelectedSegmentID(ids[0] if ids else "")
        self.segmentationNodeChanged.emit(node)

    def _show_segments(self, node):
        blocker = QtCore.QSignalBlocker(self._segments)
        self._segments.clear()
        for segment_id in node.GetSegmentation().GetSegmentIDs() if node is not None else ():
            item = QtWidgets.QListWidgetItem(node.GetSegmentation().GetSegment(segment_id).GetName())
            item.setData(QtCore.Qt.ItemDataRole.UserRole, segment_id)
            self._segments.addItem(item)
            if segment_id == self.currentSegmentID():
                self._segments.setCurrentItem(item)
        blocker.unblock()

    def _add_segment(self):
        node = self._node.GetSegmentationNode() if self._node else None
        if node is not None:
            self._history.SaveState()
            self.setCurrentSegmentID(node.GetSegmentation().AddEmptySegment())

    def _row_selected(self, row):
        if row >= 0:
            self._node.SetSelectedSegmentID(self._segments.item(row).data(QtCore.Qt.ItemDataRole.UserRole))

    # Effects
    def setEffectNameOrder(self, names):
        """Puts these effects first."""
        self._order = list(names)
        self._arrange()

    def setActiveEffectByName(self, name):
        """Starts an effect."""
        if self._node is not None:
            self._node.SetActiveEffectName(name)

    def setActiveEffect(self, effect):
        """Ends the effect, with None."""
        assert effect is None
        self.setActiveEffectByName("")

    def activeEffect(self):
        """The effect in use; None for none."""
        name = self._node.GetActiveEffectName() if self._node else ""
        if not name:
            return None
        effect = QtCore.QObject(self)
        effect.setObjectName(name)
        return effect

    def _arrange(self):
        for button in self._buttons.values():
            self._grid.removeWidget(button)
        effects = [name for name in self._buttons if not name.endswith("Button")]
        shown = [n for n in self._order if n in effects]
        if self._all_visible:
            shown += [name for name in effects if name not in shown]
        for name, button in self._buttons.items():
            button.setVisible(name in shown or name.endswith("Button"))
        for number, name in enumerate([*shown, "UndoButton", "RedoButton"]):
            self._grid.addWidget(self._buttons[name], number // 4, number % 4)

    # Undo
    def saveStateForUndo(self):
        """Remembers the segmentation as it is."""
        self._history.SaveState()

    def undo(self):
        """Goes back to the state that was remembered last."""
        self._history.RestorePreviousState()

    def redo(self):
        """Goes forward again."""
        self._history.RestoreNextState()

    # The application's
    def turnOffLightboxes(self):
        """Shows one slice in each view; whether some view showed several. Without a segmentation it does nothing."""
        had = self.lightboxes and self.segmentationNode() is not None
        self.lightboxes = self.lightboxes and not had
        return had

    def installKeyboardShortcuts(self, parent=None):
        """Makes the editor's keys work."""
        self.shortcuts_installed = True

    def uninstallKeyboardShortcuts(self):
        """Gives the keys back."""
        self.shortcuts_installed = False

    def setupViewObservations(self):
        """Takes the mouse in the views."""
        self.views_observed = True

    def removeViewObservations(self):
        """Gives the mouse back."""
        self.views_observed = False

    def setSegmentationNodeSelectorVisible(self, visible):
        """Shows or hides the choice of the segmentation."""
        self._selectors["segmentation"] = visible
        self._combo.setVisible(visible)

    def setSourceVolumeNodeSelectorVisible(self, visible):
        """Shows or hides the choice of the volume."""
        self._selectors["source"] = visible

    def setSwitchToSegmentationsButtonVisible(self, visible):
        """Shows or hides the way to the Segmentations module."""
        self._selectors["switch"] = visible

    def setMaximumNumberOfUndoStates(self, n):
        """How many steps can be undone."""
        self._history.SetMaximumNumberOfStates(n)

    def _set_all_visible(self, visible):
        self._all_visible = visible
        self._arrange()

    unorderedEffectsVisible = Property(bool, lambda self: self._all_visible, _set_all_visible)
    maximumNumberOfUndoStates = Property(
        int, lambda self: self._history.GetMaximumNumberOfStates(), setMaximumNumberOfUndoStates
    )
