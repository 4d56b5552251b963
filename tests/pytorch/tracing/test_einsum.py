import pytest
import torch

from secateurs.pytorch.tracing.einsum import spell_out

A, B = torch.rand(2, 3, 4), torch.rand(2, 4, 5)
SQUARE, LINE = torch.rand(3, 3, 4), torch.rand(4)

EQUATIONS = [
    ("...ij,...jk", [A, B], "Zij,Zjk->Zik"),
    ("...nc, c -> ...n", [A, LINE], "Znc,c->Zn"),
    ("...j->j...", [A], "YZj->jYZ"),
    ("b...d,d...->b...", [A, LINE[:, None]], "bZd,dZ->bZ"),
    ("...,...->...", [A, torch.rand(1, 4)], "XYZ,YZ->XYZ"),
    ("ij,jk", [A[0], B[0]], "ij,jk->ik"),
    ("ba", [A[0]], "ba->ab"),
    ("ijk->", [A], "ijk->"),
    ("iij->ij", [SQUARE], "ji->ij"),
    ("iij", [SQUARE], "ji->j"),
    ("ii...->...", [SQUARE], "Zi->Z"),
    ("iii->i", [torch.rand(3, 3, 3)], "i->i"),
]


@pytest.mark.parametrize(("equation", "operands", "expected"), EQUATIONS)
def test_an_expanded_einsum_gives_the_same_product(equation, operands, expected):
    spelled, others = spell_out(equation, operands)
    assert spelled == expected
    torch.testing.assert_close(torch.einsum(spelled, *others), torch.einsum(equation, *operands))
