"""The sentences of a result. No Qt, no scene."""

from slicer.i18n import tr as _

from vnet_segmentation.images.measurements import Measurements
from vnet_segmentation.images.metrics import Comparison

_LEVELS = {"high": _("high"), "medium": _("medium"), "low": _("low")}


def volumeText(measurements: Measurements) -> str:
    """Volume of the mask in ml."""
    return _("{volume:.1f} ml").format(volume=measurements.volume_ml)


def diametersText(measurements: Measurements) -> str:
    """Diameters in mm, and the ellipsoid's volume that they give."""
    return _("{x:.0f} x {y:.0f} x {z:.0f} mm (ellipsoid: {ellipsoid:.1f} ml)").format(
        x=measurements.transverse_mm,
        y=measurements.anteroposterior_mm,
        z=measurements.craniocaudal_mm,
        ellipsoid=measurements.ellipsoid_ml,
    )


def psaDensityText(psa: float, measurements: Measurements) -> str:
    """PSA density in ng/ml per ml; empty if there is no PSA value or no prostate.

    Args:
        psa: serum PSA in ng/ml; 0 if not given.
    """
    if psa <= 0 or measurements.volume_ml <= 0:
        return ""
    return _("density {density:.2f} ng/ml²").format(density=psa / measurements.volume_ml)


def confidenceText(report: dict | None) -> str:
    """The word, the number and what it is worth."""
    if report is None:
        return _("not known: the mask is not from this session")
    confidence = report["confidence"]
    advice = {
        "high": _("The model is sure of the outline. Still check base and apex."),
        "medium": _("The model is less sure. Check the outline."),
        "low": _("The model is not sure. Look at every slice."),
    }[confidence["level"]]
    return f"{_LEVELS[confidence['level']]} ({confidence['value']:.2f}). {advice}"


def runText(report: dict | None) -> str:
    """Time, device and why that device."""
    if report is None:
        return ""
    return _("{seconds:.1f} s on {device}. {reason}").format(
        seconds=report["seconds"]["total"], device=report["device"]["name"], reason=report["device"]["reason"]
    )


def comparisonText(comparison: Comparison) -> str:
    """Agreement with a reference, over the whole gland and its ends."""
    whole = comparison.whole
    return _(
        "Dice {dice:.3f} (base {base:.3f}, apex {apex:.3f}), HD95 {hd95:.1f} mm, ABD {abd:.1f} mm, "
        "volume {volume:+.0f} %"
    ).format(
        dice=whole.dice,
        base=comparison.base.dice,
        apex=comparison.apex.dice,
        hd95=whole.hausdorff95_mm,
        abd=whole.average_boundary_distance_mm,
        volume=whole.relative_volume_difference_percent,
    )


def wholeText(scan: str, measurements: Measurements, psa: float, report: dict | None, edited: bool) -> str:
    """Everything, line by line, for the clipboard."""
    lines = [
        _("Prostate on {scan}").format(scan=scan),
        _("Volume: {text}").format(text=volumeText(measurements)),
        _("Diameters, left-right x front-back x head-foot: {text}").format(text=diametersText(measurements)),
    ]
    if psaDensityText(psa, measurements):
        lines.append(_("PSA {psa:g} ng/ml, {text}").format(psa=psa, text=psaDensityText(psa, measurements)))
    if report is not None:
        lines.append(_("Confidence of the automatic mask: {text}").format(text=confidenceText(report)))
        lines.append(
            _("Computed with model {model}: {text}").format(model=report["model"]["name"], text=runText(report))
        )
        lines += report["warnings"]
    if edited:
        lines.append(_("The mask was corrected by hand."))
    lines.append(_("VNetSegmentation, not for clinical use."))
    return "\n".join(lines)
