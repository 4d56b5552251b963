"""Faults, on purpose: killed processes, flipped bits, full disks, hostile files; a table of it all.

``make faults`` tries a nightly's worth, ``make faults-ci`` a small one. Everything that is random
depends on ``--seed`` alone. Exits with 1 where anything came out that should not.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs.cli.options import pairs_from, shape_from
from secateurs.comparison import Comparison
from secateurs.planning.damage_curves import Sensitivity
from secateurs.pytorch.saving import read
from secateurs.report.summary import summarise
from secateurs.settings.study import Configuration, Task, parse_budget
from secateurs.study.directory import Study

ROOT = Path(__file__).parents[1]
Row = tuple[str, int, str, bool]
"""A fault, how often it was tried, its outcome, and whether that is the expected one."""


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2))


def data() -> tuple[np.ndarray, np.ndarray]:
    inputs = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    return inputs, (inputs[:, 0] > 0).astype(np.int64)


def study(directory: Path) -> sec.Iterated:
    training = sec.Training(batches=4, fine_tune_batches=4, batch_size=16)
    stop = sec.Stop(rounds=1, tolerance=None)
    options = {"step": 0.2, "stop": stop, "training": training, "measure_speed": False}
    return sec.iterate(network(), data(), data(), directory=directory, **options)


def kill_studies(moments: int) -> Iterator[Row]:
    """SIGKILL at so many steps of a study (batch, flush, renaming, ...); it goes on each time."""
    for optimizer in ("sgd", "adamw", "keras-sgd", "keras-adamw"):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-m", "support.killed", folder, str(moments), optimizer],
                cwd=ROOT / "tests",
                capture_output=True,
                text=True,
                check=True,
            )
            whole, *others = map(json.loads, done.stdout.splitlines())
            expected = outcome_of(Path(folder) / "whole")
            same = sum(outcome_of(Path(folder) / one["name"]) == expected for one in others)
        output = f"{same} ended with the history and the weights of an undisturbed study"
        steps = whole["steps"]
        yield (
            f"kill -9, {optimizer}, at steps 1 to {steps}",
            len(others),
            output,
            same == len(others),
        )


def outcome_of(directory: Path) -> tuple[object, ...]:
    history = [
        {name: value for name, value in record.items() if name != "seconds"}
        for record in sec.History.load(directory / "history.jsonl")
    ]
    tensors, cut = read(directory / "best.safetensors")
    return history, cut, {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def flip_bits(times: int, seed: int) -> Iterator[Row]:
    """One bit of one of a study's files, anywhere in it."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "study"
        study(place)
        for name in ("checkpoint.safetensors", "history.jsonl", "config.json"):
            whole = (place / name).read_bytes()
            noticed = 0
            for _ in range(times):
                content = bytearray(whole)
                content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
                (place / name).write_bytes(content)
                try:
                    study(place)
                except sec.SecateursError:
                    noticed += 1
            (place / name).write_bytes(whole)
            yield f"a flipped bit in {name}", times, f"{noticed} noticed", noticed == times


def full_disk(sizes: int) -> Iterator[Row]:
    """The disk is full from the nth flush on; afterwards there is room, and the study goes on."""
    flush, fine = os.fsync, 0
    with tempfile.TemporaryDirectory() as folder:
        expected = study(Path(folder) / "whole").model.state_dict()
        for size in range(sizes):
            place = Path(folder) / f"{size}"
            left = [size]

            def full(handle: int, left: list[int] = left) -> None:
                left[0] -= 1
                if left[0] < 0:
                    raise OSError(28, "No space left on device")
                flush(handle)

            os.fsync = full
            try:
                study(place)
            except sec.StudyError:
                pass
            finally:
                os.fsync = flush
            torn = list(place.rglob("*.tmp"))
            received = study(place).model.state_dict()
            same = all(torch.equal(received[name], expected[name]) for name in expected)
            fine += same and not torn
    yield "a full disk", sizes, f"{fine} said so, and went on to the same weights", fine == sizes


def hostile(inputs: int, seed: int) -> Iterator[Row]:
    """Mutated input for every parser: an error of ours, or a value; never another error."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    with tempfile.TemporaryDirectory() as folder:
        parsers = parsers_in(Path(folder))
        for name, (sample, parse) in parsers.items():
            count = max(1, inputs // len(parsers))
            leaks: Counter[str] = Counter()
            start = time.monotonic()
            for number in range(count):
                change = mutate_values if number % 2 else mutate
                try:
                    parse(change(sample, chance))
                except sec.SecateursError as error:
                    if "\n" in str(error):
                        leaks["message of several lines"] += 1
                except Exception as error:  # noqa: BLE001 - this is what is looked for
                    leaks[type(error).__name__] += 1
            shown = ", ".join(f"{many} {kind}" for kind, many in leaks.items()) or "no other error"
            seconds = time.monotonic() - start
            yield f"hostile input: {name}", count, f"{shown} ({seconds:.0f} s)", not leaks


Parser = Callable[[bytes], object]


def parsers_in(folder: Path) -> dict[str, tuple[bytes, Parser]]:
    """Parser -> (a sound input, what reads another)."""
    sec.save(sec.prune(network(), data()[0], sec.Budget(params=0.6)).model, folder / "m")
    torch.save(network().state_dict(), folder / "p")
    cut = sec.report_of(sec.load(network(), folder / "m")).cut
    configuration = Configuration(task=Task(model="resnet18", data="digits", by_name=True))
    configuration.save(folder / "c")
    comparison = Comparison(task=configuration.task, strategies=("l1",), amounts=(0.5,))
    comparison.save(folder / "k")
    study(folder / "study")
    (folder / "h").write_bytes((folder / "study" / "history.jsonl").read_bytes())

    def by_file(name: str, load: Callable[[Path], object]) -> Parser:
        def parse(content: bytes) -> object:
            (folder / name).write_bytes(content)
            return load(folder / name)

        return parse

    def text(parse: Callable[[str], object]) -> Parser:
        return lambda content: parse(content.decode(errors="replace"))

    def study_of(path: Path) -> object:
        (folder / "config.json").write_bytes(path.read_bytes())
        return Study.open(folder)

    dense, example = network(), data()[0][:1]
    traced = sec.trace(dense, example)
    scores = sec.score(traced, "l1")
    sec.sensitivity(traced, data()).save(folder / "s")

    def cut_by(source: str) -> object:
        return sec.apply(dense, sec.Cut.from_json(source), example)

    def plan_by(path: Path) -> object:
        return sec.plan(traced, scores, amount=0.5, sensitivity=Sensitivity.load(path))

    def sum_up(path: Path) -> object:
        return summarise(sec.History.load(path))

    return {
        "Cut.from_json, apply": (cut.to_json().encode(), text(cut_by)),
        "sec.load, safetensors": (
            (folder / "m").read_bytes(),
            by_file("1.safetensors", lambda path: sec.load(network(), path)),
        ),
        "sec.load, PyTorch": (
            (folder / "p").read_bytes(),
            by_file("2.pt", lambda path: sec.load(network(), path)),
        ),
        "Study.open": ((folder / "c").read_bytes(), by_file("3", study_of)),
        "Comparison.load": ((folder / "k").read_bytes(), by_file("4", Comparison.load)),
        "History.load, summarise": ((folder / "h").read_bytes(), by_file("5", sum_up)),
        "Sensitivity.load, plan": ((folder / "s").read_bytes(), by_file("6", plan_by)),
        "a budget": (b"macs=0.5,size_mb=15 kB", text(parse_budget)),
        "a shape": (b"1x3x224x224", text(shape_from)),
        "an option": (b'width=[1, {"a": 2}]', text(lambda source: pairs_from([source], "-o"))),
    }


def mutate(sample: bytes, chance: random.Random) -> bytes:
    """A sample with a few bytes changed, cut off, doubled, or put inside brackets."""
    content = bytearray(sample)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) + 1)
        kind = chance.randrange(6)
        if kind == 0 and content:
            content[at % len(content)] ^= 1 << chance.randrange(8)
        elif kind == 1:
            content[at:at] = chance.randbytes(chance.randint(1, 8))
        elif kind == 2:
            del content[at : at + chance.randint(1, 64)]
        elif kind == 3:
            content[at:at] = content[at : at + 32]
        elif kind == 4:
            words = (b"null", b"-1", b"1e999", b"NaN", b"[]", b"{}", "²".encode(), b"[" * 2000)
            content[at:at] = chance.choice(words)
        else:
            content = content[:at]
    return bytes(content)


WORDS: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308),
    *(
        float("nan"),
        float("inf"),
        "",
        " ",
        "²",
        "\x00",
        "\ud800",
        "1",
        "nan",
        "../../x",
        "/dev/zero",
    ),
    *(
        "__class__",
        "weight",
        "0.weight",
        "a" * 3000,
        "os:getcwd",
        [],
        [[]],
        {},
        {"": {}},
        [1, 2, 3],
    ),
    *([0, 0], [-1], [2**70], ["0"], {"0": [0]}, {"axis": None}, [None], [[1, 2], [3]]),
)


def mutate_values(sample: bytes, chance: random.Random) -> bytes:
    """A sample whose values were changed and whose checksums are gone: those are not the last line.

    JSON, lines of JSON, and the header of a safetensors file, with the JSON in its metadata.
    """
    if sample[8:9] == b"{":
        length = int.from_bytes(sample[:8], "little")
        header = json.loads(sample[8 : 8 + length])
        header.get("__metadata__", {}).pop("checksum", None)
        text = json.dumps(change_nodes(header, chance)).encode(errors="surrogatepass")
        return len(text).to_bytes(8, "little") + text + sample[8 + length :]
    lines = sample.split(b"\n")
    at = chance.randrange(max(1, len(lines) - 1))
    whole = len(lines) > 2 and lines[0] == b"{"
    try:
        values = json.loads(sample if whole else lines[at])
    except ValueError:
        return mutate(sample, chance)  # no JSON
    if isinstance(values, dict):
        for name in ("checksum", "crc", "crc32"):
            values.pop(name, None)
    text = json.dumps(change_nodes(values, chance)).encode(errors="surrogatepass")
    return text if whole else b"\n".join([*lines[:at], text, *lines[at + 1 :]])


def change_nodes(values: Any, chance: random.Random) -> Any:
    """JSON with one to three of its values replaced, removed, or put under another name."""
    for _ in range(chance.randint(1, 3)):
        nodes = list(nodes_of(values))
        if not nodes:
            return chance.choice(WORDS)
        holder, key = chance.choice(nodes)
        word = chance.choice(WORDS)
        text = holder[key]
        if isinstance(text, str) and text[:1] in "{[" and text and chance.random() < 0.8:
            with suppress(ValueError):  # JSON inside JSON, such as the cut of a model's file
                holder[key] = json.dumps(change_nodes(json.loads(text), chance))
                continue
        kind = chance.randrange(4)
        if kind < 2:
            holder[key] = copy.deepcopy(word)
        elif kind == 2:
            del holder[key]
        elif isinstance(holder, dict):
            holder[str(word)[:50]] = holder.pop(key)
        else:
            holder.insert(0, copy.deepcopy(word))
    return values


def nodes_of(values: Any) -> Iterator[tuple[Any, Any]]:
    """(holder, key) of every value inside."""
    for key in list(values) if isinstance(values, dict) else range(len(values)):
        yield values, key
        if isinstance(values[key], dict | list):
            yield from nodes_of(values[key])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of each optimizer")
    parser.add_argument("--flips", type=int, default=100, help="of each file")
    parser.add_argument("--disks", type=int, default=12)
    parser.add_argument("--inputs", type=int, default=100_000, help="over all parsers")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    Study.report = lambda self: self.directory / "report.html"  # drawing takes the longest
    print("| fault | times | outcome |\n| --- | --- | --- |")
    wrong = 0
    for rows in (
        hostile(asked.inputs, asked.seed),
        flip_bits(asked.flips, asked.seed),
        full_disk(asked.disks),
        kill_studies(asked.kills),
    ):
        for tried, times, output, fine in rows:
            wrong += not fine
            print(f"| {tried} | {times:,} | {output}{'' if fine else ' **(wrong)**'} |", flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
