"""Trials that share one pass of the dense network, up to where each begins to differ.

The dense network is run once, step by step. Each trial branches off at its first change and is run
to the end from there; its outputs are compared with the dense network's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, Self, TypeVar

from secateurs.reconstruction.fidelity import Fidelity, Judge, OutputArrays

StepT = TypeVar("StepT")
PassT = TypeVar("PassT", bound="PlayedPass[Any]")
PassT_contra = TypeVar("PassT_contra", bound="PlayedPass[Any]", contravariant=True)


class PlayedPass(Protocol[StepT]):
    """The dense network's pass over some images, implemented by each framework."""

    done: int

    @property
    def steps(self) -> Sequence[StepT]:
        """All steps, in order."""

    def do(self, step: StepT) -> object:
        """Run one step."""

    def forget(self, step: StepT) -> None:
        """Drop the values that this step was the last to read."""

    def branch(self) -> Self:
        """A copy of the pass that can continue from here in another way."""


class Player(Protocol[PassT_contra]):
    """One trial.

    Attributes:
        first: index of the first step that differs; -1 if none does.
    """

    first: int

    def play(self, rest: PassT_contra) -> OutputArrays:
        """Run the rest of a pass with the trial's changes; returns the model's outputs."""


def play_trials(
    passes: Iterable[PassT],
    answers_of: Callable[[PassT], OutputArrays],
    players: Sequence[Player[PassT]],
    kind: str,
    tick: Callable[[], None],
) -> list[Fidelity]:
    """Fidelity of the network in each trial.

    Args:
        passes: passes of the dense network over pieces of the images, before their first step.
        answers_of: function that reads the outputs at the end of a pass.
        players: the trials.
        kind: kind of the outputs.
        tick: called after each trial on each piece.
    """
    judges = [Judge(kind) for _ in players]
    for shared in passes:
        # A separate pass for the reference, so that no trial's outputs are stored: those can be
        # large.
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
    """Run all steps before this one."""
    while one.done < until:
        step = one.steps[one.done]
        one.do(step)
        one.forget(step)
