"""A forward pass as numbered operations, with the layer that runs each."""

import subprocess
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateurs.channels.garbage import pause_garbage_collection
from secateurs.pytorch.model.copies import share_tensors
from secateurs.pytorch.tracing import interpreter
from secateurs.pytorch.tracing.interpreter import OpInterpreter, in_mode


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


def test_an_interpreter_is_freed_as_soon_as_it_is_dropped(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", sys)  # as if the compiler were imported
    monkeypatch.setattr(torch.compiler, "disable", lambda function: function)
    watcher = Watcher()
    watcher.run(share_tensors(Nested()), [torch.ones(1, 2)], {})
    left = weakref.ref(watcher)
    with pause_garbage_collection():
        del watcher
        assert left() is None


@pytest.mark.parametrize("training", [False, True])
def test_the_mode_is_as_asked_for_and_then_what_it_was(training):
    model = share_tensors(nn.Sequential(nn.Dropout(0.5)))
    model.train(not training)
    asked = []
    model[0].forward = lambda x: asked.append(model[0].training) or x
    Watcher().run(model, [torch.ones(1)], {}, training)
    assert asked == [training]
    assert model[0].training is (not training)


class Noted(OpInterpreter):
    """Writes down each operation and the module it is in."""

    def __init__(self, whole=lambda packet: True):
        super().__init__(whole)
        self.done = []

    def step(self, function, arguments, keywords):
        self.done.append((self.index, str(function.overloadpacket), self.layer))
        return function(*arguments, **keywords)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
        self.count = 0
        self.kept = {}

    def forward(self, x):
        self.count += 1
        self.kept["last"] = x
        x.add_(1)
        return self.inner(x.detach()).sum(1)


def test_operations_are_numbered_with_their_modules():
    noted, model, x = Noted(), Net(), torch.zeros(2, 3)
    found = noted.run(model, (x,), {})
    assert noted.done == [
        (0, "aten.add_", ""),
        (1, "aten.linear", "inner.0"),
        (2, "aten.relu", "inner.1"),
        (3, "aten.sum", ""),
    ]  # detach changes nothing, and has no number
    with torch.no_grad():
        torch.testing.assert_close(found, model.inner(torch.ones(2, 3)).sum(1))


def test_writes_of_a_pass_are_undone():
    model, x = Net(), torch.zeros(2, 3)
    model.train()
    Noted().run(model, (x,), {})
    assert not x.any()
    assert (model.count, model.kept) == (0, {})
    assert model.training
    state = torch.get_rng_state()
    Noted().run(nn.Dropout(0.5), (torch.ones(8),), {}, training=True)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_is_not_taken_whole_comes_as_what_it_is_composed_of():
    noted = Noted(whole=lambda packet: packet is not torch.ops.aten.linear)
    noted.run(nn.Linear(3, 4), (torch.zeros(2, 3),), {})
    names = [name for _, name, _ in noted.done]
    assert "aten.linear" not in names
    assert "aten.addmm" in names


def test_operations_of_suspended_hooks_are_not_numbered():
    noted, model = Noted(), nn.Linear(3, 4)

    def hook(module, given, output):
        with noted.aside():
            return output + 1

    model.register_forward_hook(hook)
    found = noted.run(model, (torch.zeros(1, 3),), {})
    assert len(noted.done) == 1
    torch.testing.assert_close(found, model.bias.detach()[None] + 1)


def test_shuffles_as_movements_are_pytorchs():
    x = torch.randn(2, 12, 4, 6)
    assert torch.equal(interpreter.pixel_shuffle(x, 2), F.pixel_shuffle(x, 2))
    assert torch.equal(interpreter.pixel_unshuffle(x, 2), F.pixel_unshuffle(x, 2))
    assert torch.equal(interpreter.channel_shuffle(x, 3), nn.ChannelShuffle(3)(x))
    matrices = [torch.randn(n, m) for n, m in ((3, 5), (5, 2), (2, 4))]
    torch.testing.assert_close(
        interpreter.multiply_in_order(matrices), torch.linalg.multi_dot(matrices)
    )


@pytest.mark.parametrize("training", [True, False])
def test_modes_and_fused_attention_are_put_back(training):
    model = nn.Sequential(nn.Dropout(), nn.Linear(2, 2))
    model[0].eval()
    before = torch.backends.mha.get_fastpath_enabled()
    with in_mode(model, training), in_mode(nn.ReLU()):
        assert [module.training for module in model] == [training, training]
        assert not torch.backends.mha.get_fastpath_enabled()
    assert [module.training for module in model] == [False, True]
    assert torch.backends.mha.get_fastpath_enabled() == before
