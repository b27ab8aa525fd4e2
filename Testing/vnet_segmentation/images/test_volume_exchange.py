from __future__ import annotations

import json

import numpy as np
import pytest
import SimpleITK as sitk

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.volume_exchange import read_exchange, write_exchange


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.float32, np.float64])
def test_voxels_and_geometry_come_back_exactly(tmp_path, dtype):
    array = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(dtype)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.1 + 0.2, 1 / 3, 3.6000001))
    image.SetOrigin((-1e3 / 7, 2.5, 1e-9))
    rotation = sitk.VersorTransform((0.3, 0.5, 0.8), 0.7).GetMatrix()
    image.SetDirection(rotation)
    # Through JSON, as between processes, and a path that is not ASCII.
    exchanged = json.loads(json.dumps(write_exchange(image, tmp_path / "Prüfung 前立腺.npy")))
    back = read_exchange(exchanged)
    assert back.GetPixelID() == image.GetPixelID()
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), array)
    assert back.GetSpacing() == image.GetSpacing()
    assert back.GetOrigin() == image.GetOrigin()
    assert back.GetDirection() == image.GetDirection()


@pytest.mark.parametrize("content", [None, b"", b"no array", b"\x93NUMPY\x01\x00"])
def test_a_missing_or_damaged_file_is_a_sentence(tmp_path, content):
    exchanged = write_exchange(sitk.Image(3, 3, 3, sitk.sitkUInt8), tmp_path / "scan.npy")
    path = tmp_path / "scan.npy"
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"Cannot read scan\.npy"):
        read_exchange(exchanged)


def test_a_file_that_cannot_be_written_is_a_sentence(tmp_path):
    with pytest.raises(UserError, match="Cannot write") as caught:
        write_exchange(sitk.Image(3, 3, 3, sitk.sitkUInt8), tmp_path / "missing" / "scan.npy")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE
