"""Running a model's forward pass below Python, one numbered operation after the other.

The trace, the rehearsal and the masked twin all watch the same forward pass. They must number its
operations alike, so that what one finds can be used by the next: this is the part they share.
"""

from __future__ import annotations

import functools
import operator
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from types import FrameType, MethodType

import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._python_dispatch import TorchDispatchMode

from secateurs.pytorch.model.copies import ATOMS, list_modules, tensors_of
from secateurs.pytorch.tracing.einsum import spell_out
from secateurs.pytorch.tracing.numbers_kept import NumbersKept
from secateurs.pytorch.tracing.op_call import Arguments, Keywords, iterate_tensors

aten = torch.ops.aten


def pixel_shuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``aten.pixel_shuffle`` as the movements it is made of."""
    *batch, channels, height, width = x.shape
    rank = len(batch)
    blocks = x.reshape(*batch, channels // factor**2, factor, factor, height, width)
    moved = blocks.permute(*range(rank), rank, rank + 3, rank + 1, rank + 4, rank + 2)
    return moved.reshape(*batch, channels // factor**2, height * factor, width * factor)


def pixel_unshuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``aten.pixel_unshuffle`` as the movements it is made of."""
    *batch, channels, height, width = x.shape
    rank = len(batch)
    blocks = x.reshape(*batch, channels, height // factor, factor, width // factor, factor)
    moved = blocks.permute(*range(rank), rank, rank + 2, rank + 4, rank + 1, rank + 3)
    return moved.reshape(*batch, channels * factor**2, height // factor, width // factor)


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """``aten.channel_shuffle`` as the movements it is made of."""
    batch, channels, *space = x.shape
    rows = x.reshape(batch, groups, channels // groups, *space)
    return rows.transpose(1, 2).reshape(batch, channels, *space)


def multiply_in_order(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """``aten.linalg_multi_dot`` from left to right: its own order depends on the sizes."""
    return functools.reduce(torch.matmul, matrices)


def as_type_of(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``aten.type_as``, which has nothing of the other but its type and device."""
    return x.to(other)


def view_as(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``aten.view_as``, which has nothing of the other but its shape."""
    return x.view(other.shape)


def reshape_as(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``aten.reshape_as``, likewise."""
    return x.reshape(other.shape)


MADE_OF_OTHERS: dict[OpOverloadPacket, Callable[..., torch.Tensor]] = {
    aten.pixel_shuffle: pixel_shuffle,
    aten.pixel_unshuffle: pixel_unshuffle,
    aten.channel_shuffle: channel_shuffle,
    aten.native_channel_shuffle: channel_shuffle,
    aten.linalg_multi_dot: multiply_in_order,
    aten.chain_matmul: multiply_in_order,
    aten.type_as: as_type_of,
    aten.view_as: view_as,
    aten.reshape_as: reshape_as,
}


UNNUMBERED = {
    aten.contiguous,  # left out where there is nothing to do, which depends on the sizes
    aten.scalar_tensor,  # a number in the code: made so for tensors without data ...
    aten.lift_fresh,  # ... and so for real ones
    aten.alias,
    aten.detach,
    aten.to,  # where a tensor is on the device it should be on, only its type may change ...
    aten._to_copy,  # ... and nothing, if it has the type, too
}
"""Operations that come or go with the kind or the size of a tensor, and change no value."""


class OpInterpreter(TorchDispatchMode):
    """Numbers the operations of a forward pass and hands each to ``step``.

    Runs under ``torch.inference_mode``, where composite operations arrive whole (``linear``,
    ``chunk``, ``flatten``, ...): those in ``whole`` are taken as they are, others as what they are
    composed of.

    Attributes:
        may_lack_data: whether what the model computes may be on the meta device; numbers that it
            makes tensors of are kept then, at a cost for every call.
    """

    may_lack_data = True

    def __init__(self, whole: Callable[[OpOverloadPacket], bool]) -> None:
        super().__init__()
        self._whole = whole
        self._layers: list[str] = []
        self._given: dict[int, torch.Tensor] = {}
        self._before: dict[int, tuple[torch.Tensor, torch.UntypedStorage]] = {}
        self._random_state: torch.Tensor | None = None
        self._is_aside = False
        self.index = -1
        self.is_last = False
        """Whether the copy that is run is not needed afterwards: it may keep what it keeps."""

    @property
    def layer(self) -> str:
        """Dotted path of the innermost module that is running."""
        return self._layers[-1] if self._layers else ""

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        """Do one operation; ``self.index`` is its number."""
        raise NotImplementedError

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Whether PyTorch is to wrap ``__torch_dispatch__``, for which it imports its compiler.

        That takes seconds, and ``run`` does the same where the compiler is there already.
        """
        return False

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Sequence[type],
        args: Arguments = (),
        kwargs: Keywords | None = None,
    ) -> object:
        keywords = kwargs or {}
        if self._is_aside:
            return func(*args, **keywords)
        packet = func.overloadpacket
        if packet is aten.einsum:
            with self:  # which may take diagonals
                args = spell_out(*args)  # type: ignore[arg-type]
        others = MADE_OF_OTHERS.get(packet)
        if others is not None:
            with self:
                return others(*args, **keywords)
        if not self._whole(packet) and is_composite(func):
            with self:
                return func.decompose(*args, **keywords)
        if func._schema.is_mutable or _draws(func):
            self._spare(func, args, keywords)
        if packet in UNNUMBERED:
            return self.pass_through(func, args, keywords)
        self.index += 1
        return self.step(func, args, keywords)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Operations in here, of a hook, say, are no part of the pass."""
        before, self._is_aside = self._is_aside, True
        try:
            yield
        finally:
            self._is_aside = before

    def pass_through(
        self, function: OpOverload, arguments: Arguments, keywords: Keywords
    ) -> object:
        """Do an operation that has no number."""
        return function(*arguments, **keywords)

    def run(
        self,
        model: nn.Module,
        arguments: Arguments,
        keywords: Keywords,
        training: bool = False,
    ) -> object:
        """The model's forward pass, in eval mode if not told otherwise.

        Args:
            model: a copy of the caller's own (``share_tensors``): it is switched and hooked while
                it runs. Its tensors may be shared; what is written into them is put back.
            arguments: for its forward; what is written into them is put back, too.
            keywords: likewise.
            training: whether in train mode.
        """
        self.index = -1
        if "torch._dynamo" in sys.modules:  # what is compiled in the model ends where we begin
            watch = torch.compiler.disable(type(self).__torch_dispatch__)
            self.__torch_dispatch__ = MethodType(watch, self)  # type: ignore[method-assign]
        tensors = [*tensors_of(model), *iterate_tensors([list(arguments), keywords])]
        self._given = {t.untyped_storage()._cdata: t for t in tensors if _has_memory(t)}
        try:
            mode = in_mode(model, training, put_back=not self.is_last)
            numbers = NumbersKept() if self.may_lack_data else nullcontext()
            with mode, self._following(model), torch.inference_mode(), numbers, self:
                return self.call(model, arguments, keywords)
        finally:
            self._put_back()

    def call(self, model: nn.Module, arguments: Arguments, keywords: Keywords) -> object:
        """The pass itself; whoever watches more than the model's own says what."""
        return model(*arguments, **keywords)

    @property
    def is_outside(self) -> bool:
        """Whether what runs is no part of the model: a loss of its outputs, say."""
        return not self._layers

    @contextmanager
    def _following(self, model: nn.Module) -> Iterator[None]:
        """Keep ``self.layer`` up to date while the model runs."""
        # Not by hooks: one makes PyTorch call a module by its slow path, and each has a handle that
        # costs as much as the call. A copy's calls may go through what ``compile`` fills.
        layers = self._layers
        modules = [
            (path, module)
            for path, module in list_modules(model)
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        for path, module in modules:
            vars(module)["_compiled_call_impl"] = _noting(module._call_impl, path, layers)
        try:
            yield
        finally:
            for _, module in modules:
                vars(module).pop("_compiled_call_impl", None)
            layers.clear()

    def _spare(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> None:
        """Remember what an operation is about to change that is not this pass's own."""
        if self._random_state is None and _draws(function) and not _is_idle(function, arguments):
            self._random_state = torch.get_rng_state()
        for tensor in iterate_tensors(
            [*arguments[:1], *keywords.values()]
        ):  # what it may write into
            if not _has_memory(tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in self._given and storage._cdata not in self._before:
                self._before[storage._cdata] = (self._given[storage._cdata], storage.clone())

    def _put_back(self) -> None:
        for tensor, before in self._before.values():
            tensor.untyped_storage().copy_(before)
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)
        self._given, self._before, self._random_state = {}, {}, None


def _noting(call: Callable[..., object], path: str, layers: list[str]) -> Callable[..., object]:
    """A module's call, during which its path is the last of the layers."""

    def run(*arguments: object, **keywords: object) -> object:
        layers.append(path)
        try:
            return call(*arguments, **keywords)
        finally:
            layers.pop()

    return run


@cache
def is_composite(function: OpOverload) -> bool:
    """Whether PyTorch defines the operation by others alone."""
    return bool(function._can_decompose())


def _has_memory(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta


@cache
def _draws(function: OpOverload) -> bool:
    """Whether the operation may draw random numbers."""
    return torch.Tag.nondeterministic_seeded in function.tags


_DROPOUT = {aten.dropout, aten.dropout_, aten.feature_dropout, aten.alpha_dropout}


def _is_idle(function: OpOverload, arguments: Arguments) -> bool:
    """Whether it is a dropout that drops nothing: (input, share, whether training)."""
    return function.overloadpacket in _DROPOUT and len(arguments) > 2 and not arguments[2]


class _SlowAttention:
    """Fused attention switched off for as long as anybody needs that, in whatever thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = True

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                torch.backends.mha.set_fastpath_enabled(self._before)


_slow_attention = _SlowAttention()


@contextmanager
def in_mode(model: nn.Module, training: bool = False, *, put_back: bool = True) -> Iterator[None]:
    """Eval or train mode, without fused attention, which hides its parts; all is put back.

    Args:
        model: a copy of the caller's own.
        training: which of the two.
        put_back: False for a copy that nobody runs again: what it keeps of the pass stays.
    """
    modules = [module for _, module in list_modules(model)]
    before = _Kept(modules if put_back else [])
    scripted = [(module, module.training) for module in modules if "training" not in vars(module)]
    for module in modules:
        module.training = training
    try:
        # The switch is the process's: other threads' attention is unfused meanwhile, and as right.
        with _slow_attention:
            yield
    finally:
        before.put_back()
        for module, was_training in scripted:
            module.training = was_training


class _Kept:
    """What a forward pass may replace: models keep things (position tables, caches) as they run."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._dictionaries: list[tuple[dict[str, object], dict[str, object]]] = []
        self._lists: list[tuple[list[object], list[object]]] = []
        self._empty: list[dict[str, object] | list[object]] = []
        for module in modules:
            attributes = vars(module)
            self._dictionaries.append((attributes, attributes.copy()))
            held = [
                value
                for value in attributes.values()
                if type(value) not in ATOMS and isinstance(value, (dict, list))
            ]
            self._empty += [value for value in held if not value]
            self._lists += [(value, list(value)) for value in held if isinstance(value, list)]
            self._dictionaries += [
                (value, dict(value)) for value in held if value and isinstance(value, dict)
            ]

    def put_back(self) -> None:
        """Let every attribute, and every list and dictionary among them, hold what it held."""
        for items, before in self._lists:
            if _differ(items, before):
                items[:] = before
        for now, then in self._dictionaries:
            if _differ(now, then) or _differ(now.values(), then.values()):
                now.clear()
                now.update(then)
        for container in self._empty:
            if container:
                container.clear()


def _differ(now: Collection[object], before: Collection[object]) -> bool:
    """Whether these are other objects, or in another order."""
    return len(now) != len(before) or any(map(operator.is_not, now, before))


NOT_THE_USERS = {"torch", "secateurs", "einops", "accelerate", *sys.stdlib_module_names}
"""Packages that run in a forward pass and are nobody's model."""


def users_line() -> str:
    """'file.py:12 (in forward)': the innermost line of the model's own code; '' if there is none.

    A model made of PyTorch's layers alone has none; what called it is no part of it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not OpInterpreter.run.__code__:
        if is_users(frame):
            return line_in(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


def is_users(frame: FrameType) -> bool:
    """Whether code is of a model, and not of what runs it."""
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] not in NOT_THE_USERS


def line_in(frame: FrameType, line: int) -> str:
    """'file.py:12 (in forward)'."""
    return f"{_short(frame.f_code.co_filename)}:{line} (in {frame.f_code.co_name})"


def _short(path: str) -> str:
    """A file in a package by its path in there; any other in full."""
    return path.rpartition("/site-packages/")[2]
