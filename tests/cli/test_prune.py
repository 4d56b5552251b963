"""secateurs prune, from the command line."""

import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import secateurs as sec
import torchvision_on_cpu  # before transformers
from secateurs import models
from secateurs.cli import ExitCode, main
from support.shell import CNN, read_output


@pytest.mark.parametrize("effort", ["12", "1s"])
def test_distil_takes_steps_or_a_time(effort, place, capsys):
    small = ["prune", "vanilla_cnn", "-o", "width=4", "-o", "hidden=12", "--data", "digits"]
    assert main([*small, "--budget", "macs=0.5", "--distil", effort]) == ExitCode.FINE
    steps = [line.split()[0] for line in read_output(capsys)[0].splitlines() if "%" in line]
    assert "distilled" in steps


def test_prune_to_a_drop_on_real_images(place, capsys):
    from secateurs import data

    torch.manual_seed(0)
    dense = models.vanilla_cnn(10, in_channels=1, size=8, width=8).eval()
    images, labels = data.load("digits").validation.batch(slice(0, 64))

    def accuracy(model):
        with torch.no_grad():
            return np.mean(model.eval()(torch.from_numpy(images)).argmax(1).numpy() == labels)

    # As few images are classified by chance, the last layer is fitted to them.
    features = []
    hook = dense.head.register_forward_hook(lambda _, given, __: features.append(given[0]))
    with torch.no_grad():
        dense(torch.from_numpy(images))
        hook.remove()
        wanted = torch.eye(10)[torch.from_numpy(labels)]
        inside = features[0].double()
        ridge = inside.T @ inside + 1e-6 * torch.eye(inside.shape[1])
        dense.head.weight.copy_(torch.linalg.solve(ridge, inside.T @ wanted.double()).T)
        dense.head.bias.zero_()
    assert accuracy(dense) > 0.8
    torch.save(dense.state_dict(), "dense.pt")
    arguments = ["prune", *CNN, "--weights", "dense.pt", "--to", "drop=0.6", "--data", "digits"]
    assert main([*arguments, "--images", "64", "--output", "s.safetensors"]) == 0
    out, _ = read_output(capsys)
    tried = [float(drop) for _, drop in re.findall(r"tried macs=([\d.]+): drop (-?[\d.]+)", out)]
    assert 3 <= len(tried) <= 9
    small = sec.load(dense, "s.safetensors")
    lost = accuracy(dense) - accuracy(small)
    assert lost <= 0.6
    assert any(lost == pytest.approx(drop, abs=1e-3) for drop in tried)
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in dense.parameters())


@pytest.fixture
def weights(place):
    model = models.build("vanilla_cnn", width=4, hidden=12, classes=10, in_channels=1, size=8)
    sec.save(model, "w.safetensors")
    return model


def test_prune_says_who_won(place, weights, capsys):
    small = ["prune", "vanilla_cnn", "-o", "width=4", "-o", "hidden=12", "--data", "digits"]
    by = ["--weights", "w.safetensors", "--to", "params=0.5", "--output", "p.safetensors"]
    assert main([*small, *by, "--criterion", "auto", "--images", "64"]) == ExitCode.FINE
    out, _ = capsys.readouterr()
    assert "has the lowest calibration loss after" in out
    assert "on 32 images" in out


def test_prune_writes_a_model_that_python_loads_as_it_says(place, capsys):
    arguments = ("vanilla_cnn", "--to", "params=0.5,macs=0.6", "--input", "1x3x16x16")
    assert main(["prune", *arguments, "-o", "width=8", "--output", "small.safetensors"]) == 0
    out, _ = read_output(capsys)
    assert "proof holds" in out
    size = Path("small.safetensors").stat().st_size
    assert f"small.safetensors: {size / 1e6:.2f} MB" in out
    assert "random" in out
    lines = out.partition("In Python:\n")[2].splitlines()[:3]
    found = {}
    exec("\n".join(line.strip() for line in lines), found)  # noqa: S102 - what users will do
    small = found["model"]
    dense = models.build("vanilla_cnn", in_channels=3, size=16, width=8)
    counts = [sum(p.numel() for p in model.parameters()) for model in (small, dense)]
    assert 0.4 < counts[0] / counts[1] <= 0.5
    assert small(torch.zeros(1, 3, 16, 16)).shape == dense(torch.zeros(1, 3, 16, 16)).shape


def test_prune_replaces_no_file_unasked(place, capsys):
    arguments = ["prune", "vanilla_cnn", "--to", "params=0.5", "--input", "1x3x16x16"]
    Path("vanilla_cnn-pruned.safetensors").write_text("mine")
    assert main(arguments) == ExitCode.BAD_INPUT
    assert Path("vanilla_cnn-pruned.safetensors").read_text() == "mine"
    assert "--overwrite" in read_output(capsys)[1]
    assert main([*arguments, "--overwrite"]) == 0


def test_prune_takes_weights_and_leaves_layers_alone(place, capsys):
    dense = models.vanilla_cnn(10, in_channels=1, size=8, width=4)
    torch.save(dense.state_dict(), "dense.pt")
    arguments = ["prune", "vanilla_cnn", "--to", "channels=0.8", "--input", "1x1x8x8"]
    arguments += ["-o", "width=4", "--weights", "dense.pt", "--skip", "blocks.0.*"]
    assert main([*arguments, "--output", "small.safetensors"]) == 0
    out, _ = read_output(capsys)
    assert "random" not in out
    small = sec.load(dense, "small.safetensors")
    assert torch.equal(small.blocks[0].conv.weight, dense.blocks[0].conv.weight)
    assert small.hidden.out_features < dense.hidden.out_features


class Beside(nn.Module):
    """Gives features beside its answer."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 8, 3), nn.Linear(8, 2)

    def forward(self, x):
        features = self.a(x).relu().mean((2, 3))
        return {"features": features, "logits": self.b(features)}


def test_prune_keeps_the_outputs_that_are_used(monkeypatch, place, capsys):
    monkeypatch.setitem(sys.modules, "beside", types.SimpleNamespace(Beside=Beside))
    files = ("--input", "1x1x8x8", "--output", "small.safetensors")
    arguments = ["prune", "beside:Beside", "--to", "channels=0.5", *files]
    assert main([*arguments, "--outputs", "logits"]) == 0
    assert sec.load(Beside(), "small.safetensors").a.out_channels == 4
    assert main([*arguments, "--overwrite", "--outputs", "logit"]) != 0
    assert "did you mean 'logits'" in read_output(capsys)[1]


def test_a_task_of_ones_own_is_cut_by_its_data_and_judged(place, capsys):
    (place / "regress.py").write_text(
        "import numpy as np, torch\n"
        "def line():\n"
        "    torch.manual_seed(0)\n"
        "    return torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), "
        "torch.nn.Linear(8, 1))\n"
        "def points():\n"
        "    x = np.random.default_rng(0).normal(size=(120, 3)).astype(np.float32)\n"
        "    y = x.sum(1, keepdims=True)\n"
        "    return (x[:100], y[:100]), (x[100:], y[100:])\n"
    )
    task = ("--task", "regression", "--data", "regress.py:points")
    wanted = ("--budget", "channels=0.5", "--output", "small.safetensors")
    assert main(["prune", "regress.py:line", *task, *wanted]) == ExitCode.FINE
    out, _ = read_output(capsys)
    assert re.search(r"Mean squared error on 20 validation examples: [\d.]+ before", out)
    assert "repaired" in out


def test_a_detector_is_cut_by_a_folder_of_photos(place, capsys):
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 2)):
        for kind in "ab":
            folder = place / "photos" / part / kind
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 256, (64, 64, 3), np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    (place / "mine.py").write_text(
        "import torch\n"
        "from support.detectors import retina\n"
        "def detector(classes, in_channels):\n"
        "    torch.manual_seed(0)\n"
        "    return retina().eval()\n"
    )
    torchvision_on_cpu.let_detectors_run()
    images = ("--data", "folder:photos", "--normalise", "none", "--size", "64")
    wanted = ("--budget", "macs=0.7", "--output", "small.safetensors")
    with pytest.warns(UserWarning, match="calibration images are few"):
        assert main(["prune", "mine.py:detector", *images, *wanted]) == ExitCode.FINE
    out, _ = read_output(capsys)
    assert "repaired" in out
    assert "the results of head.classification_head.cls_logits" in out
    assert "accuracy" not in out


def test_uniform_widths_are_what_a_configuration_says(place, capsys):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).save_pretrained(place / "lm")
    (place / "book.py").write_text(
        "import numpy as np\n"
        "def rows():\n"
        "    ids = np.random.default_rng(0).integers(0, 40, (80, 8))\n"
        "    return {'input_ids': ids[:64]}, {'input_ids': ids[64:]}\n"
    )
    task = ("--task", "language-modelling", "--data", "book.py:rows", "--uniform")
    wanted = ("--budget", "params=0.7", "--output", "small.safetensors")
    assert main(["prune", "transformers:lm", *task, *wanted]) == ExitCode.FINE
    out, _ = read_output(capsys)
    assert "Perplexity on 16 validation examples: " in out
    widths = re.findall(r"layers\.\d\.mlp\.gate_proj +32 +(\d+)", out)
    assert len(set(widths)) <= 1
    assert "save_pretrained" in out
