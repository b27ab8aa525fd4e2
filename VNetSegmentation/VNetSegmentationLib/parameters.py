"""What the scene remembers of the panel."""

from typing import Annotated

import slicer
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper


@parameterNodeWrapper
class PanelParameters:
    """Bound to the widgets that have its fields' names as ``SlicerParameterName``."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    outputSegmentation: slicer.vtkMRMLSegmentationNode
    referenceSegmentation: slicer.vtkMRMLSegmentationNode
    pairVolume: slicer.vtkMRMLScalarVolumeNode
    pairSegmentation: slicer.vtkMRMLSegmentationNode
    threshold: Annotated[float, WithinRange(0.05, 0.95)] = 0.5
    smooth: bool = False
    keepProbability: bool = False
    show3D: bool = True
    psa: Annotated[float, WithinRange(0, 5000)] = 0.0
    """ng/ml; 0 if not given."""
