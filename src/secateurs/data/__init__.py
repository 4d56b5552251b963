"""Labelled images as NumPy arrays: digits, Fashion-MNIST, folders of images, coloured vehicles."""

from secateurs.data.names import load, load_any
from secateurs.data.normalisation import normalised, renormalise
from secateurs.data.sets import Data, Split, from_arrays
from secateurs.data.text_drawing import draw_texts
from secateurs.data.texts import from_texts

__all__ = [
    "Data",
    "Split",
    "draw_texts",
    "from_arrays",
    "from_texts",
    "load",
    "load_any",
    "normalised",
    "renormalise",
]
