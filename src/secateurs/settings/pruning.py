"""Settings of what each round of a study removes."""

from __future__ import annotations

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
    given = [outputs] if isinstance(outputs, str | int) else outputs
    if not isinstance(given, list | tuple):
        return outputs
    return tuple(part.strip() for one in given for part in str(one).split(","))


class Pruning(Settings):
    """What each round removes.

    Attributes:
        step: Share of the channels that remain, removed in each round.
        criterion: What ranks channels in their groups: a name (see: secateurs criteria), or a
            function of your own, package.module:function or FILE.py:FUNCTION. If left out, how well
            a fit of the others can make up for each; l1 where groups are not cut by curves.
        scope: Whether to take the same share from every group, or the lowest scores in the whole
            network. A group too narrow to lose a whole channel to a round is spared until the
            others have come down to it, which is where accuracy is best kept.
        allocation: How far each group is cut: as the scope says; or by curves, which say what it
            loses at each width, measured anew in each round on the calibration batches; the share
            is then of what the budget limits, or of the channels. If left out, by curves where
            cuts are repaired, unless there is a scope or the criterion is auto.
        floor: Never leave a group with less: a share of its channels in the dense model, or a
            number of channels if 1 or more.
        multiple: Keep widths that are a multiple of this, the nearest. If left out, any width in
            small steps and by number, else 8 where groups are wide and many; always 8 in networks
            with depthwise convolutions.
        skip: Name of a group or layer to leave alone; * matches anything; may be repeated.
        rewind: Fine-tune as dense training ended, from as many batches before its end: the
            survivors' weights of that time and its learning rates; or the learning rates alone;
            or all of dense training again, from the initial weights (lottery).
        until_recovered: End a round's fine-tuning at its first evaluation within the tolerance.
        repair: After each cut, fit the weights that stay to what the model gave before it, on the
            calibration batches; not where the survivors' weights are rewound. A round that this
            alone brings back within the tolerance is not fine-tuned. If left out, where these
            batches hold at least 64 examples that the model can be fitted to.
        outputs: The outputs of the model that you use, by name or number, with commas between them
            (logits); what is behind others may go. All of them, if left out.
        calibration_batches: Training batches shown to a criterion that needs data, and to repair.
        measure_speed: Measure images a second after each round, beside the dense model's.

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
