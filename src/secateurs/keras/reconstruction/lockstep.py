"""Refit a cut network by walking it and the dense one together, step by step.

At every contraction whose input or following sum has changed, the cut network's weights are fitted
to the dense network's result, and only then is the step run. So each layer compensates for the
remaining errors of all layers before it, and errors do not accumulate.

Only values that later steps still read are held in memory, for all images and both networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.peers import ALONE, Peers
from secateurs.channels.blocks import BlockCut
from secateurs.channels.cut import Cut
from secateurs.channels.network import Network
from secateurs.errors import ModelError
from secateurs.keras.internals import Variable, without_gradients
from secateurs.keras.model.tensors import list_tensors
from secateurs.keras.reconstruction.contractions import ConvolutionMap, tables
from secateurs.keras.reconstruction.past_blocks import (
    Detour,
    around_small,
    find_detour,
    give_back_,
)
from secateurs.keras.reconstruction.program import GraphRef, Piece, Pieces, Program, as_numbers
from secateurs.keras.reconstruction.sites import Site, Sites
from secateurs.keras.surgery.rebuilding import cut_copy
from secateurs.keras.trace_model import source_of
from secateurs.keras.tracing.op_record import Axes
from secateurs.reconstruction.drawing import present_part
from secateurs.reconstruction.layers import Walked
from secateurs.reconstruction.long_kernels import KernelGeometry, SignalRows
from secateurs.reconstruction.refitting import (
    BYTES_OF_ROWS,
    Following,
    Gathered,
    images_that_fit,
    is_long,
)
from secateurs.reconstruction.running_sums import RunningSums
from secateurs.reconstruction.walking import LockstepWalk, Pair

Numbers = NDArray[np.float32]

NUMBERS_OF_PATCHES = 2**23
"""Maximum number of elements of patches held at a time."""

TOLERANCE = 1e-3
"""Relative error allowed between a layer's result and the product with its matrix."""


def walk(
    network: Network,
    small: keras.Model,
    alive: NDArray[np.bool_],
    fit: CalibrationBatch,
    held: CalibrationBatch,
    cut: Cut | None = None,
    *,
    peers: Peers = ALONE,
) -> Walked:
    """Refit the weights of a cut model, in place, to the dense model's results.

    Args:
        network: trace of the dense model, which is unchanged.
        small: cut model; its weights change.
        alive: whether each atom is kept, shape (atoms,).
        fit: images to fit on.
        held: held-out images for choices made per layer.
        cut: cut of the network, if it removed whole blocks. The other operands of a block's sum
            then compensate for its branch as far as they can.
        peers: processes that walk together, each with its own images.

    Returns:
        What was done for each layer, and the peak memory of the held values in bytes.

    Raises:
        ModelError: the two models do not have the same steps, or a removed block is not found.
    """
    if cut is None or not cut.blocks:
        return _Walk(network, small, alive, fit, held, peers).walk()
    whole = around_small(network, small, cut)
    walked = _Walk(network, whole, alive, fit, held, peers, cut.blocks).walk()
    give_back_(whole, small)
    return walked


def skip_blocks(model: keras.Model, blocks: Sequence[BlockCut]) -> keras.Model:
    """Return a copy of the model without these blocks, with its own weights."""
    return cut_copy(model, Cut(blocks=tuple(blocks)), compiled=False)


class _Walk(LockstepWalk[Piece, Site]):
    """Lockstep walk of a dense and a cut Keras model; see ``LockstepWalk``."""

    def __init__(
        self,
        network: Network,
        small: keras.Model,
        alive: NDArray[np.bool_],
        fit: CalibrationBatch,
        held: CalibrationBatch,
        peers: Peers,
        blocks: Sequence[BlockCut] = (),
    ) -> None:
        self.peers = peers
        source = source_of(network)
        self._stays = network.solution.mark_kept(alive)
        self._leaves = {id(leaf.variable): leaf for leaf in source.leaves.values()}
        self._dense_pieces = Pieces(source.model, source.operations, fit)
        small_pieces = Pieces(small, source.operations, fit)
        check_alike(self._dense_pieces.program(2), small_pieces.program(2))
        self._detour = Detour()
        if blocks:
            two = fit.rows(slice(0, 2)).images
            self._detour = find_detour(source.model, two, blocks, small_pieces.program(2))
        last = max(Sites(small_pieces.program(2)).at, default=-1)
        each = self._dense_pieces.bytes_at_once(last) + small_pieces.bytes_at_once(last)
        fit, held = images_that_fit(fit, held, each)
        self._images = sum(peers.gather(len(fit) + len(held)))
        self.pairs = [
            Pair(self._dense_pieces.piece(part), small_pieces.piece(part), batch is held, number)
            for batch in (held, fit)
            for number, rows in enumerate(self._dense_pieces.sizes(len(batch)))
            for part in [batch.rows(rows)]
        ]
        self._names = {id(leaf.variable): leaf.name for leaf in list_tensors(small)}
        self.sites = Sites(self.pairs[-1].small.program).at
        self.layers = []

    def is_left(self, number: int) -> bool:
        return self._detour.leaves(self.pairs[0].small.steps[number])

    def do_small(self, piece: Piece, number: int) -> None:
        self._detour.take(piece, piece.steps[number])

    # -- values of both

    def _dense(self, piece: Piece, ref: GraphRef) -> Numbers:
        """A value of the dense network without its removed channels."""
        value = as_numbers(piece.find(ref))
        for axis, units in self._axes(piece, ref).items():
            kept = np.flatnonzero(self._stays[units])
            if len(kept) < value.shape[axis]:
                value = value.take(kept, axis=axis)
        return value

    def _axes(self, piece: Piece, ref: GraphRef) -> Axes:
        if ref.step < 0:
            return {}
        step = piece.steps[ref.step]
        if step.part.axes is not None and not step.is_last:
            return step.part.axes(self._axes_of)
        outputs = self._dense_pieces.operation(step).outputs
        item = ref.item if step.is_last else 0
        return outputs[item][1] if item < len(outputs) else {}

    def _axes_of(self, variable: Variable) -> Axes:
        return self._leaves[id(variable)].axes

    def _off(self, site: Site, pair: Pair[Piece]) -> Numbers | None:
        """The error of the sum's other operands, if it is known already."""
        if site.joint is None or any(ref not in pair.small.values for ref in site.joint.others):
            return None
        off: Numbers | None = None
        for ref in site.joint.others:
            theirs, ours = self._dense(pair.dense, ref), as_numbers(pair.small.find(ref))
            if theirs.shape != ours.shape:
                return None
            off = theirs - ours if off is None else off + (theirs - ours)
        shape = tuple(site.joint.step.specs[0].shape)[1:]
        # A broadcast operand does not have the shape of the sum.
        return off if off is not None and off.shape[1:] == shape else None

    def reads_other_values(self, site: Site, pair: Pair[Piece]) -> bool | None:
        ours = as_numbers(pair.small.find(site.source))
        theirs = self._dense(pair.dense, site.source)
        if ours.shape != theirs.shape:
            return None
        whole = pair.dense.find(site.source)
        return tuple(whole.shape) != theirs.shape or not np.array_equal(ours, theirs)

    def is_off_at_the_sum(self, site: Site, pair: Pair[Piece]) -> bool:
        off = self._off(site, pair)
        return off is not None and bool(off.any())

    # -- least squares

    def matrix_of(self, site: Site) -> NDArray[np.float64]:
        return site.matrix()

    def name_of(self, site: Site) -> str:
        return self._names[id(site.map.kernel)]

    def following(self, site: Site) -> Following:
        return Following(site.scale.astype(np.float32), site.shift.astype(np.float32))

    def does_what_it_says(self, site: Site) -> bool:
        """Check on two images that the layer's result is the product of its matrix and patches."""
        piece = self.pairs[0].small
        x = piece.find(site.source)
        two = x[: max(1, min(2, x.shape[0]))]

        def find(source: object) -> object:
            return two if source == site.source else piece.find(source)

        with without_gradients():
            (given,) = piece.steps[site.step.number].run(find)
        y = as_numbers(given)
        u, (rows,) = tables(site.map, as_numbers(two), [y], y.size, 0)
        found = u @ site.matrix()
        if site.map.bias is not None:
            found += site.map.bias_rows(as_numbers(site.map.bias))
        return bool(np.abs(found - rows).max() <= TOLERANCE * max(np.abs(rows).max(), 1e-12))

    def relaxes(self, site: Site) -> bool:
        """Whether to exclude values that a ReLU cuts off; the rows for it must fit in memory."""
        if not site.rectified or site.map.groups != 1 or site.map.is_norm or not site.has_intercept:
            return False
        places = int(np.prod(site.step.specs[0].shape[1:])) // (site.map.groups * site.map.outputs)
        rows = min(site.rows_per_image(self._images), places) * self._images
        return rows * site.map.inputs * 4 <= BYTES_OF_ROWS

    def is_long(self, site: Site) -> bool:
        return is_long(self._long_geometry(site), site.map.inputs)

    def _long_geometry(self, site: Site) -> KernelGeometry | None:
        known = site.map
        if not isinstance(known, ConvolutionMap):
            return None
        x: Numbers = as_numbers(self.pairs[0].small.find(site.source))
        return known.long_geometry(x.shape, tuple(site.step.specs[0].shape))

    def gather_signals(
        self, site: Site
    ) -> tuple[KernelGeometry, list[SignalRows], list[SignalRows]] | None:
        geometry, known = self._long_geometry(site), site.map
        if geometry is None or not isinstance(known, ConvolutionMap):
            return None
        parts: dict[bool, list[SignalRows]] = {False: [], True: []}
        for pair in self.pairs:
            wanted = self._target(site, pair)
            if wanted.shape[1:] != tuple(site.step.specs[0].shape)[1:]:
                return None  # its result has other channels than the trace predicts
            both = (as_numbers(pair.small.find(site.source)), wanted)
            moved = (np.moveaxis(one, known.channel, 1).astype(np.float32) for one in both)
            parts[pair.held].append(SignalRows(*moved))
        return geometry, parts[False], parts[True]

    def gather(self, site: Site, *, sums: bool, keeps: bool) -> Gathered[RunningSums] | None:
        gathered = Gathered(RunningSums(), RunningSums())
        for pair in self.pairs:
            targets = [self._target(site, pair)]
            if keeps and self._off(site, pair) is not None:
                others = self._sum_others(site, pair)
                targets.append(site.move_back(others, targets[0], pair.small))
            if not self._add(site, gathered, pair, targets, sums=sums, keeps=keeps):
                return None
        return gathered

    def _target(self, site: Site, pair: Pair[Piece]) -> Numbers:
        """The dense network's result, plus the error of the sum after it."""
        target = self._dense(pair.dense, GraphRef(site.step.number))
        off = self._off(site, pair)
        if off is None:
            return target
        scale = np.where(np.abs(site.scale) < 1e-3, np.inf, site.scale)
        back = site.move_back(off, target, pair.small)
        found: Numbers = target + back / site.map.along_channels(scale, target.ndim)
        return found.astype(np.float32)

    @staticmethod
    def _sum_others(site: Site, pair: Pair[Piece]) -> Numbers:
        """Return the total of the sum's other operands in the small network."""
        others = [] if site.joint is None else site.joint.others
        total: Numbers = np.sum([as_numbers(pair.small.find(ref)) for ref in others], axis=0)
        return total

    def _add(
        self,
        site: Site,
        gathered: Gathered[RunningSums],
        pair: Pair[Piece],
        targets: Sequence[Numbers],
        *,
        sums: bool,
        keeps: bool,
    ) -> bool:
        """Add a pair's sampled rows; False where the result has other channels than predicted."""
        x = as_numbers(pair.small.find(site.source))
        per_image = site.rows_per_image(self._images)
        outputs = site.map.groups * site.map.outputs
        if targets[0].shape[1:] != tuple(site.step.specs[0].shape)[1:]:
            return False  # its result has other channels than the trace predicts
        places = max(1, targets[0][:1].size // outputs)
        each = min(per_image, places) * site.map.inputs * site.map.groups
        at_a_time = max(1, NUMBERS_OF_PATCHES // max(1, each))
        weights = site.weigh_rows(pair.dense) if sums else None
        if weights is not None:
            targets = [*targets, np.broadcast_to(weights, targets[0].shape)]
        for start in range(0, len(x), at_a_time):
            part = slice(start, start + at_a_time)
            seed = pair.number * 4099 + start  # distinct for each part of each piece
            present = present_part(pair.small.present, part)
            parts = [target[part] for target in targets]
            u, made = tables(site.map, x[part], parts, per_image, seed, present)
            of_rows = None if weights is None else made.pop()[0, :, 0]
            if sums:
                (gathered.held if pair.held else gathered.fit).add(u, made[0], of_rows)
            if keeps:
                gathered.rows.append((pair.held, [u[0], *(table[0] for table in made)]))
        return True


def check_alike(dense: Program, small: Program) -> None:
    """Check that two programs have the same steps.

    Raises:
        ModelError: they do not.
    """
    ours, theirs = ([step.part.name for step in one.steps] for one in (small, dense))
    if ours != theirs:
        raise ModelError(
            "repair: expected two models with the same sequence of operations; the dense one has "
            f"{len(theirs)}, and the small one has others in their place. Pass the dense model "
            "that the small one was cut from."
        )
