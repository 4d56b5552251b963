"""Torch-Pruning's own pruner as strategies of a comparison.

Its importance and its pruner choose, on the same dense model and, where they look at data, on the
same calibration batches. As it takes a share of channels, that share is searched for: the smallest
whose model has no more parameters than were asked for. The choice is then cut by Secateurs, and it
is checked that this gives a model of exactly as many parameters as Torch-Pruning's own.
"""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from secateurs.channels.cut import Cut
from secateurs.channels.network import Network, Role
from secateurs.comparison import Comparison, Job
from secateurs.errors import BudgetError
from secateurs.training.learner import Learner

STEPS = 8
"""Of the search: shares are found to 1/256."""

GLOBAL = {"lamp"}
"""Made to compare layers, so ranked over the whole network; the others take a share of each."""


def importance(name: str) -> Callable:
    import torch_pruning as tp

    return {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance,
        "lamp": tp.importance.LAMPImportance,
        "random": tp.importance.RandomImportance,
    }[name]()


def gradients(model: nn.Module, learner: Learner, batches: int) -> list[torch.Tensor | None]:
    """Of the mean loss over the calibration batches, as its examples take them."""
    model = copy.deepcopy(model).eval()
    for images, labels in learner.calibration(batches):
        loss = F.cross_entropy(model(torch.from_numpy(images)), torch.from_numpy(labels))
        loss.backward()
    return [parameter.grad for parameter in model.parameters()]


def prune(
    model: nn.Module, example: torch.Tensor, name: str, share: float, floor: float, seed: int, grads
) -> tuple[int, dict[str, list[int]]]:
    """(parameters left, layer -> filters that went) of one step of its pruner."""
    import torch_pruning as tp

    model = copy.deepcopy(model).eval()
    for parameter, grad in zip(model.parameters(), grads, strict=True):
        parameter.grad = None if grad is None else grad.clone()
    names = {module: layer for layer, module in model.named_modules()}
    classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    torch.manual_seed(seed)
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=importance(name),
        global_pruning=name in GLOBAL,
        pruning_ratio=share,
        max_pruning_ratio=1 - floor,
        ignored_layers=[classifier],
    )
    gone: dict[str, list[int]] = {}
    for group in pruner.step(interactive=True):
        dependency, indices = group[0]
        layer = names[dependency.target.module]
        if layer in gone:
            raise BudgetError(f"torch-pruning prunes {layer} twice in one step")
        gone[layer] = sorted(int(index) for index in indices)
        group.prune()
    return sum(parameter.numel() for parameter in model.parameters()), gone


def as_cut(network: Network, gone: dict[str, list[int]]) -> Cut:
    """Filters of layers as channels of groups."""
    chosen = {}
    for group in network.groups:
        for member in group.members:
            if member.role is Role.FILTER and member.layer in gone:
                positions = network.positions(group, member)[:, 0].tolist()
                wanted = set(gone[member.layer])
                chosen[group.name] = [c for c, place in enumerate(positions) if place in wanted]
    return network.cut(chosen)


class TorchPruning:
    """A strategy by one of its importances."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, learner: Learner, job: Job, comparison: Comparison) -> Learner:
        model, network = learner.model, learner.trace()
        images, _ = next(iter(learner.calibration(1)))
        example = torch.from_numpy(images[:1])
        needs = self.name == "taylor"
        grads = (
            gradients(model, learner, comparison.calibration_batches)
            if needs
            else [None] * len(list(model.parameters()))
        )
        budget = (1 - job.amount) * network.params()
        low, high, best = 0.0, 1.0 - comparison.floor, None
        for _ in range(STEPS):
            share = (low + high) / 2
            left, gone = prune(model, example, self.name, share, comparison.floor, job.seed, grads)
            if left <= budget:
                high, best = share, (left, gone)
            else:
                low = share
        if best is None:
            raise BudgetError(f"torch-pruning does not come to {budget:.0f} parameters")
        cut = as_cut(network, best[1])
        if network.cost(cut).params != best[0]:
            raise BudgetError(
                f"torch-pruning's own model has {best[0]} parameters, the cut's has "
                f"{network.cost(cut).params}"
            )
        learner.apply(cut, network)
        return learner


PRUNERS = {
    f"torch-pruning:{name}": TorchPruning(name) for name in ("l1", "l2", "taylor", "lamp", "random")
}
