"""Tests that every rule must pass: a free channel must not affect outputs once unread."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import secateurs as sec
from secateurs.channels.network import Role


class RuleBattery:
    """Tests of a rule, on a network with its operation; set ``build`` and ``example_inputs``.

    Attributes:
        build: function that makes the network, with the same weights each time.
        example_inputs: inputs of the network, as for ``secateurs.trace``.
        tolerance: largest relative difference of outputs that rounding explains.
        at_least: least number of channels that the rule should leave free.
    """

    build: ClassVar[Callable[[], torch.nn.Module]]
    example_inputs: ClassVar[Any]
    tolerance: ClassVar[float] = 1e-4
    at_least: ClassVar[int] = 1

    def trace(self) -> tuple[torch.nn.Module, sec.Network]:
        """The network and its trace."""
        model = type(self).build().eval()
        return model, sec.trace(model, self.example_inputs)

    def test_some_channels_are_free(self) -> None:
        _, network = self.trace()
        assert sum(map(len, network.groups)) >= self.at_least

    def test_each_channel_can_go_and_is_proven(self) -> None:
        model, network = self.trace()
        for group in network.groups:
            for channel in range(len(group)):
                cut = network.cut({group.name: [channel]})
                small = sec.apply(model, cut, self.example_inputs, network=network)
                proof = sec.report_of(small).proof
                assert proof is not None
                assert proof.max_difference <= self.tolerance * max(1.0, proof.scale)
                assert sum(p.numel() for p in small.parameters()) == network.params(cut)

    def test_a_channel_that_nobody_reads_changes_nothing(self) -> None:
        """Zero the weights that read a channel, and compare with the cut, without any rule.

        If the outputs still depend on the weights that make the channel, activations read it too,
        as in attention, and the group is left to the other tests.
        """
        dense, network = self.trace()
        tried = 0
        for group in network.groups:
            model = copy.deepcopy(dense)
            _set_weights_(model, network, group, 0, Role.INPUT, 0.0)
            if not self._is_unread(model, network, group):
                continue
            tried += 1
            cut = network.cut({group.name: [0]})
            small = sec.apply(model, cut, self.example_inputs)
            before, after = (_outputs(one, self.example_inputs) for one in (model, small))
            for x, y in zip(before, after, strict=True):
                np.testing.assert_allclose(y, x, rtol=0, atol=self.tolerance * np.abs(x).max())
        if not tried:
            pytest.skip("no group is read by weights alone")

    def _is_unread(self, model: torch.nn.Module, network: sec.Network, group: sec.Group) -> bool:
        """Whether other filters of the first channel give the same outputs."""
        other = copy.deepcopy(model)
        _set_weights_(other, network, group, 0, Role.FILTER, 3.0)
        pairs = zip(*(_outputs(one, self.example_inputs) for one in (model, other)), strict=True)
        return all(np.array_equal(x, y) for x, y in pairs)


def _set_weights_(
    model: torch.nn.Module,
    network: sec.Network,
    group: sec.Group,
    channel: int,
    role: Role,
    value: float,
) -> None:
    """Fill all weights that have this role for a channel with one value."""
    state = dict(model.state_dict(keep_vars=True))
    for member in group.members:
        if member.role is role:
            at = torch.from_numpy(network.positions(group, member)[channel])
            with torch.no_grad():
                state[member.tensor].index_fill_(member.axis, at, value)


def _outputs(model: torch.nn.Module, example_inputs: Any) -> list[np.ndarray[Any, Any]]:
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    with torch.no_grad():
        given = model(*(torch.as_tensor(value) for value in inputs))
    given = given if isinstance(given, (tuple, list)) else [given]
    return [tensor.numpy() for tensor in given]
