"""Copies of a model: new modules around tensors that are cut, cloned or shared.

Nothing in this package runs the user's own modules, switches them to eval, or hooks them: it runs a
copy of them that holds the same tensors. So a model is the same after a call as before, and may
serve another thread meanwhile.
"""

from __future__ import annotations

import copy
import copyreg
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from secateurs.channels.cut import Cache
from secateurs.errors import ModelError

OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that PyTorch keeps in every module: mostly empty containers."""


def copy_modules(model: nn.Module, memo: dict[int, object]) -> nn.Module:
    """Deep-copy a model, except for the objects in the memo.

    Attributes that cannot be copied (a lock, an open file, a generator) are shared with the model.

    Args:
        model: model; unchanged.
        memo: id of an object -> its replacement; ties between tensors are preserved.

    Raises:
        ModelError: the model cannot be copied even so.
    """
    try:
        # On a copy of the memo: deepcopy adds to it, even when it fails.
        return copy_value(model, memo.copy())
    except Exception:  # noqa: BLE001 - a user's object may raise anything when copied
        if isinstance(memo, Sharing):
            memo.fill()
        shared = {id(value): value for value in _not_copyable(model, memo)}
    try:
        return copy_value(model, memo | shared)
    except Exception as error:
        message = " ".join(str(error).split())
        raise ModelError(
            f"{type(model).__name__}: expected a model that can be copied; copy.deepcopy raised "
            f"{type(error).__name__}: {message}. Keep what cannot be copied out of its attributes."
        ) from error


def copy_model(model: nn.Module) -> nn.Module:
    """Copy a model with tensors of its own; results of autograd kept as attributes are detached.

    Raises:
        ModelError: the model cannot be copied.
    """
    results = (tensor for tensor in tensors_of(model) if tensor.grad_fn is not None)
    return copy_modules(model, {id(tensor): tensor.detach().clone() for tensor in results})


def share_tensors(model: nn.Module, caches: Iterable[Cache] = ()) -> nn.Module:
    """Copy a model's modules around the very same tensors.

    Args:
        model: model; unchanged.
        caches: caches that the copy is to be without.
    """
    made = copy_modules(model, Sharing(model))
    empty_caches_(made, caches)
    return made


class Sharing(dict[int, object]):
    """A ``deepcopy`` memo that makes a copy hold a model's own tensors.

    Where only modules and plain containers are copied, each tensor is shared when it is met.
    ``deepcopy`` itself looks tensors up, so ``fill`` enters all of them first.
    """

    def __init__(self, model: nn.Module, *known: Mapping[int, object]) -> None:
        super().__init__(*known)
        self._model = model
        self._is_full = False

    def copy(self) -> Sharing:
        """A copy of this memo."""
        return Sharing(self._model, self)

    def fill(self) -> None:
        """Enter all of the model's tensors."""
        if not self._is_full:
            self._is_full = True
            self.update({id(tensor): tensor for tensor in tensors_of(self._model)})


def empty_caches_(model: nn.Module, caches: Iterable[Cache]) -> None:
    """Delete the caches that the model's next forward pass fills again."""
    caches = list(caches)
    modules = dict(list_modules(model)) if caches else {}
    for cache in caches:
        module = modules.get(cache.owner)
        if module is None:
            continue
        attributes: dict[str, object] = module.__dict__
        holder = attributes if cache.attribute in attributes else module._buffers
        kept = holder.get(cache.attribute)
        if isinstance(kept, torch.Tensor):
            holder[cache.attribute] = kept.new_zeros([1] * kept.dim()) if cache.is_sized else None
        elif isinstance(kept, dict):
            for key in [key for key, value in kept.items() if _is_entry(cache, key, value)]:
                del kept[key]


def _is_entry(cache: Cache, key: object, value: object) -> bool:
    return isinstance(value, torch.Tensor) and cache.key in (None, key)


ATOMS = frozenset(
    (bool, int, float, complex, str, bytes, type(None), type, FunctionType, BuiltinFunctionType)
) | {torch.dtype}
"""Types of values that a deep copy returns unchanged."""


AnyValue = TypeVar("AnyValue")


def copy_value(value: AnyValue, memo: dict[int, object]) -> AnyValue:
    """Equivalent of ``copy.deepcopy(value, memo)``, several times as fast for modules.

    A deep copy goes through ``pickle``'s protocol for every module and looks up every name and
    number in the memo. For classes that do not override the protocol, copying the dictionary of
    attributes gives the same. Anything else is left to ``deepcopy``, with the same memo.
    """
    kind = type(value)
    if kind in ATOMS:
        return value
    known = memo.get(id(value), memo)
    if known is not memo:
        return known  # type: ignore[return-value]
    made = _copy_anew(value, memo)
    if made is not None:
        return made  # type: ignore[return-value]
    if isinstance(memo, Sharing):
        memo.fill()
    return copy.deepcopy(value, memo)


def _copy_anew(value: object, memo: dict[int, object]) -> object | None:
    """Copy a module or a plain container and enter it into the memo; None for anything else."""
    if isinstance(value, torch.Tensor):
        return _copy_tensor(value, memo)
    if isinstance(value, nn.Module):
        return _copy_module(value, memo) if _is_copied_by_state(type(value)) else None
    copy_container = _COPIES_OF_CONTAINERS.get(type(value))
    return None if copy_container is None else copy_container(value, memo)


def _copy_tensor(tensor: torch.Tensor, memo: dict[int, object]) -> torch.Tensor | None:
    if isinstance(memo, Sharing):
        return tensor
    if _is_plain_buffer(tensor):
        return _clone_with_memory(tensor, memo)
    if type(tensor) is torch.Tensor and tensor.grad_fn is not None:
        # A forward pass in another thread may have stored a result here; deepcopy refuses non-leaf
        # tensors.
        made = tensor.detach().clone()
        memo[id(tensor)] = made
        return made
    return None


def _clone_with_memory(tensor: torch.Tensor, memo: dict[Any, Any]) -> torch.Tensor | None:
    """A clone, unless another tensor in the same memory has been copied, with which to share it."""
    memories = memo.setdefault("torch", {})  # where deepcopy keeps them
    memory = tensor.untyped_storage()
    if memory._cdata in memories:
        return None
    made = tensor.detach().clone()
    memories[memory._cdata] = made.untyped_storage()
    memo[id(tensor)] = made
    return made


def _is_plain_buffer(tensor: torch.Tensor) -> bool:
    """Whether a deep copy of a tensor is a clone of all of its memory, and nothing besides.

    That is the state of a normalisation: it has neither a gradient nor attributes of its own.
    """
    return (
        type(tensor) is torch.Tensor
        and tensor.layout is torch.strided
        and not tensor.requires_grad
        and tensor.grad is None
        and not tensor.__dict__
        and tensor.is_contiguous()
        and tensor.device.type == "cpu"
        and not (tensor.is_quantized or tensor.is_inference())
        and not (tensor.is_neg() or tensor.is_conj())
        and tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    )


def _copy_dictionary(value: dict[object, object], memo: dict[int, object]) -> dict[object, object]:
    pairs = type(value)()
    memo[id(value)] = pairs
    for key, item in value.items():
        name = key if type(key) is str else copy_value(key, memo)
        pairs[name] = item if type(item) in ATOMS else copy_value(item, memo)
    return pairs


def _copy_list(value: list[object], memo: dict[int, object]) -> list[object]:
    items: list[object] = []
    memo[id(value)] = items
    items.extend(copy_value(item, memo) for item in value)
    return items


def _copy_set(value: set[object], memo: dict[int, object]) -> set[object] | None:
    """Copy a set of atoms."""
    if not ATOMS.issuperset(map(type, value)):
        return None
    made = set(value)
    memo[id(value)] = made
    return made


def _copy_tuple(value: tuple[object, ...], memo: dict[int, object]) -> tuple[object, ...] | None:
    """A tuple of atoms as it is."""
    del memo
    return value if ATOMS.issuperset(map(type, value)) else None


_COPIES_OF_CONTAINERS: dict[type, Callable[[Any, dict[int, object]], object | None]] = {
    dict: _copy_dictionary,
    OrderedDict: _copy_dictionary,
    list: _copy_list,
    set: _copy_set,
    tuple: _copy_tuple,
}


def _copy_module(module: nn.Module, memo: dict[int, object]) -> nn.Module:
    kind = type(module)
    made: nn.Module = kind.__new__(kind)
    memo[id(module)] = made
    if not _has_usual_state(kind):
        made.__setstate__({n: copy_value(item, memo) for n, item in module.__getstate__().items()})
        return made
    copied = vars(made)
    copied.update(vars(module))
    copied.pop("_compiled_call_impl", None)
    for name, item in vars(module).items():
        kind_of_item = type(item)
        if kind_of_item in ATOMS or name == "_compiled_call_impl":
            continue
        if name in _CONTAINERS_OF_EVERY_MODULE and not item:
            copied[name] = kind_of_item()
        elif kind_of_item is not tuple or not ATOMS.issuperset(map(type, item)):
            copied[name] = copy_value(item, memo)
    return made


_CONTAINERS_OF_EVERY_MODULE = frozenset(
    name for name, value in vars(nn.Module()).items() if isinstance(value, (dict, set))
)


def _has_usual_state(kind: type[nn.Module]) -> bool:
    """Whether a module's state is its dictionary, as in ``nn.Module``.

    ``nn.Conv2d.__setstate__`` only adds what modules of old versions lack.
    """
    takes = kind.__setstate__
    return kind.__getstate__ is nn.Module.__getstate__ and (
        takes is nn.Module.__setstate__ or takes is nn.Conv2d.__setstate__
    )


_BY_STATE: WeakKeyDictionary[type[nn.Module], bool] = WeakKeyDictionary()


def _is_copied_by_state(kind: type[nn.Module]) -> bool:
    """Whether ``deepcopy`` creates a module of this class and then sets its dictionary.

    It creates one by ``__new__`` without arguments, whatever that does: mix-ins for a hub override
    it.
    """
    if kind not in _BY_STATE:
        _BY_STATE[kind] = _follows_the_protocol(kind)
    return _BY_STATE[kind]


def _follows_the_protocol(kind: type[nn.Module]) -> bool:
    return (
        not hasattr(kind, "__deepcopy__")
        and not hasattr(kind, "__getnewargs__")
        and not hasattr(kind, "__getnewargs_ex__")
        and kind not in copyreg.dispatch_table
        and not any(vars(base).get("__slots__") for base in kind.__mro__)
        and kind.__reduce__ is object.__reduce__
        and kind.__reduce_ex__ is object.__reduce_ex__
    )


def list_modules(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The pairs of ``model.named_modules()`` as a list; faster, without nested generators."""
    found: list[tuple[str, nn.Module]] = []
    _add_modules(model, "", set(), found)
    return found


def _add_modules(
    module: nn.Module, path: str, seen: set[int], found: list[tuple[str, nn.Module]]
) -> None:
    if id(module) in seen:
        return
    seen.add(id(module))
    found.append((path, module))
    start = f"{path}." if path else ""
    for name, inner in module._modules.items():
        if inner is None:
            continue
        if inner._modules:
            _add_modules(inner, start + name, seen, found)
        elif id(inner) not in seen:  # most modules hold none: not worth a call
            seen.add(id(inner))
            found.append((start + name, inner))


def find_module(model: nn.Module, path: str) -> nn.Module:
    """The module of ``model.get_submodule(path)``; faster, as it asks no module's ``__getattr__``.

    Raises:
        AttributeError: there is none.
    """
    module: nn.Module | None = model
    for name in path.split(".") if path else ():
        module = None if module is None else module._modules.get(name)
    return model.get_submodule(path) if module is None else module


def tensors_of(model: nn.Module) -> list[torch.Tensor]:
    """Every tensor among the attributes of a model's modules, private ones too."""
    return tensors_in(list_modules(model))


def tensors_in(modules: Iterable[tuple[str, nn.Module]]) -> list[torch.Tensor]:
    """Every tensor among the attributes of these modules, given with their paths."""
    found: list[torch.Tensor] = []
    for _, module in modules:
        for name, value in vars(module).items():
            if name not in _WITHOUT_TENSORS and type(value) not in ATOMS:
                _add_tensors(value, found)
    return found


_WITHOUT_TENSORS = OF_EVERY_MODULE - {"_parameters", "_buffers"}


def _add_tensors(value: object, found: list[torch.Tensor]) -> None:
    if isinstance(value, torch.Tensor):
        found.append(value)
    elif isinstance(value, (list, tuple, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            if type(item) not in ATOMS:
                _add_tensors(item, found)


def _not_copyable(model: nn.Module, memo: Mapping[int, object]) -> Iterator[object]:
    """Objects among the attributes of a model's modules that cannot be copied."""
    for module in model.modules():
        for value in vars(module).values():
            yield from _not_copyable_in(value, memo)


def _not_copyable_in(value: object, memo: Mapping[int, object]) -> Iterator[object]:
    if isinstance(value, nn.Module):
        return  # the caller visits its attributes
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _not_copyable_in(item, memo)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _not_copyable_in(item, memo)
    else:
        try:
            copy.deepcopy(value, dict(memo))
        except Exception:  # noqa: BLE001 - a user's object may raise anything when copied
            yield value


def mix_in_(module: Any, first: type[nn.Module]) -> None:
    """Let a module's class inherit from another one first."""
    kind = type(module)
    if (first, kind) not in _DERIVED:
        names = {"__module__": kind.__module__}
        _DERIVED[first, kind] = type(kind.__name__, (first, kind), names)
    module.__class__ = _DERIVED[first, kind]


_DERIVED: dict[tuple[type, type], type] = {}
"""Classes made so far: a copy of a part is of the same class."""
