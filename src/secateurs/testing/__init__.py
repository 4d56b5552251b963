"""Test batteries for your own criterion, rule, backend or unit of budgets.

They are the tests that ours have to pass.

Subclass one in a file that pytest collects, set its attributes, and the battery's tests run::

    from secateurs.testing import CriterionBattery

    class TestMine(CriterionBattery):
        criterion = staticmethod(mine)

They need pytest, and PyTorch for the small networks on which criteria and rules are tested.
"""

from secateurs.testing.backends import BackendBattery
from secateurs.testing.criteria import CriterionBattery
from secateurs.testing.rules import RuleBattery
from secateurs.testing.units import BudgetUnitBattery

__all__ = ["BackendBattery", "BudgetUnitBattery", "CriterionBattery", "RuleBattery"]
