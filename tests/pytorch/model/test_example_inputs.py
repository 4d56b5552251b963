"""Models that users pass: wrappers are removed, unsupported ones refused with the remedy."""

import copy

import pytest
import torch
from torch import nn
from torch.distributed import fsdp
from torch.distributed.device_mesh import init_device_mesh
from torch.nn.utils import parametrizations

import secateurs as sec
from secateurs.errors import ModelError


def plain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


IMAGE = torch.randn(1, 3, 8, 8)


def halve(model, inputs=IMAGE):
    network = sec.trace(model, inputs)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5)
    return sec.apply(model, cut, inputs, network=network)


pytestmark = [
    # PyTorch's own, for what these tests are about.
    pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning"),
]


@pytest.mark.parametrize(
    "wrap", [torch.compile, nn.DataParallel, lambda model: torch.compile(nn.DataParallel(model))]
)
def test_wrappers_are_taken_off(wrap):
    small = halve(wrap(plain()))
    assert type(small) is nn.Sequential
    assert small[0].out_channels == 4
    assert torch.equal(small[0].weight, halve(plain())[0].weight)


def expect_refusal(model, match, inputs=IMAGE):
    with pytest.raises(ModelError, match=match):
        sec.trace(model, inputs)


@pytest.fixture
def process_group(tmp_path):
    """This process alone, as one of one."""
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about shards on a CPU
@pytest.mark.usefixtures("process_group")
def test_parallel_models_are_unwrapped_and_sharded_ones_refused():
    parallel = nn.parallel.DistributedDataParallel(plain())
    assert halve(parallel)[0].out_channels == 4
    whole = r"expected a whole model.*Prune or save it before it is wrapped"
    expect_refusal(fsdp.FullyShardedDataParallel(plain(), device_id=torch.device("cpu")), whole)
    sharded = plain()
    fsdp.fully_shard(sharded, mesh=init_device_mesh("cpu", (1,)))
    expect_refusal(sharded, whole)


def test_scripted_models_are_refused():
    expect_refusal(
        torch.jit.trace(plain(), IMAGE), r"received a scripted one[\s\S]*script the result"
    )


def test_lazy_modules_are_refused_until_they_have_run():
    lazy = nn.Sequential(nn.LazyConv2d(8, 3), nn.Flatten(), nn.LazyLinear(4))
    expect_refusal(lazy, r"0\.weight: .*Run the model once on the example inputs")
    lazy(IMAGE)
    assert halve(lazy)[0].out_channels == 4


def test_sparse_and_quantised_weights_are_refused():
    sparse = plain()
    sparse.register_buffer("table", torch.eye(4).to_sparse())
    expect_refusal(
        sparse, r"table: expected a dense tensor; received a sparse_coo one\. Make it dense"
    )
    quantised = plain()
    quantised.register_buffer(
        "scale", torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
    )
    expect_refusal(quantised, "scale: expected floating-point weights")


@pytest.mark.parametrize(
    "parametrised", [parametrizations.weight_norm, parametrizations.spectral_norm]
)
def test_parametrised_weights_are_cut_or_left_alone(parametrised):
    model = plain().eval()
    parametrised(model[0])
    before = copy.deepcopy(model)
    network = sec.trace(model, IMAGE)
    if parametrised is parametrizations.weight_norm:
        small = halve(model)
        assert small[0].weight.shape[0] == small[4].in_features == 4
        assert sec.report_of(small).proof.holds
        assert small[0].out_channels == 4
    else:  # the largest stretch of a matrix is that of all its channels together
        assert [group.inexact for group in network.groups] == [
            ("vdot over channels in 0.parametrizations.weight.0",)
        ]
    assert torch.equal(before(IMAGE), model(IMAGE))


@pytest.mark.filterwarnings("ignore:.*weight_norm. is deprecated")
@pytest.mark.parametrize("normalised", [parametrizations.weight_norm, nn.utils.weight_norm])
def test_sizes_follow_weights_that_are_computed(normalised):
    model = nn.Sequential(
        normalised(nn.Conv2d(3, 8, 3)),
        normalised(nn.Conv2d(8, 6, 1)),
        nn.Flatten(),
        normalised(nn.Linear(6 * 36, 10)),
        normalised(nn.Linear(10, 2)),
    )
    small = halve(model)
    sizes = [(layer.in_channels, layer.out_channels) for layer in small[:2]]
    assert sizes == [(3, 4), (4, 3)]
    assert [(layer.in_features, layer.out_features) for layer in small[3:]] == [(108, 5), (5, 2)]


class TwoInputs(nn.Module):
    """Positional and keyword inputs, a dictionary as output."""

    def __init__(self):
        super().__init__()
        self.image, self.table = nn.Conv2d(3, 8, 3), nn.Linear(5, 8)
        self.head = nn.Linear(8, 2)

    def forward(self, image, *, table):
        joined = self.image(image).mean((2, 3)) + self.table(table)
        return {"logits": self.head(joined.relu()), "size": joined.shape[1]}


def test_keyword_inputs_and_dictionary_outputs():
    small = halve(TwoInputs(), {"image": IMAGE, "table": torch.randn(1, 5)})
    assert small.image.out_channels == small.table.out_features == 4
    assert small(IMAGE, table=torch.randn(1, 5))["size"] == 4


class Reads(nn.Module):
    """What it does depends on values: tensors without data cannot run it."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        x = self.one(x).relu()
        x = self.two(x) if x.sum() > 0 else self.two(-x)
        picked = x.flatten(2)[:, :, : int(x.shape[-1])]
        found = torch.nonzero(picked[0, 0].relu() + 1)
        return self.head(x.mean((2, 3))) * len(found)


def test_models_that_read_values_are_traced_on_real_tensors_and_say_so():
    network = sec.trace(Reads(), IMAGE)
    assert network.notes[0].startswith(
        "Traced on real tensors: on tensors without data, RuntimeError is raised"
    )
    small = halve(Reads())
    assert small.two.in_channels == 4
    assert sec.report_of(small).proof.holds


def test_complex_weights_are_followed():
    class Spectral(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3, padding=1)
            self.filter = nn.Parameter(torch.randn(8, 8, 5, dtype=torch.complex64))
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            spectrum = torch.fft.rfft2(self.conv(x)) * self.filter
            return self.head(torch.fft.irfft2(spectrum, s=x.shape[-2:]))

    small = halve(Spectral())
    assert small.filter.shape == (4, 8, 5)
    assert sec.report_of(small).proof.holds


def test_complex_inputs_are_the_networks_input():
    layers = (nn.Linear(i, o, dtype=torch.complex64) for i, o in ((3, 8), (8, 2)))
    model, x = nn.Sequential(*layers), torch.randn(4, 3, dtype=torch.complex64)
    frozen = {one.name: one.reasons for one in sec.trace(model, x).frozen}
    assert frozen["0 (input)"] == ("combined with the network's input",)
    small = halve(model, x)
    assert small[0].out_features == 4
    assert sec.report_of(small).proof.holds
