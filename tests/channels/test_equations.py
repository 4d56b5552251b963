"""The algebra of units, against brute force over every possible removal."""

import functools
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from secateurs.channels.equations import DISAGREEING_GRIDS, Equations


def atoms_of(solution, units):
    return [tuple(sorted({a for a in solution.atoms[u] if a})) for u in units]


def test_units_without_equations_are_atoms_of_their_own():
    equations = Equations()
    units = equations.units(3)
    solution = equations.solve()
    assert atoms_of(solution, units) == [(1,), (2,), (3,)]
    assert solution.count == 4


def test_equal_units_share_an_atom_through_any_chain():
    equations = Equations()
    a, b, c = (equations.units(2) for _ in range(3))
    equations.equate(a, b)
    equations.equate(b, c[::-1].copy())
    solution = equations.solve()
    assert atoms_of(solution, a) == atoms_of(solution, b) == atoms_of(solution, c)[::-1]
    assert solution.count == 3


def test_frozen_units_need_no_atom_and_say_why():
    equations = Equations()
    a, b = equations.units(2), equations.units(2)
    equations.equate(a, b)
    equations.freeze(b[:1], "an output")
    solution = equations.solve()
    assert atoms_of(solution, a) == [(), (1,)]
    assert solution.reasons[int(a[0])] == ("an output",)


def test_a_cell_needs_its_row_and_its_column():
    equations = Equations()
    cells = equations.units(6)
    rows, columns = equations.factor(cells, (2, 3))
    solution = equations.solve()
    for number, (r, c) in enumerate(itertools.product(range(2), range(3))):
        expected = {*solution.atoms[rows[r]], *solution.atoms[columns[c]]} - {0}
        assert {*solution.atoms[cells[number]]} - {0} == expected
    assert len(np.unique(solution.atoms[cells])) == 5


def test_the_same_grid_twice_gives_the_same_sides():
    equations = Equations()
    cells = equations.units(6)
    first = equations.factor(cells, (2, 3))
    assert all(x is y for x, y in zip(first, equations.factor(cells, (2, 3)), strict=True))


def test_a_frozen_cell_freezes_its_row_and_column_only():
    equations = Equations()
    cells = equations.units(6)
    rows, columns = equations.factor(cells, (2, 3))
    equations.freeze(cells[:1], "fixed")
    solution = equations.solve()
    assert not solution.atoms[rows[0]].any()
    assert not solution.atoms[columns[0]].any()
    assert solution.atoms[rows[1]].any()
    assert solution.atoms[columns[1]].any()
    # The cell in the free row and the frozen column goes when its row goes.
    assert set(solution.atoms[cells[3]]) - {0} == set(solution.atoms[rows[1]]) - {0}


def test_a_frozen_cell_freezes_the_sides_of_its_sides():
    equations = Equations()
    inner = equations.units(4)
    rows, columns = equations.factor(inner, (2, 2))
    outer = equations.compose((inner, equations.units(3)))
    equations.freeze(outer[:1], "fixed")
    solution = equations.solve()
    for side in (rows, columns):
        assert [bool(needs.any()) for needs in solution.atoms[side]] == [False, True]
        assert solution.reasons[int(side[0])] == ("fixed",)


def test_frozen_rows_leave_plain_columns():
    equations = Equations()
    cells = equations.units(8)
    rows, _ = equations.factor(cells, (2, 4))
    equations.freeze(rows, "chunk needs both")
    solution = equations.solve()
    assert atoms_of(solution, cells[:4]) == atoms_of(solution, cells[4:])
    assert solution.atoms.shape[1] == 1


def test_grids_that_refine_each_other_meet_in_the_finer_one():
    equations = Equations()
    cells = equations.units(12)
    two, six = equations.factor(cells, (2, 6))
    six_again, two_again = equations.factor(cells, (6, 2))
    solution = equations.solve()
    # 12 = 2 x 3 x 2: three sides of 2, 3 and 2 atoms.
    assert len(np.unique(solution.atoms[cells])) == 7
    assert len(atoms_of(solution, two)[0]) == 1
    assert len(atoms_of(solution, six)[0]) == len(atoms_of(solution, six_again)[0]) == 2
    assert len(atoms_of(solution, two_again)[0]) == 1


def test_grids_that_nothing_reconciles_are_never_half_cut():
    equations = Equations()
    cells = equations.units(6)
    equations.factor(cells, (2, 3))
    equations.factor(cells, (3, 2))
    solution = equations.solve()
    needs = set(atoms_of(solution, cells))
    assert len(needs) == 1  # all or nothing


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 2, 6)])
def test_grids_of_different_rank_that_do_not_fit_are_frozen(shape):
    """Backwards, not even the shape that would be a finer grid is one."""
    equations = Equations()
    cells = equations.units(24)
    equations.factor(cells, (4, 6))
    equations.factor(cells[::-1].copy(), shape)
    solution = equations.solve()
    assert not solution.atoms[cells].any()
    assert solution.reasons[int(cells[0])] == (DISAGREEING_GRIDS,)


def test_equal_cells_make_equal_sides_and_these_the_sides_of_theirs():
    equations = Equations()
    one, other = equations.units(12), equations.units(12)
    (one_rows, _), (other_rows, _) = (equations.factor(axis, (4, 3)) for axis in (one, other))
    inside = [equations.factor(rows, (2, 2)) for rows in (one_rows, other_rows)]
    equations.equate(one, other)
    solution = equations.solve()
    for first, second in zip(*inside, strict=True):
        assert atoms_of(solution, first) == atoms_of(solution, second) != [(), ()]


def test_composing_what_was_divided_needs_the_same_atoms():
    equations = Equations()
    cells = equations.units(6)
    rows, columns = equations.factor(cells, (2, 3))
    shuffled = equations.compose((columns, rows))
    solution = equations.solve()
    expected = np.arange(6).reshape(2, 3).T.ravel()
    assert atoms_of(solution, shuffled) == [atoms_of(solution, cells)[i] for i in expected]


@pytest.mark.parametrize("rows_stay", [True, False])
def test_a_row_that_is_a_grid_itself_divides_the_columns(rows_stay):
    # Queries, keys and values, each of two heads of three positions.
    equations = Equations()
    packed = equations.units(18)
    rows, columns = equations.factor(packed, (3, 6))
    parts = [equations.factor(part, (2, 3)) for part in packed.reshape(3, 6)]
    for heads, positions in parts[1:]:
        equations.equate(parts[0][0], heads)
        equations.equate(parts[0][1], positions)
    if rows_stay:
        equations.freeze(rows, "three pieces")
    solution = equations.solve()
    free = {atom for unit in packed for atom in atoms_of(solution, [unit])[0]}
    if rows_stay:
        assert len(free) == 5
        heads, positions = (atoms_of(solution, side) for side in parts[0])
        assert atoms_of(solution, columns) == [
            tuple(sorted(head + position)) for head in heads for position in positions
        ]
    else:  # a row could go without its heads: rows and heads are one, positions go from all
        assert len(free) == 1 + 3


def test_unequal_lengths_are_refused():
    equations = Equations()
    with pytest.raises(ValueError, match="received 2 and 3"):
        equations.equate(equations.units(2), equations.units(3))


@st.composite
def statements(draw):
    """A few axes, equations between them, grids over them and frozen units."""
    lengths = draw(st.lists(st.sampled_from([2, 3, 4, 6]), min_size=1, max_size=4))
    same = [
        (i, j)
        for i, j in itertools.combinations(range(len(lengths)), 2)
        if lengths[i] == lengths[j]
    ]
    pairs = draw(st.lists(st.sampled_from(same), max_size=3)) if same else []
    shapes = {4: [(2, 2)], 6: [(2, 3), (3, 2)]}
    griddable = [(i, s) for i, n in enumerate(lengths) for s in shapes.get(n, [])]
    grids = draw(st.lists(st.sampled_from(griddable), max_size=2)) if griddable else []
    frozen = draw(st.lists(st.integers(0, sum(lengths) - 1), max_size=2))
    return lengths, pairs, grids, frozen


@given(statements())
def test_every_removal_it_offers_satisfies_every_statement(case):
    """Remove any set of atoms: equal units go together, grids stay grids, frozen units stay."""
    lengths, pairs, grids, frozen = case
    equations = Equations()
    axes = [equations.units(n) for n in lengths]
    for i, j in pairs:
        equations.equate(axes[i], axes[j])
    for i, shape in grids:
        equations.factor(axes[i], shape)
    equations.freeze(np.array(frozen, np.int64), "fixed")
    solution = equations.solve()
    random = np.random.default_rng(0)
    for _ in range(20):
        alive = random.random(solution.count) < 0.6
        alive[0] = True
        kept = solution.mark_kept(alive)
        for i, j in pairs:
            assert (kept[axes[i]] == kept[axes[j]]).all()
        for i, shape in grids:
            grid = kept[axes[i]].reshape(shape)
            rectangle = np.outer(grid.any(axis=1), grid.any(axis=0))
            assert (grid == rectangle).all()
        assert kept[frozen].all()


@given(statements())
def test_without_grids_it_finds_the_finest_classes(case):
    """Against a union-find written out by hand."""
    lengths, pairs, _, frozen = case
    equations = Equations()
    axes = [equations.units(n) for n in lengths]
    for i, j in pairs:
        equations.equate(axes[i], axes[j])
    equations.freeze(np.array(frozen, np.int64), "fixed")
    solution = equations.solve()
    leader = list(range(sum(lengths)))
    for i, j in pairs * len(lengths):
        for a, b in zip(axes[i], axes[j], strict=True):
            low = min(leader[a], leader[b])
            leader = [low if x in (leader[a], leader[b]) else x for x in leader]
    stuck = {leader[u] for u in frozen}
    for a, b in itertools.combinations(range(sum(lengths)), 2):
        together = leader[a] == leader[b] and leader[a] not in stuck
        both = solution.atoms[a, 0] == solution.atoms[b, 0] != 0
        assert together == both


SHAPES = {4: [(2, 2)], 6: [(2, 3), (3, 2)], 12: [(2, 6), (3, 4), (4, 3), (2, 2, 3)]}


@st.composite
def nested_statements(draw):
    """Grids over axes, over sides of grids and made of axes; parts of axes equal; frozen units."""
    equations, grids, equal, frozen = Equations(), [], [], []
    axes = [
        equations.units(length)
        for length in draw(st.lists(st.sampled_from([2, 3, 4, 6, 12]), min_size=1, max_size=3))
    ]
    kinds = st.sampled_from(["factor", "compose", "equate", "freeze"])
    for kind in draw(st.lists(kinds, max_size=6)):
        one, other = draw(st.sampled_from(axes)), draw(st.sampled_from(axes))
        if kind == "factor" and len(one) in SHAPES:
            sides = equations.factor(one, draw(st.sampled_from(SHAPES[len(one)])))
            grids.append((one, sides))
            axes += sides
        elif kind == "compose" and len(one) * len(other) <= 12:
            axes.append(equations.compose((one, other)))
            grids.append((axes[-1], (one, other)))
        elif kind == "equate":
            number = draw(st.integers(1, min(len(one), len(other))))
            left, right = (
                axis[draw(st.permutations(range(len(axis))))[:number]] for axis in (one, other)
            )
            equations.equate(left, right)
            equal.append((left, right))
        elif kind == "freeze":
            frozen.append(int(draw(st.sampled_from(one.tolist()))))
            equations.freeze(np.array(frozen), "fixed")
    return equations, grids, equal, frozen


@settings(max_examples=400)
@given(nested_statements(), st.integers(0, 99))
def test_grids_of_grids_stay_grids_whatever_goes(case, seed):
    """A cell stays exactly while all its sides do, however the grids are made of each other."""
    equations, grids, equal, frozen = case
    solution = equations.solve()
    random = np.random.default_rng(seed)
    for share in (0.3, 0.6, 0.9, 0.9):
        alive = random.random(solution.count) < share
        alive[0] = True
        kept = solution.mark_kept(alive)
        for left, right in equal:
            assert (kept[left] == kept[right]).all()
        for cells, sides in grids:
            expected = functools.reduce(np.logical_and.outer, (kept[side] for side in sides))
            assert (kept[cells] == expected.ravel()).all()
        assert kept[np.array(frozen, np.int64)].all()
    for needs in solution.atoms:
        assert len(set(needs[needs != 0])) == (needs != 0).sum()  # none is listed twice


def test_cells_that_are_copies_of_a_side_go_with_it_and_all_copies_stay():
    """Heads repeated for each example of a batch, equated with heads that are not."""
    equations = Equations()
    heads, copies = equations.units(3), equations.units(2)
    cells = equations.compose([copies, heads])
    equations.equate(cells, np.tile(heads, 2))
    solution = equations.solve()
    assert atoms_of(solution, heads) == [(1,), (2,), (3,)]
    assert atoms_of(solution, cells) == [(1,), (2,), (3,)] * 2
    assert atoms_of(solution, copies) == [(), ()]
    assert set(solution.reasons) == set(copies.tolist())
