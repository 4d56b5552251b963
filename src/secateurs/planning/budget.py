"""What may remain of a network: limits, each in a unit of ``secateurs.planning.units``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.errors import BudgetError, nearest
from secateurs.planning.units import UNITS, Limit


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What may remain. Several limits at once must all hold.

    Each is a fraction of the dense model (a number below 1, such as 0.5) or absolute.

    Attributes:
        channels: of the groups that can be pruned.
        params: numbers in the parameters.
        macs: multiply-accumulates of a pass over the example inputs.
        size_mb: the saved file, in megabytes of 1,000,000 bytes; an absolute size below one
            megabyte is written with its unit, as in ``"0.4 MB"`` or ``"400 kB"``.
    """

    channels: float | None = None
    params: float | None = None
    macs: float | None = None
    size_mb: float | str | None = None

    def __post_init__(self) -> None:
        if not self.limits:
            names = ", ".join(UNITS)
            raise BudgetError(f"expected a budget of at least one of {names}; received none")
        for name, limit in self.limits.items():
            UNITS[name].check(limit)

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits that were given."""
        given = ((name, getattr(self, name)) for name in UNITS)
        return {name: value for name, value in given if value is not None}

    def absolute(self, dense: Mapping[str, float]) -> dict[str, float]:
        """The limits in absolute numbers (sizes in bytes), given what the dense model takes."""
        return {
            name: UNITS[name].absolute(limit, dense[name]) for name, limit in self.limits.items()
        }

    def absolute_for(self, network: Network) -> dict[str, float]:
        """The limits in absolute numbers (sizes in bytes), given the dense network."""
        return self.absolute({name: UNITS[name].measure(network, Cut()) for name in self.limits})

    @classmethod
    def from_absolute(cls, limits: Mapping[str, float]) -> Budget:
        """The budget whose limits are these numbers, as ``absolute`` gives them."""
        given = {name: UNITS[name].limit_from(number) for name, number in limits.items()}
        return cls(**given)  # type: ignore[arg-type]

    @classmethod
    def parse(cls, source: str) -> Budget:
        """Read ``"macs=0.5,size_mb=15"``.

        Raises:
            BudgetError: an unknown unit, or something that is no number.
        """
        given: dict[str, Limit] = {}
        names = [field.name for field in fields(cls)]
        for part in source.split(","):
            name, equals, value = (piece.strip() for piece in part.partition("="))
            if not equals or name not in names:
                raise BudgetError(
                    f"expected a budget such as 'macs=0.5' or 'size_mb=15,params=0.4'; received "
                    f"{part!r}{nearest(name, names)}"
                )
            given[name] = UNITS[name].read(value)
        return cls(**given)  # type: ignore[arg-type]

    @classmethod
    def of(cls, given: Budget | str | Mapping[str, Limit]) -> Budget:
        """A budget, as text such as ``"macs=0.5"`` or as a mapping such as ``{"macs": 0.5}``.

        Raises:
            BudgetError: it is none of these, or names an unknown unit.
        """
        if isinstance(given, Budget):
            return given
        if isinstance(given, str):
            return cls.parse(given)
        if isinstance(given, Mapping):
            names = [field.name for field in fields(cls)]
            for name in given:
                if name not in names:
                    raise BudgetError(f"no budget is called {name!r}{nearest(str(name), names)}")
            return cls(**given)  # type: ignore[arg-type]
        raise BudgetError(
            "expected a budget: sec.Budget(macs=0.5), 'macs=0.5' or {'macs': 0.5}; received "
            f"{given!r}"
        )
