import functools

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn

from secateurs.errors import MeasurementError
from secateurs.measurement.conditions import Conditions
from secateurs.pytorch.running import batch_size, runner

X = torch.from_numpy(np.random.default_rng(0).normal(size=(3, 4)).astype("float32"))


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.9), nn.Linear(5, 2))


@pytest.mark.parametrize(("batch", "size"), [(None, 3), (7, 7), (2, 2)])
def test_a_call_runs_the_requested_batch_size(batch, size):
    conditions = Conditions(batch=batch)
    assert batch_size(X, conditions) == size
    assert runner(model(), X, conditions)().shape == (size, 2)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_copy_runs_in_inference_in_the_type_asked_for(kind):
    mine = model().train()
    found = runner(mine, X, Conditions(dtype=kind))()
    expected = mine[2](mine[0](X))  # nothing is dropped
    assert str(found.dtype) == f"torch.{kind}"
    assert torch.allclose(found.float(), expected, atol=1e-6 if kind == "float32" else 0.05)
    assert mine.training
    assert mine[0].weight.dtype is torch.float32


def test_the_number_of_threads_is_restored():
    before = torch.get_num_threads()
    runner(model(), X, Conditions(threads=before + 1))()
    assert torch.get_num_threads() == before


@torch._dynamo.config.patch(disable=False)  # detectors that run here switch it off
def test_each_of_many_cuts_is_compiled(monkeypatch):
    """PyTorch compiles eight versions of one forward, and runs the others as they are."""
    compiled = []

    def count(graph, _):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=count))

    class Cut(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.into, self.out = nn.Linear(3, width), nn.Linear(width, 2)

        def forward(self, x):
            return self.out(torch.relu(self.into(x)))

    x = torch.randn(2, 3)
    for width in range(4, 16):
        model = Cut(width)
        run = runner(model, x, Conditions(runtime="compile"))
        with torch.no_grad():
            torch.testing.assert_close(run(), model(x))
        run()
    assert len(compiled) == 12


@torch._dynamo.config.patch(disable=True)
def test_a_disabled_compiler_is_reported():
    with pytest.raises(MeasurementError, match="compile: expected PyTorch's compiler switched on"):
        runner(model(), X, Conditions(runtime="compile"))
