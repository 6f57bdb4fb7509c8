"""Engines carry out trials: in this process, or in worker processes."""

from landform.lab.engines.job import Engine, Job, Outcome
from landform.lab.engines.local import Inline, Processes

__all__ = ["Engine", "Inline", "Job", "Outcome", "Processes"]
