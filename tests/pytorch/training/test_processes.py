"""A single process among those that train together."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import secateurs as sec
from secateurs import models
from secateurs.pytorch import Learner
from secateurs.pytorch.training.processes import Processes, was_launched_alone
from secateurs.training.feed import Shard
from support import killed


def cnn():
    torch.manual_seed(0)
    return models.vanilla_cnn(3, in_channels=1, size=8, widths=(6, 8), hidden=10)


def learner(model=None, train=None, **training):
    settings = sec.Training(**{"batch_size": 16, "learning_rate": 0.05} | training)
    train = killed.examples(80, 1) if train is None else train
    data = train, killed.examples(30, 2), None
    return Learner(model or cnn(), *data, settings)


def nothing():
    pass


def test_an_engine_that_keeps_models_spread_is_refused(monkeypatch):
    monkeypatch.setattr(
        "secateurs.pytorch.training.processes.make_accelerator",
        lambda training: SimpleNamespace(
            num_processes=1, distributed_type="DistributedType.DEEPSPEED"
        ),
    )
    with pytest.raises(
        sec.SecateursError, match=r"received DEEPSPEED.*without --use_deepspeed; .*--use_fsdp"
    ):
        learner()


def test_a_single_process_shares_nothing():
    alone = Processes(sec.Training())
    assert (alone.share, alone.is_main, alone.device) == (Shard(0, 1), True, torch.device("cpu"))
    assert alone.agree(lambda: "cut") == "cut"
    tensor = torch.ones(2)
    assert alone.sum(tensor) is tensor
    alone.check_agreement("the cut", "anything")
    alone.average_(nn.BatchNorm1d(2).buffers())
    with alone.sum_gradients(cnn(), now=False):
        pass


def test_a_launch_of_several_that_is_one_is_refused(monkeypatch):
    for name in ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert not was_launched_alone()
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert was_launched_alone()
    with pytest.raises(sec.SecateursError, match="Start them with torchrun instead"):
        Processes(sec.Training())
    monkeypatch.setenv("PMI_SIZE", "2")
    assert not was_launched_alone()


def test_processes_that_were_set_up_apart_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        "secateurs.pytorch.training.processes.make_accelerator",
        lambda training: SimpleNamespace(num_processes=1),
    )
    with pytest.raises(
        sec.SecateursError, match=r"2 processes were started, .* set up for 1 before"
    ):
        Processes(sec.Training())


def of_two(monkeypatch, broadcast=None, gathered=None):
    """As if this were one of two processes."""
    accelerator = SimpleNamespace(
        num_processes=2, process_index=1, is_main_process=False, distributed_type="MULTI_CPU"
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(
        "secateurs.pytorch.training.processes.make_accelerator", lambda training: accelerator
    )
    monkeypatch.setattr("accelerate.utils.broadcast_object_list", lambda verdict: broadcast)
    monkeypatch.setattr("accelerate.utils.gather_object", lambda values: gathered)
    return Processes(sec.Training())


def test_decisions_and_errors_of_the_main_process_reach_all(monkeypatch):
    second = of_two(monkeypatch, broadcast=[None, "cut"])
    assert second.share == Shard(1, 2)
    assert second.agree(lambda: "mine") == "cut"
    second = of_two(monkeypatch, broadcast=["BudgetError", "too small"])
    with pytest.raises(sec.BudgetError, match="too small"):
        second.agree(lambda: "mine")


def test_processes_that_hold_different_models_stop(monkeypatch):
    of_two(monkeypatch, gathered=["a", "a"]).check_agreement("the model", "a")
    with pytest.raises(sec.SecateursError, match=r"the model: .*process 1 has b, process 0 a"):
        of_two(monkeypatch, gathered=["a", "b"]).check_agreement("the model", "b")
