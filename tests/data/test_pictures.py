"""Images from files: every mode, upright, centre crop."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from secateurs.data import load
from secateurs.data import pictures as pictures_module
from secateurs.data.pictures import read_picture
from secateurs.errors import DataError
from support.picture_files import save


def test_the_middle_of_the_longer_side_is_kept(tmp_path: Path) -> None:
    wide = np.zeros((10, 30, 3), np.uint8)
    wide[:, 10:20] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (read_picture(tmp_path / "wide.png", 10) == 200).all()
    assert read_picture(tmp_path / "wide.png", 5).shape == (3, 5, 5)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("L", 77, (77, 77, 77)),
        ("RGBA", (10, 20, 30, 5), (10, 20, 30)),
        ("I;16", 77 * 256, (77, 77, 77)),
        ("1", 1, (255, 255, 255)),
        ("LA", (9, 255), (9, 9, 9)),
    ],
)
def test_every_mode_becomes_rgb(
    mode: str, colour: object, expected: tuple[int, ...], tmp_path: Path
) -> None:
    save(tmp_path / "image.png", colour, mode=mode)
    assert read_picture(tmp_path / "image.png", 4)[:, 0, 0].tolist() == list(expected)


def test_palettes_with_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (6, 6), 1)
    image.putpalette([0, 0, 0, 40, 50, 60])
    image.save(tmp_path / "palette.png", transparency=bytes([0, 128]))
    assert read_picture(tmp_path / "palette.png", 4)[:, 0, 0].tolist() == [40, 50, 60]


def test_photographs_taken_sideways(tmp_path: Path) -> None:
    image = Image.fromarray(
        np.repeat(np.array([[0], [255]], np.uint8), 8, axis=1).repeat(4, axis=0)
    )
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right
    image.save(tmp_path / "sideways.png", exif=exif)
    picture = read_picture(tmp_path / "sideways.png", 8)[0]
    assert (picture[:, 0] == 255).all()
    assert (picture[:, -1] == 0).all()


def test_large_photographs_keep_their_detail(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    coarse = Image.fromarray(random.integers(0, 256, (50, 50, 3), dtype=np.uint8))
    coarse.resize((200, 200), Image.Resampling.BICUBIC).save(tmp_path / "large.jpg", quality=95)
    with Image.open(tmp_path / "large.jpg") as image:
        whole = image.resize((50, 50), Image.Resampling.BILINEAR)  # decoded at full size
    received = read_picture(tmp_path / "large.jpg", 50).transpose(1, 2, 0).astype(int)
    assert np.abs(received - np.asarray(whole)).mean() < 6


@pytest.mark.parametrize(
    ("kind", "levels", "expected"),
    [
        (np.float32, [0.0, 0.25, 0.5, 1.0], [0, 64, 128, 255]),
        (np.float32, [0.0, 40.0, 128.0, 255.0], [0, 40, 128, 255]),
        (np.float32, [0.0, 257.0, 32896.0, 65535.0], [0, 1, 128, 255]),
        (np.uint16, [0, 256, 0x80FF, 0xFFFF], [0, 1, 128, 255]),
        (np.uint16, [0, 40, 128, 255], [0, 40, 128, 255]),  # 8 bits in a file of 16
        (np.int32, [0, 40, 128, 255], [0, 40, 128, 255]),
    ],
)
def test_grey_levels_of_any_scale_are_neither_black_nor_white(tmp_path, kind, levels, expected):
    square = np.repeat(np.repeat(np.array(levels, kind).reshape(2, 2), 8, 0), 8, 1)
    Image.fromarray(square).save(tmp_path / "grey.tiff")
    corners = read_picture(tmp_path / "grey.tiff", 16)[:, ::15, ::15]
    assert corners.reshape(3, 4).tolist() == [expected] * 3


@pytest.mark.parametrize("levels", [[-1.0, 1.0], [0.0, 1e6], [0.0, float("nan")]])
def test_grey_levels_of_no_scale_are_refused(tmp_path, levels):
    Image.fromarray(np.array([levels, levels], np.float32)).save(tmp_path / "grey.tiff")
    with pytest.raises(DataError, match="expected grey levels from 0 to 1, 255 or 65,535"):
        read_picture(tmp_path / "grey.tiff", 2)


@pytest.mark.parametrize("turned", range(1, 9))
def test_a_turned_photograph_is_upright(tmp_path, turned):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 20, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = turned
    Image.fromarray(pixels).save(tmp_path / "photo.png", exif=exif)
    with Image.open(tmp_path / "photo.png") as photo:
        upright = np.asarray(ImageOps.exif_transpose(photo))
    top, left = ((side - 12) // 2 for side in upright.shape[:2])
    middle = upright[top : top + 12, left : left + 12].transpose(2, 0, 1)
    assert np.array_equal(read_picture(tmp_path / "photo.png", 12), middle)


def test_large_images_are_decoded_one_at_a_time(pictures, monkeypatch):
    """Each takes as much memory as four bytes a pixel, times the number of cores."""
    decoding, most = [], []
    fit = pictures_module.fit_square

    def watch(image, size):
        decoding.append(image)
        most.append(len(decoding))
        time.sleep(0.001)
        fitted = fit(image, size)
        decoding.remove(image)
        return fitted

    monkeypatch.setattr(pictures_module, "MANY_PIXELS", 10)
    monkeypatch.setattr(pictures_module, "fit_square", watch)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    load(f"folder:{pictures}", size=8, validation=0.2, test=0.2)
    assert len(most) > 10
    assert set(most) == {1}
