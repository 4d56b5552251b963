"""Run a model's forward pass at the dispatcher, with numbered operations.

The trace, the dry run and the masked twin all watch the same forward pass. They must number its
operations alike, so that one can use what another found. This is the code that they share.
"""

from __future__ import annotations

import functools
import operator
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import FrameType, MethodType
from typing import NamedTuple

import torch
from torch import nn
from torch._ops import OpOverload, OpOverloadPacket
from torch.utils._python_dispatch import TorchDispatchMode

from secateurs.pytorch.model.copies import ATOMS, list_modules, tensors_in
from secateurs.pytorch.tracing.einsum import spell_out
from secateurs.pytorch.tracing.numbers_kept import NumbersKept
from secateurs.pytorch.tracing.op_call import Arguments, Keywords, iterate_tensors

aten = torch.ops.aten


def pixel_shuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``aten.pixel_shuffle`` as reshapes and a permutation."""
    *batch, channels, height, width = x.shape
    rank = len(batch)
    blocks = x.reshape(*batch, channels // factor**2, factor, factor, height, width)
    moved = blocks.permute(*range(rank), rank, rank + 3, rank + 1, rank + 4, rank + 2)
    return moved.reshape(*batch, channels // factor**2, height * factor, width * factor)


def pixel_unshuffle(x: torch.Tensor, factor: int) -> torch.Tensor:
    """``aten.pixel_unshuffle`` as reshapes and a permutation."""
    *batch, channels, height, width = x.shape
    rank = len(batch)
    blocks = x.reshape(*batch, channels, height // factor, factor, width // factor, factor)
    moved = blocks.permute(*range(rank), rank, rank + 2, rank + 4, rank + 1, rank + 3)
    return moved.reshape(*batch, channels * factor**2, height // factor, width // factor)


def channel_shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    """``aten.channel_shuffle`` as reshapes and a transposition."""
    batch, channels, *space = x.shape
    rows = x.reshape(batch, groups, channels // groups, *space)
    return rows.transpose(1, 2).reshape(batch, channels, *space)


def multiply_in_order(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """``aten.linalg_multi_dot`` from left to right: its own order depends on the sizes."""
    return functools.reduce(torch.matmul, matrices)


def as_type_of(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``aten.type_as``, which uses only the dtype and device of ``other``."""
    return x.to(other)


def view_as(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``aten.view_as``, which uses only the shape of ``other``."""
    return x.view(other.shape)


def reshape_as(x: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """``aten.reshape_as``, which uses only the shape of ``other``."""
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
    aten.contiguous,  # omitted where the layout is contiguous already, which depends on sizes
    aten.scalar_tensor,  # a Python number, on tensors without data ...
    aten.lift_fresh,  # ... and on real ones
    aten.alias,
    aten.detach,
    aten.to,  # whether it converts device and dtype, dtype alone, ...
    aten._to_copy,  # ... or nothing depends on the tensor it gets
}
"""Operations whose presence depends on the kind or size of a tensor, and which change no value."""


class OpInterpreter(TorchDispatchMode):
    """Numbers the operations of a forward pass and hands each to ``step``.

    Runs under ``torch.inference_mode``, where composite operations arrive whole (``linear``,
    ``chunk``, ``flatten``, ...). An operation for which ``whole`` is true is passed on as it is;
    other composites are decomposed.

    Attributes:
        may_lack_data: whether tensors that the model computes may be on the meta device; tensors
            made from Python numbers then keep their values, at a cost for every call.
    """

    may_lack_data = True

    def __init__(self, whole: Callable[[OpOverloadPacket], bool]) -> None:
        super().__init__()
        self._whole = whole
        self._ways: dict[OpOverload, _Way] = {}
        self._modules: Sequence[tuple[str, nn.Module]] = ()
        self._layers: list[str] = []
        self._given: dict[int, torch.Tensor] = {}
        self._before: dict[int, tuple[torch.Tensor, torch.UntypedStorage]] = {}
        self._random_state: torch.Tensor | None = None
        self._is_aside = False
        self.index = -1
        self.is_last = False
        """Whether the copy is discarded afterwards: its attributes need not be restored."""

    @property
    def layer(self) -> str:
        """Dotted path of the innermost module that is running."""
        return self._layers[-1] if self._layers else ""

    def step(self, function: OpOverload, arguments: Arguments, keywords: Keywords) -> object:
        """Run one operation; ``self.index`` is its number."""
        raise NotImplementedError

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keep PyTorch from wrapping ``__torch_dispatch__``, for which it imports its compiler.

        The import takes seconds; ``run`` does the same wrapping if the compiler is imported
        already.
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
        way = self._ways.get(func)
        if way is None:
            way = self._ways[func] = self._way_of(func)
        if way.spelt_out:
            with self:  # since taking diagonals dispatches operations
                args = spell_out(*args)  # type: ignore[arg-type]
        if way.parts is not None:
            with self:
                return way.parts(*args, **keywords)
        if way.changes_state:
            self._save_before_write(func, args, keywords)
        if way.is_unnumbered:
            return self.pass_through(func, args, keywords)
        self.index += 1
        return self.step(func, args, keywords)

    def _way_of(self, function: OpOverload) -> _Way:
        """How the passes of this interpreter run an operation."""
        packet = function.overloadpacket
        parts = MADE_OF_OTHERS.get(packet)
        if parts is None and not self._whole(packet) and is_composite(function):
            parts = function.decompose
        return _Way(
            parts,
            spelt_out=packet is aten.einsum,
            changes_state=function._schema.is_mutable or _draws(function),
            is_unnumbered=packet in UNNUMBERED,
        )

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Exclude operations in this context, such as a hook's, from the pass."""
        before, self._is_aside = self._is_aside, True
        try:
            yield
        finally:
            self._is_aside = before

    def pass_through(
        self, function: OpOverload, arguments: Arguments, keywords: Keywords
    ) -> object:
        """Run an operation that has no number."""
        return function(*arguments, **keywords)

    def run(
        self,
        model: nn.Module,
        arguments: Arguments,
        keywords: Keywords,
        training: bool = False,
    ) -> object:
        """Run the model's forward pass, in eval mode by default.

        Args:
            model: a private copy (``share_tensors``): its mode is switched, and its calls are
                wrapped, while it runs. Its tensors may be shared; writes into them are undone.
            arguments: positional arguments of its forward; writes into them are undone, too.
            keywords: keyword arguments of its forward; likewise.
            training: whether to run in train mode.
        """
        self.index = -1
        if "torch._dynamo" in sys.modules:  # compiled parts of the model must not trace into us
            watch = torch.compiler.disable(type(self).__torch_dispatch__)
            self.__torch_dispatch__ = MethodType(watch, self)  # type: ignore[method-assign]
        self._modules = list_modules(model)
        tensors = [*tensors_in(self._modules), *iterate_tensors([list(arguments), keywords])]
        self._given = {t.untyped_storage()._cdata: t for t in tensors if _has_memory(t)}
        modules = [module for _, module in self._modules]
        self.prepare()
        try:
            mode = _in_mode(modules, training, put_back=not self.is_last)
            numbers = NumbersKept() if self.may_lack_data else nullcontext()
            with mode, self._following(), torch.inference_mode(), numbers, self:
                return self.call(model, arguments, keywords)
        finally:
            self._restore()

    def prepare(self) -> None:
        """Called before each pass, once its modules are listed; subclasses may override it."""

    def call(self, model: nn.Module, arguments: Arguments, keywords: Keywords) -> object:
        """The pass itself; subclasses that watch more than the model override it."""
        return model(*arguments, **keywords)

    @property
    def is_outside(self) -> bool:
        """Whether the running code is outside the model, such as a loss of its outputs."""
        return not self._layers

    @contextmanager
    def _following(self) -> Iterator[None]:
        """Keep ``self.layer`` up to date while the model runs."""
        # Not by hooks: with one, PyTorch calls a module by its slow path, and each hook has a
        # handle that costs as much as the call. In a private copy, the attribute that ``compile``
        # sets can wrap the call.
        layers = self._layers
        modules = [
            (path, module)
            for path, module in self._modules
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        for path, module in modules:
            vars(module)["_compiled_call_impl"] = _wrap_call(module._call_impl, path, layers)
        try:
            yield
        finally:
            for _, module in modules:
                vars(module).pop("_compiled_call_impl", None)
            layers.clear()

    def _save_before_write(
        self, function: OpOverload, arguments: Arguments, keywords: Keywords
    ) -> None:
        """Save outside tensors and the random state before an operation changes them."""
        if (
            self._random_state is None
            and _draws(function)
            and not _is_inactive_dropout(function, arguments)
        ):
            self._random_state = torch.get_rng_state()
        for tensor in iterate_tensors(
            [*arguments[:1], *keywords.values()]
        ):  # arguments that it may write into
            if not _has_memory(tensor):
                continue
            storage = tensor.untyped_storage()
            if storage._cdata in self._given and storage._cdata not in self._before:
                self._before[storage._cdata] = (self._given[storage._cdata], storage.clone())

    def _restore(self) -> None:
        for tensor, before in self._before.values():
            tensor.untyped_storage().copy_(before)
        if self._random_state is not None:
            torch.set_rng_state(self._random_state)
        self._given, self._before, self._random_state = {}, {}, None
        self._modules = ()
        vars(self).pop("__torch_dispatch__", None)  # it refers to this object: a cycle


class _Way(NamedTuple):
    """How an operation is run.

    Attributes:
        parts: the function that runs it as other operations; None where it is run whole.
        spelt_out: whether it is an einsum, whose letters are spelt out first.
        changes_state: whether it writes into a tensor or draws random numbers.
        is_unnumbered: whether it has no number.
    """

    parts: Callable[..., object] | None
    spelt_out: bool
    changes_state: bool
    is_unnumbered: bool


def _wrap_call(call: Callable[..., object], path: str, layers: list[str]) -> Callable[..., object]:
    """Wrap a module's call: its path is the last of the layers while it runs."""

    def run(*arguments: object, **keywords: object) -> object:
        layers.append(path)
        try:
            return call(*arguments, **keywords)
        finally:
            layers.pop()

    return run


@cache
def is_composite(function: OpOverload) -> bool:
    """Whether PyTorch defines the operation in terms of others."""
    return bool(function._can_decompose())


def _has_memory(tensor: torch.Tensor) -> bool:
    return tensor.layout is torch.strided and not tensor.is_meta


@cache
def _draws(function: OpOverload) -> bool:
    """Whether the operation may draw random numbers."""
    return torch.Tag.nondeterministic_seeded in function.tags


_DROPOUT = {aten.dropout, aten.dropout_, aten.feature_dropout, aten.alpha_dropout}


def _is_inactive_dropout(function: OpOverload, arguments: Arguments) -> bool:
    """Whether it is a dropout in eval mode; its arguments are (input, probability, training)."""
    return function.overloadpacket in _DROPOUT and len(arguments) > 2 and not arguments[2]


class _FastPathDisabled:
    """Context that disables fused attention until its last user, of any thread, has left."""

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


_fast_path_disabled = _FastPathDisabled()


def in_mode(model: nn.Module, training: bool = False) -> AbstractContextManager[None]:
    """Switch to eval or train mode, without fused attention, which hides its parts; then restore.

    Args:
        model: a private copy.
        training: whether train mode is wanted.
    """
    return _in_mode([module for _, module in list_modules(model)], training)


@contextmanager
def _in_mode(
    modules: Sequence[nn.Module], training: bool, *, put_back: bool = True
) -> Iterator[None]:
    """``in_mode`` for the modules of a model.

    With ``put_back`` False, changes of attributes stay, in a copy that is not run again.
    """
    before = _SavedAttributes(modules if put_back else [])
    scripted = [(module, module.training) for module in modules if "training" not in vars(module)]
    for module in modules:
        if "training" in vars(module):
            vars(module)["training"] = training  # __setattr__ looks among the tensors first
        else:
            module.training = training
    try:
        # The switch is global: other threads' attention is unfused meanwhile, which changes no
        # result.
        with _fast_path_disabled:
            yield
    finally:
        before.put_back()
        for module, was_training in scripted:
            module.training = was_training


class _SavedAttributes:
    """Attributes of modules before a pass, which may replace them (position tables, caches)."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self._dictionaries: list[tuple[dict[str, object], dict[str, object]]] = []
        self._lists: list[tuple[list[object], list[object]]] = []
        self._empty: list[dict[str, object] | list[object]] = []
        for module in modules:
            attributes = vars(module)
            self._dictionaries.append((attributes, attributes.copy()))
            for value in attributes.values():
                if type(value) in ATOMS or not isinstance(value, (dict, list)):
                    continue
                if not value:
                    self._empty.append(value)
                elif isinstance(value, list):
                    self._lists.append((value, value.copy()))
                else:
                    self._dictionaries.append((value, dict(value)))

    def put_back(self) -> None:
        """Restore every attribute, and the contents of every list and dictionary among them."""
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
    """Whether two collections hold different objects, or the same in another order."""
    return len(now) != len(before) or any(map(operator.is_not, now, before))


NOT_THE_USERS = {"torch", "secateurs", "einops", "accelerate", *sys.stdlib_module_names}
"""Packages whose frames in a forward pass are not the model's code."""


def users_line() -> str:
    """'file.py:12 (in forward)': the innermost line of the model's own code; '' if there is none.

    A model made of PyTorch's layers alone has none, and its caller's code does not count.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not OpInterpreter.run.__code__:
        if is_users(frame):
            return line_in(frame, frame.f_lineno)
        frame = frame.f_back
    return ""


def is_users(frame: FrameType) -> bool:
    """Whether a frame is the model's code, and not of a package that runs it."""
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] not in NOT_THE_USERS


def line_in(frame: FrameType, line: int) -> str:
    """Format a line as 'file.py:12 (in forward)'."""
    return f"{_short(frame.f_code.co_filename)}:{line} (in {frame.f_code.co_name})"


def _short(path: str) -> str:
    """The path of a file relative to site-packages; any other path in full."""
    return path.rpartition("/site-packages/")[2]
