"""Names that ITK would stumble over, and folders with their sub-folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from vnet_segmentation.errors import UserError
from vnet_segmentation.paths import check_name


def test_a_name_that_is_not_unicode_is_a_sentence_that_can_be_printed():
    check_name(Path("Größe 前列腺.nii"))
    # As Python has the bytes of "schön.nii" in Latin-1.
    with pytest.raises(UserError, match=r"^The name of folder.sch\?n\.nii has characters that are not Unicode"):
        check_name(Path("folder", "sch\udcf6n.nii"))
