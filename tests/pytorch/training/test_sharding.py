"""Models that processes share while they train (FSDP), against whole ones (DDP)."""

import json
from types import SimpleNamespace

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

import secateurs as sec
from secateurs.errors import ModelError
from secateurs.pytorch.training.optimizers import make_optimizer
from secateurs.pytorch.training.processes import make_accelerator
from secateurs.pytorch.training.sharding import (
    ShardedTraining,
    Sharding,
    explain_split_weights,
    read_sharding,
)
from support.launched import run_in_two_processes


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """What each of two processes found in the studies of ``support.sharded``."""
    place = tmp_path_factory.mktemp("sharded")
    run_in_two_processes("sharded", place, 200)
    return [json.loads((place / f"process-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("case", ["norm", "size"])
def test_a_shared_model_trains_like_a_whole_one_in_each_process(pair, case):
    one, other = (found[case] for found in pair)
    assert one["shared"]["state"] == other["shared"]["state"]
    pairs = list(zip(one["whole"]["history"], one["shared"]["history"], strict=True))
    assert len([whole for whole, _ in pairs if whole["kind"] == "prune"]) == 2
    for whole, shared in pairs:
        for key in ("loss", "validation_loss"):
            assert (shared.pop(key) or 0.0) == pytest.approx(whole.pop(key) or 0.0, rel=1e-5)
        assert shared == whole
    state = one["whole"]["state"]
    assert state.keys() == one["shared"]["state"].keys()
    for name, values in one["shared"]["state"].items():
        torch.testing.assert_close(
            torch.tensor(values), torch.tensor(state[name]), rtol=1e-4, atol=1e-5
        )


def test_each_process_holds_half_of_what_is_trained(pair):
    params = [record["params"] for record in pair[0]["step"]["history"]]
    dense, *rounds = [count for count in params if count is not None]
    batches = [dense] * 12 + [rounds[0]] * 6 + [rounds[1]] * 6
    held = [found["held"] for found in pair]
    assert [sum(both) for both in zip(*held, strict=True)] == batches
    assert all(0.4 < one / (one + other) < 0.6 for one, other in zip(*held, strict=True))


def test_an_interrupted_study_of_a_shared_model_goes_on(pair):
    for found in pair:
        assert found["resumed"]["state"] == found["step"]["state"]
    assert pair[0]["resumed"]["history"] == pair[0]["step"]["history"]  # the main process has all


@pytest.fixture
def mesh(tmp_path):
    """This process alone, as one of one."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    yield init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.linear, self.norm = nn.Linear(width, width), nn.LayerNorm(width)

    def forward(self, x):
        return x + self.norm(self.linear(x))


class Blocks(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Block(4), Block(4)])
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.head(self.attention(x, x, x)[0])


def spread(model, sharding):
    optimizer = make_optimizer(model, sec.Training())
    return ShardedTraining(model, optimizer, {}, sharding, nn.Sequential, sec.Training())


def units_of(model, mesh, **policy):
    inside = spread(model, Sharding(mesh, **policy)).model
    return [name for name, module in inside.named_modules() if isinstance(module, FSDPModule)]


@pytest.mark.usefixtures("mesh")
def test_units_are_by_class_by_size_or_none(mesh):
    layers = ["layers.0", "layers.1"]
    assert units_of(Blocks(), mesh) == []
    assert units_of(Blocks(), mesh, layers=("Block",)) == layers
    # 20 parameters in a linear layer, 28 in a block, 80 in the attention, 15 in the head
    assert units_of(Blocks(), mesh, least=28) == [*layers, "attention"]
    assert units_of(Blocks(), mesh, least=20) == [f"{n}.linear" for n in layers] + ["attention"]
    assert units_of(Blocks(), mesh, layers=()) == []
    named = Blocks()
    named._no_split_modules = ["Block"]
    assert units_of(named, mesh, layers=()) == layers
    with pytest.raises(sec.SecateursError, match=r"expected classes .* Blocks; received Blok"):
        units_of(Blocks(), mesh, layers=("Blok",))


def test_the_whole_model_is_empty_meanwhile_and_the_same_afterwards(mesh):
    model = Blocks()
    model.attention.in_proj_weight.data = model.attention.in_proj_weight.data.t().contiguous().t()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stride = model.attention.in_proj_weight.stride()
    shared = spread(model, Sharding(mesh, layers=("Block",)))
    assert sum(parameter.numel() for parameter in model.parameters()) == 0
    average = {name: value.detach() + 1 for name, value in shared.model.state_dict().items()}
    gathered = shared.gather({name: value.to_local() for name, value in average.items()})
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
        assert torch.equal(gathered[name], before[name] + 1)
    assert model.attention.in_proj_weight.stride() == stride
    assert not any(isinstance(module, FSDPModule) for module in model.modules())


def test_what_fsdp_cannot_share_is_refused(mesh):
    mixed = Blocks()
    mixed.head.double()
    with pytest.raises(ModelError, match=r"Blocks: .*one dtype.*float32, float64.*model\.float"):
        spread(mixed, Sharding(mesh))

    class Reader(Blocks):
        def forward(self, x):
            return nn.functional.linear(x, self.layers[0].linear.weight)

    shared = spread(Reader(), Sharding(mesh, layers=("Block",)))
    fix = r"used by this unit only.*policy NO_WRAP"
    with pytest.raises(ModelError, match=fix), explain_split_weights():
        shared.shell(torch.ones(1, 2, 4))
    with pytest.raises(RuntimeError, match=r"^other$"), explain_split_weights():
        raise RuntimeError("other")


def accelerator(plugin, precision="no", processes=2):
    return SimpleNamespace(
        distributed_type="DistributedType.FSDP",
        num_processes=processes,
        mixed_precision=precision,
        state=SimpleNamespace(fsdp_plugin=plugin),
        device=torch.device("cpu"),
    )


def plugin_of(**settings):
    return FullyShardedDataParallelPlugin(fsdp_version=2, **settings)


def test_a_launch_says_how_models_are_shared(monkeypatch):
    made = []
    monkeypatch.setattr(
        "torch.distributed.device_mesh.init_device_mesh", lambda *given: made.append(given)
    )
    by_class = {"transformer_cls_names_to_wrap": ["Block"]}
    policy = "transformer_based_wrap"
    found = read_sharding(accelerator(plugin_of(auto_wrap_policy=policy, **by_class)))
    assert (found.layers, found.least, found.reshard) == (("Block",), None, True)
    policy = "size_based_wrap"
    found = read_sharding(accelerator(plugin_of(auto_wrap_policy=policy, min_num_params=9)))
    assert (found.layers, found.least) == (None, 9)
    found = read_sharding(accelerator(plugin_of(reshard_after_forward=False)))
    assert (found.layers, found.least, found.reshard) == (None, None, False)
    assert made == [("cpu", (2,))] * 3
    alone = SimpleNamespace(distributed_type="DistributedType.NO", num_processes=1)
    assert read_sharding(alone) is None


@pytest.mark.parametrize(
    ("plugin", "precision", "option"),
    [
        ({"cpu_offload": True}, "no", "--fsdp_offload_params"),
        ({"activation_checkpointing": True}, "no", "--fsdp_activation_checkpointing"),
        ({"ignored_modules": "head"}, "bf16", "--fsdp_ignored_modules"),
        ({}, "fp16", "--mixed_precision fp16"),
    ],
)
def test_options_without_support_are_refused(plugin, precision, option):
    with pytest.raises(sec.SecateursError, match=rf"without {option}, which is not supported"):
        read_sharding(accelerator(plugin_of(**plugin), precision))


def test_version_one_is_refused_before_it_is_set_up(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    fix = r"version 2; received 1\. .*--use_fsdp --fsdp_version 2"
    with pytest.raises(sec.SecateursError, match=fix):
        make_accelerator(sec.Training())
    with pytest.raises(sec.SecateursError, match=fix):
        read_sharding(accelerator(SimpleNamespace(fsdp_version=1)))
