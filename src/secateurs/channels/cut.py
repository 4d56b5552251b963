"""A cut, as plain data: what is removed from a network.

A ``Cut`` lists, for each tensor, the indices removed along each axis, and the integer sizes that
change in layers. It can be written to JSON, read back, composed with a later cut, and applied to a
freshly built model without tracing it again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from secateurs import formatting
from secateurs.arguments import PATH, TEXT, instance, takes
from secateurs.channels.blocks import BlockCut, Numbering
from secateurs.channels.cost import Cost
from secateurs.channels.cut_data import check_cut_data
from secateurs.errors import CheckpointError, CutError
from secateurs.formatting import megabytes, notebook_html, percent

FORMAT = "secateurs-cut"
VERSION = 1
VERSION_WITH_BLOCKS = 2
"""Version of cuts with whole blocks, which readers of version 1 would silently ignore."""

_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class TensorCut:
    """Indices removed from one tensor.

    Attributes:
        shape: the tensor's shape before the cut.
        removed: axis -> removed indices, in ascending order.
    """

    shape: tuple[int, ...]
    removed: Mapping[int, tuple[int, ...]]

    def list_kept(self, axis: int) -> NDArray[np.int64]:
        """Indices along ``axis`` that are kept, in ascending order."""
        stays = np.ones(self.shape[axis], bool)
        stays[list(self.removed.get(axis, ()))] = False
        return np.flatnonzero(stays)

    @property
    def shape_after(self) -> tuple[int, ...]:
        """The tensor's shape after the cut."""
        gone = {axis: len(indices) for axis, indices in self.removed.items()}
        return tuple(size - gone.get(axis, 0) for axis, size in enumerate(self.shape))

    def then(self, later: TensorCut) -> TensorCut:
        """Compose this cut with ``later``, a cut of the tensor that it leaves."""
        removed = {
            axis: _remove_in_turn(self, later, axis) for axis in {*self.removed, *later.removed}
        }
        return TensorCut(self.shape, dict(sorted(removed.items())))


@dataclass(frozen=True, slots=True)
class SizeChange:
    """Change of an integer size that a layer keeps as an attribute.

    Attributes:
        owner: dotted path of the layer; '' is the model itself.
        attribute: name of the attribute, such as 'out_channels'; dotted where it belongs to an
            object that the layer holds, such as 'config.hidden_size'.
        position: index in the attribute where that is a tuple or a list, key where it is a
            dictionary, else None.
        before: the value in the dense model.
        after: the value in the cut one.
    """

    owner: str
    attribute: str
    position: int | str | None
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class Rescaling:
    """A factor on part of a tensor that compensates for a changed size, as in attention's scale.

    Where a layer computes a factor from a size, the factor changes with the size. Multiplying the
    preceding weights by the inverse leaves the result unchanged.

    Attributes:
        tensor: the tensor's name.
        axis: axis along which the indices count.
        indices: indices to rescale, in the tensor before the cut.
        factor: the factor.
    """

    tensor: str
    axis: int
    indices: tuple[int, ...]
    factor: float


@dataclass(frozen=True, slots=True)
class Cache:
    """A tensor that a layer caches from one pass for the next, and recomputes if it is missing.

    The cut model must not reuse the dense model's.

    Attributes:
        owner: dotted path of the layer; '' is the model itself.
        attribute: attribute or buffer that holds it, or a dictionary that does.
        key: key in the dictionary; None if it is not a dictionary, or all of it is meant.
        is_sized: whether the layer checks its size, and needs a small tensor where it is missing.
    """

    owner: str
    attribute: str
    key: str | None = None
    is_sized: bool = False


@dataclass(frozen=True, slots=True)
class ChannelCut:
    """Channels removed from one group: how many there were, and the indices of the removed."""

    of: int
    removed: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Cut:
    """An immutable record of everything removed from a network.

    Attributes:
        tensors: tensor name -> what is removed from it; unchanged tensors are not listed.
        sizes: integer attributes of layers that change.
        channels: group name -> its removed channels.
        rescalings: factors on weights that are kept.
        before: cost of the network that the cut was planned for.
        after: cost of what is left.
        caches: tensors that layers cache and that the cut model must recompute.
        blocks: residual blocks removed whole. All names in a cut are the dense model's.
        fields: values in a Transformers configuration after the cut, by path, such as
            'text_config.intermediate_size' or 'hidden_sizes.2'.
    """

    tensors: Mapping[str, TensorCut] = field(default_factory=dict)
    sizes: tuple[SizeChange, ...] = ()
    channels: Mapping[str, ChannelCut] = field(default_factory=dict)
    rescalings: tuple[Rescaling, ...] = ()
    before: Cost | None = None
    after: Cost | None = None
    caches: tuple[Cache, ...] = ()
    blocks: tuple[BlockCut, ...] = ()
    fields: Mapping[str, int | float] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.tensors or self.blocks)

    def __deepcopy__(self, memo: dict[int, object]) -> Cut:
        """Return the cut itself: it is immutable."""
        del memo
        return self

    @property
    def removed_channels(self) -> int:
        """Number of removed channels."""
        return sum(len(channel.removed) for channel in self.channels.values())

    def then(self, later: Cut) -> Cut:
        """Compose this cut with ``later``, a cut of what it leaves.

        Raises:
            CutError: ``later`` was not planned for what this cut leaves.
        """
        numbering = Numbering(self.blocks)
        if numbering:
            later = _rename(later, numbering.before)
        tensors = dict(self.tensors)
        for name, cut in later.tensors.items():
            first = tensors.get(name)
            if first is not None and first.shape_after != cut.shape:
                raise CutError(
                    f"{name}: expected a cut of shape {first.shape_after}, which the first cut "
                    f"leaves; "
                    f"received a cut of shape {cut.shape}. Plan the second cut on the cut model."
                )
            tensors[name] = cut if first is None else first.then(cut)
        return Cut(
            tensors,
            _sizes_in_turn(self.sizes, later.sizes),
            _channels_in_turn(self.channels, later.channels),
            (
                *self.rescalings,
                *(_in_indices_before(self, rescaling) for rescaling in later.rescalings),
            ),
            self.before or later.before,
            later.after or self.after,
            tuple(dict.fromkeys((*self.caches, *later.caches))),
            (*self.blocks, *later.blocks),
            _fields_in_turn(self, later),
        )

    def since(self, earlier: Cut) -> Cut:
        """What this cut removes beyond ``earlier``: ``earlier.then(cut.since(earlier)) == cut``.

        Args:
            earlier: a cut that this one continues, such as that of a model cut before.

        Raises:
            CutError: this cut does not start with ``earlier``.
        """
        tensors = {}
        for name in earlier.tensors:
            if name not in self.tensors:
                raise _does_not_continue(name)
        for name, cut in self.tensors.items():
            known = earlier.tensors.get(name)
            left = cut if known is None else _tensor_since(name, cut, known)
            if any(left.removed.values()):
                tensors[name] = left
        count, before = len(earlier.rescalings), len(earlier.blocks)
        if self.rescalings[:count] != earlier.rescalings:
            raise _does_not_continue("its rescalings")
        if self.blocks[:before] != earlier.blocks:
            raise _does_not_continue("its blocks")
        further = Cut(
            tensors,
            _sizes_since(self.sizes, earlier.sizes),
            _channels_since(self.channels, earlier.channels),
            tuple(_in_indices_after(earlier, scaled) for scaled in self.rescalings[count:]),
            earlier.after if earlier else self.before,
            self.after,
            blocks=self.blocks[before:],
            fields=self.fields,
        )
        numbering = Numbering(earlier.blocks)
        return _rename(further, numbering.after) if numbering else further

    def without_blocks(self) -> Cut:
        """What this cut does to the rest of the model once its blocks have been removed."""
        if not self.blocks:
            return self
        after = Numbering(self.blocks).after

        def name_after(name: str) -> str | None:
            return None if any(b.takes_with_it(name) for b in self.blocks) else after(name)

        return replace(_rename(self, name_after), blocks=())

    def with_blocks(self, blocks: tuple[BlockCut, ...]) -> Cut:
        """Add these blocks; entries for anything inside them are dropped.

        Costs are this cut's own.
        """

        def name_left(name: str) -> str | None:
            return None if any(block.takes_with_it(name) for block in blocks) else name

        left = _rename(replace(self, channels={}), name_left)
        return replace(left, channels=self.channels, blocks=(*self.blocks, *blocks))

    def rename(self, name_of: Callable[[str], str]) -> Cut:
        """The same cut of a model whose layers and tensors have other names.

        Args:
            name_of: function from a name here to the name there.
        """
        return _rename(self, name_of)

    def below(self, path: str) -> Cut:
        """The same cut of a model that contains this one as its submodule ``path``."""
        return replace(
            _rename(self, lambda name: f"{path}.{name}" if name else path),
            before=None,
            after=None,
            fields={},
        )

    def of_part(self, path: str) -> Cut:
        """What this cut does to the submodule ``path``, as a cut of that submodule alone."""

        def name_inside(name: str) -> str | None:
            inside = name == path or name.startswith(f"{path}.")
            return name[len(path) + 1 :] if inside else None

        return replace(_rename(self, name_inside), before=None, after=None, fields={})

    def explain(self) -> str:
        """Format a table: for each group, how many channels are kept and which are removed."""
        gone = "".join(f"{block.owner}: the whole block goes\n" for block in self.blocks)
        rows = [
            (
                name,
                str(cut.of),
                str(cut.of - len(cut.removed)),
                percent(len(cut.removed) / cut.of),
                _shorten(formatting.ranges(cut.removed)),
            )
            for name, cut in self.channels.items()
            if cut.removed
        ]
        shown = formatting.table(("group", "channels", "stay", "removed", "which"), rows, (1, 2, 3))
        shown = f"{gone}\n{shown}" if gone and rows else gone.rstrip() or shown
        if self.before is None or self.after is None:
            return shown
        return f"{shown}\n\n{self.summary()}"

    def summary(self) -> str:
        """One line: parameters, MACs and bytes, before and after."""
        if self.before is None or self.after is None:
            return f"{self.removed_channels} channels removed"
        before, after = self.before, self.after
        count = len(self.blocks)
        blocks = f"{count} block{'' if count == 1 else 's'} removed, " if count else ""
        return blocks + (
            f"parameters {formatting.count(before.params)} -> {formatting.count(after.params)} "
            f"({percent(1 - after.params / max(1, before.params))} removed), "
            f"MACs {formatting.count(before.macs)} -> {formatting.count(after.macs)} "
            f"({percent(1 - after.macs / max(1, before.macs))} removed), "
            f"weights {megabytes(before.bytes)} -> {megabytes(after.bytes)}"
        )

    def to_json(self) -> str:
        """The cut as JSON text, in the format's current version."""
        return json.dumps(self.to_dict(), separators=(",", ":"))

    def to_dict(self) -> dict[str, Any]:
        """The cut as JSON-ready data. Axes with the same removed indices share one list."""
        sets: dict[tuple[int, ...], int] = {}

        def index_of_set(indices: tuple[int, ...]) -> int:
            return sets.setdefault(indices, len(sets))

        tensors = {
            name: [
                list(cut.shape),
                {str(axis): index_of_set(gone) for axis, gone in cut.removed.items()},
            ]
            for name, cut in self.tensors.items()
        }
        channels = {
            name: [cut.of, index_of_set(cut.removed)]
            for name, cut in self.channels.items()
            if cut.removed
        }
        caches = [[c.owner, c.attribute, c.key, c.is_sized] for c in self.caches]
        return {
            "format": FORMAT,
            "version": VERSION_WITH_BLOCKS if self.blocks else VERSION,
            "tensors": tensors,
            "channels": channels,
            "sizes": [[s.owner, s.attribute, s.position, s.before, s.after] for s in self.sizes],
            "rescalings": [
                [scaled.tensor, scaled.axis, index_of_set(scaled.indices), scaled.factor]
                for scaled in self.rescalings
            ],
            "before": _cost_to_list(self.before),
            "after": _cost_to_list(self.after),
            **({"caches": caches} if caches else {}),
            **({"fields": dict(self.fields)} if self.fields else {}),
            **({"blocks": [_block_to_list(block) for block in self.blocks]} if self.blocks else {}),
            "sets": [list(indices) for indices in sets],
        }

    def __str__(self) -> str:
        return self.explain()

    def _repr_html_(self) -> str:
        """For notebooks."""
        return notebook_html(self.explain())

    @classmethod
    @takes(source=TEXT)
    def from_json(cls, source: str) -> Self:
        """Read a cut that ``to_json`` wrote.

        Raises:
            CheckpointError: it is not JSON, not a cut, or of a newer version.
        """
        try:
            data = json.loads(source)
        except (ValueError, TypeError, RecursionError) as error:
            raise CheckpointError(
                f"expected a cut as JSON; received text that is not JSON ({error})"
            ) from error
        return cls.from_dict(data)

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Read a cut that ``to_dict`` made.

        Raises:
            CheckpointError: it is something else, of a newer version, or damaged.
        """
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise CheckpointError(f"expected a cut (format {FORMAT!r}); received something else")
        if data.get("version") not in (VERSION, VERSION_WITH_BLOCKS):
            raise CheckpointError(
                f"expected version {VERSION} or {VERSION_WITH_BLOCKS} of a cut; received version "
                f"{data.get('version')!r}. Read it with the release of secateurs that wrote it, or "
                "a newer one."
            )
        fields = check_cut_data(data)
        sets = fields.sets
        tensors = {
            name: TensorCut(shape, {axis: sets[at] for axis, at in removed.items()})
            for name, (shape, removed) in fields.tensors.items()
        }
        channels = {name: ChannelCut(of, sets[at]) for name, (of, at) in fields.channels.items()}
        sizes = tuple(SizeChange(*size) for size in fields.sizes)
        rescalings = tuple(
            Rescaling(tensor, axis, sets[at], factor)
            for tensor, axis, at, factor in fields.rescalings
        )
        before, after = (
            None if costs is None else Cost(*costs) for costs in (fields.before, fields.after)
        )
        caches = tuple(Cache(*cache) for cache in fields.caches)
        blocks = tuple(BlockCut(*block) for block in fields.blocks)
        costs = before, after
        return cls(
            tensors, sizes, channels, rescalings, *costs, caches, blocks, dict(fields.fields)
        )

    @takes(path=PATH)
    def save(self, path: str | Path) -> None:
        """Write the cut as JSON, atomically."""
        from secateurs.files import write_atomically

        write_atomically(Path(path), self.to_json().encode())

    @classmethod
    @takes(path=PATH)
    def load(cls, path: str | Path) -> Self:
        """Read a cut that ``save`` wrote."""
        try:
            source = Path(path).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read as a cut: {error}") from error
        try:
            return cls.from_json(source)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error


def _fields_in_turn(first: Cut, later: Cut) -> Mapping[str, int | float]:
    """Configuration fields after both cuts; empty where one of the cuts has none."""
    if any(cut.tensors and not cut.fields for cut in (first, later)):
        return {}
    return {**first.fields, **later.fields}


def _remove_in_turn(first: TensorCut, later: TensorCut, axis: int) -> tuple[int, ...]:
    gone = first.removed.get(axis, ())
    then_gone = first.list_kept(axis)[list(later.removed.get(axis, ()))]
    return tuple(sorted({*gone, *then_gone.tolist()}))


def _in_indices_before(first: Cut, rescaling: Rescaling) -> Rescaling:
    """A rescaling of what a cut leaves, in the indices of the tensor before that cut."""
    cut = first.tensors.get(rescaling.tensor)
    if cut is None:
        return rescaling
    indices = cut.list_kept(rescaling.axis)[list(rescaling.indices)]
    return Rescaling(rescaling.tensor, rescaling.axis, tuple(indices.tolist()), rescaling.factor)


def _does_not_continue(where: str) -> CutError:
    return CutError(
        f"{where}: expected a cut that continues the one this model was cut by; received one that "
        "continues another. Pass the model that the later cut was made on."
    )


def _tensor_since(name: str, cut: TensorCut, earlier: TensorCut) -> TensorCut:
    """What a cut removes from a tensor beyond an earlier one, in the indices that one leaves."""
    removed = {}
    for axis in {*cut.removed, *earlier.removed}:
        gone, before = cut.removed.get(axis, ()), earlier.removed.get(axis, ())
        if cut.shape != earlier.shape or not {*before} <= {*gone}:
            raise _does_not_continue(name)
        more = np.flatnonzero(np.isin(earlier.list_kept(axis), gone))
        if len(more):
            removed[axis] = tuple(more.tolist())
    return TensorCut(earlier.shape_after, dict(sorted(removed.items())))


def _sizes_since(
    sizes: Iterable[SizeChange], earlier: Iterable[SizeChange]
) -> tuple[SizeChange, ...]:
    known = {(s.owner, s.attribute, s.position): s.after for s in earlier}
    changes = (
        SizeChange(s.owner, s.attribute, s.position, known.get(key, s.before), s.after)
        for s in sizes
        if (key := (s.owner, s.attribute, s.position))
    )
    return tuple(s for s in changes if s.before != s.after)


def _channels_since(
    channels: Mapping[str, ChannelCut], earlier: Mapping[str, ChannelCut]
) -> dict[str, ChannelCut]:
    found = {}
    for name, cut in channels.items():
        known = earlier.get(name)
        if known is None or known.of != cut.of or not {*known.removed} <= {*cut.removed}:
            found[name] = cut  # the groups were renamed in between
            continue
        left = _tensor_since(
            name, TensorCut((cut.of,), {0: cut.removed}), TensorCut((known.of,), {0: known.removed})
        )
        if left.removed:
            found[name] = ChannelCut(left.shape[0], left.removed[0])
    return found


def _in_indices_after(first: Cut, rescaling: Rescaling) -> Rescaling:
    """A rescaling of a tensor before a cut, in the indices that the cut leaves."""
    cut = first.tensors.get(rescaling.tensor)
    if cut is None:
        return rescaling
    indices = np.flatnonzero(np.isin(cut.list_kept(rescaling.axis), rescaling.indices))
    return Rescaling(rescaling.tensor, rescaling.axis, tuple(indices.tolist()), rescaling.factor)


def _sizes_in_turn(
    first: Iterable[SizeChange], later: Iterable[SizeChange]
) -> tuple[SizeChange, ...]:
    changes = {(s.owner, s.attribute, s.position): s for s in first}
    for size in later:
        key = size.owner, size.attribute, size.position
        before = changes[key].before if key in changes else size.before
        changes[key] = SizeChange(*key, before, size.after)
    return tuple(changes.values())


def _channels_in_turn(
    first: Mapping[str, ChannelCut], later: Mapping[str, ChannelCut]
) -> dict[str, ChannelCut]:
    channels = dict(first)
    for name, cut in later.items():
        known = channels.get(name)
        if known is None or known.of - len(known.removed) != cut.of:
            channels[name] = cut
            continue
        axis = TensorCut((known.of,), {0: known.removed}).then(
            TensorCut((cut.of,), {0: cut.removed})
        )
        channels[name] = ChannelCut(known.of, axis.removed.get(0, ()))
    return channels


def _rename(cut: Cut, rename: Callable[[str], str | None]) -> Cut:
    """The same cut of a model with other names; entries that have no new name are dropped."""
    tensors = {new: of for name, of in cut.tensors.items() if (new := rename(name)) is not None}
    channels = {new: of for name, of in cut.channels.items() if (new := rename(name)) is not None}

    def rename_all(
        parts: Iterable[_Part], name_of: Callable[[_Part], str]
    ) -> list[tuple[_Part, str]]:
        named = ((part, rename(name_of(part))) for part in parts)
        return [(part, name) for part, name in named if name is not None]

    return replace(
        cut,
        tensors=tensors,
        channels=channels,
        sizes=tuple(replace(s, owner=n) for s, n in rename_all(cut.sizes, lambda s: s.owner)),
        rescalings=tuple(
            replace(r, tensor=n) for r, n in rename_all(cut.rescalings, lambda r: r.tensor)
        ),
        caches=tuple(replace(c, owner=n) for c, n in rename_all(cut.caches, lambda c: c.owner)),
        blocks=tuple(
            replace(block, owner=name, layers=tuple(filter(None, map(rename, block.layers))))
            for block, name in rename_all(cut.blocks, lambda block: block.owner)
        ),
    )


def _block_to_list(block: BlockCut) -> list[Any]:
    return [
        block.owner,
        list(block.keeps),
        block.after,
        block.place,
        block.keyword,
        block.gives,
        block.shortens,
        *([list(block.layers)] if block.layers else []),
    ]


def _cost_to_list(cost: Cost | None) -> list[int] | None:
    return None if cost is None else [cost.params, cost.macs, cost.bytes, cost.channels]


def _shorten(shown: str, most: int = 60) -> str:
    return shown if len(shown) <= most else shown[: most - 4].rsplit(",", 1)[0] + ", ..."


CUT = instance(Cut, "a Cut", CutError, "secateurs.plan, or network.cut, makes one.")
"""How public functions check an argument that is a cut."""
