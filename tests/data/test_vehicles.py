"""Rendered vehicles."""

import time
from pathlib import Path

import numpy as np
import pytest

from secateurs.data import load, vehicles
from secateurs.data.drawing import PROFILES, Canvas, Finish, Painter, Pose, draw_end, draw_side
from secateurs.errors import DataError


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "secateurs"


def test_an_image_depends_on_its_number_alone() -> None:
    one, other = vehicles.render_vehicle(17), vehicles.render_vehicle(17)
    assert one.shape == (3, 64, 64)
    assert one.dtype == np.uint8
    assert np.array_equal(one, other)
    assert not np.array_equal(one, vehicles.render_vehicle(18))
    assert vehicles.render_vehicle(17, size=40).shape == (3, 40, 40)


def test_the_vehicles_paint_is_what_is_seen() -> None:
    # In the vehicles' place, on average, a class is nearest to its own colour's mean hue.
    paints = np.array([(0.1, 0.1, 0.1), (0.1, 0.2, 0.7), (0.8, 0.1, 0.1), (0.9, 0.75, 0.1)])
    labels = [vehicles.CLASSES.index(name) for name in ("black", "blue", "red", "yellow")]
    middle = np.array(
        [
            np.mean(
                [
                    vehicles.render_vehicle(8 * number + label)[:, 30:50, 20:44].mean(axis=(1, 2))
                    for number in range(60)
                ],
                axis=0,
            )
            for label in labels
        ]
    )
    centred = middle - middle.mean(axis=0)
    likeness = centred @ (paints - paints.mean(axis=0)).T
    assert likeness.argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", [*PROFILES, "front", "rear"])
def test_paint_is_the_predominant_colour_of_every_shape(kind: str) -> None:
    canvas = Canvas(200)
    paint, other = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)
    finish = Finish(paint, other, paint, 0.0, (0, 0, 0), (0.5, 0.5, 0.5), paint)
    canvas.box(0, 0, 1, 1, (0, 1, 0))
    if kind in PROFILES:
        draw_side(Painter(canvas, Pose(0.05, 0.2, 0.9), finish), kind, True, True, True)
    else:
        draw_end(Painter(canvas, Pose(0.2, 0.2, 0.6), finish), 0.85, kind == "rear", (1, 1, 1))
    pixels = np.asarray(canvas.image).astype(int)
    painted = (pixels[..., 0] > 2 * pixels[..., 1]) & (pixels[..., 0] > 2 * pixels[..., 2])
    second = (pixels[..., 2] > 2 * pixels[..., 0]) & (pixels[..., 2] > 2 * pixels[..., 1])
    assert painted.sum() > 2 * second.sum()
    assert painted.sum() > 0.05 * painted.size


def test_the_set(cache: Path) -> None:
    data = load("vehicles:160", size=24, seed=3)
    assert data.classes == (
        "black",
        "blue",
        "brown",
        "green",
        "red",
        "silver",
        "white",
        "yellow",
    )
    assert data.shape == (3, 24, 24)
    assert np.bincount(data.validation.labels).tolist() == [3] * 8
    row = data.test.rows[0]
    assert np.array_equal(data.test.pixels[row], vehicles.render_vehicle(int(row), 24))
    assert data.test.labels[0] == row % 8
    assert data.train.pixels is data.test.pixels


def test_drawn_once(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load("vehicles:16", size=16)
    (kept,) = cache.iterdir()
    monkeypatch.setattr(vehicles, "render_vehicle", None)
    again = load("vehicles:16", size=16, seed=1)
    assert np.array_equal(first.train.pixels, again.train.pixels)
    with np.load(kept, allow_pickle=False) as file:
        assert np.array_equal(file["pixels"], first.train.pixels)


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut short"])
def test_a_spoilt_cache_is_drawn_again(content: bytes, cache: Path) -> None:
    first = load("vehicles:16", size=16)
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(content or whole[: len(whole) // 2])
    assert np.array_equal(load("vehicles:16", size=16).train.pixels, first.train.pixels)
    assert kept.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match="will be drawn again next time"):
        data = load("vehicles:16", size=16)
    assert len(data.train) == 8


@pytest.mark.parametrize("name", ["vehicles:", "vehicles:few", "vehicles:3", "vehicles:-20"])
def test_invalid_numbers_for_a_data_set_are_refused(name: str) -> None:
    with pytest.raises(DataError, match="expected vehicles:NUMBER with a number of at least 16"):
        load(name)


def test_drawing_is_quick() -> None:
    started = time.process_time()
    for index in range(200):
        vehicles.render_vehicle(index)
    # 10,000 in 30 s would be 3 ms each; a slow machine may take several times as long.
    assert (time.process_time() - started) / 200 < 0.02
