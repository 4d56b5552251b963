"""Array types that are shared by the framework-free packages."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
"""Floats in the precision in which a framework provided them."""
Floats = NDArray[np.float64]
"""Floats in double precision."""
Sums = NDArray[np.float64]
"""Sums over images or rows, in double precision because single precision would round them."""
Stays = NDArray[np.bool_]
"""Mask of the units that are kept, shape (units,)."""
