"""What can go wrong in the laboratory, by who can mend it."""

from __future__ import annotations


class LabError(Exception):
    """Whatever the laboratory refuses to do; the message is one line that says why."""


class UsageError(LabError):
    """Something asked for does not exist or is not allowed: mend the command."""


class StudyError(LabError):
    """A study breaks the rules that make its comparison fair, or cannot be loaded: mend the study."""


class StoreError(LabError):
    """The result store cannot be opened, read or written."""


class Interrupted(KeyboardInterrupt):
    """A run was stopped by Ctrl-C; what had finished is stored, and running it again goes on from there."""
