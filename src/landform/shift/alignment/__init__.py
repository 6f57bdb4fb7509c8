"""Making features alike across domains."""

from landform.shift.alignment.coral import coral_penalty
from landform.shift.alignment.gradient_reversal import GradientReversal

__all__ = ["GradientReversal", "coral_penalty"]
