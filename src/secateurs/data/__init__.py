"""Labelled images as NumPy arrays: digits, Fashion-MNIST, folders of images, coloured vehicles."""

from secateurs.data.names import load, load_any
from secateurs.data.normalisation import normalised
from secateurs.data.sets import Data, Split, from_arrays

__all__ = ["Data", "Split", "from_arrays", "load", "load_any", "normalised"]
