"""What ablating every channel takes: naive one-by-one re-validation against ours.

    python benchmarks/ablation.py --write                   # writes docs/benchmarks.md
    python benchmarks/ablation.py fashion-mnist --images 64   # one network, smaller, printed

ResNet-18s with ``--width`` channels in the first stage are trained for a few minutes (or read from
``--weights``): with the usual stem, a 7x7 convolution and a pooling, on vehicles of 64 x 64; as in
the first document's experiment here, with through layers and a 3x3 stem, on the same; and with a
3x3 stem of stride one on Fashion-MNIST. Every channel is then removed, alone, on the same
validation images, in the same batches, in one process and one thread:

- naive: zero the channel's slices in every weight that reads it, evaluate the whole model in eval
  and inference mode, put the slices back (nothing is traced, hooked or copied), in the model's own
  memory layout and again with channels last;
- exact: ``oracle(network, data)``;
- racing: ``oracle(network, data, mode="racing")`` for the lowest fifth of all channels.

Times are processor seconds of the one thread, so that other work on a shared machine does not
count; naive is cut into parts that run between the others, so that all meet the same machine.
"""

import argparse
import copy
import itertools
import json
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.channels.network import Network, Role
from secateurs.data import Data, load
from secateurs.models.resnet import resnet18
from secateurs.pytorch.ablation.oracle import ablate_channels
from support.tables import markdown, put

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
SHARE = 0.2
Batches = list[tuple[torch.Tensor, torch.Tensor]]
NETWORKS = {
    "usual": ("vehicles", {"stem": "imagenet", "through": False}),
    "document": ("vehicles", {"stem": "small-stride2", "through": True}),
    "fashion-mnist": ("fashion-mnist", {"stem": "small", "through": False}),
}
SAYS = {
    "usual": "vehicles, 64 x 64, usual stem",
    "document": "vehicles, 64 x 64, through layers, 3x3 stem of stride two",
    "fashion-mnist": "Fashion-MNIST, 28 x 28, 3x3 stem",
}


def load_data(network: str) -> Data:
    data = NETWORKS[network][0]
    return load(data, limit=20_000) if data == "fashion-mnist" else load(data, seed=0)


def build(network: str, data: Data, width: int) -> nn.Module:
    channels, _, _ = data.shape
    options = NETWORKS[network][1]
    return resnet18(classes=len(data.classes), in_channels=channels, width=width, **options)


def train(model: nn.Module, data: Data, batches: int, size: int) -> None:
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=batches, pct_start=0.2
    )
    random = np.random.default_rng(0)
    order = np.zeros(0, np.int64)
    model.train()
    for _ in range(batches):
        if len(order) < size:
            order = random.permutation(len(data.train))
        images, labels = data.train.batch(order[:size])
        order = order[size:]
        x = torch.from_numpy(images)
        x = x.flip(3) if random.random() < 0.5 else x
        loss = F.cross_entropy(model(x), torch.from_numpy(labels))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def validation(data: Data, images: int, batch: int) -> Batches:
    split = data.validation
    return [
        tuple(map(torch.from_numpy, split.batch(np.arange(start, min(start + batch, images)))))
        for start in range(0, images, batch)
    ]


def mean_loss(model: nn.Module, batches: Batches) -> float:
    with torch.inference_mode():
        losses = [F.cross_entropy(model(x), y, reduction="sum").double() for x, y in batches]
    return float(sum(losses)) / sum(len(y) for _, y in batches)


def naive(model: nn.Module, network: Network, batches: Batches) -> Iterator[float]:
    """The change of the mean loss, channel after channel."""
    weights = dict(model.named_parameters())
    dense = mean_loss(model, batches)
    for group in network.groups:
        slices = [
            (weights[member.tensor], member.axis, network.positions(group, member))
            for member in group.with_role(Role.INPUT)
        ]
        for channel in range(len(group)):
            saved = []
            with torch.no_grad():
                for weight, axis, positions in slices:
                    index = torch.from_numpy(positions[channel])
                    saved.append((weight, axis, index, weight.index_select(axis, index)))
                    weight.index_fill_(axis, index, 0)
            change = mean_loss(model, batches) - dense
            with torch.no_grad():
                for weight, axis, index, values in saved:
                    weight.index_copy_(axis, index, values)
            yield change  # with the model whole again: others run in between


class Clock:
    """Processor seconds by name."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}

    def run(self, name: str, work):
        start = time.process_time()
        result = work()
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - start
        print(f"{name}: {self.spent[name]:.1f} s so far", flush=True)
        return result


def measure(model: nn.Module, data: Data, arguments: argparse.Namespace) -> dict[str, object]:
    batches = validation(data, arguments.images, arguments.batch)
    network = sec.trace(model, batches[0][0][:1])
    channels = sum(len(group) for group in network.groups)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    batches_last = [(x.contiguous(memory_format=torch.channels_last), y) for x, y in batches]
    mean_loss(model, batches), mean_loss(last, batches_last)  # warm up
    runs = {"naive": naive(model, network, batches)}
    if not arguments.quick:
        runs["naive, channels last"] = naive(last, network, batches_last)
    clock, found = Clock(), {name: [] for name in runs}

    def parts() -> None:
        wanted = -(-channels // 3)
        for name, run in runs.items():
            work = partial(list, itertools.islice(run, wanted))
            found[name] += clock.run(name, work)

    parts()
    exact = clock.run("exact", lambda: ablate_channels(network, batches))
    parts()
    racing = clock.run(
        "racing", lambda: ablate_channels(network, batches, mode="racing", share=SHARE)
    )
    parts()
    truth = np.array(found["naive"])
    ours = np.concatenate([exact.estimate[group.name] for group in network.groups])
    wanted = round(SHARE * channels)
    lowest = set(np.argsort(truth, kind="stable")[:wanted].tolist())
    offsets = np.cumsum([0, *(len(group) for group in network.groups)])
    raced = {
        int(offset) + int(place)
        for offset, group in zip(offsets, network.groups, strict=False)
        for place in racing.lowest[group.name]
    }
    return {
        "seconds": clock.spent,
        "channels": channels,
        "largest difference": float(np.abs(truth - ours).max()),
        "largest change": float(np.abs(truth).max()),
        "found, exact": len(lowest & set(np.argsort(ours, kind="stable")[:wanted].tolist()))
        / wanted,
        "found, racing": len(lowest & raced) / wanted,
        "removed for real, racing": racing.spent,
        "accuracy": float(exact.dense_correct.sum() / exact.images.sum()),
    }


def rows(result: dict[str, object], network: str) -> list[list[str]]:
    seconds = result["seconds"]
    shown = []
    for name in seconds:
        found = {"exact": result["found, exact"], "racing": result["found, racing"]}.get(name, 1.0)
        shown.append(
            [
                SAYS[network] if not shown else "",
                name,
                f"{seconds[name]:.1f}",
                f"**{seconds['naive'] / seconds[name]:.1f}x**",
                f"{seconds.get('naive, channels last', np.nan) / seconds[name]:.1f}x",
                f"{100 * found:.1f} %",
            ]
        )
    return shown


COLUMNS = (
    "ResNet-18",
    "way",
    "seconds",
    "faster than naive",
    "than naive, channels last",
    "lowest fifth found",
)


def summarise_results(results: dict[str, dict[str, object]], arguments: argparse.Namespace) -> str:
    each = "; ".join(
        f"{SAYS[network]}: {result['channels']} channels, {100 * result['accuracy']:.0f} % right, "
        f"largest difference between exact and naive {result['largest difference']:.0e} (largest "
        f"change of the loss {result['largest change']:.2f}), racing looked at "
        f"{100 * result['removed for real, racing']:.0f} % of the pairs of a channel and an image"
        for network, result in results.items()
    )
    return (
        f"Width {arguments.width}, {arguments.images} images in batches of {arguments.batch}, one "
        f"thread, processor time. {each}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("networks", nargs="*", help=", ".join(NETWORKS))
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=300, help="to train for, of 64 images")
    parser.add_argument("--weights", type=Path, help="a folder: read there; written if not there")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--quick", action="store_true", help="without naive, channels last")
    parser.add_argument("--write", action="store_true", help="write docs/benchmarks.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for network in arguments.networks or NETWORKS:
        torch.manual_seed(0)
        data = load_data(network)
        model = build(network, data, arguments.width)
        kept = arguments.weights and arguments.weights / f"{network}-{arguments.width}.pt"
        if kept and kept.exists():
            model.load_state_dict(torch.load(kept, weights_only=True))
        else:
            train(model, data, arguments.batches, 64)
            if kept:
                kept.parent.mkdir(parents=True, exist_ok=True)
                torch.save(model.state_dict(), kept)
        model.eval()
        results[network] = measure(model, data, arguments)
        print(markdown(COLUMNS, rows(results[network], network)), flush=True)
    shown = [row for network, result in results.items() for row in rows(result, network)]
    text = f"{markdown(COLUMNS, shown)}\n\n{summarise_results(results, arguments)}"
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    if arguments.write:
        put(PAGE, "ablation", text)


if __name__ == "__main__":
    main()
