"""Trials that share one pass of the dense network, up to where each begins to differ.

The dense network goes through its steps once. Where a trial's first change comes, it goes on from
there by itself; what it answers is held against what the dense network answers in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self, TypeVar

from secateurs.reconstruction.fidelity import Fidelity, Judge, OutputArrays

StepT = TypeVar("StepT")
PassT = TypeVar("PassT", bound="PlayedPass[Any]")
PassT_contra = TypeVar("PassT_contra", bound="PlayedPass[Any]", contravariant=True)


class PlayedPass(Protocol[StepT]):
    """The dense network's pass over some images: a framework's own."""

    done: int

    @property
    def steps(self) -> Sequence[StepT]:
        """All of them, in order."""

    def do(self, step: StepT) -> object:
        """Take one step."""

    def forget(self, step: StepT) -> None:
        """Drop the values that this step was the last to read."""

    def branch(self) -> Self:
        """The same pass, to go on from here in another way."""


class Player(Protocol[PassT_contra]):
    """One trial.

    Attributes:
        first: the step that is the first to differ; -1 where none does.
    """

    first: int

    def play(self, rest: PassT_contra) -> OutputArrays:
        """The rest of a pass as the trial has it; what the model would give."""


def play_trials(
    passes: Iterable[PassT],
    answers_of: Callable[[PassT], OutputArrays],
    players: Sequence[Player[PassT]],
    kind: str,
    tick: Callable[[], None],
) -> list[Fidelity]:
    """How faithful the network is in each trial.

    Args:
        passes: the dense network's, over pieces of the images, none of their steps taken.
        answers_of: what the dense network gives, at the end of a pass.
        players: the trials.
        kind: of the outputs.
        tick: called after each trial on each piece.
    """
    judges = [Judge(kind) for _ in players]
    for shared in passes:
        # A pass more, so that no trial's answers are kept: scores of many words are large.
        whole = shared.branch()
        _go_on(whole, len(whole.steps))
        right = answers_of(whole)
        del whole
        for player, judge in sorted(zip(players, judges, strict=True), key=_first):
            if player.first < 0:
                judge.add(right, right)
                continue
            _go_on(shared, player.first)
            judge.add(right, player.play(shared.branch()))
            tick()
    return [judge.verdict() for judge in judges]


def _first(both: tuple[Player[PassT], Judge]) -> int:
    return both[0].first


def _go_on(one: PlayedPass[StepT], until: int) -> None:
    """Take all steps before this one."""
    while one.done < until:
        step = one.steps[one.done]
        one.do(step)
        one.forget(step)
