"""The handwritten digits that come with scikit-learn."""

from __future__ import annotations

import numpy as np

from secateurs.data.pictures import resize
from secateurs.data.sets import Data, assemble

_BRIGHTEST = 16


def load_digits(
    size: int | None, shares: tuple[float, float], seed: int, limit: int | None
) -> Data:
    """1,797 grey images of 8 x 8 pixels in ten classes; see ``secateurs.data.load``."""
    from sklearn.datasets import load_digits as bundled

    digits = bundled()
    images = (digits.images[:, None] / _BRIGHTEST).astype(np.float32)
    labels = digits.target.astype(np.int64)
    names = [str(name) for name in digits.target_names]
    return assemble(
        "digits", names, (resize(images, size), labels), shares=shares, seed=seed, limit=limit
    )
