"""The stand-in against what was observed in a running Slicer 5.13, line by line."""

import sys

import pytest

pytestmark = pytest.mark.usefixtures("desktop")


@pytest.fixture
def qt(desktop):
    import qt

    return qt


def test_properties_are_attributes(qt):
    button, combo, table = qt.QPushButton(), qt.QComboBox(), qt.QTableWidget()
    button.text = "Go"
    assert button.text == "Go"
    button.enabled = False
    assert button.enabled is False
    combo.addItem("a")
    combo.addItem("b")
    combo.currentIndex = 1
    assert (combo.currentIndex, combo.count) == (1, 2)
    table.setRowCount(3)
    assert table.rowCount == 3
    label = qt.QLabel()
    label.wordWrap = True
    assert label.wordWrap is True
    tabs = qt.QTabWidget()
    tabs.addTab(qt.QWidget(), "First")
    assert tabs.count == 1


def test_calling_a_property_fails(qt):
    with pytest.raises(TypeError, match="not callable"):
        qt.QTableWidget().rowCount()
    with pytest.raises(TypeError, match="not callable"):
        qt.QPushButton().text()


def test_getters_that_are_no_properties_are_methods(qt):
    check, tabs, combo, item = qt.QCheckBox(), qt.QTabWidget(), qt.QComboBox(), qt.QTableWidgetItem("x")
    assert check.isChecked() is False
    assert check.isEnabled() is True
    tabs.addTab(qt.QWidget(), "First")
    assert tabs.tabText(0) == "First"
    assert item.text() == "x"
    combo.addItem("a", {"any": "object"})
    assert combo.itemData(0) == {"any": "object"}
    combo.addItem("b", "text")
    combo.currentIndex = 1
    assert combo.currentData == "text"
    process = qt.QProcess()
    assert process.state() == qt.QProcess.NotRunning
    assert process.exitCode() == 0


def test_setters_are_methods_too_and_convert(qt):
    label, slider, progress = qt.QLabel(), qt.QSlider(), qt.QProgressBar()
    label.setText("x")
    assert label.text == "x"
    label.setText(3)
    assert label.text == "3"
    slider.setValue(1.7)
    assert slider.value == 1
    progress.setValue(2.5)
    assert progress.value == 2


def test_an_unknown_attribute_can_neither_be_read_nor_written(qt):
    button = qt.QPushButton()
    with pytest.raises(AttributeError):
        button.missing  # noqa: B018
    with pytest.raises(AttributeError, match="not allowed"):
        button.missing = 1


@pytest.mark.parametrize(
    ("connect", "arguments"),
    [
        (lambda b, f: b.connect("clicked(bool)", f), (False,)),
        (lambda b, f: b.connect("clicked()", f), ()),
        (lambda b, f: b.clicked.connect(f), (False,)),
    ],
)
def test_a_callback_gets_the_arguments_of_the_named_overload(qt, connect, arguments):
    got = []
    button = qt.QPushButton()
    connect(button, lambda *a: got.append(a))
    button.click()
    assert got == [arguments]


def test_signals_with_values(qt):
    import ctk

    got = []
    combo, line, slider = qt.QComboBox(), qt.QLineEdit(), ctk.ctkSliderWidget()
    combo.currentIndexChanged.connect(lambda *a: got.append(a))
    combo.addItem("a")
    line.connect("textChanged(QString)", lambda *a: got.append(a))
    line.text = "t"
    slider.connect("valueChanged(double)", lambda *a: got.append(a))
    slider.value = 7
    assert got == [(0,), ("t",), (7.0,)]


def test_the_end_of_a_process(qt):
    by_name, by_attribute = [], []
    process = qt.QProcess()
    process.connect("finished(int,QProcess::ExitStatus)", lambda *a: by_name.append(a))
    process.finished.connect(lambda *a: by_attribute.append(a))
    process.start(sys.executable, ["-c", "print('hello')"])
    assert process.waitForStarted(5000)
    assert process.waitForFinished(20000)
    assert by_name == [(0, 0)]
    assert by_attribute == [(0,)]
    assert process.readAllStandardOutput().data().strip() == b"hello"


def test_a_process_is_written_to(qt):
    process = qt.QProcess()
    process.start(sys.executable, ["-c", "import sys; print(sys.stdin.read())"])
    assert process.write(b"four") == 4
    assert process.processId() > 0
    process.closeWriteChannel()
    assert process.waitForFinished(20000)
    assert process.readAllStandardOutput().data().strip() == b"four"


def test_timers(qt, desktop):
    got = []
    timer = qt.QTimer()
    timer.setSingleShot(True)
    timer.setInterval(1)
    timer.timeout.connect(lambda *a: got.append(a))
    assert timer.active is False
    timer.start()
    assert timer.active is True
    qt.QTimer.singleShot(1, lambda *a: got.append(a))
    desktop.wait_until(lambda: len(got) == 2)
    assert got == [(), ()]


def test_enums_are_ints(qt):
    assert qt.Qt.Horizontal == 1
    assert qt.Qt.UserRole == 256
    assert (qt.QProcess.Running, qt.QProcess.NotRunning) == (2, 0)
    assert isinstance(qt.QProcess().state(), int)


def test_settings_keep_types_and_a_missing_key_is_none(qt):
    settings = qt.QSettings()
    settings.setValue("group/text", "t")
    settings.setValue("group/number", 3)
    assert settings.value("group/text") == "t"
    assert settings.value("group/number") == 3
    assert settings.value("group/missing") is None
    assert settings.value("group/missing", "default") == "default"


def test_dynamic_properties(qt):
    widget = qt.QWidget()
    assert widget.property("missing") is None
    assert widget.setProperty("SlicerParameterName", "p") is False
    assert widget.property("SlicerParameterName") == "p"


def test_plain_text(qt):
    text = qt.QPlainTextEdit()
    text.appendPlainText("line")
    assert text.plainText == "line"


def test_widgets_of_ctk(qt):
    import ctk

    path, button, slider = ctk.ctkPathLineEdit(), ctk.ctkCollapsibleButton(), ctk.ctkSliderWidget()
    path.currentPath = "/somewhere"
    assert path.currentPath == "/somewhere"
    button.collapsed = True
    assert button.collapsed is True
    slider.minimum, slider.maximum, slider.singleStep = 0, 1, 0.1
    slider.value = 0.7
    assert slider.value == 0.7000000000000001
    assert slider.maximum == 1
    assert slider.tracking is True


def test_a_path_edit_is_as_wide_as_its_path_unless_a_length_is_set(desktop):
    import ctk

    free, limited = ctk.ctkPathLineEdit(), ctk.ctkPathLineEdit()
    limited.minimumContentsLength = 10
    free.currentPath = limited.currentPath = "/a/folder/that/lies/deep" * 5
    assert limited.minimumSizeHint.width() < free.minimumSizeHint.width() / 3


@pytest.mark.parametrize(
    ("filters", "dialog"),
    [
        (("Dirs", "Drives", "NoDot"), "getExistingDirectory"),
        (("Dirs", "Writable"), "getExistingDirectory"),
        (("AllEntries",), "getOpenFileName"),
        (("Files", "Writable"), "getSaveFileName"),
    ],
)
def test_the_filters_of_a_path_choose_its_dialog(desktop, filters, dialog):
    import ctk

    path = ctk.ctkPathLineEdit()
    path.filters = sum(getattr(ctk.ctkPathLineEdit, name) for name in filters)
    desktop.answers[dialog] = "/chosen"
    path.browse()
    assert [kind for kind, _ in desktop.dialogs] == [dialog]
    assert path.currentPath == "/chosen"


def test_an_emptied_path_is_no_valid_input_and_no_new_path(desktop):
    import ctk

    path, got = ctk.ctkPathLineEdit(), []
    path.connect("currentPathChanged(QString)", got.append)
    path.connect("validInputChanged(bool)", got.append)
    for text in ("/a", "/b", "", "/c"):
        path.currentPath = text
    assert got == ["/a", True, "/b", False, "/c", True]


def test_a_child_that_is_shown_or_hidden_while_its_area_is_folded_is_so_once_it_unfolds(qt):
    import ctk

    window, area = qt.QWidget(), ctk.ctkCollapsibleButton()
    outside, inside = qt.QVBoxLayout(), qt.QVBoxLayout()
    window.setLayout(outside)
    outside.addWidget(area)
    area.setLayout(inside)
    first, second = qt.QLabel("first"), qt.QLabel("second")
    for label in (first, second):
        inside.addWidget(label)
    first.visible = False
    area.collapsed = True
    window.show()
    assert not first.isVisible()
    assert not second.isVisible()
    first.visible = True
    second.visible = False
    assert not first.isVisible()
    area.collapsed = False
    assert first.isVisible()
    assert not second.isVisible()


def test_a_node_combo_box_follows_the_scene(desktop):
    import slicer

    box, got = slicer.qMRMLNodeComboBox(), []
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    assert box.nodeTypes == ("vtkMRMLScalarVolumeNode",)
    assert (box.noneEnabled, box.addEnabled) == (False, True)
    box.connect("currentNodeChanged(vtkMRMLNode*)", lambda *a: got.append(a))
    box.setMRMLScene(slicer.mrmlScene)
    assert box.currentNode() is None
    first = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "same")
    second = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "same")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert box.currentNode() is first
    box.setCurrentNode(second)
    assert box.currentNodeID == second.GetID()
    assert got == [(first,), (second,)]
    slicer.mrmlScene.RemoveNode(second)
    assert box.currentNode() is first
    box.noneEnabled = True
    box.setCurrentNodeID("")
    assert box.currentNode() is None


def test_a_node_combo_box_lists_nothing_new_while_a_scene_is_read(desktop):
    import slicer

    box = slicer.qMRMLNodeComboBox()
    box.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    box.noneEnabled = True
    box.setMRMLScene(slicer.mrmlScene)
    slicer.mrmlScene.StartState(slicer.mrmlScene.ImportState)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    box.setCurrentNode(node)
    assert box.currentNode() is None
    slicer.mrmlScene.EndState(slicer.mrmlScene.ImportState)
    box.setCurrentNode(node)
    assert box.currentNode() is node


FORM = """<ui version="4.0"><class>Form</class>
<widget class="qMRMLWidget" name="Form"><layout class="QVBoxLayout" name="layout">
<item><widget class="QTabWidget" name="tabs"><widget class="QWidget" name="page">
<layout class="QVBoxLayout" name="inner">
<item><widget class="qMRMLNodeComboBox" name="volumeSelector"><property name="nodeTypes"><stringlist>
<string>vtkMRMLScalarVolumeNode</string></stringlist></property>
<property name="noneEnabled"><bool>true</bool></property>
<property name="SlicerParameterName" stdset="0"><string>volume</string></property></widget></item>
<item><widget class="ctkSliderWidget" name="slider"><property name="singleStep"><double>0.01</double></property>
<property name="SlicerParameterName" stdset="0"><string>share</string></property></widget></item>
<item><widget class="QCheckBox" name="box">
<property name="SlicerParameterName" stdset="0"><string>on</string></property></widget></item>
<item><widget class="qMRMLSegmentEditorWidget" name="editor"/></item>
</layout></widget></widget></item></layout></widget>
<connections><connection><sender>Form</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>volumeSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection>
<connection><sender>Form</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>editor</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.fixture
def ui(desktop, tmp_path):
    import slicer

    (tmp_path / "Form.ui").write_text(FORM)
    widget = slicer.util.loadUI(str(tmp_path / "Form.ui"))
    widget.setMRMLScene(slicer.mrmlScene)
    ui = slicer.util.childWidgetVariables(widget)
    ui.root = widget
    return ui


def test_a_form_has_its_widgets_at_every_depth_and_the_editors_own(ui):
    import slicer

    assert ui.root.name == "Form"
    for name in ("tabs", "volumeSelector", "slider", "box", "editor", "Paint", "UndoButton"):
        assert hasattr(ui, name)
    # The form's connection has passed the scene on.
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    ui.volumeSelector.setCurrentNode(node)
    assert ui.volumeSelector.currentNode() is node


def test_parameters_and_widgets_follow_each_other(ui):
    from typing import Annotated

    import slicer
    import vtk
    from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode
        share: Annotated[float, WithinRange(0, 1)] = 0.5
        on: bool = True

    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode")
    parameters = Parameters(node)
    assert parameters.connectGui(ui) is None
    assert (ui.slider.minimum, ui.slider.maximum, ui.slider.value, ui.box.checked) == (0, 1, 0.5, True)
    assert (node.GetParameter("share"), node.GetParameter("on")) == ("0.5", "True")
    events = []
    parameters.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: events.append(1))
    ui.slider.value = 0.25
    assert parameters.share == 0.25
    parameters.on = False
    assert ui.box.checked is False
    assert len(events) == 2
    with pytest.raises(ValueError, match=r"Value must be within range \[0, 1\], is 3"):
        parameters.share = 3
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    ui.volumeSelector.setCurrentNode(volume)
    assert parameters.volume is volume
    assert node.GetNodeReference("volume") is volume
    slicer.mrmlScene.RemoveNode(volume)
    assert parameters.volume is None
    with pytest.raises(AttributeError):
        parameters.missing = 1
    parameters.disconnectGui(None)
    ui.slider.value = 0.75
    assert parameters.share == 0.75


def test_a_parameter_keeps_a_removed_node_until_its_own_node_tells(desktop):
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        volume: slicer.vtkMRMLScalarVolumeNode

    scene = slicer.mrmlScene
    parameters = Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    volume = parameters.volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    seen = []
    tag = scene.AddObserver(scene.NodeRemovedEvent, lambda *_: seen.append(parameters.volume))
    scene.RemoveNode(volume)
    scene.RemoveObserver(tag)
    assert seen == [volume]
    assert parameters.volume is None


def test_an_error_that_is_shown_is_raised_all_the_same(desktop):
    import slicer

    with pytest.raises(ValueError, match="why"), slicer.util.tryWithErrorDisplay("It failed."):
        raise ValueError("why")
    assert desktop.dialogs == [("errorDisplay", "It failed.\n\nwhy")]


def test_a_connection_with_a_tag_can_be_taken_back(ui):
    import slicer
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    @parameterNodeWrapper
    class Parameters:
        on: bool = True

    parameters = Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    tag = parameters.connectParametersToGui({"on": ui.box})
    ui.box.checked = False
    assert parameters.on is False
    parameters.disconnectGui(tag)
    ui.box.checked = True
    assert parameters.on is False
    parameters.on = False
    assert ui.box.checked is True


def test_an_undo_of_the_editor_takes_a_scripted_step_back(ui):
    import numpy as np
    import slicer

    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    slicer.util.updateVolumeFromArray(volume, np.zeros((10, 20, 20), np.int16))
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    segment_id = segmentation.GetSegmentation().AddEmptySegment("a", "a")
    editor_node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    ui.editor.setMRMLSegmentEditorNode(editor_node)
    ui.editor.setSegmentationNode(segmentation)
    ui.editor.setSourceVolumeNode(volume)
    ui.editor.setCurrentSegmentID(segment_id)
    assert ui.editor.currentSegmentID() == segment_id
    voxels = np.zeros((10, 20, 20), np.uint8)
    voxels[:5] = 1
    ui.editor.saveStateForUndo()
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, segmentation, segment_id, volume)

    def count():
        return int(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segment_id, volume).sum())

    assert count() == 2000
    ui.editor.undo()
    assert count() == 0
    ui.editor.redo()
    assert count() == 2000
    ui.editor.setActiveEffectByName("Paint")
    assert ui.editor.activeEffect().name == "Paint"


def test_the_editor_takes_the_first_segmentation_by_itself(ui):
    import slicer

    got = []
    ui.editor.connect("segmentationNodeChanged(vtkMRMLSegmentationNode*)", got.append)
    ui.editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    first = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert ui.editor.segmentationNode() is first
    ui.editor.setSegmentationNode(None)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    assert ui.editor.segmentationNode() is None
    assert got == [first, None]


def test_a_closed_scene_empties_references_and_keeps_singletons(desktop):
    import slicer
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

    class ThingLogic(ScriptedLoadableModuleLogic):
        pass

    node = ThingLogic().getParameterNode()
    volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "scan")
    node.SetNodeReferenceID("volume", volume.GetID())
    slicer.mrmlScene.Clear(0)
    assert ThingLogic().getParameterNode() is node
    assert node.GetNodeReference("volume") is None
