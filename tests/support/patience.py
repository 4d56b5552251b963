"""Helpers for tests that time something on a shared machine."""

from collections.abc import Callable
from typing import TypeVar

from secateurs.errors import MeasurementError

Result = TypeVar("Result")


def until_quiet(measure: Callable[[], Result], tries: int = 4) -> Result:
    """What it gives; begun again where the machine was too noisy to time, and that was refused."""
    for _ in range(tries - 1):
        try:
            return measure()
        except MeasurementError as error:
            if "too noisy" not in str(error):
                raise
    return measure()
