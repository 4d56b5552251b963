"""Types of the arrays that the algebra and what stands on it work with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""Numbers in the precision in which a framework gave them."""
Floats = NDArray[np.float64]
"""Numbers in double precision."""
Sums = NDArray[np.float64]
"""Sums over images or rows, which single precision would round."""
Stays = NDArray[np.bool_]
"""Which units stay, shape (units,)."""
