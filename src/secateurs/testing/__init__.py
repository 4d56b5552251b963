"""Batteries of tests for what you add: a criterion, a rule, a backend, a unit of budgets.

They are the tests that our own pass.

Subclass one in a file that pytest collects, name what is yours, and the tests of the battery run::

    from secateurs.testing import CriterionBattery

    class TestMine(CriterionBattery):
        criterion = staticmethod(mine)

They need pytest, and PyTorch for the small networks that criteria and rules are tried on.
"""

from secateurs.testing.backends import BackendBattery
from secateurs.testing.criteria import CriterionBattery
from secateurs.testing.rules import RuleBattery
from secateurs.testing.units import BudgetUnitBattery

__all__ = ["BackendBattery", "BudgetUnitBattery", "CriterionBattery", "RuleBattery"]
