import numpy as np

from secateurs.channels.cost import Product, Products
from secateurs.channels.equations import Equations


def test_a_product_counts_the_units_that_stay():
    equations = Equations()
    a, b, c = (equations.units(number) for number in (4, 3, 2))
    equations.equate(a[:2], c)
    solution = equations.solve()
    products = Products(solution, [Product(7, (a, b)), Product(5), Product(2, (c, a, c))])
    alive = np.ones(solution.count, bool)
    assert products.values(alive).tolist() == [7 * 4 * 3, 5, 2 * 2 * 4 * 2]
    alive[solution.atoms[a[1], 0]] = False  # it is the second of c as well
    alive[solution.atoms[b[0], 0]] = False
    assert products.values(alive).tolist() == [7 * 3 * 2, 5, 2 * 1 * 3 * 1]


def test_no_products_have_no_values():
    solution = Equations().solve()
    assert Products(solution, []).values(np.ones(solution.count, bool)).tolist() == []


def test_more_than_fits_four_bytes():
    equations = Equations()
    a = equations.units(100_000)
    solution = equations.solve()
    (value,) = Products(solution, [Product(10**6, (a,))]).values(np.ones(solution.count, bool))
    assert value == 10**11
