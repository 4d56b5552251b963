"""Spell out equations of ``einsum``: every axis gets a letter, and the result is explicit.

The operation that remains says by its letters alone which axes are contracted. The trace, the dry
run and the masked twin take it whole; decomposed, it would be products whose order depends on the
sizes.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

import torch

DOTS = "..."


def spell_out(
    equation: str, operands: Sequence[torch.Tensor]
) -> tuple[str, Sequence[torch.Tensor]]:
    """Rewrite a product without dots, with an explicit result and no repeated letter in an operand.

    Args:
        equation: equation as ``torch.einsum`` takes it.
        operands: its operands; one with a repeated letter is replaced by its diagonal.

    Example:
        >>> spell_out("...ij,...jk", [torch.ones(5, 2, 3), torch.ones(5, 3, 4)])[0]
        'Zij,Zjk->Zik'
    """
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    words = inputs.split(",")
    if arrow and DOTS not in equation and not any(map(_repeats_letter, words)):
        return f"{inputs}->{result}", operands
    spare = [letter for letter in reversed(string.ascii_letters) if letter not in equation]
    spare.sort(key=str.islower)  # capitals first, which equations rarely use
    ranks = [
        x.dim() - len(word.replace(DOTS, "")) if DOTS in word else 0
        for word, x in zip(words, operands, strict=True)
    ]
    dots = "".join(reversed(spare[: max(ranks, default=0)]))
    words = [
        word.replace(DOTS, dots[len(dots) - rank :])
        for word, rank in zip(words, ranks, strict=True)
    ]
    if not arrow:
        together = "".join(words)
        result = DOTS + "".join(
            letter for letter in sorted(set(together) - set(dots)) if together.count(letter) == 1
        )
    pairs = [_take_diagonals(word, x) for word, x in zip(words, operands, strict=True)]
    spelled = ",".join(word for word, _ in pairs)
    return f"{spelled}->{result.replace(DOTS, dots)}", [x for _, x in pairs]


def _repeats_letter(word: str) -> bool:
    return len(set(word)) < len(word)


def _take_diagonals(word: str, x: torch.Tensor) -> tuple[str, torch.Tensor]:
    """An operand's letters without repeats, and its diagonal along axes of one letter."""
    for letter in dict.fromkeys(word):
        while word.count(letter) > 1:
            first = word.index(letter)
            second = word.index(letter, first + 1)
            x = x.diagonal(dim1=first, dim2=second)
            word = word[:first] + word[first + 1 : second] + word[second + 1 :] + letter
    return word, x
