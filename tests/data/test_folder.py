"""Folders of images."""

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from secateurs.data import Data, folder, load
from secateurs.data.progress import show_progress
from secateurs.errors import DataError
from support.picture_files import COLOURS, save


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


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
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
