"""An automatic result that stays adjustable: the mask follows threshold and smoothing. No Qt here."""

import SimpleITK as sitk

from vnet_segmentation.images.masks import mask_from_probability, smooth_probability
from VNetSegmentationLib.prostateSegment import ProstateSegment

SMOOTHING_SIGMA_MM = 1.0


class SegmentationResult:
    """Probability and report of a scan, and the segment that shows them.

    Args:
        segment: gets the mask.
        probability: float32 in [0, 1], on the scan's grid.
        report: the engine's, see Docs/reference.md.
    """

    def __init__(self, segment: ProstateSegment, probability: sitk.Image, report: dict):
        self.segment = segment
        self.report = report
        self.probability = probability
        self.written = None
        """Threshold and smoothing of the mask as it was written last."""
        self._smooth = None  # computed when it is first asked for

    def writeMask(self, threshold: float, smooth: bool) -> None:
        """Makes the mask anew and writes it to the segment, replacing what is there.

        Args:
            threshold: probability from which a voxel is prostate.
            smooth: whether the outline is smoothed by `SMOOTHING_SIGMA_MM`.
        """
        self.written = (threshold, smooth)
        model = self.report["model"]
        self.segment.write(
            mask_from_probability(self._smoothed() if smooth else self.probability, threshold),
            f"{model['name']} {model['sha256'][:12]}",
        )

    def _smoothed(self) -> sitk.Image:
        if self._smooth is None:
            self._smooth = smooth_probability(self.probability, SMOOTHING_SIGMA_MM)
        return self._smooth
