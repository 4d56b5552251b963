"""Rank, prune, retrain: a vanilla CNN in Keras made small by six ways to rank its filters.

    KERAS_BACKEND=tensorflow python examples/keras_cnn/keras_cnn.py --directory runs/keras_cnn
    python examples/keras_cnn/keras_cnn.py --data folder:imagenette --size 64

The experiment of "Compressing a Keras CNN": train a CNN; rank its filters; remove 10, 20, ... 50 %
of them, the lowest in the whole network; retrain for one epoch at the same learning rate with
``fit``; then again and again until too much accuracy is lost. What was measured is kept in the
directory, and a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from cnn import CONVOLUTIONS, vanilla_cnn
from numpy.typing import NDArray

import secateurs as sec
from secateurs import data, files, report
from secateurs.criteria.activations import apoz
from secateurs.criteria.group_data import GroupData
from secateurs.criteria.registry import Need, criterion
from secateurs.keras import Progress
from secateurs.report.matrices import apoz_matrix, l1_matrix

CRITERIA = {
    "APoZ": "apoz",
    "L1": "l1_mean",
    "random": "random",
    "mean": "mean_activation",
    "std": "std_activation",
    "oracle": "oracle",
    "APoZ, neurons too": "apoz",
    "APoZ per weight": "apoz_per_weight",
}
"""What ranks. "Neurons too" takes the dense layer's neurons as well as filters."""
FLOORS = {"APoZ per weight": 0.2}
"""The share of a layer's filters that stays in any case; one filter, if not said."""
ONE_MORE = "one more epoch"
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
CALIBRATION = 512
BATCH = 64

Images = tuple[NDArray[Any], NDArray[Any]]


@dataclass(frozen=True)
class Point:
    """One measured model.

    Attributes:
        seed: of the training.
        criterion: what ranked the filters; 'dense' for the model before.
        share: of the filters, removed.
        weights: what is left of them.
        size_mb: of the saved weights.
        before: accuracy on the test images right after the cut.
        accuracy: after an epoch of retraining.
        max_difference: of the proof.
    """

    seed: int
    criterion: str
    share: float
    weights: int
    size_mb: float
    before: float
    accuracy: float
    max_difference: float


def images(split: Any) -> Images:
    """All of a split as Keras takes it, channels last."""
    pixels, labels = split.batch(slice(0, len(split)))
    return np.ascontiguousarray(np.moveaxis(pixels, 1, -1)), labels


def accuracy(model: Any, test: Images) -> float:
    """Share of the images put into the right class."""
    return float(model.evaluate(*test, batch_size=500, verbose=0)[1])


def retrain(model: Any, train: Images) -> None:
    """One epoch at the same learning rate: the model comes compiled as the dense one was."""
    model.fit(*train, batch_size=BATCH, epochs=1, verbose=0)


@criterion(Need.ACTIVATIONS)
def apoz_per_weight(facts: GroupData) -> NDArray[np.float64]:
    """A criterion of one's own: how busy a filter is for the weights it takes.

    Formula: (1 - APoZ) / the number of weights that leave with the filter.
    """
    shapes = {member: facts.network.tensors[member.tensor].shape for member in facts.group.members}
    weights = sum(np.prod(s) * member.each / s[member.axis] for member, s in shapes.items())
    return apoz(facts) / float(weights)


def filters_cut(
    network: Any, scores: Any, share: float, skip: tuple[str, ...], floor: float = 1
) -> Any:
    """Remove this share of all filters, the lowest scores in the whole network.

    Args:
        network: as traced.
        scores: of its channels.
        share: of the channels of the layers that are not left alone.
        skip: layers to leave alone.
        floor: as for ``secateurs.planning.planner``.
    """
    total = sum(len(group) for group in network.groups)
    taken = sum(len(group) for group in network.groups if group.name not in skip)
    budget = sec.Budget(channels=total - round(share * taken))
    return sec.plan(network, scores, budget, scope="network", floor=floor, skip=skip)


def dense_model(place: Path, seed: int, loaded: Any, train: Images, epochs: int) -> Any:
    """The trained model, from the directory if it is there."""
    path = place / f"dense-{seed}.keras"
    if path.exists():
        return keras.saving.load_model(path)
    keras.utils.set_random_seed(seed)
    model = vanilla_cnn(len(loaded.classes), loaded.shape[0], loaded.shape[1])
    model.fit(*train, batch_size=BATCH, epochs=epochs, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


class Results:
    """What was measured, on disk after each model."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.points = (
            [Point(**row) for row in json.loads(path.read_text())] if path.exists() else []
        )

    def has(self, seed: int, criterion: str, share: float) -> bool:
        known = {(point.seed, point.criterion, point.share) for point in self.points}
        return (seed, criterion, share) in known

    def add(self, point: Point) -> None:
        self.points.append(point)
        rows = [asdict(known) for known in self.points]
        files.write_atomically(self._path, json.dumps(rows, indent=1).encode())
        print(
            f"seed {point.seed}  {point.criterion:7s} {point.share:4.0%} of filters: "
            f"{point.weights:9,d} weights, {point.before:.2%} -> {point.accuracy:.2%}",
            flush=True,
        )


def compare(model: Any, seed: int, results: Results, train: Images, test: Images) -> None:
    """Every criterion and every share, each from the dense model, one epoch."""
    network = sec.trace(model, train[0][:1])
    calibration = (train[0][:CALIBRATION], train[1][:CALIBRATION])
    dense = accuracy(model, test)
    if not results.has(seed, "dense", 0.0):
        cost = network.cost()
        size = cost.bytes / 1e6
        results.add(Point(seed, "dense", 0.0, cost.params, size, dense, dense, 0.0))
    if not results.has(seed, ONE_MORE, 0.0):  # what the epoch does without any cut
        same = sec.apply(model, network.cut({}), train[0][:2], network=network)
        keras.utils.set_random_seed(seed)
        retrain(same, train)
        cost, after = network.cost(), accuracy(same, test)
        results.add(Point(seed, ONE_MORE, 0.0, cost.params, cost.bytes / 1e6, dense, after, 0.0))
    for name, ranking in CRITERIA.items():
        missing = [share for share in SHARES if not results.has(seed, name, share)]
        if not missing:
            continue
        skip = () if name.endswith("too") else ("hidden",)
        scores = sec.score(network, ranking, data=calibration, seed=seed)
        for share in missing:
            cut = filters_cut(network, scores, share, skip, FLOORS.get(name, 1))
            small = sec.apply(model, cut, train[0][:2], network=network)
            before = accuracy(small, test)
            keras.utils.set_random_seed(seed)
            retrain(small, train)
            cost, after = network.cost(cut), accuracy(small, test)
            proof = sec.report_of(small).max_difference
            size = cost.bytes / 1e6
            results.add(Point(seed, name, share, cost.params, size, before, after, proof))


def until_too_much_is_lost(model: Any, loaded: Any, place: Path) -> Any:
    """Rank, prune, retrain, repeat: until two rounds in a row lose more than a point."""
    return sec.iterate(
        model,
        loaded.train,
        loaded.validation,
        loaded.test,
        step=0.15,
        criterion="apoz",
        scope="network",
        stop=sec.Stop(tolerance=0.01, patience=2),
        directory=place / "loop",
        watcher=Progress(),
    )


def draw(results: Results, model: Any, train: Images, place: Path) -> None:
    """The two matrices, and accuracy against what is left."""
    network = sec.trace(model, train[0][:1])
    layers, norms = l1_matrix(network, CONVOLUTIONS)
    figure = report.matrix(norms, layers, "Normalised L1 norm of every filter")
    report.save(figure, place, "keras-l1")
    layers, zeros = apoz_matrix(network, train[0][:CALIBRATION], CONVOLUTIONS)
    figure = report.matrix(zeros, layers, "Average percentage of zeros of every filter")
    report.save(figure, place, "keras-apoz")
    dense = [point for point in results.points if point.criterion == "dense"]
    baseline = float(np.mean([point.accuracy for point in dense]))
    for attribute, label, unit in (
        ("weights", "share of the weights removed", None),
        ("size_mb", "size of the model, MB", "MB"),
    ):
        curves = {name: curve(results, name, dense, attribute) for name in CRITERIA}
        figure = report.accuracy_against_removed(curves, baseline, label, unit=unit)
        report.save(figure, place, f"keras-accuracy-{attribute.removesuffix('_mb')}")


def tables(results: Results) -> str:
    """What was measured, as Markdown: means over seeds."""
    lines = [
        "| ranked by | filters removed | weights removed | after the cut | after one epoch |",
        "| --- | --- | --- | --- | --- |",
    ]
    seeds = {p.seed for p in results.points if p.criterion == list(CRITERIA)[-1]}
    for name in ("dense", ONE_MORE, *CRITERIA):
        for share in (0.0, *SHARES):
            values = [
                p
                for p in results.points
                if (p.criterion, p.share) == (name, share) and p.seed in seeds
            ]
            if not values:
                continue
            dense = {p.seed: p for p in results.points if p.criterion == "dense"}
            gone = np.mean([1 - p.weights / dense[p.seed].weights for p in values])
            before, after = (
                np.mean([p.before for p in values]),
                np.mean([p.accuracy for p in values]),
            )
            lines.append(f"| {name} | {share:.0%} | {gone:.1%} | {before:.2%} | {after:.2%} |")
    return "\n".join(lines) + "\n"


def curve(results: Results, name: str, dense: list[Point], attribute: str) -> Any:
    """(amounts, accuracies), each (seeds, shares); the dense model is the first point."""
    rows: list[list[tuple[float, float]]] = []
    for start in dense:
        values = [p for p in results.points if (p.criterion, p.seed) == (name, start.seed)]
        values = [start, *sorted(values, key=lambda point: point.share)]
        if len(values) <= len(SHARES):
            continue  # a seed that is not done yet
        whole = getattr(start, attribute)
        rows.append(
            [
                (
                    getattr(p, attribute) if attribute == "size_mb" else 1 - p.weights / whole,
                    p.accuracy,
                )
                for p in values
            ]
        )
    table = np.array(rows)
    return table[..., 0], table[..., 1]


def main() -> None:
    """Measure what is not measured yet, and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="fashion-mnist", help="as secateurs.data.load takes it")
    parser.add_argument("--size", type=int)
    parser.add_argument("--limit", type=int, default=10_000, help="training images")
    parser.add_argument("--epochs", type=int, default=12, help="of the dense model")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=Path("runs/keras_cnn"))
    parser.add_argument(
        "--figures", type=Path, help="where figures go; in the directory, if not given"
    )
    parser.add_argument("--loop", action="store_true", help="also repeat, until a point is lost")
    arguments = parser.parse_args()
    place = arguments.directory
    loaded = data.load(arguments.data, size=arguments.size, limit=arguments.limit)
    train, test = images(loaded.train), images(loaded.test)
    results = Results(place / "results.json")
    for seed in range(arguments.seeds):
        model = dense_model(place, seed, loaded, train, arguments.epochs)
        compare(model, seed, results, train, test)
    first = dense_model(place, 0, loaded, train, arguments.epochs)
    draw(results, first, train, arguments.figures or place)
    files.write_atomically(place / "table.md", tables(results).encode())
    if arguments.loop:
        result = until_too_much_is_lost(first, loaded, place)
        result.model.save(place / "small.keras")


if __name__ == "__main__":
    main()
