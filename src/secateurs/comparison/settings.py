"""Settings of a comparison, and the jobs that follow from them."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from secateurs.arguments import takes_as_annotated
from secateurs.calibration.racing import Scope
from secateurs.criteria.registry import check_known
from secateurs.errors import SecateursError
from secateurs.settings.base import Code, Count, Document, Share
from secateurs.settings.study import Task
from secateurs.settings.training import Training

SCOPE_MARK = "@"
NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class Comparison(Document):
    """Strategies, each at the same amounts and from the same dense models, trained the same way.

    Attributes:
        format: Identifier of the file format.
        version: Version of the file format.
        task: Model and data.
        training: Training of the dense models, and of every pruned model after its cut.
        strategies: Criteria to compare: names (see: secateurs criteria) or functions of your own,
            package.module:function or FILE.py:FUNCTION; NAME@network and NAME@group set the scope
            of one. May be repeated or separated by commas.
        amounts: Shares to remove, of the parameters or of the quantity that ``unit`` names. May be
            repeated or separated by commas.
        unit: Quantity that amounts refer to.
        rounds: Number of rounds used to reach each amount, each scored anew and trained; 1 is
            one-shot.
        seeds: Number of seeds; each has its own dense model, data order and random draws.
        scope: Scope of the ranking: the same share from every group, or the lowest scores in the
            whole network.
        floor: Minimum width of a group: a fraction of its channels, or a number if 1 or more.
        multiple: Round widths to the nearest multiple of this number. Default: 8 where groups are
            wide and many, and always in networks with depthwise convolutions; any width otherwise,
            and in small steps or where a number of channels is asked for.
        skip: Name of a group or layer to leave unpruned; * is a wildcard; may be repeated.
        repair: After each cut, fit the remaining weights by least squares to the activations of
            the model before it, on the calibration batches.
        rewind: Train after a cut with the learning rates of the end of dense training.
        calibration_batches: Number of training batches used by data-dependent criteria and by
            repair.
        judge_on: Data split on which accuracy is measured.
        metric: Name, direction and format of the metric, if it is not accuracy.
        command: Command line that began the comparison, if one did.
        code: User code that the comparison runs, with the hashes of its files when it began.
    """

    format: Literal["secateurs-comparison"] = "secateurs-comparison"
    version: Literal[1] = 1
    task: Task
    training: Training = Training()
    strategies: Annotated[tuple[str, ...], Field(min_length=1)] = ("l1", "apoz", "random")
    amounts: Annotated[tuple[Share, ...], Field(min_length=1)] = (0.25, 0.5, 0.75, 0.9)
    seeds: Annotated[int, Field(ge=1, le=10_000)] = 3
    scope: Scope = "group"
    floor: Annotated[float, Field(gt=0)] = 0.1
    multiple: Count | None = None
    skip: tuple[str, ...] = ()
    unit: Literal["params", "macs", "channels", "size_mb"] = "params"
    rounds: Count = 1
    repair: bool = False
    rewind: Literal["learning-rate"] | None = None
    calibration_batches: Count = 4
    judge_on: Literal["validation", "test"] = "validation"
    metric: dict[str, Any] = Field(default_factory=dict)
    command: tuple[str, ...] = ()
    code: Code = Field(default_factory=dict)

    @property
    def jobs(self) -> list[Job]:
        """All jobs, ordered so that those that share a model and scores are adjacent."""
        first = self.training.seed
        return [
            Job(strategy, amount, seed)
            for seed in range(first, first + self.seeds)
            for strategy in dict.fromkeys(self.strategies)
            for amount in dict.fromkeys(self.amounts)
        ]


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One model to prune and retrain.

    Attributes:
        strategy: strategy as requested.
        amount: share of the parameters, or of another unit, to remove.
        seed: seed of the initial dense model, and of all randomness.
    """

    strategy: str
    amount: float
    seed: int

    @property
    def name(self) -> str:
        """Name that is valid for a file, and unique."""
        plain = re.sub("[^A-Za-z0-9_.@-]+", "-", self.strategy)
        return f"{plain}-{100 * self.amount:g}-seed{self.seed}"


@takes_as_annotated(SecateursError)
def parse_job(
    strategy: str, scope: Scope, functions: Mapping[str, Callable[..., Any]] = NOTHING
) -> tuple[str | Callable[..., Any], Scope]:
    """(criterion, scope) of a strategy.

    Args:
        strategy: name of a criterion or function, optionally followed by ``@`` and a scope.
        scope: scope if the strategy has none.
        functions: the user's own functions, by name.

    Raises:
        UnknownNameError: there is no such criterion or function.
        SecateursError: there is no such scope.
    """
    name, mark, after = strategy.partition(SCOPE_MARK)
    if mark and after not in ("group", "network"):
        raise SecateursError(f"{strategy}: expected @group or @network; received @{after}")
    chosen: Scope = after if mark else scope  # type: ignore[assignment]
    if name in functions:
        return functions[name], chosen
    check_known(name)
    return name, chosen
