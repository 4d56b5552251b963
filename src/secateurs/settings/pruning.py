"""Settings of what each round of a study removes."""

from __future__ import annotations

from numbers import Integral
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from secateurs.calibration.racing import Scope
from secateurs.settings.base import Count, Settings, Share

Rewind = Literal["weights", "learning-rate", "lottery"]
Allocation = Literal["scope", "curves"]


def _as_names(outputs: Any) -> Any:
    """'logits,1', 1, ["logits", 1] -> names of outputs, as text."""
    if outputs is None:
        return None
    given = [outputs] if isinstance(outputs, str | Integral) else outputs
    if not isinstance(given, list | tuple):
        return outputs
    return tuple(part.strip() for one in given for part in str(one).split(","))


class Pruning(Settings):
    """What each round removes.

    Attributes:
        step: Share of the channels that remain, removed in each round.
        criterion: How channels are ranked within their group: a name (see: secateurs criteria) or a
            function of your own, package.module:function or FILE.py:FUNCTION. Default: how well a
            least-squares fit of the other channels replaces each; l1 where widths are not allocated
            by error curves.
        scope: Scope of the ranking: the same share from every group, or the lowest scores in the
            whole network. With "group", a group too narrow to lose a whole channel in a round is
            spared until the others have come down to it, which keeps accuracy best.
        allocation: How the width of each group is chosen: by the scope, or by error curves, which
            estimate what a group loses at each width and are measured anew in each round on the
            calibration batches. With curves, the step is a share of what the budget limits, or else
            of the channels. Default: curves where cuts are repaired, unless a scope is given or the
            criterion is auto.
        floor: Minimum width of a group: a fraction of its channels in the dense model, or a number
            of channels if 1 or more.
        multiple: Round widths to the nearest multiple of this number. Default: 8 where groups are
            wide and many, and always in networks with depthwise convolutions; any width otherwise,
            and in small steps or where a number of channels is asked for.
        skip: Name of a group or layer to leave unpruned; * is a wildcard; may be repeated.
        rewind: Training after a cut. "learning-rate" repeats the learning rates of as many of the
            last batches of dense training; "weights" also resets the remaining weights to their
            values at that point; "lottery" repeats all of dense training from the initial weights.
        until_recovered: End a round's fine-tuning at the first evaluation within the tolerance.
        repair: After each cut, fit the remaining weights by least squares to the activations of
            the model before it, on the calibration batches; not with weight rewinding. A round that
            repair alone brings back within the tolerance is not fine-tuned. Default: on if these
            batches hold at least 64 examples that the model can be fitted to.
        outputs: Outputs of the model that you use, by name or number, separated by commas (logits);
            channels that only the others need may be removed. Default: all outputs.
        calibration_batches: Number of training batches used by data-dependent criteria and by
            repair.
        measure_speed: Measure the throughput after each round, relative to the dense model.

    Source: Renda, Frankle & Carbin 2020 (rewinding); Frankle & Carbin 2019 (lottery tickets).
    """

    step: Share = 0.05
    criterion: str | None = None
    scope: Scope | None = None
    allocation: Allocation | None = None
    floor: Annotated[float, Field(gt=0)] = 0.1
    multiple: Count | None = None
    skip: tuple[str, ...] = ()
    rewind: Rewind | None = None
    until_recovered: bool = False
    repair: bool | None = None
    outputs: Annotated[tuple[str, ...] | None, BeforeValidator(_as_names)] = None
    calibration_batches: Count = 4
    measure_speed: bool = True

    @property
    def ranked_by(self) -> str:
        """Name of the criterion, including the default if none is given."""
        return self.criterion or ("obs" if self.allocation == "curves" else "l1")

    @property
    def rewinds_weights(self) -> bool:
        """Whether rounds rewind the weights, and not just the learning rates."""
        return self.rewind in ("weights", "lottery")

    @property
    def planning_options(self) -> dict[str, Any]:
        """Keyword arguments of ``plan``, except for the amount."""
        return {
            "scope": self.scope or "group",
            "floor": self.floor,
            "multiple": self.multiple,
            "skip": self.skip,
        }
