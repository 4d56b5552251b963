"""Size of a cut network's file, before it is written.

A safetensors file is eight bytes of length, a JSON header padded to a multiple of eight, and the
tensors: its size is known exactly. For other formats only the tensors are known, at the precision
in which they are written; the rest is measured once a file has been made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from secateurs.channels.blocks import BlockCut
from secateurs.channels.cost import Product, Products
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network, Tensor
from secateurs.errors import BudgetError, nearest
from secateurs.files import CHECKSUM

METADATA_KEY = "secateurs"

FORMATS: Mapping[str, tuple[str, ...]] = {
    "safetensors": ("float32", "float16"),
    "onnx": ("float32", "float16", "int8"),
    "openvino": ("float32", "float16"),
    "pt2": ("float32",),
    "executorch": ("float32",),
    "litert": ("float32",),
    "coreml": ("float16",),
    "keras": ("float32",),
    "savedmodel": ("float32",),
}
"""File format -> the precisions in which its weights can be written, the default first."""

_OVERHEAD = {"onnx": 2000, "int8": 3000, "pt2": 5000}
"""Least bytes of graph text for each layer in such a file: a first guess, corrected once a file is
written. Too high a guess would reject budgets that can be met."""

PRECISIONS = ("float32", "float16", "int8")


@dataclass(frozen=True, slots=True)
class FileKind:
    """A file's format, and the precision of the weights in it.

    Attributes:
        format: name of the format, as for ``export``'s targets.
        precision: "float32" keeps the model's own types; "float16" halves them; "int8" stores
            weights of matrix products and convolutions in one byte each.
    """

    format: str = "safetensors"
    precision: str = "float32"

    @classmethod
    def of(cls, format_: str | None = None, precision: str | None = None) -> FileKind:
        """The kind with these properties; what is None takes its default.

        Raises:
            BudgetError: no such format or precision, or the format does not support it.
        """
        if precision is not None and precision not in PRECISIONS:
            raise BudgetError(
                f"precision: expected {', '.join(PRECISIONS)}; received {precision!r}"
                f"{nearest(str(precision), PRECISIONS)}"
            )
        if format_ is None:
            having = [name for name, known in FORMATS.items() if (precision or "float32") in known]
            return cls(having[0], precision or "float32")
        if format_ not in FORMATS:
            raise BudgetError(
                f"format: expected one of {', '.join(FORMATS)}; received {format_!r}"
                f"{nearest(str(format_), list(FORMATS))}"
            )
        if precision is not None and precision not in FORMATS[format_]:
            others = [name for name, known in FORMATS.items() if precision in known]
            raise BudgetError(
                f"precision={precision}: a file of {format_} is written in "
                f"{', '.join(FORMATS[format_])}. For {precision}: format={others[0]}"
            )
        return cls(format_, precision or FORMATS[format_][0])

    @property
    def is_foreseen(self) -> bool:
        """Whether the exact file size is known before the file is written."""
        return self.format == "safetensors"

    def overhead(self, network: Network) -> int:
        """Bytes of a file of this kind beside its tensors, as a first guess."""
        usual = _OVERHEAD.get(self.format, 1000)
        return len(network.contractions) * _OVERHEAD.get(self.precision, usual)

    def itemsize(self, tensor: Tensor) -> int:
        """Bytes of one element of this tensor in the file."""
        if self.precision == "int8" and tensor.is_parameter and len(tensor.shape) > 1:
            return 1
        is_number = tensor.itemsize == 4 or (tensor.itemsize == 8 and tensor.is_parameter)
        return 2 if self.precision == "float16" and is_number else tensor.itemsize

    def products(self, network: Network) -> list[Product]:
        """Bytes of each tensor as a function of the widths."""
        return [
            Product(tensor.size.constant * self.itemsize(tensor), tensor.size.axes)
            for tensor in network.tensors.values()
        ]


USUAL = FileKind()
"""The kind of file that ``save`` writes."""

_STORED: WeakKeyDictionary[Network, dict[FileKind, Products]] = WeakKeyDictionary()


def count_stored_bytes(network: Network, alive: NDArray[np.bool_], kind: FileKind) -> int:
    """Bytes of all tensors in a file of this kind, given the kept atoms."""
    of_network = _STORED.setdefault(network, {})
    if kind not in of_network:
        of_network[kind] = Products(network.solution, kind.products(network))
    return int(of_network[kind].values(alive).sum())


def count_bytes_without(
    network: Network, blocks: Sequence[BlockCut], alive: NDArray[np.bool_], kind: FileKind
) -> int:
    """Bytes of the tensors that remain without these blocks, given the kept atoms."""
    kept = [
        product
        for tensor, product in zip(network.tensors.values(), kind.products(network), strict=True)
        if not is_gone(tensor, blocks)
    ]
    return int(Products(network.solution, kept).values(alive).sum())


def is_gone(tensor: Tensor, blocks: Sequence[BlockCut]) -> bool:
    """Whether a tensor is removed with these blocks."""
    names = (tensor.name, *tensor.aliases)
    return all(any(block.takes_with_it(name) for block in blocks) for name in names)


def metadata(cut: Cut) -> dict[str, str]:
    """Metadata of a cut model's file, including the cut."""
    return {"format": "pt", METADATA_KEY: cut.to_json()}


def cut_from_metadata(metadata: Mapping[str, str]) -> Cut:
    """The cut in a file's metadata; an empty one if there is none."""
    inside = metadata.get(METADATA_KEY)
    return Cut() if inside is None else Cut.from_json(inside)


def predict_file_size(network: Network, cut: Cut, kind: FileKind = USUAL) -> int:
    """Size in bytes of the safetensors file after ``cut``; exact for the model as it was traced.

    Buffers that a model does not save (non-persistent ones) are counted too.
    """
    sizes = {tensor.name: kind.itemsize(tensor) for tensor in network.tensors.values()}
    entries = {**metadata(cut), CHECKSUM: "0" * 64}  # any checksum is as long as this
    header: dict[str, Any] = {"__metadata__": entries}
    place = 0
    # Wide types first, then by name, as in safetensors: the order affects the offsets' digits.
    left = [t for t in network.tensors.values() if not is_gone(t, cut.blocks)]
    for tensor in sorted(left, key=lambda t: (-sizes[t.name], t.name)):
        known = cut.tensors.get(tensor.name)
        shape = tensor.shape if known is None else known.shape_after
        size = sizes[tensor.name]
        for length in shape:
            size *= length
        header[tensor.name] = {
            "dtype": _dtype_name(sizes[tensor.name]),
            "shape": list(shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    return 8 + _pad_to_eight(len(text.encode())) + place


def _dtype_name(itemsize: int) -> str:
    return {8: "I64", 4: "F32", 2: "F16", 1: "U8"}.get(itemsize, "F32")


def _pad_to_eight(length: int) -> int:
    return -(-length // 8) * 8
