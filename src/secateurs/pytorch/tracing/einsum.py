"""Equations of ``einsum`` spelled out: every axis has a letter, and the result is named.

What is left is one operation that says by its letters alone which axes are one. The trace, the
rehearsal and the masked twin take it whole; taken apart, it is products whose order depends on the
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
    """The same product without dots, with the result's letters, no letter twice in an operand.

    Args:
        equation: as ``torch.einsum`` takes it.
        operands: likewise; of one with a letter twice, the diagonal is taken.

    Example:
        >>> spell_out("...ij,...jk", [torch.ones(5, 2, 3), torch.ones(5, 3, 4)])[0]
        'Zij,Zjk->Zik'
    """
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    words = inputs.split(",")
    if arrow and DOTS not in equation and not any(map(_has_letter_twice, words)):
        return f"{inputs}->{result}", operands
    spare = [letter for letter in reversed(string.ascii_letters) if letter not in equation]
    spare.sort(key=str.islower)  # capitals first: few equations have any
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
    pairs = [_without_twice(word, x) for word, x in zip(words, operands, strict=True)]
    spelled = ",".join(word for word, _ in pairs)
    return f"{spelled}->{result.replace(DOTS, dots)}", [x for _, x in pairs]


def _has_letter_twice(word: str) -> bool:
    return len(set(word)) < len(word)


def _without_twice(word: str, x: torch.Tensor) -> tuple[str, torch.Tensor]:
    """An operand's letters and its diagonals along axes of one letter."""
    for letter in dict.fromkeys(word):
        while word.count(letter) > 1:
            first = word.index(letter)
            second = word.index(letter, first + 1)
            x = x.diagonal(dim1=first, dim2=second)
            word = word[:first] + word[first + 1 : second] + word[second + 1 :] + letter
    return word, x
