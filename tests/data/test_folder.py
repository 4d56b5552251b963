"""Folders of images."""

import io
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from secateurs.data import Data, folder, load
from secateurs.data import pictures as pictures_module
from secateurs.data.pictures import read_picture
from secateurs.data.progress import show_progress
from secateurs.errors import DataError

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def save(path: Path, colour: object, size: tuple[int, int] = (20, 14), mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Ten blue and ten red images, in files of several kinds."""
    for label, colour in COLOURS.items():
        for number in range(8):
            save(tmp_path / label / f"{number}.png", colour)
        save(tmp_path / label / "more" / "deep.bmp", colour)
        save(tmp_path / label / "A.TIF", colour)
        (tmp_path / label / "notes.txt").write_text("no image")
        (tmp_path / label / ".hidden.png").write_text("no image")
    return tmp_path


def pixels_of(data: Data, part: str) -> np.ndarray:
    split = getattr(data, part)
    return split.pixels[split.rows]


def test_a_folder_a_class(pictures: Path) -> None:
    data = load(f"folder:{pictures}", size=8, validation=0.2, test=0.2)
    assert data.classes == ("blue", "red")
    assert data.shape == (3, 8, 8)
    assert (len(data.train), len(data.validation), len(data.test)) == (12, 4, 4)
    for part in ("train", "validation", "test"):
        labels = getattr(data, part).labels
        for pixels, label in zip(pixels_of(data, part), labels, strict=True):
            expected = COLOURS[data.classes[label]]
            assert np.array_equal(
                pixels, np.broadcast_to(np.array(expected)[:, None, None], (3, 8, 8))
            )


def test_the_default_size(pictures: Path) -> None:
    assert load(f"folder:{pictures}").shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("folders", "sizes"),
    [
        (("train", "val"), (14, 4, 2)),
        (("train", "test"), (14, 2, 4)),
        (("train", "val", "test"), (16, 4, 4)),
        (("train", "valid"), (14, 4, 2)),
    ],
)
def test_splits_that_are_there_are_used(
    folders: tuple[str, ...], sizes: tuple[int, ...], tmp_path: Path
) -> None:
    for part in folders:
        for label, colour in COLOURS.items():
            for number in range(8 if part == "train" else 2):
                save(tmp_path / part / label / f"{number}.png", colour)
    data = load(f"folder:{tmp_path}", size=4)
    assert (len(data.train), len(data.validation), len(data.test)) == sizes
    assert data.classes == ("blue", "red")


def test_a_class_called_train_is_a_class(tmp_path: Path) -> None:
    for label in ("car", "train"):
        for number in range(4):
            save(tmp_path / label / f"{number}.png", "white")
    assert load(f"folder:{tmp_path}", size=4).classes == ("car", "train")


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


def test_unreadable_files_are_named(pictures: Path) -> None:
    broken = pictures / "red" / "broken.jpg"
    broken.write_bytes(b"\xff\xd8\xff\xe0 no more")
    with pytest.raises(DataError, match=f"{broken}: expected an image; it cannot be read"):
        load(f"folder:{pictures}", size=4)
    whole = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole, "PNG")
    broken.unlink()
    cut = pictures / "red" / "cut.png"
    cut.write_bytes(whole.getvalue()[:5000])
    with pytest.raises(DataError, match=f"{cut}: expected an image; it cannot be read"):
        load(f"folder:{pictures}", size=4)


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/nowhere: .* a path that does not exist"):
        load(f"folder:{tmp_path}/nowhere")
    with pytest.raises(DataError, match="received 0 folders, and 0 images"):
        load(f"folder:{tmp_path}")
    save(tmp_path / "loose.png", "red")
    with pytest.raises(DataError, match="received 0 folders, and 1 image beside them"):
        load(f"folder:{tmp_path}")
    with pytest.raises(DataError, match=r"loose\.png: .* received a file"):
        load(f"folder:{tmp_path}/loose.png")
    save(tmp_path / "red" / "1.png", "red")
    with pytest.raises(DataError, match="received 1 folder, and 1 image beside it"):
        load(f"folder:{tmp_path}")
    (tmp_path / "blue").mkdir()
    with pytest.raises(DataError, match=f"{tmp_path}/blue: expected at least one image .* none"):
        load(f"folder:{tmp_path}")


def test_splits_must_have_the_same_classes(tmp_path: Path) -> None:
    for part, labels in (("train", ("blue", "red")), ("val", ("blue", "reed"))):
        for label in labels:
            save(tmp_path / part / label / "1.png", "red")
    with pytest.raises(DataError, match=f"{tmp_path}/val: .* missing red; not there reed"):
        load(f"folder:{tmp_path}")


def test_large_sets_are_kept_in_a_file(
    pictures: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    small = load(f"folder:{pictures}", size=8)
    monkeypatch.setattr(folder, "MOST_BYTES_IN_MEMORY", 1000)
    large = load(f"folder:{pictures}", size=8)
    assert isinstance(large.train.pixels, np.memmap)
    assert not isinstance(small.train.pixels, np.memmap)
    for one, other in zip(large.train.batch([0, 3]), small.train.batch([0, 3]), strict=True):
        assert np.array_equal(one, other)
    assert list((cache / "secateurs").iterdir()) == []  # nothing is left behind


def test_no_room_for_the_file(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MOST_BYTES_IN_MEMORY", 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(pictures / "red" / "0.png"))
    with pytest.raises(DataError, match=r"expected room for 3840 bytes of pixels.*XDG_CACHE_HOME"):
        load(f"folder:{pictures}", size=8)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "patience", "shown"),
    [(_Terminal, 0.0, True), (_Terminal, 60.0, False), (io.StringIO, 0.0, False)],
)
def test_a_bar_is_shown_on_a_terminal_when_it_takes_long(
    stream: type[io.StringIO], patience: float, shown: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secateurs.data.progress.PATIENCE_IN_SECONDS", patience)
    monkeypatch.setattr(sys, "stderr", stream())
    monkeypatch.setenv("TERM", "xterm")
    assert list(show_progress(range(5), 5, "Reading")) == [0, 1, 2, 3, 4]
    assert ("Reading" in sys.stderr.getvalue()) == shown


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
