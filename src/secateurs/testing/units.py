"""Tests that every budget unit must pass."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pytest
import torch

import secateurs as sec
from secateurs.planning.units import Candidate, Unit, is_fraction
from secateurs.testing.networks import build_network, images


class BudgetUnitBattery:
    """Tests that every budget unit must pass; subclass, set ``unit`` and define ``count``.

    Attributes:
        unit: an instance of a subclass of ``secateurs.planning.units.Unit``.
        limits: valid limits, as ``Unit.check`` accepts them.
        refused: invalid limits, which ``Unit.check`` must reject.
        texts: limits as typed on the command line, mapped to the limits they parse to.
        networks: names in ``secateurs.testing.networks.NETWORKS`` to prune.
        tolerance: largest relative difference allowed between the unit's measurement
            and ``count``.
        foreseen: largest relative difference allowed between the cost predicted before
            pruning and the cost measured afterwards.
    """

    unit: ClassVar[Unit]
    limits: ClassVar[tuple[Any, ...]] = (0.25, 0.5, 1.0, 40.0)
    refused: ClassVar[tuple[Any, ...]] = (0, -1.0, math.nan, "much", None, True)
    texts: ClassVar[dict[str, Any]] = {"0.5": 0.5, "40": 40.0}
    networks: ClassVar[tuple[str, ...]] = ("plain", "residual")
    tolerance: ClassVar[float] = 1e-9
    foreseen: ClassVar[float] = 1e-9

    def count(self, model: torch.nn.Module) -> float:
        """Cost of a model, counted on the model itself rather than from its trace."""
        raise NotImplementedError

    def test_reads_what_is_typed(self) -> None:
        for text, limit in self.texts.items():
            assert self.unit.read(text) == limit
            self.unit.check(self.unit.read(text))

    def test_refuses_what_is_no_limit_and_names_itself(self) -> None:
        for limit in self.refused:
            with pytest.raises(sec.BudgetError, match=self.unit.name):
                self.unit.check(limit)

    def test_a_fraction_is_of_the_dense_model(self) -> None:
        for limit in filter(is_fraction, self.limits):
            assert math.isclose(self.unit.absolute(limit, 80.0), limit * 80.0)

    def test_an_absolute_limit_is_read_back_as_the_same_number(self) -> None:
        for number in (3.0, 1234.0, 5e6):
            limit = self.unit.limit_from(number)
            self.unit.check(limit)
            assert self.unit.absolute(limit, 1e9) == pytest.approx(number, rel=1e-6, abs=1e-3)

    def test_a_scaled_limit_allows_as_many_times_as_much(self) -> None:
        dense = 80.0
        for limit in self.limits:
            absolute = self.unit.absolute(limit, dense)
            scaled = self.unit.scale(limit, 0.75, absolute)
            self.unit.check(scaled)
            assert self.unit.absolute(scaled, dense) == pytest.approx(0.75 * absolute, rel=1e-3)

    def test_predicts_and_measures_what_a_cut_model_takes(self) -> None:
        for name in self.networks:
            model = build_network(name)
            network = sec.trace(model, images()[:1])
            for cut in (sec.Cut(), *self._cuts(network)):
                small = sec.apply(model, cut, images()[:1], network=network)
                wanted = self.count(small)
                assert self.unit.measure(network, cut) == pytest.approx(wanted, rel=self.tolerance)
                predicted = self.unit.predict(Candidate.after(network, cut))
                assert predicted == pytest.approx(wanted, rel=self.foreseen)

    def test_never_takes_more_when_more_has_gone(self) -> None:
        for name in self.networks:
            network = sec.trace(build_network(name), images()[:1])
            for group in network.groups:
                taken = [
                    self.unit.predict(
                        Candidate.after(network, network.cut({group.name: list(range(gone))}))
                    )
                    for gone in range(len(group))
                ]
                assert taken == sorted(taken, reverse=True), group.name
                assert taken[0] > taken[-1], group.name

    def test_shows_a_number(self) -> None:
        assert any(character.isdigit() for character in self.unit.show(1234.0))

    def _cuts(self, network: sec.Network) -> list[sec.Cut]:
        first, *_ = network.groups
        every = {group.name: [0] for group in network.groups}
        return [network.cut({first.name: [0, 2]}), network.cut(every)]
