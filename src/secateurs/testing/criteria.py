"""Tests that every criterion must pass."""

from __future__ import annotations

import copy
import warnings
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.criteria import CRITERIA, Need
from secateurs.criteria.registry import find
from secateurs.testing.networks import NETWORKS, build_network, images, labels


class CriterionBattery:
    """Tests of one criterion; set ``criterion``, or override the fixture of that name.

    Attributes:
        criterion: a registered name, or a function of ``GroupData``.
        stochastic: whether the scores are random, independent of the network.
        networks: names in ``secateurs.testing.networks.NETWORKS`` that it can score; a criterion
            for normalisation layers, for example, needs networks that have some.
    """

    criterion: ClassVar[Any]
    stochastic: ClassVar[bool] = False
    networks: ClassVar[tuple[str, ...]] = tuple(NETWORKS)

    def scores(self, model: torch.nn.Module, data: Any = None) -> sec.Scores:
        """The model's scores; a UserWarning that they may mean little is not an error."""
        data = (images(), labels()) if data is None else data
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return sec.score(sec.trace(model, images()[:1]), self.criterion, data=data)

    def test_gives_one_finite_number_for_each_channel(self) -> None:
        for network in self.networks:
            model = build_network(network)
            scores = self.scores(model)
            groups = sec.trace(model, images()[:1]).groups
            assert set(scores) == {group.name for group in groups}, network
            for group in groups:
                assert scores[group.name].shape == (len(group),), network
                assert np.isfinite(scores[group.name]).all(), network

    def test_gives_the_same_again(self) -> None:
        model = build_network("residual")
        first, again = self.scores(model), self.scores(model)
        for group, values in first.items():
            np.testing.assert_array_equal(values, again[group])

    def test_does_not_care_how_images_come_in_batches(self) -> None:
        model, x, y = build_network("residual"), images(), labels()
        whole = self.scores(model)
        parts = self.scores(model, [(x[:3], y[:3]), (x[3:], y[3:])])
        for group, values in whole.items():
            np.testing.assert_allclose(values, parts[group], rtol=1e-4, atol=1e-6)

    def test_permuting_filters_permutes_their_scores(self) -> None:
        if self.stochastic:
            pytest.skip("its scores come from a seed")
        model = build_network("plain")
        other, order = copy.deepcopy(model), [3, 0, 4, 1, 2]
        for name, tensor in other.state_dict().items():
            if name.startswith(("conv1.", "norm1.")) and tensor.dim():
                tensor.copy_(tensor[order].clone())
            elif name == "conv2.weight":
                tensor.copy_(tensor[:, order].clone())
        before, after = self.scores(model), self.scores(other)
        np.testing.assert_allclose(after["conv1"], before["conv1"][order], rtol=2e-4, atol=2e-6)
        np.testing.assert_allclose(after["conv2"], before["conv2"], rtol=2e-4, atol=2e-6)

    def test_leaves_the_model_as_it_was(self) -> None:
        model = build_network("residual").train()
        frozen = model.get_parameter("conv1.weight").requires_grad_(False)
        state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        self.scores(model)
        assert all(module.training for module in model.modules())
        assert not frozen.requires_grad
        assert all(parameter.grad is None for parameter in model.parameters())
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, state[name]), name

    def test_asks_for_the_data_that_it_needs(self) -> None:
        known = find(self.criterion)
        network = sec.trace(build_network("plain"), images()[:1])
        if not known.needs & Need.DATA:
            assert set(sec.score(network, self.criterion)) == {g.name for g in network.groups}
            return
        with pytest.raises(sec.DataError, match="expected calibration data"):
            sec.score(network, self.criterion)
        if known.needs & Need.LOSS:
            with pytest.raises(sec.DataError, match="expected labels"):
                sec.score(network, self.criterion, data=images())

    def test_has_a_method_card_if_it_is_registered(self) -> None:
        known = find(self.criterion)
        if known.name not in CRITERIA:
            pytest.skip("it is not registered, so it needs no method card")
        for part in ("Formula:", "Cost:", "When it hurts:", "Source:"):
            assert part in known.card, f"{known.name}: its docstring lacks {part!r}"
