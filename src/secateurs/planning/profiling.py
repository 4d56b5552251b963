"""Fitting of a latency model: some dozen cuts of a model, timed under its conditions of use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from secateurs.arguments import FLAG, MODEL, SEED, TEXT, takes, whole_number
from secateurs.backends import Backend, backend_named, backend_of
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.criteria.scoring import Scores, score
from secateurs.data.cache import cache_folder
from secateurs.errors import BudgetError, MeasurementError, ModelError
from secateurs.files import check_can_write, write_atomically
from secateurs.measurement.conditions import (
    Conditions,
    NumberType,
    Runtime,
    check_installed,
    fingerprint,
    machine,
)
from secateurs.measurement.latency_model import LatencyModel, Samples
from secateurs.measurement.timing import Timing, clock_for, compare_times
from secateurs.planning.allocation import Problem, allocate, choices_of
from secateurs.planning.budget import Budget
from secateurs.planning.group_kinds import KINDS, kinds_of
from secateurs.planning.removal_order import Multiple, RemovalOrder, list_allowed, multiples_of
from secateurs.planning.widths import MILLISECONDS, WidthCosts
from secateurs.planning.within_budget import cut_within

MULTIPLES = (1, 4, 8, 16)
NEAR_ENOUGH = 1.05
"""A multiple is preferred to a larger one that is faster by no more than this factor."""

_DENSE = "the dense model"
_TRUSTED_OF_SAMPLES = 0.05
_DOUBTFUL = 0.12
_ROUNDS = 2
"""Rounds in which cuts are planned with what is known so far, timed, and learned from."""
_PLANNED_SHARES = (0.5, 0.25, 0.1)
_FLOOR = 0.05


@takes(
    model=MODEL,
    runtime=TEXT,
    batch=whole_number(1).or_none(),
    threads=whole_number(1).or_none(),
    dtype=TEXT,
    device=TEXT,
    cuts=whole_number(1, 1000),
    fresh=FLAG,
    seed=SEED,
)
def profile(
    model: Any,
    example_inputs: Any = None,
    *,
    runtime: str = "eager",
    batch: int | None = None,
    threads: int | None = None,
    dtype: str = "float32",
    device: str = "cpu",
    cuts: int = 16,
    fresh: bool = False,
    seed: int = 0,
) -> LatencyModel:
    """Measure the latency of cuts of a model on this machine, and fit a model to predict others.

    Some dozen cuts of random widths are made and timed interleaved with the dense model; none is
    kept. The result is cached on disk for this model, these conditions, this machine and the
    versions of the libraries.

    Args:
        model: the dense model; it is not changed.
        example_inputs: inputs of the model, as for ``trace``.
        runtime: "eager", "channels-last", "compile", "onnxruntime" or "openvino".
        batch: examples per call; None for as many as ``example_inputs`` holds.
        threads: number of CPU threads; None for the runtime's own default. With one thread, CPU
            time is measured instead of wall time, which other load disturbs least.
        dtype: "float32", "float16" or "bfloat16".
        device: "cpu" or "cuda".
        cuts: number of cuts of random widths to time.
        fresh: measure again even if there is a cached result.
        seed: seed of the cuts and of the order in which they are timed.

    Returns:
        The latency model; ``sec.plan(..., latency_model=...)`` takes it, and ``print`` shows it.

    Raises:
        UnknownNameError: no such runtime, or it is not installed.
        MeasurementError: the machine is too noisy, or the runtime refuses the model.

    Example:
        >>> import torch, secateurs as sec
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Linear(256, 10))
        >>> found = sec.profile(model, torch.randn(1, 64), threads=1, cuts=6)
        >>> found.dense_ms > 0
        True
    """
    conditions = Conditions(
        runtime=cast(Runtime, runtime),
        batch=batch,
        threads=threads,
        dtype=cast(NumberType, dtype),
        device=device,
    )
    network = backend_of(model).trace(model, example_inputs)
    return profile_network(network, conditions, cuts=cuts, fresh=fresh, seed=seed)


def profile_network(
    network: Network,
    conditions: Conditions,
    *,
    cuts: int = 16,
    fresh: bool = False,
    seed: int = 0,
) -> LatencyModel:
    """``profile`` for a model that is traced already."""
    check_installed(conditions.runtime)
    place = _cache_file(network, conditions, cuts, seed)
    if not fresh and place.exists():
        try:
            return LatencyModel.from_json(place.read_text(encoding="utf-8"))
        except (MeasurementError, OSError):
            pass  # written by another version, or damaged: measure again
    check_can_write(place)  # before measuring; XDG_CACHE_HOME may be read-only
    found = _measure(network, conditions, cuts, seed)
    write_atomically(place, found.to_json().encode())
    return found


def _measure(network: Network, conditions: Conditions, cuts: int, seed: int) -> LatencyModel:
    backend = backend_named(network.source.framework)
    bench = CutBench(network, backend, conditions, seed)
    halves = _halves(network, seed)
    at_half = bench.times(list(halves.values()), repeats=15)
    at_multiples = {
        m: (timing.ratio, network.macs(cut) / network.macs())
        for (m, cut), timing in zip(halves.items(), at_half, strict=True)
    }
    multiple = best_multiple(at_multiples)
    room = NEAR_ENOUGH / cost_at(at_multiples, multiple)
    by_kind, by_kinds = _narrow_multiples(network, bench, multiple, room, seed)

    def fit_to(timed: Sequence[tuple[Cut, Timing]]) -> LatencyModel:
        dense_ms = float(np.median([timing.median / timing.ratio for _, timing in timed]))
        samples = Samples.of_dense(network)
        for cut, timing in timed:
            samples = samples.with_cut(network, cut, timing.ratio, timing.error)
        settled = (multiple, at_multiples, by_kind)
        return LatencyModel.fit(conditions, bench.images, dense_ms, samples, *settled)

    timed = [*zip(halves.values(), at_half, strict=True), *by_kinds]
    as_planned = {kind: by_kind.get(kind, multiple) for kind in KINDS}
    timed += bench.each(random_cuts(network, cuts, seed, as_planned))
    for _ in range(_ROUNDS):
        planned = planned_cuts(network, fit_to(timed), seed)
        timed += bench.each(cut for cut in planned if all(cut != known for known, _ in timed))
    found = fit_to(timed)
    # A cut that fits badly is either unusual or was disturbed: timing it again tells which.
    doubtful = [place for place in range(len(timed)) if abs(found.errors[place + 1]) > _DOUBTFUL]
    for place, again in zip(
        doubtful, bench.each((timed[place][0] for place in doubtful), repeats=25), strict=True
    ):
        timed[place] = again
    return fit_to(timed) if doubtful else found


class CutBench:
    """The dense model, prepared to run, and a way to time cuts beside it."""

    def __init__(
        self, network: Network, backend: Backend, conditions: Conditions, seed: int
    ) -> None:
        self._network, self._backend = network, backend
        self._conditions, self._seed = conditions, seed
        self._model, self._inputs = network.source.model, network.source.example_inputs
        self._dense = backend.runner(self._model, self._inputs, conditions)
        self.images = backend.batch_size(self._inputs, conditions)

    def times(self, cuts: Sequence[Cut], repeats: int) -> list[Timing]:
        """Time all cuts, interleaved with the dense model."""
        runs = {_DENSE: self._dense}
        for number, cut in enumerate(cuts):
            small = self._backend.apply(self._model, cut, self._inputs, proof=False)
            runs[f"cut {number}"] = self._backend.runner(small, self._inputs, self._conditions)
        found = compare_times(
            runs,
            _DENSE,
            clock=clock_for(self._conditions),
            repeats=repeats,
            trusted=_TRUSTED_OF_SAMPLES,
            seed=self._seed,
        )
        return [found[f"cut {number}"] for number in range(len(cuts))]

    def each(self, cuts: Iterable[Cut], repeats: int = 9) -> list[tuple[Cut, Timing]]:
        """Time the cuts one after the other, each interleaved with the dense model."""
        return [(cut, self.times([cut], repeats)[0]) for cut in cuts]


def best_multiple(at_multiples: Mapping[int, tuple[float, float]]) -> int:
    """The smallest multiple whose time per MAC is within ``NEAR_ENOUGH`` of the best; 1 if none.

    Args:
        at_multiples: multiple -> (time, MACs) of a cut, relative to the dense network's.
    """
    if not at_multiples:
        return 1
    return min(m for m in at_multiples if cost_at(at_multiples, m) <= NEAR_ENOUGH)


def cost_at(at_multiples: Mapping[int, tuple[float, float]], multiple: int) -> float:
    """Time per MAC at a multiple relative to the best multiple's; 1 if nothing was measured."""
    costs = {m: time / macs for m, (time, macs) in at_multiples.items()}
    return costs[multiple] / min(costs.values()) if costs else 1.0


def _narrow_multiples(
    network: Network, bench: CutBench, multiple: int, room: float, seed: int
) -> tuple[dict[str, int], list[tuple[Cut, Timing]]]:
    """(kind of group -> a smaller multiple that is nearly as fast for it, cuts timed for this).

    Each kind is tried alone at the next smaller multiple while all others keep theirs, as long as
    that is fast enough. All kinds together may take ``room`` times as long as at ``multiple``.
    """
    of_groups = kinds_of(network)
    kinds = [kind for kind in KINDS if kind in of_groups.values()]
    found = dict.fromkeys(kinds, multiple)
    timed: list[tuple[Cut, Timing]] = []
    if len(kinds) < 2:  # a single kind was measured already
        return {}, timed
    near_enough = room ** (1 / len(kinds))  # the kinds' slowdowns multiply
    for smaller in sorted((m for m in MULTIPLES if m < multiple), reverse=True):
        tried = _narrower_by_kind(network, found, smaller, of_groups, seed)
        if not tried:
            break
        cuts = [_half(network, found, seed), *tried.values()]
        timings = bench.times(cuts, repeats=15)
        timed += zip(cuts, timings, strict=True)
        costs = [t.ratio / network.macs(cut) for cut, t in zip(cuts, timings, strict=True)]
        fast = [
            k for k, cost in zip(tried, costs[1:], strict=True) if cost <= near_enough * costs[0]
        ]
        found.update(dict.fromkeys(fast, smaller))
    return {kind: m for kind, m in found.items() if m < multiple}, timed


def _narrower_by_kind(
    network: Network,
    found: Mapping[str, int],
    smaller: int,
    of_groups: Mapping[str, str],
    seed: int,
) -> dict[str, Cut]:
    """Kind of group -> a cut with it alone at the smaller multiple, where that is other widths."""
    tried = {}
    for kind in [kind for kind in found if found[kind] == _next_above(smaller)]:
        cut = _half(network, {**found, kind: smaller}, seed)
        of_kind = [name for name in cut.channels if of_groups[name] == kind]
        # Widths that are multiples of the larger number by chance are no evidence.
        if any(_width(network, cut, name) % found[kind] for name in of_kind):
            tried[kind] = cut
    return tried


def _width(network: Network, cut: Cut, group: str) -> int:
    return len(network.group(group)) - len(cut.channels[group].removed)


def _next_above(multiple: int) -> int:
    return MULTIPLES[MULTIPLES.index(multiple) + 1]


def _halves(network: Network, seed: int) -> dict[int, Cut]:
    """Multiple -> a cut to half of the MACs, or the nearest possible, at such widths."""
    found = {multiple: _half(network, multiple, seed) for multiple in MULTIPLES}
    return {m: cut for m, cut in found.items() if cut.channels}


def _half(network: Network, multiple: Multiple, seed: int) -> Cut:
    """A cut to half of the MACs, or the nearest possible; an empty cut if there is none."""
    scores = score(network, "random", seed=seed)
    for share in (0.5, 0.75, 0.9):
        try:
            order = RemovalOrder.of(network, scores, "group", 0.1, multiple, (), None)
            return cut_within(order, Budget(macs=share), None)
        except BudgetError:
            continue
    return Cut()


def random_cuts(
    network: Network, number: int, seed: int, multiples: Mapping[str, int] | None = None
) -> Iterator[Cut]:
    """Yield cuts of random widths, drawn for each group.

    Many are narrower towards one end of the network, because a plan may well remove most of the
    early layers, whose times cannot be told apart from the others' by uniform cuts.

    Args:
        network: network to cut.
        number: number of cuts.
        seed: seed of the random generator.
        multiples: kind of group -> number that its widths are multiples of in every other cut, as
            in plans; the remaining cuts (all if None) cycle through multiples of 1, 4, 8 and 16.
    """
    draws = np.random.default_rng(seed)
    along = np.linspace(-0.5, 0.5, max(2, len(network.groups)))
    kinds = kinds_of(network)
    for turn in range(number):
        as_planned = multiples is not None and turn % 2 == 0
        usual = MULTIPLES[(turn if multiples is None else turn // 2) % len(MULTIPLES)]
        middle, slope = draws.uniform(0.15, 0.9), draws.uniform(-0.8, 0.8)
        chosen: dict[str, list[int]] = {}
        for place, group in zip(along, network.groups, strict=False):
            width = len(group)
            ideal = middle + slope * place + draws.uniform(-0.25, 0.25)
            share = float(np.clip(ideal, 0.05, 1.0))
            multiple = multiples[kinds[group.name]] if multiples and as_planned else usual
            step = multiple if width >= multiple else 1
            kept = min(width, max(step, round(share * width / step) * step))
            if kept < width:
                chosen[group.name] = sorted(
                    draws.choice(width, size=width - kept, replace=False).tolist()
                )
        yield network.cut(chosen)


def planned_cuts(network: Network, model: LatencyModel, seed: int) -> list[Cut]:
    """Cuts planned with the latency model itself, because plans go where it is too optimistic.

    Args:
        network: network to cut.
        model: latency model fitted so far.
        seed: seed of the random choice of channels.
    """
    scores = score(network, "random", seed=seed)
    found = []
    for share in _PLANNED_SHARES:
        for weighed in (False, True):
            plan = _planned_by_losses if weighed else _planned_by_order
            try:
                found.append(plan(network, scores, share, model))
            except (BudgetError, ModelError):
                continue  # the floors cost more than this share, or nothing can be removed
    return [cut for cut in found if cut.channels]


def _planned_by_order(network: Network, scores: Scores, share: float, model: LatencyModel) -> Cut:
    """A cut as ``plan`` makes it: the same share of all groups, less where MACs are fast."""
    order = RemovalOrder.of(network, scores, "group", _FLOOR, None, (), None, model)
    return cut_within(order, Budget(macs=share), None)


def _planned_by_losses(network: Network, scores: Scores, share: float, model: LatencyModel) -> Cut:
    """A cut as ``plan_measured`` makes it, with losses that grow as a group gets narrower."""
    groups = list_allowed(network, ())
    multiples = multiples_of(network, groups, None, model)
    curves = [len(group) / np.maximum(np.arange(len(group) + 1), 0.5) - 1 for group in groups]
    choices = [
        choices_of(len(group), _FLOOR, int(multiple))
        for group, multiple in zip(groups, multiples, strict=True)
    ]
    costs = WidthCosts(network, groups, latency_model=model)
    limits = {MILLISECONDS: share * model.dense_ms}
    widths = allocate(Problem(curves, choices, costs, limits))
    return network.cut(
        {
            group.name: np.sort(np.argsort(scores[group.name])[: len(group) - width]).tolist()
            for group, width in zip(groups, widths.tolist(), strict=True)
            if width < len(group)
        }
    )


def _cache_file(network: Network, conditions: Conditions, cuts: int, seed: int) -> Path:
    tensors = [(t.name, t.shape, t.itemsize) for t in network.tensors.values()]
    products = [
        (c.layer, c.macs.constant, [len(axis) for axis in c.macs.axes])
        for c in network.contractions
    ]
    name = fingerprint(
        machine(), network.name, tensors, products, conditions.to_plain(), cuts, seed
    )
    return cache_folder() / "latency" / f"{name}.json"
