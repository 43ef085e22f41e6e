"""MLflow: what was measured, which version plays which role, the two blessings, the ledger, the model card.

`tracking`, `models` and `promotion` import MLflow, which takes a second, so they are imported by name where needed.
"""

from components.registry.card import model_card
from components.registry.gate import Verdict, compare, infrastructure

__all__ = ["Verdict", "compare", "infrastructure", "model_card"]
