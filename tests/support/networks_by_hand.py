"""Networks written as units and equations, without a framework."""

from types import SimpleNamespace

import numpy as np

from secateurs.channels.cost import Contraction, Product
from secateurs.channels.equations import Equations
from secateurs.channels.network import Network
from secateurs.channels.tensors import Mixing, Role, Scaling, Size, Tensor

WEIGHT = {0: Role.FILTER, 1: Role.INPUT}


def two_layers(hidden=4, **options):
    """3 -> hidden -> 2, with a factor for each hidden channel and a count that nobody prunes."""
    equations = Equations()
    x, h, y = (equations.units(number) for number in (3, hidden, 2))
    equations.freeze(x, "it is the network's input")
    equations.freeze(y, "it is the network's output")
    tensors = [
        Tensor("first.weight", (hidden, 3), 4, True, axes={0: h, 1: x}, roles=WEIGHT),
        Tensor("first.bias", (hidden,), 4, True, axes={0: h}, roles={0: Role.SHIFT}),
        Tensor("norm.weight", (hidden,), 4, True, axes={0: h}, roles={0: Role.SCALE}),
        Tensor("norm.count", (), 8, False),
        Tensor("last.weight", (2, hidden), 4, True, axes={0: y, 1: h}, roles=WEIGHT),
    ]
    contractions = [
        Contraction("first", Product(5, (h, x))),
        Contraction("last", Product(5, (y, h))),
    ]
    sizes = [Size("first", "out_features", None, Product(1, (h,)))]
    if options.pop("mixes", False):
        options["mixings"] = [Mixing("layer_norm", "norm", h)]
    if options.pop("scales", False):
        rows = np.arange(2)
        options["scalings"] = [Scaling("last.weight", 0, rows, Product(1, (h,)), -0.5)]
    if multiple := options.pop("multiple", None):
        options["multiples"] = [(h, multiple)]
    mixings = options.pop("mixings", ())
    solution = equations.solve()
    source = SimpleNamespace(framework="none", device="cpu", find_blocks=lambda network: ())
    return Network(tensors, contractions, sizes, mixings, solution, source, "by hand", **options)


def grid(rows=2, columns=3):
    """4 -> rows x columns -> 2: what goes of the cells is whole rows or whole columns."""
    equations = Equations()
    x, cells, y = (equations.units(number) for number in (4, rows * columns, 2))
    equations.freeze(x, "it is the network's input")
    equations.freeze(y, "it is the network's output")
    equations.factor(cells, (rows, columns))
    width = rows * columns
    tensors = [
        Tensor("in.weight", (width, 4), 4, True, axes={0: cells, 1: x}, roles=WEIGHT),
        Tensor("out.weight", (2, width), 4, True, axes={0: y, 1: cells}, roles=WEIGHT),
    ]
    contractions = [Contraction("in", Product(1, (cells, x)))]
    source = SimpleNamespace(framework="none", device="cpu", find_blocks=lambda network: ())
    return Network(tensors, contractions, [], [], equations.solve(), source, "grid")


def sides(network):
    """The groups of a grid, the one of fewer channels first: the rows, where they are fewer."""
    return sorted(network.groups, key=len)
