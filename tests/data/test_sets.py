"""Data sets from arrays: normalisation and refusals."""

import numpy as np
import pytest

from secateurs.data import from_arrays
from secateurs.errors import DataError


def images(number: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (number, *shape), dtype=np.uint8)


def test_batches_are_normalised_by_the_training_split() -> None:
    pixels, labels = images(60, 3, 5, 4), np.arange(60) % 3
    pixels[:, 1] //= 4
    data = from_arrays((pixels, labels), classes=("a", "b", "c"))
    assert data.shape == (3, 5, 4)
    assert data.classes == ("a", "b", "c")
    assert len(data.train) + len(data.validation) + len(data.test) == 60

    everything, its_labels = data.train.batch(slice(None))
    assert everything.dtype == np.float32
    assert its_labels.dtype == np.int64
    assert everything.shape == (len(data.train), 3, 5, 4)
    np.testing.assert_allclose(everything.mean(axis=(0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(everything.std(axis=(0, 2, 3)), 1, atol=1e-5)

    train_pixels = pixels[data.train.rows]
    mean, std = train_pixels.mean(axis=(0, 2, 3)), train_pixels.std(axis=(0, 2, 3))
    raw = pixels[data.validation.rows[[2, 0]]]
    received, its_labels = data.validation.batch([2, 0])
    assert np.array_equal(its_labels, labels[data.validation.rows[[2, 0]]])
    expected = (raw - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(received, expected, atol=1e-5)


def test_arranged_images_have_their_channels_last() -> None:
    pixels = np.arange(4 * 2 * 3 * 5, dtype=np.float32).reshape(4, 2, 3, 5)
    arrays = (pixels, np.arange(4) % 2)
    plain = from_arrays(arrays, arrays, arrays)
    last = plain.arrange(channels_last=True)
    for part in ("train", "validation", "test"):
        images, labels = getattr(plain, part).batch(slice(None))
        arranged, same_labels = getattr(last, part).batch(slice(None))
        assert arranged.shape == (4, 3, 5, 2)
        assert arranged[3, 2, 4, 1] == images[3, 1, 2, 4]
        np.testing.assert_array_equal(arranged.transpose(0, 3, 1, 2), images)
        np.testing.assert_array_equal(labels, same_labels)
    assert last.shape == plain.shape == (2, 3, 5)  # as stored
    back = last.arrange(channels_last=False).train.batch([1])[0]
    np.testing.assert_array_equal(back, plain.train.batch([1])[0])


def test_labels_stay_with_their_images() -> None:
    labels = np.arange(90) % 3
    pixels = np.broadcast_to(labels[:, None, None, None], (90, 1, 2, 2)).astype(np.uint8)
    data = from_arrays((pixels, labels))
    for split in (data.train, data.validation, data.test):
        batch, its_labels = split.batch(np.arange(len(split)))
        back = batch[:, 0, 0, 0] * split.std[0] + split.mean[0]
        np.testing.assert_allclose(back, its_labels, atol=1e-5)
        assert np.array_equal(its_labels, split.labels)
    assert data.classes == ("0", "1", "2")


def test_given_splits_are_kept() -> None:
    train, test = (images(40, 6, 6), np.arange(40) % 2), (images(7, 6, 6, seed=1), np.zeros(7, int))
    data = from_arrays(train, test=test)
    assert data.shape == (1, 6, 6)
    assert len(data.test) == 7
    assert len(data.validation) == 6
    assert len(data.train) == 34
    batch, _ = data.test.batch(slice(None))
    back = batch * data.test.std[:, None, None] + data.test.mean[:, None, None]
    np.testing.assert_allclose(back[:, 0], test[0], atol=1e-3)


def test_statistics_over_more_rows_than_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateurs.data.sets.VALUES_AT_A_TIME", 7 * 3 * 4 * 4 + 1)
    pixels = images(50, 3, 4, 4)
    data = from_arrays((pixels, np.arange(50) % 2))
    train_pixels = pixels[data.train.rows].astype(np.float64)
    np.testing.assert_allclose(data.train.mean, train_pixels.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(data.train.std, train_pixels.std(axis=(0, 2, 3)), rtol=1e-6)


def test_a_channel_that_never_changes() -> None:
    pixels = images(20, 2, 3, 3).astype(np.float32)
    pixels[:, 1] = 0.3
    batch, _ = from_arrays((pixels, np.arange(20) % 2)).train.batch(slice(None))
    assert np.isfinite(batch).all()
    np.testing.assert_allclose(batch[:, 1], 0, atol=1e-6)


def test_limited() -> None:
    data = from_arrays((images(200, 1, 4, 4), np.repeat([0, 1], [150, 50])))
    small = data.limit(20, seed=5)
    assert np.bincount(small.train.labels).tolist() == [15, 5]
    assert set(small.train.rows) < set(data.train.rows)
    assert len(small.validation) == len(data.validation)
    np.testing.assert_allclose(small.train.batch(slice(None))[0].mean(), 0, atol=1e-5)
    assert np.array_equal(data.limit(20, seed=5).train.rows, small.train.rows)
    assert data.limit(10_000) is data


@pytest.mark.parametrize(
    ("pixels", "labels", "message"),
    [
        (images(10, 8, 8, 3), np.arange(10) % 2, r"images.transpose\(0, 3, 1, 2\)"),
        (images(10, 8), np.arange(10) % 2, r"received \(10, 8\)"),
        (images(10, 3, 8, 8), np.arange(9) % 2, r"received 10 images and labels of shape \(9,\)"),
        (images(0, 3, 8, 8), np.arange(0), "at least one image"),
        (images(10, 3, 8, 8), np.zeros(10, int), "at least two classes"),
        (images(10, 3, 8, 8), np.arange(10) / 2, "whole numbers from 0; received float64"),
        (images(10, 3, 8, 8), np.arange(10) - 1, "whole numbers from 0"),
        (np.full((10, 3, 8, 8), np.nan), np.arange(10) % 2, "finite pixels; received NaN"),
        (images(10, 3, 8, 8), np.arange(10) % 5, "labels below 3, the number of classes"),
    ],
)
def test_refused(pixels: np.ndarray, labels: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        from_arrays((pixels, labels), classes=("a", "b", "c"))


def test_splits_of_other_shapes_are_refused() -> None:
    train, test = (images(20, 1, 8, 8), np.arange(20) % 2), (images(4, 1, 9, 9), np.arange(4) % 2)
    with pytest.raises(DataError, match="images of one shape"):
        from_arrays(train, test=test)
