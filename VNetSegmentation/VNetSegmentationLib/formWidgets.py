"""The panel's widgets by name."""

from types import SimpleNamespace

_FOREIGN = "qMRMLSegmentEditorWidget"
"""Effects of other extensions give the widgets in it whatever names they like, also those of ours."""


def formWidgets(root) -> SimpleNamespace:
    """As ``slicer.util.childWidgetVariables``, but without what is inside the segment editor.

    Args:
        root: QWidget that was made of a form.
    """
    ui = SimpleNamespace()
    parents = [root]
    while parents:
        for child in parents.pop().children():
            # As there: some that PythonQt gives are null, and some have no children to ask for.
            if not child or not hasattr(child, "children"):
                continue
            if child.objectName:
                setattr(ui, child.objectName, child)
            if child.className() != _FOREIGN:
                parents.append(child)
    return ui
