"""Engines carry out trials: in this process, in worker processes, on a Ray cluster, or in processes together."""

from landform.lab.engines.job import Engine, Job, Outcome
from landform.lab.engines.local import Inline, Processes

__all__ = ["Engine", "Inline", "Job", "Outcome", "Processes"]
