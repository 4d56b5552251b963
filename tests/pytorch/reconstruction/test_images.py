"""Images for a detector, in every form that users have them in."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import secateurs as sec
import torchvision_on_cpu
from support.detectors import batches, retina

pytestmark = pytest.mark.filterwarnings("ignore:.*calibration images are few")

BATCHES = batches(8)
IMAGES = [image for images, _ in BATCHES for image in images]
TARGETS = [target for _, targets in BATCHES for target in targets]


def collate(rows):
    return tuple(zip(*rows, strict=True))


def fidelity(data):
    torchvision_on_cpu.let_detectors_run()
    torch.manual_seed(0)
    model = retina().eval()
    made = sec.prune(model, ([IMAGES[0]],), sec.Budget(macs=0.7), calibration=data, repair=True)
    return made.report.fidelity


FORMS = {
    "images in a list": lambda: IMAGES,
    "images in a tuple": lambda: tuple(IMAGES),
    "a tensor": lambda: torch.stack(IMAGES),
    "an array": lambda: torch.stack(IMAGES).numpy(),
    "arrays in a list": lambda: [image.numpy() for image in IMAGES],
    "one batch with targets": lambda: (IMAGES, TARGETS),
    "one batch without": lambda: (torch.stack(IMAGES), None),
    "batches": lambda: BATCHES,
    "batches that come once": lambda: iter(BATCHES),
    "batches without targets": lambda: [images for images, _ in BATCHES],
    "batches of tensors": lambda: [torch.stack(images) for images, _ in BATCHES],
    "rows of a data set": lambda: list(zip(IMAGES, TARGETS, strict=True)),
    "a loader": lambda: DataLoader(
        list(zip(IMAGES, TARGETS, strict=True)), batch_size=3, collate_fn=collate
    ),
}


@pytest.fixture(scope="module")
def distance_of_a_list():
    return fidelity(IMAGES).fidelity.distance


@pytest.mark.parametrize("form", FORMS)
def test_images_are_the_same_in_any_form(form, distance_of_a_list):
    found = fidelity(FORMS[form]())
    assert found.images == len(IMAGES)
    assert found.fidelity.distance == pytest.approx(distance_of_a_list, rel=1e-4)


def test_images_of_any_sizes_are_padded_as_in_one_batch():
    sizes = [(40, 64), (64, 48), (56, 56), (33, 61)] * 2
    random = torch.Generator().manual_seed(0)
    images = [torch.rand(3, *size, generator=random) for size in sizes]
    found = fidelity(images)
    assert found.images == len(images)
    assert np.isfinite(found.fidelity.distance)


@pytest.mark.parametrize(("data", "message"), [
    ([], "received no image. Pass a list of images"),
    ([image[:1] for image in IMAGES], r"image 0: expected an image of shape \(3, height, width\)"),
    ([*IMAGES, 255 * IMAGES[0].int()], "image 16: expected floating-point values in"),
    ([IMAGES[0], IMAGES[1] / 0], "image 1: expected finite values; received NaN or infinity"),
    ([{"image": IMAGES[0]}], "expected images for a detector.*received dict"),
    (["photo.png"], "expected images for a detector.*received str"),
    ([Image.new("RGB", (64, 64))], "as tensors or arrays; received PIL.Image.Image"),
    (IMAGES[:3], "at least 4 calibration images"),
])  # fmt: skip
def test_what_is_no_image_is_told_in_one_line(data, message):
    with pytest.raises(sec.DataError, match=message) as caught:
        fidelity(data)
    assert "\n" not in str(caught.value)
