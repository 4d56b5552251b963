"""Torch-Pruning's own pruner at a share of the MACs: the best of its criteria, global and local."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec

STEPS = 9
"""Of the search for the share of channels: to 1/512."""

CRITERIA = ("l1", "l2", "taylor", "lamp", "fpgm", "random")
SCOPES = ("global", "local")


def importance(name: str):
    import torch_pruning as tp

    return {
        "l1": lambda: tp.importance.GroupMagnitudeImportance(p=1),
        "l2": lambda: tp.importance.GroupMagnitudeImportance(p=2),
        "taylor": tp.importance.GroupTaylorImportance,
        "lamp": tp.importance.LAMPImportance,
        "fpgm": tp.importance.FPGMImportance,
        "random": tp.importance.RandomImportance,
    }[name]()


@dataclass(frozen=True)
class PeerCut:
    """A model that Torch-Pruning cut.

    Attributes:
        criterion: its importance.
        scope: whether channels were ranked over the whole network or layer by layer.
        model: what it gave.
        macs: of it, counted as ours are.
    """

    criterion: str
    scope: str
    model: nn.Module
    macs: int


def with_gradients(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> nn.Module:
    """A copy that holds the gradients of the mean loss, as Torch-Pruning's examples take them."""
    model = copy.deepcopy(model).eval()
    for start in range(0, len(images), 128):
        part = slice(start, start + 128)
        loss = F.cross_entropy(model(images[part]), labels[part], reduction="sum") / len(images)
        loss.backward()
    return model


def cuts(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, budget: float, seed: int
) -> Iterator[PeerCut]:
    """The least cut of each criterion and scope whose MACs are within the budget.

    Args:
        model: dense; unchanged.
        images: that "taylor" takes gradients on, with their labels.
        labels: their classes.
        budget: share of the MACs that may remain.
        seed: of what is random.
    """
    example = images[:1]
    dense = sec.trace(model, example).macs()
    ready = with_gradients(model, images, labels)
    for criterion in CRITERIA:
        for scope in SCOPES:
            found = least_cut(ready, example, criterion, scope, budget * dense, seed)
            if found is not None:
                yield found


def least_cut(
    ready: nn.Module, example: torch.Tensor, criterion: str, scope: str, most: float, seed: int
) -> PeerCut | None:
    """The least cut of one criterion and scope within so many MACs; None where there is none.

    Args:
        ready: the dense model, with gradients where the criterion looks at them.
        example: an input.
        criterion: one of ``CRITERIA``.
        scope: one of ``SCOPES``.
        most: MACs that may remain.
        seed: of what is random.
    """
    low, high, best = 0.0, 1.0, None
    for _ in range(STEPS):
        share = (low + high) / 2
        small = _prune(ready, example, criterion, scope, share, seed)
        macs = None if small is None else sec.trace(small, example).macs()
        if macs is None or macs > most:
            low, high = (low, share) if macs is None else (share, high)
        else:
            high, best = share, PeerCut(criterion, scope, small, macs)
    return best


def _prune(
    ready: nn.Module, example: torch.Tensor, criterion: str, scope: str, share: float, seed: int
) -> nn.Module | None:
    """One step of its pruner; None where nothing is left of a layer."""
    import torch_pruning as tp

    small = copy.deepcopy(ready)
    for mine, theirs in zip(small.parameters(), ready.parameters(), strict=True):
        mine.grad = None if theirs.grad is None else theirs.grad.clone()
    torch.manual_seed(seed)
    pruner = tp.pruner.BasePruner(
        small,
        example,
        importance=importance(criterion),
        global_pruning=scope == "global",
        pruning_ratio=share,
        ignored_layers=[_head(small), *_left_whole(small)],
    )
    pruner.step()
    small.zero_grad()
    try:
        with torch.no_grad():
            small(example)
    except RuntimeError:
        return None
    return small.eval()


def _head(model: nn.Module) -> nn.Module:
    """What gives the answers: the last linear layer; the last convolution where there is none."""
    for kind in (nn.Linear, nn.Conv2d):
        if found := [module for module in model.modules() if isinstance(module, kind)]:
            return found[-1]
    raise ValueError("expected a linear layer or a convolution")


def _left_whole(model: nn.Module) -> list[nn.Module]:
    """Recurrent layers of two directions: there its own rule asks for indices that are not."""
    recurrent = [module for module in model.modules() if isinstance(module, nn.RNNBase)]
    return [module for module in recurrent if module.bidirectional]
