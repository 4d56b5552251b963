"""Sums over the dense network at every contraction that reads channels, in one pass."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import keras
import numpy as np
from numpy.typing import NDArray

from secateurs.calibration.batches import CalibrationBatch
from secateurs.calibration.peers import ALONE, Peers
from secateurs.channels.arrays import Sums
from secateurs.channels.network import Group, Network
from secateurs.keras.internals import gradient_of
from secateurs.keras.model.tensors import ModelTensor
from secateurs.keras.protocols import BackendTensor
from secateurs.keras.reconstruction.contractions import (
    ConvolutionMap,
    EinsumMap,
    Map,
    Numbers,
    tables,
)
from secateurs.keras.reconstruction.program import GraphStep, Piece, Pieces, Program, as_numbers
from secateurs.keras.reconstruction.sites import Site, Sites
from secateurs.keras.trace_model import source_of
from secateurs.planning.error_curves import MeasuredContraction
from secateurs.reconstruction.contraction_sums import (
    Reading,
    contraction_of,
    draw_slopes,
    images_with_slopes,
    mean_slopes,
    random_of,
)
from secateurs.reconstruction.drawing import Present, present_part
from secateurs.reconstruction.long_kernels import LongKernel
from secateurs.reconstruction.running_sums import RunningSums

NUMBERS_OF_PATCHES = 2**23
"""Maximum number of elements of patches held at a time."""


@dataclass(eq=False, slots=True)
class _Reader:
    """A site that reads channels along one axis of its weight, with its running sums."""

    site: Site
    reading: Reading
    taps: int
    sums: RunningSums = field(default_factory=RunningSums)
    slopes: Sums | None = None
    sloped: int = 0
    long: LongKernel | None = None


def contractions_of(
    network: Network,
    images: CalibrationBatch,
    kind: str,
    seed: int,
    answers: int = 1,
    groups: Sequence[Group] | None = None,
    *,
    peers: Peers = ALONE,
) -> list[MeasuredContraction]:
    """Sums for channel orders and error curves, of each contraction that reads channels.

    Args:
        network: trace of the dense model, which is unchanged.
        images: images to sum over.
        kind: kind of the outputs: 'categorical', 'bernoulli' or 'relative'.
        seed: seed of the sampled answers that weigh the outputs.
        answers: number of answers that each image gives.
        groups: groups whose readers are summed; None for all.
        peers: processes to sum over, each with its own images.
    """
    source = source_of(network)
    pieces = Pieces(source.model, source.operations, images)
    leaves = {id(leaf.variable): leaf for leaf in source.leaves.values()}
    chosen = network.groups if groups is None else groups
    readers = _readers(network, pieces, leaves, len(images), chosen)
    random, everywhere = random_of(seed, peers), sum(peers.gather(len(images)))
    examples = _examples(source.example_inputs)
    sloped = images_with_slopes(network, examples, everywhere, answers, peers)
    for number, rows in enumerate(pieces.sizes(len(images))):
        piece = pieces.piece(images.rows(rows))
        given = _sum_up(readers, piece, everywhere, number)
        if rows.start < sloped and readers:
            slopes = draw_slopes([as_numbers(one) for one in given], kind, random)
            _add_slopes(readers, pieces.piece(images.rows(rows)), slopes)
    return [_contraction(reader, leaves, peers) for reader in readers]


def _examples(example_inputs: object) -> int:
    shapes = [getattr(item, "shape", ()) for item in keras.tree.flatten(example_inputs)]
    return int(shapes[0][0]) if shapes and shapes[0] else 1


def _readers(
    network: Network,
    pieces: Pieces,
    leaves: Mapping[int, ModelTensor],
    images: int,
    groups: Sequence[Group],
) -> list[_Reader]:
    """Return a reader for each axis along which a weight reads channels (two for attention)."""
    found = []
    program = pieces.program(2)
    for site in Sites(program, norms=False).at.values():
        if site.map.groups != 1:
            continue
        axes = leaves[id(site.map.kernel)].axes
        for known, axis, taps in _axes_read(site.map):
            if axis not in axes:
                continue
            reading = Reading.of(network, axes[axis], known.inputs, groups)
            if reading is not None:
                found.append(_Reader(replace(site, map=known), reading, taps))
                if reading.mixes and reading.fold is None:
                    found[-1].long = _long_kernel(known, program, site, images)
    return found


def _long_kernel(known: Map, program: Program, site: Site, images: int) -> LongKernel | None:
    if not isinstance(known, ConvolutionMap) or site.source.step < 0:
        return None
    read = program.steps[site.source.step].specs[site.source.item]
    x, y = tuple(read.shape), tuple(site.step.specs[0].shape)
    geometry = known.long_geometry(x, y)
    if geometry is None:
        return None
    return LongKernel.of(geometry, known.channels_second(x), known.channels_second(y), images)


def _axes_read(known: Map) -> list[tuple[Map, int, int]]:
    """Return (map with inputs ordered by an axis, axis of the weight, inputs per index of it)."""
    if isinstance(known, EinsumMap):
        weight = known.words[1]
        return [
            (known.with_front(one), weight.index(one), known.taps(one))
            for one in known.input_letters
        ]
    if isinstance(known, ConvolutionMap):
        rank = len(known.kernel.shape)
        return [(known, rank - (1 if known.is_transposed else 2), known.taps)]
    return []


def _sum_up(
    readers: Sequence[_Reader], piece: Piece, images: int, number: int
) -> list[BackendTensor]:
    """Add the patches of one piece of the images; return the network's outputs."""
    at: dict[int, list[_Reader]] = {}
    for reader in readers:
        at.setdefault(reader.site.step.number, []).append(reader)
    while piece.done < len(piece.steps):
        step = piece.steps[piece.done]
        (made, *_) = piece.do(step)
        for reader in at.get(step.number, ()):
            x, y = as_numbers(piece.find(reader.site.source)), as_numbers(made)
            rows = reader.site.rows_per_image(images)
            _sum_patches(reader, x, y, rows, number, piece.present)
        piece.forget(step)
    return piece.result()


def _sum_patches(
    reader: _Reader, x: Numbers, y: Numbers, rows: int, number: int, present: Present
) -> None:
    """Add one piece's patches of a site, or its channels where a reading mixes them."""
    known, reading = reader.site.map, reader.reading
    if reader.long is not None and isinstance(known, ConvolutionMap):
        reader.long.add(np.moveaxis(x, known.channel, 1))
    if reading.mixes:
        flat = _along_axis(known, x, reader.taps)
        taps = 1 if isinstance(known, ConvolutionMap) else reader.taps
        marks = present.get(len(flat) // (len(x) * taps))
        if marks is not None:
            flat = flat[np.repeat(marks.ravel(), taps)]
        values = reading.values(flat)[None]
        reader.sums.add(values, np.zeros((1, values.shape[1], 0), np.float32))
        return
    places = max(1, y[:1].size // known.outputs)
    at_a_time = max(1, NUMBERS_OF_PATCHES // (min(rows, places) * known.inputs))
    for start in range(0, len(x), at_a_time):
        part = slice(start, start + at_a_time)
        seed = number * 4099 + start  # distinct for each part: a piece has at most 256 images
        u, (t,) = tables(known, x[part], [y[part]], rows, seed, present_part(present, part))
        reader.sums.add(u, t[..., :0])  # outputs follow from inputs and weights


def _along_axis(known: Map, x: Numbers, taps: int) -> Numbers:
    """Return the input in the shape (rows, indices of the axis)."""
    if isinstance(known, ConvolutionMap):
        moved = np.moveaxis(x, known.channel, -1)
        return moved.reshape(-1, moved.shape[-1])
    (flat,) = known.patches(x, x.shape, None)
    split = flat.reshape(len(flat), -1, taps).transpose(0, 2, 1)
    found: Numbers = split.reshape(-1, split.shape[-1])
    return found


def _add_slopes(
    readers: Sequence[_Reader], piece: Piece, slopes: Sequence[NDArray[np.float32]]
) -> None:
    """Add the squared gradients of the sampled loss w.r.t. each contraction's outputs."""
    steps = {reader.site.step.number: piece.steps[reader.site.step.number] for reader in readers}
    numbers = list(steps)
    gates = [
        keras.ops.zeros((*steps[number].specs[0].shape,), dtype=steps[number].specs[0].dtype)
        for number in numbers
    ]

    def loss(added: Sequence[BackendTensor]) -> BackendTensor:
        known = dict(zip(numbers, added, strict=True))

        def change(step: GraphStep, made: list[BackendTensor]) -> list[BackendTensor]:
            return [made[0] + known[step.number]] if step.number in known else made

        given = piece.branch().play(change)
        total: BackendTensor = sum(
            keras.ops.sum(keras.ops.cast(one, "float32") * keras.ops.convert_to_tensor(slope))
            for one, slope in zip(given, slopes, strict=True)
        )
        return total

    found = dict(zip(numbers, gradient_of(loss)(gates), strict=True))
    for reader in readers:
        rows = reader.site.map.rows(np.asarray(found[reader.site.step.number]))[0]
        squares = np.square(rows.astype(np.float64)).sum(axis=0)
        reader.slopes = squares if reader.slopes is None else reader.slopes + squares
        reader.sloped += piece.images


def _contraction(
    reader: _Reader, leaves: Mapping[int, ModelTensor], peers: Peers
) -> MeasuredContraction:
    outputs = reader.site.map.outputs
    importance = mean_slopes(reader.slopes, reader.sloped, outputs, peers)
    names = {key: leaf.name for key, leaf in leaves.items()}
    weights = _Weights(reader.site, names, reader.taps)
    moments = reader.sums.moments().total_over(peers)
    return contraction_of(weights, reader.reading, moments, importance, long=reader.long)


@dataclass(frozen=True, eq=False, slots=True)
class _Weights:
    """A site's weights, as planning needs them."""

    site: Site
    names: Mapping[int, str]
    taps: int

    @property
    def weight(self) -> str:
        return self.names[id(self.site.map.kernel)]

    @property
    def has_intercept(self) -> bool:
        return self.site.has_intercept

    def matrix(self) -> Sums:
        return self.site.matrix()

    def tensors(self, matrix: Sums, missing: Sums) -> Mapping[str, Numbers]:
        bias = self.site.map.bias
        intercept = missing
        if bias is not None:
            intercept = self.site.map.bias_rows(as_numbers(bias)).reshape(-1) + missing
        changed = self.site.new_values(matrix, intercept)
        return {self.names[id(variable)]: values.astype(np.float32) for variable, values in changed}
