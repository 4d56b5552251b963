"""Accuracy kept at a share of the MACs, on Fashion-MNIST: ours against Torch-Pruning's.

    python benchmarks/accuracy.py train --networks resnet18_w16 --dense runs/dense
    python benchmarks/accuracy.py run --networks resnet18_w16 --dense runs/dense
    python benchmarks/accuracy.py write                     # writes docs/accuracy.md

One process, one thread; every row is written when it is known, and what is there is not made again.
Times are processor seconds; with ``--only all-images`` distillation is timed by the clock. What is
chosen (Torch-Pruning's criterion and scope, the guards of ours) is chosen on calibration or
validation images; the test images are only reported.

ours            unlabelled images: allocation by measured curves, order by the same sums, least
                squares in step; then label-free distillation, augmented
torch-pruning   the best of six criteria, global and local, by validation accuracy: as it is cut,
                with the moments of batch norm taken anew on the same images, after one epoch of all
                labelled training images, and distilled by us on the same images in as many steps
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.calibration.batches import CalibrationBatch
from secateurs.pytorch import distil
from secateurs.pytorch.statistics.cut_evaluation import recalibrate_
from secateurs.reconstruction.augmented_copies import AugmentedCopies
from secateurs.reconstruction.calibration import in_batches, join_batches
from secateurs.reconstruction.pruner import Pruner, Request
from secateurs.training import distillation, rate_trials
from secateurs.training.feed import ALL, as_feed
from secateurs.training.schedules import learning_rates
from support import peer
from support.fashion import (
    BATCH,
    CHANGES,
    DECAY,
    MOMENTUM,
    NETWORKS,
    accuracy,
    fashion,
    load_or_train,
)
from support.rows import Rows
from support.tables import markdown, put

PAGE = Path(__file__).parent.parent / "docs" / "accuracy.md"
BUDGETS = (0.5, 0.25, 0.1)
MIXED = sec.Augmentation(flip=True, shift=2, mix=0.5)
UNMIXED = sec.Augmentation(flip=True, shift=2)
CHOOSING = 3000
"""Validation images by which Torch-Pruning's criterion is chosen."""
EPOCH_RATE = 0.05


class Case:
    """A dense network and calibration images."""

    def __init__(self, network: str, dense: int, seed: int, images: int, folder: Path) -> None:
        self.data = fashion()
        self.model = load_or_train(network, dense, folder)
        order = np.random.default_rng(seed).permutation(len(self.data.train))
        self.images, self.labels = self.data.train.batch(order[:images])
        self.seed = seed
        self.key = {"network": network, "dense": dense, "seed": seed, "images": images}

    def test_accuracy(self, model: nn.Module) -> float:
        return round(100 * accuracy(model, self.data.test), 2)

    def validation_accuracy(self, model: nn.Module) -> float:
        images, labels = self.data.validation.batch(slice(0, CHOOSING))
        with torch.inference_mode():
            scores = model.eval()(torch.from_numpy(images))
        return float((scores.argmax(1).numpy() == labels).mean())


@dataclass(frozen=True)
class Distillation:
    """Steps that are tried after least squares.

    Attributes:
        steps: how many, one try for each number.
        batch: images a step.
        temperature: softens the classes' distribution.
        minutes: of one core, for the cut and the steps together, one try for each number; as many
            steps as they leave time for, by what a few take.
        multiple: widths are multiples of this; None as ``prune`` does by itself.
        copies: augmented copies of each image that weights are fitted to as well.
        trials: whether learning rates are chosen by trial.
    """

    steps: list[int]
    batch: int
    temperature: float
    minutes: list[float]
    multiple: int | None = None
    copies: int = 0
    trials: bool = True

    def name(self, effort: str) -> str:
        """What the table calls so much effort."""
        unusual = f" of {self.batch}" * (self.batch != distillation.BATCH)
        warm = f", temperature {self.temperature:g}"
        return (
            f"ours, {effort}{unusual}"
            + warm * (self.temperature != distillation.TEMPERATURE)
            + ", the usual rates" * (not self.trials)
            + self.widths
        )

    @property
    def closed_form(self) -> str:
        """What the table calls no step at all."""
        return f"ours, closed form{self.widths}"

    @property
    def widths(self) -> str:
        """What the table says of other widths or images than the default's."""
        widths = "" if self.multiple is None else f", multiples of {self.multiple}"
        return widths + f", {self.copies} copies" * (self.copies > 0)

    def tries(self, seconds: float, a_step: Callable[[], float]) -> Iterator[tuple[str, int]]:
        """(name, steps) of each try, after a cut that took so many seconds."""
        for number in self.steps:
            yield self.name(f"{number} steps"), number
        for minutes in self.minutes:
            yield self.name(f"{minutes:g} min in all"), int((60 * minutes - seconds) / a_step())


def ours(case: Case, rows: Rows, how: Distillation, budgets: list[float]) -> None:
    """Closed form, then distilled, at each budget; what is made once is made once."""
    names = [how.closed_form, *(name for name, _ in how.tries(0, lambda: 1.0))]
    if all(rows.has(**case.key, what=name, budget=b) for b in budgets for name in names):
        return
    start = time.process_time()
    network = sec.trace(case.model, torch.from_numpy(case.images[:1]))
    copies = AugmentedCopies.parse(how.copies, UNMIXED)
    request = Request(seed=case.seed, copies=copies)
    pruner = Pruner.of(case.model, network, case.images, request)
    once = time.process_time() - start
    split = pruner.dense.calibration
    images = in_batches(CalibrationBatch(join_batches([split.fit, split.choose]).images, None))
    for budget in budgets:
        start = time.process_time()
        cut = pruner.plan(sec.Budget(macs=budget), multiple=how.multiple)
        small = pruner.make(cut)
        seconds = once + time.process_time() - start
        cost = network.cost(cut)
        cut_row = {
            "budget": budget,
            "macs": round(cost.macs / network.macs(), 4),
            "params": round(cost.params / network.params(), 4),
        }
        fidelity = sec.report_of(small).fidelity.fidelity
        if not rows.has(**case.key, what=how.closed_form, budget=budget):
            rows.add(
                **case.key,
                what=how.closed_form,
                **cut_row,
                accuracy=case.test_accuracy(small),
                seconds=round(seconds, 1),
                kl=round(fidelity.distance, 4),
            )
        learn = partial(
            distil,
            small,
            case.model,
            images,
            held_out=pruner.dense.judge,
            seed=case.seed,
            augmentation=MIXED,
            temperature=how.temperature,
            batch_size=how.batch,
        )
        for name, number in how.tries(seconds, partial(seconds_a_step, learn)):
            if rows.has(**case.key, what=name, budget=budget):
                continue
            start = time.process_time()
            found = learn(steps=number)
            spent = time.process_time() - start
            rows.add(
                **case.key,
                what=name,
                **cut_row,
                steps=found.steps,
                accuracy=case.test_accuracy(found.model),
                validation=round(100 * accuracy(found.model, case.data.validation), 2),
                validation_trained=round(100 * accuracy(found.trained, case.data.validation), 2),
                seconds=round(seconds + spent, 1),
                kl=round(found.after, 4),
                kept=found.kept,
            )


def seconds_a_step(learn: Callable[..., object]) -> float:
    """Of processor time, what begins and ends every distillation apart."""
    learn(steps=2)  # what is done once in a process
    times = []
    for number in (5, 45):
        start = time.process_time()
        learn(steps=number)
        times.append(time.process_time() - start)
    return (times[1] - times[0]) / 40


def all_images(case: Case, rows: Rows, budgets: list[float], seconds: float, device: str) -> None:
    """Cut and repaired by the case's images, then distilled on all training images, no labels."""
    for budget in budgets:
        label = f"ours, all images, {seconds:g} s{f', {device}' * (device != 'cpu')}"
        if rows.has(**case.key, what=label, budget=budget):
            continue
        start = time.process_time()
        pruned = sec.prune(
            case.model,
            case.images[:1],
            sec.Budget(macs=budget),
            calibration=case.images,
            seed=case.seed,
        )
        cut_in = round(time.process_time() - start, 1)
        everything = case.data.train.batch(slice(0, len(case.data.train)))[0]
        batches = in_batches(CalibrationBatch(everything, None))
        begin = time.perf_counter()
        found = distil(
            copy.deepcopy(pruned.model).to(device),
            copy.deepcopy(case.model).to(device),
            batches[2:],
            seconds=seconds,
            held_out=batches[:2],
            seed=case.seed,
            augmentation=MIXED,
        )
        dense = sec.trace(case.model, case.images[:1])
        cost = dense.cost(pruned.cut)
        rows.add(
            **case.key,
            what=label,
            budget=budget,
            macs=round(cost.macs / dense.macs(), 4),
            params=round(cost.params / dense.params(), 4),
            accuracy=case.test_accuracy(found.model.to("cpu")),
            steps=found.steps,
            device=torch.cuda.get_device_name() if device == "cuda" else "cpu",
            cut_in=cut_in,
            seconds=round(cut_in + time.perf_counter() - begin, 1),
        )


def epochs(case: Case, rows: Rows, shares: list[float], budgets: list[float]) -> None:
    """One epoch with labels after our cut, with so much of the loss the dense model's outputs."""
    for budget in budgets:
        names = {share: f"ours, one epoch, {share:g} distilled" for share in shares}
        if all(rows.has(**case.key, what=name, budget=budget) for name in names.values()):
            continue
        start = time.process_time()
        cut = sec.prune(
            case.model,
            case.images[:1],
            sec.Budget(macs=budget),
            calibration=case.images,
            seed=case.seed,
        )
        seconds = time.process_time() - start
        dense = sec.trace(case.model, case.images[:1])
        cost = dense.cost(cut.cut)
        for share, name in names.items():
            start = time.process_time()
            after = one_epoch(cut.model, case, share)
            rows.add(
                **case.key,
                what=name,
                budget=budget,
                macs=round(cost.macs / dense.macs(), 4),
                params=round(cost.params / dense.params(), 4),
                accuracy=case.test_accuracy(after),
                validation=round(100 * accuracy(after, case.data.validation), 2),
                seconds=round(seconds + time.process_time() - start, 1),
            )


def peers(case: Case, rows: Rows, steps: int, budgets: list[float]) -> None:
    """Torch-Pruning's best at each budget."""
    images, labels = torch.from_numpy(case.images), torch.from_numpy(case.labels)
    batches = in_batches(CalibrationBatch(case.images, None))
    dense = sec.trace(case.model, images[:1]).macs()
    for budget in budgets:
        if rows.has(**case.key, what=f"torch-pruning, our {steps} steps", budget=budget):
            continue
        start = time.process_time()
        cuts = list(peer.cuts(case.model, images, labels, budget, case.seed))
        anew = [with_moments_anew(cut.model, batches) for cut in cuts]
        raw_scores = [case.validation_accuracy(cut.model) for cut in cuts]
        scores = [case.validation_accuracy(model) for model in anew]
        seconds = time.process_time() - start
        raw, best = int(np.argmax(raw_scores)), int(np.argmax(scores))

        def cut_row(
            number: int, cuts: list[peer.PeerCut] = cuts, budget: float = budget
        ) -> dict[str, object]:
            cut = cuts[number]
            params = sum(p.numel() for p in cut.model.parameters())
            whole = sum(p.numel() for p in case.model.parameters())
            return {
                "budget": budget,
                "macs": round(cut.macs / dense, 4),
                "params": round(params / whole, 4),
                "criterion": f"{cut.criterion}, {cut.scope}",
            }

        rows.add(
            **case.key,
            what="torch-pruning, as cut",
            **cut_row(raw),
            accuracy=case.test_accuracy(cuts[raw].model),
            seconds=round(seconds, 1),
        )
        rows.add(
            **case.key,
            what="torch-pruning, moments anew",
            **cut_row(best),
            accuracy=case.test_accuracy(anew[best]),
            seconds=round(seconds, 1),
        )
        if not rows.has(**case.key, what="torch-pruning, one epoch", budget=budget):
            start = time.process_time()
            after = one_epoch(anew[best], case)
            rows.add(
                **case.key,
                what="torch-pruning, one epoch",
                **cut_row(best),
                accuracy=case.test_accuracy(after),
                seconds=round(seconds + time.process_time() - start, 1),
            )
        start = time.process_time()
        held = len(batches[0].images) // 2
        found = distil(
            anew[best],
            case.model,
            [batches[0].rows(slice(held, None)), *batches[1:]],
            steps=steps,
            held_out=[batches[0].rows(slice(0, held))],
            seed=case.seed,
            augmentation=MIXED,
        )
        rows.add(
            **case.key,
            what=f"torch-pruning, our {steps} steps",
            **cut_row(best),
            accuracy=case.test_accuracy(found.model),
            seconds=round(seconds + time.process_time() - start, 1),
        )


def with_moments_anew(model: nn.Module, batches: list[CalibrationBatch]) -> nn.Module:
    """A copy with the moments of batch norm taken anew."""
    twin = copy.deepcopy(model).eval()
    with torch.no_grad():
        recalibrate_(twin, batches)
    return twin


def one_epoch(model: nn.Module, case: Case, share: float = 0.0) -> nn.Module:
    """A copy, fine-tuned for one epoch of all labelled training images.

    Args:
        model: the small one; unchanged.
        case: whose training images it sees.
        share: of the loss that is the distance from the dense model's outputs.
    """
    model = copy.deepcopy(model).train().to(memory_format=torch.channels_last)
    feed = as_feed(case.data.train, BATCH, case.seed, CHANGES)
    optimizer = torch.optim.SGD(
        model.parameters(), EPOCH_RATE, momentum=MOMENTUM, weight_decay=DECAY, nesterov=True
    )
    rates = learning_rates("cosine", EPOCH_RATE, len(feed), 0.1)
    for batch, rate in zip(feed.shuffle(0, 0, ALL), rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        images = torch.from_numpy(np.ascontiguousarray(batch.images))
        scores = model(images)
        loss = (1 - share) * F.cross_entropy(scores, torch.from_numpy(batch.labels))
        if share:
            with torch.no_grad():
                wanted = F.softmax(case.model(images) / 2, 1)
            apart = F.kl_div(F.log_softmax(scores / 2, 1), wanted, reduction="batchmean")
            loss = loss + 4 * share * apart
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


# -- the page


def spread(values: list[float]) -> str:
    if not values:
        return "-"
    if len(values) == 1:
        return f"{values[0]:.2f}"
    return f"{np.mean(values):.2f} ({min(values):.2f}-{max(values):.2f})"


def tables(rows: list[dict]) -> Iterator[str]:
    """One table for each dense network and number of images."""
    kinds = dict.fromkeys((row["network"], row["dense"], row["images"]) for row in rows)
    for network, dense, images in kinds:
        rows_of_case = [
            row
            for row in rows
            if (row["network"], row["dense"], row["images"]) == (network, dense, images)
        ]
        whole = [row["accuracy"] for row in rows_of_case if row["what"] == "dense"]
        seeds = sorted({row["seed"] for row in rows_of_case if row["what"] != "dense"})
        yield (
            f"### {network}, dense network {dense}: {spread(whole[:1])} %; "
            f"{images} images, seeds {', '.join(map(str, seeds))}\n"
        )
        body = []
        for label in dict.fromkeys(row["what"] for row in rows_of_case if row["what"] != "dense"):
            mine = [row for row in rows_of_case if row["what"] == label]
            cells = [
                spread([row["accuracy"] for row in mine if row["budget"] == budget])
                for budget in BUDGETS
            ]
            params = [
                f"{np.mean([row['params'] for row in mine if row['budget'] == budget]):.2f}"
                for budget in BUDGETS
                if any(row["budget"] == budget for row in mine)
            ]
            times = [row["seconds"] for row in mine]
            body.append([label, *cells, " ".join(params), f"{min(times):.0f}-{max(times):.0f}"])
        head = ["", *(f"{b:.0%} of MACs" for b in BUDGETS), "params kept", "CPU s"]
        yield markdown(head, body) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("train", "run", "write"))
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=["resnet18_w16"])
    parser.add_argument("--dense-seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--images", nargs="+", type=int, default=[512])
    parser.add_argument("--steps", nargs="*", type=int, default=[300])
    parser.add_argument("--minutes", nargs="*", type=float, default=[], help="of one core, in all")
    parser.add_argument("--multiple", type=int, help="of which widths are; as prune does by itself")
    parser.add_argument("--copies", type=int, default=0, help="of each image, to fit to as well")
    parser.add_argument("--budgets", nargs="+", type=float, default=list(BUDGETS))
    parser.add_argument("--only", choices=("ours", "peers", "epochs", "all-images"))
    parser.add_argument("--shares", nargs="+", type=float, default=[0.0, 0.5, 0.9])
    parser.add_argument("--batch", type=int, default=distillation.BATCH)
    parser.add_argument("--usual-rates", action="store_true", help="no trials of learning rates")
    parser.add_argument("--temperature", type=float, default=distillation.TEMPERATURE)
    parser.add_argument("--seconds", type=float, default=420, help="of distillation: all-images")
    parser.add_argument("--device", default="cpu", help="of distillation: all-images")
    parser.add_argument("--dense", type=Path, default=Path("runs/dense"))
    parser.add_argument("--results", type=Path, default=Path("runs/accuracy.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.usual_rates:
        rate_trials.MOST_STEPS = 0
    if options.command == "write":
        put(PAGE, "tables", "\n".join(tables(Rows(options.results).known)))
        return
    for network in options.networks:
        for dense in options.dense_seeds:
            if options.command == "train":
                load_or_train(network, dense, options.dense)
            else:
                measure(network, dense, options)


def measure(network: str, dense: int, options: argparse.Namespace) -> None:
    rows = Rows(options.results)
    for images in options.images:
        for seed in options.seeds:
            case = Case(network, dense, seed, images, options.dense)
            if not rows.has(network=network, dense=dense, images=images, what="dense"):
                rows.add(**case.key, what="dense", accuracy=case.test_accuracy(case.model))
            if options.only in (None, "ours"):
                how = Distillation(
                    options.steps,
                    options.batch,
                    options.temperature,
                    options.minutes,
                    options.multiple,
                    options.copies,
                    trials=not options.usual_rates,
                )
                ours(case, rows, how, options.budgets)
            if options.only in (None, "peers"):
                peers(case, rows, options.steps[0], options.budgets)
            if options.only == "all-images":
                all_images(case, rows, options.budgets, options.seconds, options.device)
            if options.only in (None, "epochs"):
                epochs(case, rows, options.shares, options.budgets)


if __name__ == "__main__":
    main()
