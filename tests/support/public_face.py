"""Every public call with valid arguments, to be replaced by wrong ones one by one."""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import secateurs as sec
from secateurs import data, models


@dataclass(frozen=True)
class Call:
    """A public function, and keyword arguments that it accepts."""

    name: str
    function: Callable[..., Any]
    arguments: Mapping[str, Any]

    def but(self, name: str, value: Any) -> Callable[[], Any]:
        return lambda: self.function(**{**self.arguments, name: value})


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 2),
    )  # fmt: skip


def calls(folder: Path) -> list[Call]:
    model = small_model().eval()
    images = np.random.default_rng(0).standard_normal((8, 1, 4, 4)).astype(np.float32)
    labels = np.arange(8) % 2
    pair = (images, labels)
    net = sec.trace(model, images[:1])
    scores = sec.score(net, "l1")
    cut = sec.plan(net, scores, amount=0.5)
    saved = folder / "saved.safetensors"
    sec.save(model, saved)
    cut.save(folder / "cut.json")
    exact = sec.ablate(net, pair)
    training = sec.Training(fine_tune_batches=1, batch_size=4)
    quick = {"training": training, "stop": sec.Stop(rounds=0, tolerance=None)}
    kept = {"directory": folder / "study", "fresh": True}
    with_planner = {"planner": lambda scores: cut, "candidates": ("l1", "l2")}
    planned = {
        "amount": None, "threshold": None, "scope": "group", "floor": 0.1, "multiple": 1,
        "skip": (), "sensitivity": None, "latency_model": None,
    }  # fmt: skip
    judged = {"output": None, "sources": None, "second_domain": None}
    fitted = {"distil": None, "augmentation": None, "copies": 0, "seed": 0, **judged}
    halved = sec.apply(model, cut, images[:1])
    return [
        Call("trace", sec.trace, {"model": model, "example_inputs": images[:1], "outputs": None}),
        Call("apply", sec.apply, {"model": model, "cut": cut, "example_inputs": images[:1],
                                  "optimizer": None, "network": net, "proof": True}),
        Call("score", sec.score, {"network": net, "criterion": "l1", "data": pair, "loss": None,
                                  "seed": 0}),
        Call("score taylor", sec.score, {"network": net, "criterion": "taylor", "data": pair,
                                         "loss": None, "seed": 0}),
        Call("score_many", sec.score_many, {"network": net, "criteria": ["l1"], "data": pair,
                                            "loss": None, "seed": 0}),
        Call("plan", sec.plan, {"network": net, "scores": scores, "budget": sec.Budget(macs=0.7),
                                **planned}),
        Call("plan by amount", sec.plan, {"network": net, "scores": scores, "amount": 0.5}),
        Call("plan by threshold", sec.plan, {"network": net, "scores": scores, "threshold": 0.1}),
        Call("delete_channels", sec.delete_channels, {"model": model, "channels": {"0": [1]},
                                                      "example_inputs": images[:1],
                                                      "outputs": None}),
        Call("save", sec.save, {"model": model, "path": folder / "again.safetensors"}),
        Call("load", sec.load, {"model": model, "path": saved, "ema": False}),
        Call("ablate", sec.ablate, {"network": net, "data": pair, "mode": "exact", "share": 0.5,
                                    "scope": "network", "confidence": 0.9, "loss": None}),
        Call("prune", sec.prune, {"model": model, "example_inputs": images[:1],
                                  "budget": sec.Budget(macs=0.7), "criterion": "l1",
                                  "calibration": None, "loss": None, "seed": 0, **planned,
                                  "validation": None, "repair": None, "distil": None,
                                  "augmentation": None, "copies": 0, "proof": True,
                                  "outputs": None,
                                  "uniform": False, **judged}),
        Call("prune by images", sec.prune, {"model": model, "example_inputs": images[:1],
                                            "budget": "macs=0.7", "calibration": images,
                                            "scope": None, "sensitivity": None, **fitted}),
        Call("prune to a drop", sec.prune, {"model": model, "example_inputs": images[:1],
                                            "budget": "drop=0.5", "validation": pair}),
        Call("repair", sec.repair, {"small": halved, "dense": model, "images": images,
                                    "example_inputs": images[:1], **fitted}),
        Call("frontier", sec.frontier, {"model": model, "example_inputs": images[:1],
                                        "calibration": images, "unit": "macs", "shares": (0.7,),
                                        "criterion": "l1", "loss": None, "floor": None,
                                        "multiple": None, "skip": (), **fitted}),
        Call("bench", sec.bench, {"models": [model], "example_inputs": images[:1],
                                  "runtimes": ("eager",), "batches": (1,), "threads": (1,),
                                  "device": "cpu", "repeats": 2, "seed": 0}),
        Call("profile", sec.profile, {"model": model, "example_inputs": images[:1],
                                      "runtime": "eager", "batch": 1, "threads": 1,
                                      "dtype": "float32", "device": "cpu", "cuts": 4,
                                      "fresh": False, "seed": 0}),
        Call("export", sec.export, {"model": model, "path": folder / "small.safetensors",
                                    "example_inputs": images[:1], "to": None, "overwrite": True,
                                    "tolerance": 1e-4, "int8": None}),
        Call("iterate", sec.iterate, {"model": model, "train": pair, "validation": pair,
                                      "test": None, "step": 0.3, "criterion": "l1", **quick,
                                      "loss": None, "task": None, "metric": None,
                                      "train_step": None, "evaluate": None,
                                      "directory": None, "fresh": False,
                                      "watcher": None}),
        Call("compare", sec.compare, {"model": model, "train": pair, "validation": pair,
                                      "test": None, "strategies": ("l1",), "amounts": (0.3,),
                                      "seeds": 1, "training": training, **kept,
                                      "callback": None}),
        Call("sensitivity", sec.sensitivity, {"network": net, "data": pair, "criterion": "l1",
                                              "amounts": (0.5,), "loss": None, "seed": 0,
                                              "cache": None}),
        Call("tournament", sec.tournament, {"network": net, "data": pair, **with_planner,
                                            "loss": None, "seed": 0}),
        Call("redundant", sec.redundant, {"network": net, "similarity": 0.9, "data": None}),
        Call("critical_channels", sec.critical_channels, {"network": net, "ablation": exact,
                                                          "best": 1}),
        Call("report_of", sec.report_of, {"model": model}),
        Call("Training", sec.Training, {"batches": 1, "optimizer": "sgd", "schedule": "cosine"}),
        Call("Pruning", sec.Pruning, {"step": 0.1, "skip": (), "criterion": "l1"}),
        Call("Stop", sec.Stop, {"rounds": 1, "budget": None, "tolerance": 0.1}),
        Call("Cut.load", sec.Cut.load, {"path": folder / "cut.json"}),
        Call("Cut.from_json", sec.Cut.from_json, {"source": cut.to_json()}),
        Call("Cut.save", cut.save, {"path": folder / "cut2.json"}),
        Call("Network.cut", net.cut, {"channels": {net.groups[0].name: [0]}}),
        Call("Study.open", sec.Study.open, {"directory": folder}),
        Call("History.load", sec.History.load, {"path": folder / "cut.json"}),
        Call("Sensitivity.load", sec.Sensitivity.load, {"path": folder / "cut.json"}),
        Call("data.load", data.load, {"name": "digits", "seed": 0, "size": None,
                                      "validation": 0.15, "test": 0.15, "limit": 20}),
        Call("data.from_arrays", data.from_arrays, {"train": pair, "validation": None,
                                                    "test": None, "classes": None,
                                                    "name": "mine", "seed": 0}),
        Call("models.build", models.build, {"name": "resnet18", "classes": 2, "width": 2}),
    ]  # fmt: skip


def _function(*arguments: Any) -> None:
    return None


JUNK: tuple[Any, ...] = (
    None, True, 0, 1, -1, 10**12, 0.5, -0.5, 2.5, float("nan"), float("inf"), "", "banana",
    "macs=0.5", "conv1", b"bytes", [], [1, 2], ["conv1"], [None], (), (1, 2), {}, {"a": 1},
    {1: [0]}, {"0": ["x"]}, {"0": 3}, set(), object(), int, Path("nowhere/at/all"), 3j,
    np.float32(0.5), np.int64(2), np.zeros(0, np.float32), np.zeros((2, 3)),
    np.zeros((2, 1, 4, 4), np.float32), np.array(["a"]), np.array([object()]),
    torch.zeros(2, 3), torch.zeros(0), nn.Linear(2, 2), nn.ReLU(), nn.Linear, _function, print,
    iter([]), range(3), types.SimpleNamespace(),
    (np.zeros((4, 1, 4, 4), np.float32), None), ([], []), ([1, 2], [0, 1]),
    (np.zeros((4, 1, 4, 4), np.float32), np.zeros(3, np.int64)),
    (np.zeros((4, 1, 4, 4), np.float32), np.zeros(4)),
    (np.zeros((4, 1, 4, 4), np.float32), np.array(["a", "b", "a", "b"])),
    [(np.zeros((4, 1, 4, 4), np.float32),)], [{"pixel_values": 1}], [[1, 2]],
)  # fmt: skip
