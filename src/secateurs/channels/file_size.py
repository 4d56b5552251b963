"""How large the file of a cut network is, before it is written.

A safetensors file is eight bytes of length, a JSON header padded to a multiple of eight, and the
tensors.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.files import CHECKSUM

METADATA_KEY = "secateurs"


def metadata(cut: Cut) -> dict[str, str]:
    """What a file says of itself: the cut that leads from the dense model to it."""
    return {"format": "pt", METADATA_KEY: cut.to_json()}


def cut_from_metadata(metadata: Mapping[str, str]) -> Cut:
    """The cut inside what a file says of itself; an empty one where there is none."""
    inside = metadata.get(METADATA_KEY)
    return Cut() if inside is None else Cut.from_json(inside)


def predict_file_size(network: Network, cut: Cut) -> int:
    """Bytes of the file that holds the network after ``cut``: exact for a model as traced.

    Buffers that a model does not save are counted all the same.
    """
    entries = {**metadata(cut), CHECKSUM: "0" * 64}  # what it is does not change how long it is
    header: dict[str, Any] = {"__metadata__": entries}
    place = 0
    # Wide types first, then by name, as safetensors does: the order decides how long offsets are.
    for tensor in sorted(network.tensors.values(), key=lambda t: (-t.itemsize, t.name)):
        known = cut.tensors.get(tensor.name)
        shape = tensor.shape if known is None else known.shape_after
        size = tensor.itemsize
        for length in shape:
            size *= length
        header[tensor.name] = {
            "dtype": _letters(tensor.itemsize),
            "shape": list(shape),
            "data_offsets": [place, place + size],
        }
        place += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False)
    return 8 + _pad_to_eight(len(text.encode())) + place


def _letters(itemsize: int) -> str:
    return {8: "I64", 4: "F32", 2: "F16", 1: "U8"}.get(itemsize, "F32")


def _pad_to_eight(length: int) -> int:
    return -(-length // 8) * 8
