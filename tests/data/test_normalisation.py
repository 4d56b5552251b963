"""Images are normalised as in the model's training, not by the folder's statistics."""

import numpy as np
import pytest
from PIL import Image

from secateurs import data
from secateurs.data.pictures import read_picture
from secateurs.errors import DataError


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for number in range(10):
            pixels = random.integers(0, 200, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("how", "mean", "std"),
    [
        ("imagenet", [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ("none", [0, 0, 0], [1, 1, 1]),
        ("0.5/0.25", [0.5] * 3, [0.25] * 3),
        ("0.1,0.2,0.3/0.4,0.5,0.6", [0.1, 0.2, 0.3], [0.4, 0.5, 0.6]),
    ],
)
def test_normalisation_is_what_torchvisions_transforms_do(folder, how, mean, std):
    loaded = data.load(f"folder:{folder}", size=16, normalise=how)
    images, _ = loaded.validation.batch(slice(0, 2))
    raw = loaded.validation.pixels[loaded.validation.rows[:2]].astype(np.float64) / 255
    by_hand = (raw - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    assert np.allclose(images, by_hand, atol=1e-5)


def test_left_alone_it_is_the_training_images_own(folder):
    loaded = data.load(f"folder:{folder}", size=16)
    images, _ = loaded.train.batch(slice(None))
    assert np.allclose(images.mean((0, 2, 3)), 0, atol=1e-4)
    assert np.allclose(images.std((0, 2, 3)), 1, atol=1e-4)


def test_the_middle_crop_is_pillows(folder):
    path = folder / "a" / "0.png"
    whole = Image.open(path).convert("RGB")
    # The shorter side to 16 / 0.8 = 20 pixels, which it is; the middle 16 of 20 x 20.
    by_hand = np.asarray(whole.crop((5, 0, 25, 20)).crop((2, 2, 18, 18))).transpose(2, 0, 1)
    assert np.array_equal(read_picture(path, 16, 0.8), by_hand)


@pytest.mark.parametrize("how", ["", "imagnet", "0.5", "a/b", "0.5/0", "nan/1", "1,2/1,2"])
def test_invalid_normalisations_are_refused(folder, how):
    with pytest.raises(DataError, match="normalise: expected"):
        data.load(f"folder:{folder}", size=8, normalise=how)
