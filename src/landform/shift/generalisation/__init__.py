"""Losses for training on several domains, so that others follow."""

from landform.shift.generalisation.base import DomainLoss
from landform.shift.generalisation.cdann import CDANN
from landform.shift.generalisation.coral import CORAL
from landform.shift.generalisation.erm import ERM
from landform.shift.generalisation.group_dro import GroupDRO
from landform.shift.generalisation.irm import IRM

__all__ = ["CDANN", "CORAL", "ERM", "IRM", "DomainLoss", "GroupDRO"]
