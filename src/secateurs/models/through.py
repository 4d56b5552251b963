"""Through layers for a trained model."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from secateurs.arguments import takes_as_annotated
from secateurs.errors import ModelError, UnknownNameError, nearest

SKIP_NAMES = ("downsample", "through", "shortcut", "skip", "projection")
PROBE_PIXELS = 8

_Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
_ABSENT = object()


@takes_as_annotated(ModelError)
def add_through_layers(model: nn.Module, where: Literal["all", "basic"] = "all") -> nn.Module:
    """Replace the identity skips of a trained residual network by 1x1 convolutions, in a copy.

    Each new convolution starts as the identity, so the outputs are the same (on an accelerator
    that rounds convolutions, such as with TF32, up to that rounding). What changes is that the
    block's last convolution can lose channels that its neighbours keep.

    Blocks are found by their behaviour. A module is taken if it has a free slot for a layer on its
    skip (an attribute named ``downsample``, ``shortcut``, ... that is None or an identity), and if,
    when it runs alone, a layer in that slot receives the block's own input, bypasses every
    convolution and leaves the result unchanged. Pre-activation blocks, which would feed it
    normalised input, are not changed.

    Args:
        model: Any residual network; it is not changed.
        where: "all" residual blocks, or only the "basic" ones, which begin with a spatial
            convolution (a bottleneck begins with a 1x1).

    Returns:
        A new model. The new layers are ``layer1.0.downsample.conv`` and so on, with the dtype,
        device and mode of their block.

    Raises:
        ModelError: there is no such block.
        UnknownNameError: ``where`` is neither.

    Source: Travis Johnston, "Pruning ResNets for Fun and Profit" (Striveworks).
    """
    if where not in ("all", "basic"):
        raise UnknownNameError(f"where: no {where!r}{nearest(str(where), ('all', 'basic'))}")
    deeper = copy.deepcopy(model)
    added = sum(_add_through_layer_(block, where) for block in list(deeper.modules()))
    if not added:
        kind = "residual block" if where == "all" else "basic residual block"
        raise ModelError(
            f"add_through_layers: expected at least one {kind} with an identity skip in "
            f"{type(model).__name__}, such as a block whose `downsample` is None; found none. "
            "A model without skips, or whose every skip is a convolution already, needs no "
            "through layers: prune it as it is."
        )
    return deeper


def _add_through_layer_(block: nn.Module, where: str) -> bool:
    """Put an identity convolution on the block's skip; returns whether there was a slot for it."""
    places = [name for name in SKIP_NAMES if _is_identity(getattr(block, name, _ABSENT))]
    convolutions = [module for module in block.modules() if isinstance(module, _Convolution)]
    if not places or not convolutions:
        return False
    first, last = convolutions[0], convolutions[-1]
    if where == "basic" and max(first.kernel_size) == 1:
        return False
    # A first convolution that reads part of the block's input (selective kernels) has fewer inputs
    # than the block; then the last one's number of outputs is that of the skip.
    for channels in dict.fromkeys((first.in_channels, last.out_channels)):
        for name in places:
            through = _identity_convolution(channels, first)
            before = getattr(block, name)
            with _evaluating(block):
                fits = _carries_the_skip(block, name, through)
            delattr(block, name)
            if fits:
                through.train(block.training)
                setattr(block, name, nn.Sequential(OrderedDict(conv=through)))
                return True
            setattr(block, name, before)
    return False


def _is_identity(layer: Any) -> bool:
    empty = isinstance(layer, nn.Sequential) and len(layer) == 0
    return layer is None or isinstance(layer, nn.Identity) or empty


def _identity_convolution(channels: int, like: _Convolution) -> _Convolution:
    """An identity 1x1 convolution with the dimensions, dtype and device of ``like``."""
    kinds: tuple[type[_Convolution], ...] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    kind = next(kind for kind in kinds if isinstance(like, kind))
    weight = like.weight
    through = kind(channels, channels, 1, bias=False, device="meta", dtype=weight.dtype)
    identity = torch.eye(channels, dtype=weight.dtype, device=weight.device)
    identity = identity.reshape(channels, channels, *[1] * len(like.kernel_size))
    through.weight = nn.Parameter(identity, requires_grad=weight.requires_grad)
    return through


def _carries_the_skip(block: nn.Module, name: str, through: _Convolution) -> bool:
    """Whether ``through`` as ``block.name`` is on a skip that was the identity."""
    x = _probe(through)
    before = _run(block, x)
    setattr(block, name, through)
    after = _run(block, x)
    if before is None or after is None or not _same(before.result, after.result):
        return False
    if not _same(after.fed.pop(through, None), x):
        return False
    # The inputs of the block's convolutions must not depend on the skip: if the layer were in
    # their way (a stage's `downsample`), doubling it would affect them.
    with torch.no_grad():
        through.weight.mul_(2)
        doubled = _run(block, x)
        through.weight.div_(2)
    if doubled is None:
        return False
    doubled.fed.pop(through)
    return (
        doubled.fed.keys() == after.fed.keys()
        and all(_same(after.fed[module], doubled.fed[module]) for module in after.fed)
        and not _same(after.result, doubled.result)
    )


class _Run:
    """Output of a block, and the input of each of its convolutions."""

    def __init__(self) -> None:
        self.result: Tensor | None = None
        self.fed: dict[nn.Module, Tensor] = {}

    def note(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self.fed[module] = arguments[0].detach().clone()


def _run(block: nn.Module, x: Tensor) -> _Run | None:
    """Run the block alone; None if that fails, in which case it is not a residual block."""
    run = _Run()
    note: Callable[[nn.Module, tuple[Any, ...]], None] = run.note
    hooks = [
        module.register_forward_pre_hook(note)
        for module in block.modules()
        if isinstance(module, _Convolution)
    ]
    try:
        with torch.no_grad():
            result = block(x.clone())
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, AssertionError):
        return None
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(result, Tensor):
        return None
    run.result = result
    return run


def _probe(through: _Convolution) -> Tensor:
    # Small integers are exact in every floating-point type, so the identity convolution must be
    # exact. A separate generator leaves the global random state unchanged.
    shape = (2, through.in_channels, *[PROBE_PIXELS] * len(through.kernel_size))
    x = torch.randint(-4, 5, shape, generator=torch.Generator().manual_seed(0))
    return x.to(dtype=through.weight.dtype, device=through.weight.device)


def _same(one: Tensor | None, other: Tensor | None) -> bool:
    if one is None or other is None or one.shape != other.shape:
        return False
    tolerance = 1e-5 if one.dtype in (torch.float32, torch.float64) else 1e-2
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance)


@contextmanager
def _evaluating(block: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, and restore each module's own mode afterwards."""
    modes = {module: module.training for module in block.modules()}
    block.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
