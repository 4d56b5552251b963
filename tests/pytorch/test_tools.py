"""Using a small model afterwards: compile it, export it, train it on in other tools."""

import io

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import secateurs as sec
import torchvision_on_cpu  # noqa: F401 - before other libraries import torchvision
from secateurs import models

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 3])

pytestmark = [
    # PyTorch's and these tools' own; their users see them without us too.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def small():
    torch.manual_seed(0)
    model = models.resnet18(classes=4, width=8).eval()
    network = sec.trace(model, IMAGES[:1])
    cut = sec.plan(network, sec.score(network, "l1"), sec.Budget(params=0.4))
    return sec.apply(model, cut, IMAGES[:1], network=network)


def test_it_compiles(small):
    compiled = torch.compile(small, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(IMAGES), small(IMAGES), atol=1e-5)


def test_it_exports(small):
    program = torch.export.export(small, (IMAGES,))
    with torch.no_grad():
        assert torch.allclose(program.module()(IMAGES), small(IMAGES), atol=1e-5)


def test_it_exports_to_onnx(small):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    file = io.BytesIO()
    torch.onnx.export(small, (IMAGES,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file.getvalue())
    name = session.get_inputs()[0].name
    (given,) = session.run(None, {name: IMAGES.numpy()})
    with torch.no_grad():
        assert np.allclose(given, small(IMAGES).numpy(), atol=1e-4)


def test_it_is_pickled_and_copied_as_any_module(small):
    file = io.BytesIO()
    torch.save(small.state_dict(), file)
    file.seek(0)
    assert torch.load(file, weights_only=True).keys() == small.state_dict().keys()


def test_it_trains_on_in_lightning(small, tmp_path):
    lightning = pytest.importorskip("lightning")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = small

        def training_step(self, batch, _):
            return F.cross_entropy(self.model(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.01)

    before = small.head.weight.detach().clone()
    trainer = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    batch = torch.utils.data.TensorDataset(IMAGES, LABELS)
    trainer.fit(Task(), torch.utils.data.DataLoader(batch, batch_size=4))
    assert not torch.equal(before, small.head.weight)


def test_it_trains_on_in_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=16,
        patch_size=8,
        num_labels=4,
    )
    model = transformers.ViTForImageClassification(config).eval()
    inputs = {"pixel_values": IMAGES[:1]}
    network = sec.trace(model, inputs)
    cut = sec.plan(network, sec.score(network, "l1"), amount=0.5)
    small = sec.apply(model, cut, inputs, network=network)
    sec.save(small, tmp_path / "small.safetensors")
    loaded = sec.load(
        transformers.ViTForImageClassification(config), tmp_path / "small.safetensors"
    ).eval()
    with torch.no_grad():
        assert torch.equal(loaded(**inputs).logits, small(**inputs).logits)
    rows = [{"pixel_values": x, "labels": y} for x, y in zip(IMAGES, LABELS, strict=True)]
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, use_cpu=True, report_to=[], save_strategy="no"
    )
    before = loaded.classifier.weight.detach().clone()
    transformers.Trainer(model=loaded, args=settings, train_dataset=rows).train()
    assert not torch.equal(before, loaded.classifier.weight)


def test_a_plain_loop_trains_it_on(small):
    optimizer = torch.optim.Adam(small.parameters(), lr=1e-3)
    losses = []
    for _ in range(10):
        loss = F.cross_entropy(small.train()(IMAGES), LABELS)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert np.mean(losses[5:]) < np.mean(losses[:5])
    assert all(isinstance(p, nn.Parameter) for p in small.parameters())
