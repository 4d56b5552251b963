"""Tests that every framework must pass: the requirements of ``secateurs.backends.Backend``."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

import secateurs as sec
from secateurs.backends import Backend


class BackendBattery:
    """Tests of a framework's package; set ``backend`` and write ``build``, ``inputs``, ``outputs``.

    Attributes:
        backend: the package, or another implementation of ``Backend``.
    """

    backend: ClassVar[Any]

    def build(self) -> Any:
        """A model with at least two layers and one group of at least four channels."""
        raise NotImplementedError

    def inputs(self) -> Any:
        """A batch of inputs for the model."""
        raise NotImplementedError

    def outputs(self, model: Any) -> NDArray[Any]:
        """Outputs of a model for that batch."""
        raise NotImplementedError

    def test_it_has_every_function_with_the_parameters_asked_for(self) -> None:
        for name, asked in inspect.getmembers(Backend, inspect.isfunction):
            if name.startswith("_"):
                continue
            found = inspect.signature(getattr(self.backend, name)).parameters
            free = any(one.kind is one.VAR_KEYWORD for one in found.values())
            wanted = [p for p in inspect.signature(asked).parameters.values() if p.name != "self"]
            for one in wanted:
                if one.kind is not one.VAR_KEYWORD:
                    assert free or one.name in found, f"{name}: lacks the parameter {one.name}"

    def test_a_cut_is_proven_and_costs_what_was_predicted(self) -> None:
        model, x = self.build(), self.inputs()
        network = self.backend.trace(model, x)
        group = max(network.groups, key=len)
        cut = network.cut({group.name: [0, 2]})
        before = self.outputs(model)
        small = self.backend.apply(model, cut, x)
        proof = sec.report_of(small).proof
        assert proof is not None
        assert proof.max_difference <= 1e-4 * proof.scale
        assert self.backend.trace(small, x).params() == network.params(cut) < network.params()
        np.testing.assert_array_equal(self.outputs(model), before)

    def test_what_is_saved_is_loaded(self, tmp_path: Path) -> None:
        model, x = self.build(), self.inputs()
        network = self.backend.trace(model, x)
        name = max(network.groups, key=len).name
        small = self.backend.apply(model, network.cut({name: [1]}), x)
        self.backend.save(small, tmp_path / "small.safetensors")
        loaded = self.backend.load(self.build(), tmp_path / "small.safetensors")
        np.testing.assert_allclose(self.outputs(loaded), self.outputs(small), atol=1e-6)
        assert sec.report_of(loaded).cut == sec.report_of(small).cut

    def test_a_cut_of_nothing_changes_nothing(self) -> None:
        model, x = self.build(), self.inputs()
        same = self.backend.apply(model, self.backend.trace(model, x).cut({}), x)
        np.testing.assert_array_equal(self.outputs(same), self.outputs(model))

    def test_no_such_layer_is_said(self) -> None:
        with pytest.raises(sec.UnknownNameError, match="no_such_layer"):
            self.backend.delete_channels(self.build(), {"no_such_layer": [0]}, self.inputs())
