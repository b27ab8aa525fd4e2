from __future__ import annotations

import pytest

pytestmark = pytest.mark.usefixtures("desktop")


@pytest.mark.parametrize(
    ("pattern", "scan", "suffix", "name"),
    [
        ("{scan}_prostate", "Case04", ".nii.gz", "Case04_prostate.nii.gz"),
        ("prostate", "Case04", ".seg.nrrd", "prostate.seg.nrrd"),
        ("{scan}-{scan}", "a", ".nrrd", "a-a.nrrd"),
        # What Slicer names a DICOM volume, and what no file can be called.
        ("{scan}_prostate", "5: t2/tse <tra>", ".nrrd", "5_ t2_tse _tra__prostate.nrrd"),
        ("{scan}", "Prüfung 前立腺", ".nrrd", "Prüfung 前立腺.nrrd"),
        ("../{scan}", "a", ".nrrd", "_a.nrrd"),
    ],
)
def test_names(tmp_path, pattern, scan, suffix, name):
    from VNetSegmentationLib.maskName import maskPath

    assert maskPath(str(tmp_path), pattern, scan, suffix) == tmp_path / name


@pytest.mark.parametrize(("folder", "pattern"), [("", "a"), ("missing", "a"), (None, " . ")])
def test_what_is_missing_is_said(tmp_path, folder, pattern):
    from vnet_segmentation.errors import UserError
    from VNetSegmentationLib.maskName import maskPath

    with pytest.raises(UserError, match=r"folder|name"):
        maskPath(str(tmp_path) if folder is None else folder, pattern, "scan", ".nrrd")
