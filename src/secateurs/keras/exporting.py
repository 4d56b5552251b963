"""Keras models, written for the runtimes that they will run in."""

from __future__ import annotations

import contextlib
import io
import warnings
from pathlib import Path
from typing import Any

from secateurs.errors import ExportError
from secateurs.export.sessions import first_line


def onnx_file(model: Any, path: Path) -> list[str]:
    """Write a model as ONNX, by Keras's own exporter; the names of its inputs, in order.

    Raises:
        ExportError: Keras cannot, on this backend; the message says why.
    """
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            model.export(str(path), format="onnx", verbose=False)
    except Exception as error:
        raise ExportError(
            f"{model.name}: Keras cannot write it as ONNX on this backend: {first_line(error)}"
        ) from error
    import onnx

    return [one.name for one in onnx.load(path, load_external_data=False).graph.input]
