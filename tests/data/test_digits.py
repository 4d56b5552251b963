import numpy as np
from sklearn.datasets import load_digits as bundled

from secateurs.data.digits import load_digits


def test_images_are_those_of_scikit_learn_from_zero_to_one():
    data = load_digits(None, (0.2, 0.2), 0, None)
    assert data.shape == (1, 8, 8)
    assert list(data.classes) == [str(n) for n in range(10)]
    parts = [part.batch(slice(None)) for part in (data.train, data.validation, data.test)]
    images = np.concatenate([images for images, _ in parts])
    labels = np.concatenate([labels for _, labels in parts])
    assert len(images) == 1797
    assert np.bincount(labels).tolist() == np.bincount(bundled().target).tolist()
    raw = data.train.pixels[data.train.rows]
    assert (raw.min(), raw.max()) == (0.0, 1.0)
    assert set(np.unique(raw * 16)) == set(range(17))


def test_another_size_and_a_limit():
    data = load_digits(16, (0.2, 0.2), 0, 50)
    assert data.shape == (1, 16, 16)
    assert len(data.train) == 50
