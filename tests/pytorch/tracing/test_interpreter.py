"""One forward pass, numbered, with the layer that is running."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.tracing.interpreter import OpInterpreter


class Watcher(OpInterpreter):
    """Notes the layer of each operation."""

    def __init__(self):
        super().__init__(lambda packet: True)
        self.seen = []

    def step(self, function, arguments, keywords):
        self.seen.append((self.layer, str(function.overloadpacket)))
        return function(*arguments, **keywords)


class Failing(nn.Module):
    def forward(self, x):
        raise ArithmeticError("it cannot")


class Nested(nn.Module):
    """Calls a layer inside a layer inside a try, and goes on in its own name."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(2, 3), Failing())
        self.last = nn.ReLU()

    def forward(self, x):
        try:
            self.inside(x)
        except ArithmeticError:
            x = x + 1
        return self.last(x)


def test_each_operation_is_of_the_layer_that_runs_it_also_after_an_error():
    watcher = Watcher()
    watcher.run(share_tensors(Nested()), [torch.ones(1, 2)], {})
    assert watcher.seen == [
        ("inside.0", "aten.linear"),
        ("", "aten.add"),
        ("last", "aten.relu"),
    ]
    assert watcher.layer == ""


def test_a_layer_s_own_hooks_run_and_nothing_is_left_in_the_model():
    model = share_tensors(nn.Sequential(nn.Linear(2, 2)))
    model[0].register_forward_hook(lambda module, given, made: made * 2)
    before = vars(model[0]).copy()
    watcher = Watcher()
    made = watcher.run(model, [torch.ones(1, 2)], {})
    assert watcher.seen == [("0", "aten.linear"), ("0", "aten.mul")]
    assert torch.allclose(made, 2 * nn.functional.linear(torch.ones(1, 2), *model[0].parameters()))
    assert vars(model[0]) == before


def test_the_compiler_is_imported_only_where_the_model_is_compiled():
    """PyTorch takes seconds to import it, for every mode that watches operations."""
    program = (
        "import sys, torch, secateurs as sec\n"
        "from torch import nn\n"
        "x = torch.rand(2, 4)\n"
        "model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))\n"
        "sec.prune(model, x, amount=0.5)\n"
        "assert 'torch._dynamo' not in sys.modules\n"
        "model[1] = torch.compile(model[1], backend='eager')\n"
        "small = sec.prune(model, x, amount=0.5).model\n"
        "assert sec.report_of(small).proof.holds and len(small[0].weight) == 4\n"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_as_asked_for_and_then_what_it_was(training):
    model = share_tensors(nn.Sequential(nn.Dropout(0.5)))
    model.train(not training)
    asked = []
    model[0].forward = lambda x: asked.append(model[0].training) or x
    Watcher().run(model, [torch.ones(1)], {}, training)
    assert asked == [training]
    assert model[0].training is (not training)
