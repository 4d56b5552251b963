"""Saving and loading; damaged and foreign files are refused."""

import copy
import multiprocessing
import os
import pickle

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save as to_safetensors
from torch import nn
from torch.nn import functional as F

import secateurs as sec
from secateurs.channels.file_size import predict_file_size


class Tied(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.a = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.b = nn.Linear(width, width)
        self.c = nn.Linear(width, width)
        self.c.weight = self.b.weight
        self.head = nn.Linear(width, 2)

    def forward(self, x):
        x = F.relu(self.norm(self.a(x))).mean((2, 3))
        return self.head(F.relu(self.c(F.relu(self.b(x)))))


def x():
    return torch.randn(4, 3, 8, 8)


@pytest.fixture
def small():
    model = Tied()
    for _ in range(3):
        model(x())  # moves the running statistics
    return sec.delete_channels(model, {"a": [1, 4]}, x())


def test_a_cut_model_comes_back_bit_for_bit(small, tmp_path):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    loaded = sec.load(Tied(), path)
    assert all(
        torch.equal(value, small.state_dict()[k]) for k, value in loaded.state_dict().items()
    )
    assert loaded.c.weight is loaded.b.weight
    assert loaded.norm.num_features == 4
    assert sec.report_of(loaded).cut == sec.report_of(small).cut
    inputs = x()
    assert torch.equal(loaded.eval()(inputs), small.eval()(inputs))


def test_it_can_be_cut_and_saved_again(small, tmp_path):
    sec.save(small, tmp_path / "one.safetensors")
    loaded = sec.load(Tied(), tmp_path / "one.safetensors")
    smaller = sec.delete_channels(loaded, {"a": [0]}, x())
    sec.save(smaller, tmp_path / "two.safetensors")
    again = sec.load(Tied(), tmp_path / "two.safetensors")
    assert again.a.out_channels == 3
    assert sec.report_of(again).cut.channels["a"].removed == (0, 1, 4)


def test_any_reader_of_safetensors_reads_it(small, tmp_path):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    with safe_open(path, framework="pt") as file:
        assert torch.equal(file.get_tensor("a.weight"), small.a.weight)
        assert sec.Cut.from_json(file.metadata()["secateurs"]) == sec.report_of(small).cut


def test_the_size_is_known_before_the_file_is_written(tmp_path):
    model = Tied(16)
    network = sec.trace(model, x())
    for cut in (sec.Cut(), network.cut({"a": [1, 4, 7]})):
        small = sec.apply(model, cut, x(), network=network, proof=False)
        sec.save(small, tmp_path / "model.safetensors")
        assert os.path.getsize(tmp_path / "model.safetensors") == predict_file_size(network, cut)


def test_a_dense_model_and_a_plain_checkpoint_load_too(tmp_path):
    model = Tied()
    sec.save(model, tmp_path / "dense.safetensors")
    torch.save(model.state_dict(), tmp_path / "dense.pt")
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, tmp_path / "wrapped.pt")
    for name in ("dense.safetensors", "dense.pt", "wrapped.pt"):
        loaded = sec.load(Tied(), tmp_path / name)
        assert torch.equal(loaded.b.weight, model.b.weight)


def test_pickled_models_are_refused(tmp_path):
    torch.save(Tied(), tmp_path / "whole.pt")
    with pytest.raises(
        sec.CheckpointError, match=r"weights_only=True.*Save the model's state_dict"
    ):
        sec.load(Tied(), tmp_path / "whole.pt")
    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"a": os.getcwd}))
    with pytest.raises(sec.CheckpointError):
        sec.load(Tied(), tmp_path / "evil.pt")


@pytest.mark.parametrize("damage", [b"", b"junk", None])
def test_damaged_files_are_refused_by_name(small, tmp_path, damage):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    path.write_bytes(path.read_bytes()[:-9] if damage is None else damage)
    with pytest.raises(sec.CheckpointError, match=r"small\.safetensors: expected a safetensors"):
        sec.load(Tied(), path)
    with pytest.raises(sec.CheckpointError, match="cannot be read"):
        sec.load(Tied(), tmp_path / "absent.safetensors")


def test_foreign_files_are_refused_with_what_does_not_fit(small, tmp_path):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    with pytest.raises(sec.CutError, match=r"a\.weight: expected shape \(6, 3, 3, 3\)"):
        sec.load(Tied(8), path)
    sec.save(nn.Linear(2, 2), tmp_path / "other.safetensors")
    with pytest.raises(sec.CheckpointError, match=r"missing: a\.weight"):
        sec.load(Tied(), tmp_path / "other.safetensors")
    sec.save(Tied(8), tmp_path / "wide.safetensors")
    with pytest.raises(sec.CheckpointError, match=r"a\.weight: expected shape \(6, 3, 3, 3\)"):
        sec.load(Tied(6), tmp_path / "wide.safetensors")


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_a_wrapper_is_left_out(small, wrap, tmp_path):
    path = tmp_path / "small.safetensors"
    sec.save(wrap(small), path)
    inputs = x()
    for around in (Tied(), wrap(Tied())):
        loaded = sec.load(around, path)
        assert type(loaded) is Tied
        assert torch.equal(loaded.eval()(inputs), small.eval()(inputs))
    assert sec.report_of(wrap(small)).cut == sec.report_of(small).cut


def test_a_flipped_bit_of_the_weights_is_noticed(small, tmp_path):
    path = tmp_path / "small.safetensors"
    sec.save(small, path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)
    with pytest.raises(sec.CheckpointError, match="damaged or changed since"):
        sec.load(Tied(), path)


def _answers(pipe):
    small, inputs = pipe.recv()
    pipe.send((small.eval()(inputs).detach().numpy(), sec.report_of(small).cut.to_json()))


def test_a_cut_model_goes_wherever_a_module_goes(small, tmp_path):
    """Into a deep copy, a pickle, a file of PyTorch's, a process that was spawned."""
    inputs = x()
    torch.save(small, tmp_path / "whole.pt")
    copies = [
        copy.deepcopy(small),
        pickle.loads(pickle.dumps(small)),  # noqa: S301 - what was pickled here
        torch.load(tmp_path / "whole.pt", weights_only=False),
    ]
    for other in copies:
        assert torch.equal(other.eval()(inputs), small.eval()(inputs))
        assert sec.report_of(other) == sec.report_of(small)


def test_a_cut_model_goes_into_a_spawned_process():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    inputs = torch.rand(2, 4)
    small = sec.prune(model, inputs, amount=0.5).model
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    worker = context.Process(target=_answers, args=(there,))
    worker.start()
    here.send((small, inputs))
    assert here.poll(60)
    answers, cut = here.recv()
    worker.join()
    assert answers.tolist() == small(inputs).tolist()
    assert cut == sec.report_of(small).cut.to_json()


def test_what_prune_gives_is_pickled():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    pruned = sec.prune(model, torch.rand(2, 4), amount=0.5)
    again = pickle.loads(pickle.dumps(pruned))  # noqa: S301 - what was pickled here
    assert again.cut == pruned.cut
    assert again.report == pruned.report
    assert all((again.scores[g] == pruned.scores[g]).all() for g in ("0",))


def test_a_header_whose_length_begins_as_a_pickle_does(tmp_path):
    """640 bytes of header begin as a pickle does: the cut was lost in such files."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    cut = sec.prune(model, torch.zeros(1, 4), amount=0.5).cut
    small = sec.apply(model, cut, torch.zeros(1, 4))
    path = tmp_path / "small.safetensors"
    for filler in range(400):
        metadata = {"format": "pt", "secateurs": cut.to_json(), "filler": "x" * filler}
        tensors = {name: tensor.contiguous() for name, tensor in small.state_dict().items()}
        content = to_safetensors(tensors, metadata)
        if content[:2] in (b"\x80\x02", b"\x80\x03"):
            break
    else:
        pytest.fail("no filler makes such a header")
    path.write_bytes(content)
    assert sec.load(model, path)[0].out_features == 4


class OnMeta(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.c.weight = self.b.weight
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 2)

    def forward(self, x):
        return self.head(self.c(self.norm(self.b(self.a(x).relu()).relu())))


def test_a_model_built_on_meta_is_loaded_with_the_files_values(tmp_path):
    torch.manual_seed(0)
    small = sec.prune(OnMeta().eval(), torch.rand(2, 4), amount=0.3).model
    sec.save(small, tmp_path / "small")
    with torch.device("meta"):
        dense = OnMeta().eval()
    loaded = sec.load(dense, tmp_path / "small")
    assert loaded.c.weight is loaded.b.weight
    assert all(not tensor.is_meta for tensor in loaded.state_dict().values())
    assert all(tensor.is_meta for tensor in dense.state_dict().values())
    inputs = torch.rand(3, 4)
    torch.testing.assert_close(loaded(inputs), small(inputs))


def test_what_has_no_values_is_neither_saved_nor_loaded_nor_trained(tmp_path):
    with torch.device("meta"):
        dense = OnMeta()
    with pytest.raises(
        sec.ModelError, match=r"a\.weight: saving needs values.*write the cut alone"
    ):
        sec.save(dense, tmp_path / "file")
    assert not list(tmp_path.iterdir())
    sec.save(OnMeta(), tmp_path / "file")
    dense.a.register_buffer("scale", torch.ones(6, device="meta"), persistent=False)
    with pytest.raises(sec.ModelError, match=r"a\.scale: loading needs values"):
        sec.load(dense, tmp_path / "file")
    data = torch.rand(8, 4), torch.arange(8) % 2
    with pytest.raises(sec.ModelError, match=r"a\.weight: training needs values"):
        sec.iterate(dense, data, data)


def test_a_tensor_that_a_file_lacks_is_missed_on_meta_too(tmp_path):
    state = {name: t for name, t in OnMeta().state_dict().items() if name != "b.bias"}
    torch.save(state, tmp_path / "lacking.pt")  # a.bias and norm.bias are of the same shape
    with torch.device("meta"):
        dense = OnMeta()
    with pytest.raises(sec.CheckpointError, match=r"missing: b\.bias"):
        sec.load(dense, tmp_path / "lacking.pt")


class Holding(nn.Module):
    """A layer, and what else is put into it."""

    def __init__(self, **buffers):
        super().__init__()
        self.layer = nn.Linear(2, 2)
        for name, value in buffers.items():
            self.register_buffer(name, value)

    def forward(self, x):
        return self.layer(x)


def numbers(*shape, dtype=torch.float32):
    return torch.randn(shape, dtype=dtype)


KINDS = {
    "none": lambda: Holding(b=None),
    "nothing": nn.Sequential,
    "one number": lambda: Holding(b=numbers()),
    "empty": lambda: Holding(b=numbers(0, 3)),
    "complex": lambda: Holding(b=numbers(3, dtype=torch.complex64)),
    "conjugated": lambda: Holding(b=numbers(3, dtype=torch.complex64).conj()),
    "negated": lambda: Holding(b=numbers(3, dtype=torch.complex64).conj().imag),
    "bfloat16": lambda: Holding(b=numbers(3).bfloat16()),
    "float8": lambda: Holding(b=numbers(3).to(torch.float8_e4m3fn)),
    "truths": lambda: Holding(b=numbers(3) > 0),
    "turned": lambda: Holding(b=numbers(3, 4).t()),
}


def odd_names():
    model = nn.Sequential()
    for name in ("ä ö/\\\n\"'\N{SLIGHTLY SMILING FACE}", "__metadata__", "a" * 3000):
        model.add_module(name, nn.Linear(2, 2))
    return model


def looking_at_one_memory():
    """Two parameters, one memory: no tie that a copy of the model would keep."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = nn.Parameter(model[0].weight.detach()[:, :])
    return model


@pytest.mark.parametrize(
    "make", [*KINDS.values(), odd_names, looking_at_one_memory], ids=[*KINDS, "names", "views"]
)
def test_what_a_state_can_hold_comes_back_bit_for_bit(make, tmp_path):
    model, fresh = make(), make()
    sec.save(model, tmp_path / "m.safetensors")
    expected = model.state_dict()
    received = sec.load(fresh, tmp_path / "m.safetensors").state_dict()
    assert list(received) == list(expected)
    for name, tensor in expected.items():
        assert received[name].dtype == tensor.dtype
        same = (received[name].to(torch.complex64), tensor.to(torch.complex64))
        assert torch.equal(*same), name


class WithExtraState(Holding):
    def get_extra_state(self):
        return torch.tensor(7)

    def set_extra_state(self, state):
        self.kept = state


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (WithExtraState, "received _extra_state of Tensor, which get_extra_state gives"),
        (lambda: Holding(b=numbers(3, dtype=torch.complex128)), "b is complex128"),
        (
            lambda: nn.ParameterDict({"__metadata__": nn.Parameter(numbers(2))}),
            "'__metadata__' is reserved in safetensors files",
        ),
    ],
)
def test_what_a_file_would_lose_is_refused_before_it_is_written(make, message, tmp_path):
    with pytest.raises(sec.ModelError, match=message):
        sec.save(make(), tmp_path / "m.safetensors")
    assert not list(tmp_path.iterdir())


def test_a_tensor_that_repeats_its_values_is_not_written_into(tmp_path):
    sec.save(Holding(b=numbers(4, 3)), tmp_path / "m.safetensors")
    with pytest.raises(
        sec.CheckpointError, match=r"b: expected a tensor .*that repeats its values"
    ):
        sec.load(Holding(b=numbers(1, 3).expand(4, 3)), tmp_path / "m.safetensors")
