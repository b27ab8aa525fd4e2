"""The picture is read back: which slices it shows, how they lie, and where the lines are."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray

from vnet_segmentation.errors import ExitCode, UserError
from vnet_segmentation.images.picture import CELL_PIXELS, CONTOUR_RGB, N_COLUMNS, write_picture

SIZE = (71, 61, 12)
SPACING_MM = (1.0, 1.0, 4.0)


def image(array: NDArray[np.generic], spacing_mm: tuple[float, float, float] = SPACING_MM) -> sitk.Image:
    """From (z, y, x); x runs to the left, y to the back, z to the head."""
    result = sitk.GetImageFromArray(array)
    result.SetSpacing(spacing_mm)
    return result


def scan_image() -> sitk.Image:
    """Dim noise; a bright block on the patient's right, at the front, in every slice."""
    array = np.random.default_rng(0).uniform(90, 110, SIZE[::-1]).astype(np.float32)
    array[:, 15:20, 15:25] = 1000
    return image(array)


def gland_mask() -> sitk.Image:
    """21 x 15 voxels (x, y) around (35, 30), in slices 4 to 8."""
    array = np.zeros(SIZE[::-1], np.uint8)
    array[4:9, 23:38, 25:46] = 1
    return image(array)


def ball_mask(radius_mm: float, size: tuple[int, int, int], spacing_mm: tuple[float, float, float]) -> sitk.Image:
    axes = np.meshgrid(*((np.arange(n) - n // 2) * s for n, s in zip(size, spacing_mm, strict=True)), indexing="ij")
    inside = sum(axis**2 for axis in axes) <= radius_mm**2
    return image(inside.transpose(2, 1, 0).astype(np.uint8), spacing_mm)


def cells(path: Path) -> list[NDArray[np.uint8]]:
    """The picture's cells, (row, column, RGB), without the black ones at its end."""
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    assert picture.shape[1:] == (N_COLUMNS * CELL_PIXELS, 3)
    rows = np.split(picture, picture.shape[0] // CELL_PIXELS)
    return [cell for row in rows for cell in np.split(row, N_COLUMNS, axis=1) if cell.any()]


def drawn(cell: NDArray[np.uint8], colour: tuple[int, int, int]) -> NDArray[np.bool_]:
    return (cell == colour).all(axis=2)


def extent(pixels: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """First and last row, first and last column."""
    rows, columns = np.flatnonzero(pixels.any(axis=1)), np.flatnonzero(pixels.any(axis=0))
    return int(rows[0]), int(rows[-1]), int(columns[0]), int(columns[-1])


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> list[NDArray[np.uint8]]:
    """The cells of the gland's picture, read-only."""
    path = tmp_path_factory.mktemp("shown") / "picture.png"
    write_picture(scan_image(), gland_mask(), path)
    found = cells(path)
    for cell in found:
        cell.setflags(write=False)
    return found


def test_the_slices_of_the_gland_and_a_little_more_then_two_reformats(shown: list[NDArray[np.uint8]]) -> None:
    # Slices 4 to 8 and one (4 mm, nearest to 5) on either side, then two cuts.
    assert [drawn(cell, CONTOUR_RGB).any() for cell in shown] == [False, *[True] * 5, False, True, True]


def test_a_tall_gland_is_shown_in_thirteen_slices(tmp_path: Path) -> None:
    mask = ball_mask(20, (45, 45, 45), (1, 1, 1))
    write_picture(sitk.Cast(mask, sitk.sitkFloat32), mask, tmp_path / "picture.png")
    assert len(cells(tmp_path / "picture.png")) == 15


def test_contour_lies_on_the_border_of_the_mask(shown: list[NDArray[np.uint8]]) -> None:
    # The field is the widest extent, 21 mm, and 25 mm on either side: 71 mm on 320 pixels, centred on the middle voxel.
    # The gland's sides lie 10.5 mm left and right, 7.5 mm above and below of the centre, 159.5: 47.3 and 33.8 pixels.
    top, bottom, left, right = extent(drawn(shown[3], CONTOUR_RGB))
    assert (left, right) == (pytest.approx(159.5 - 47.3, abs=1.5), pytest.approx(159.5 + 47.3, abs=1.5))
    assert (top, bottom) == (pytest.approx(159.5 - 33.8, abs=1.5), pytest.approx(159.5 + 33.8, abs=1.5))


def test_contour_is_a_thin_line_over_an_image_that_stays_visible(shown: list[NDArray[np.uint8]]) -> None:
    contour = drawn(shown[3], CONTOUR_RGB)
    # Two pixels wide along a perimeter of 2 * (21 + 15) mm at 320 / 71 pixels each.
    assert contour.sum() == pytest.approx(2 * 72 * 320 / 71, rel=0.05)
    # A line through the middle meets it twice.
    assert contour[160].sum() == contour[:, 160].sum() == 4


def test_patients_right_is_on_the_left_and_front_is_above(shown: list[NDArray[np.uint8]]) -> None:
    gray = shown[3][:, :, 0]
    # The block's centre, (19.5, 17), lies 15.5 mm to the right and 13 mm to the front of the picture's, (35, 30):
    # 70 and 59 pixels from (159.5, 159.5).
    assert gray[96:106, 80:100].min() == 255
    for elsewhere in (gray[96:106, 220:240], gray[213:223, 80:100], gray[213:223, 220:240]):
        assert elsewhere.mean() < 200


def test_head_is_above_in_the_reformats(tmp_path: Path) -> None:
    array = sitk.GetArrayFromImage(scan_image())
    array[9:] = 1000
    write_picture(image(array), gland_mask(), tmp_path / "picture.png")
    for cell in cells(tmp_path / "picture.png")[-2:]:
        gray = cell[:, :, 0].astype(float)
        # The upper slices are at the picture's upper side; the scan ends about 20 mm (90 pixels) from the middle.
        assert gray[90:110, 60:130].mean() > 200
        assert gray[210:230, 60:130].mean() < 100


def test_front_is_on_the_left_of_the_sagittal_cut(tmp_path: Path) -> None:
    array = sitk.GetArrayFromImage(scan_image())
    array[:, :22] = 1000
    write_picture(image(array), gland_mask(), tmp_path / "picture.png")
    # After the axial slices comes the sagittal cut.
    gray = cells(tmp_path / "picture.png")[-2][:, :, 0].astype(float)
    assert gray[120:200, 50:100].mean() > 200
    assert gray[120:200, 240:290].mean() < 100


def test_slices_run_from_head_to_foot_and_are_numbered_as_in_the_file(shown: list[NDArray[np.uint8]]) -> None:
    seven = ["###", "  #", "  #", "  #", "  #"]
    three = ["###", "  #", "###", "  #", "###"]
    # Slices 9, 8, 7, 6, 5, 4, 3, their labels' corner at (6, 6), 3 pixels to a dot, one dot of black around.
    for index, digit in ((2, seven), (6, three)):
        label = shown[index][10:25:3, 10:19:3, 0]
        assert ["".join("#" if dot else " " for dot in row) for row in label] == digit


def test_each_plane_says_which_side_of_the_patient_is_left_and_above(shown: list[NDArray[np.uint8]]) -> None:
    right = ["## ", "# #", "## ", "# #", "# #"]
    anterior = [" # ", "# #", "###", "# #", "# #"]
    superior = [" ##", "#  ", " # ", "  #", "## "]
    half = CELL_PIXELS // 2
    for cell, left, above in (
        (shown[0], right, anterior),
        (shown[-2], anterior, superior),
        (shown[-1], right, superior),
    ):
        for label, expected in (
            (cell[half + 4 : half + 19 : 3, 10:19:3, 0], left),
            (cell[10:25:3, half + 4 : half + 13 : 3, 0], above),
        ):
            assert ["".join("#" if dot else " " for dot in row) for row in label] == expected


@pytest.mark.parametrize("axes", list(permutations(range(3))))
def test_other_axis_orders_give_the_same_picture(
    axes: tuple[int, ...], shown: list[NDArray[np.uint8]], tmp_path: Path
) -> None:
    scan, mask = (
        sitk.Flip(sitk.PermuteAxes(one, axes), (True, False, True), False) for one in (scan_image(), gland_mask())
    )
    write_picture(scan, mask, tmp_path / "turned.png")
    for cell, expected in zip(cells(tmp_path / "turned.png"), shown, strict=True):
        # All but the slice's number, which is the file's own.
        difference = np.abs(cell.astype(int) - expected)[30:]
        assert (difference > 2).mean() < 0.001


def test_a_sagittal_scan_is_shown_in_its_own_slices(tmp_path: Path) -> None:
    # 4 mm from slice to slice along x: 5 slices meet the ball (-8 to 8 mm), one on either side, two cuts.
    mask = ball_mask(10, (11, 61, 61), (4.0, 1.0, 1.0))
    write_picture(sitk.Cast(mask, sitk.sitkFloat32), mask, tmp_path / "picture.png")
    assert [drawn(cell, CONTOUR_RGB).any() for cell in cells(tmp_path / "picture.png")] == [
        False,
        *[True] * 5,
        False,
        True,
        True,
    ]


def test_pixels_are_square_in_every_cell(tmp_path: Path) -> None:
    mask = ball_mask(15, (81, 41, 21), (0.5, 1.0, 2.0))
    write_picture(sitk.Cast(mask, sitk.sitkFloat32), mask, tmp_path / "picture.png")
    found = cells(tmp_path / "picture.png")
    # The middle slice and both cuts go through the ball's centre; 2 mm is 8 pixels of a field of 81 mm or so.
    for cell in (found[(len(found) - 2) // 2], *found[-2:]):
        top, bottom, left, right = extent(drawn(cell, CONTOUR_RGB))
        assert bottom - top == pytest.approx(right - left, abs=10)
        assert right - left == pytest.approx(30 * 320 / 81, abs=10)


def test_an_empty_mask_shows_the_whole_scan_without_a_contour(tmp_path: Path) -> None:
    write_picture(scan_image(), gland_mask() * 0, tmp_path / "picture.png")
    found = cells(tmp_path / "picture.png")
    assert len(found) == SIZE[2] + 2
    assert not any(drawn(cell, CONTOUR_RGB).any() for cell in found)
    # The scan is 71 mm wide, as is the field, and 61 mm high: 22.5 pixels above and below it are black.
    top, bottom, *_ = extent(found[5][:, 200:300, 0] > 0)
    assert (top, bottom) == (pytest.approx(22.5, abs=1.5), pytest.approx(296.5, abs=1.5))


def test_glare_beside_the_gland_does_not_leave_it_dark(tmp_path: Path) -> None:
    array = np.full(SIZE[::-1], 100, np.float32)
    # Two rows each within the 5 mm around the gland's rows 23 to 37.
    array[:, 18:20], array[:, 40:42] = 20, 700
    write_picture(image(array), gland_mask(), tmp_path / "picture.png")
    # From black, 20, to white, 700, the gland stands at 80 / 680: 30 of 255, and with the strongest gamma, 0.6, at 71.
    assert cells(tmp_path / "picture.png")[3][150:170, 150:170].mean() == pytest.approx(70.7, abs=1)


def test_a_constant_scan(tmp_path: Path) -> None:
    write_picture(image(np.full(SIZE[::-1], 7, np.int16)), gland_mask(), tmp_path / "picture.png")
    assert drawn(cells(tmp_path / "picture.png")[3], CONTOUR_RGB).any()


def test_a_gland_at_the_edge_of_the_scan(tmp_path: Path) -> None:
    array = np.zeros(SIZE[::-1], np.uint8)
    array[9:, 50:, :8] = 1
    write_picture(scan_image(), image(array), tmp_path / "picture.png")
    # Slices 8 to 11, and two cuts.
    assert len(cells(tmp_path / "picture.png")) == 6


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write") as caught:
        write_picture(scan_image(), gland_mask(), tmp_path / "file" / "picture.png")
    assert caught.value.exit_code == ExitCode.CANNOT_WRITE


def test_a_real_case_in_its_own_grays(promise12: Path, tmp_path: Path) -> None:
    scan, mask = (sitk.ReadImage(str(promise12 / f"Case10{end}.nii.gz")) for end in ("", "_segmentation"))
    write_picture(scan, mask, tmp_path / "picture.png")
    found = cells(tmp_path / "picture.png")
    assert len(found) == 15
    # An endorectal coil glares below the gland; the gland's middle is still neither black nor white.
    assert 40 < found[6][120:180, 120:200].mean() < 200
