"""The report: a static site of every paper, its claim, and what the stored runs say of it."""

from landform.lab.report.site import write_report

__all__ = ["write_report"]
