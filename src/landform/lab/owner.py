"""Who holds a trial, and whether it still lives.

A run writes its name beside the trials that it is computing. On the same machine the name says for certain whether
its process lives: the process number together with the moment that it began, since numbers are used again. From
another machine (or container) only the heartbeat tells.
"""

from __future__ import annotations

import os
import platform
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

BEAT = 5.0
"""Seconds between heartbeats."""

STALE = 60.0
"""Seconds without a heartbeat after which a run on another machine is held to be dead."""

_alive_here: set[str] = set()


@dataclass(frozen=True)
class Owner:
    """A run: the machine, the process and its beginning, and a nonce, for a process may run several."""

    host: str
    place: str
    pid: int
    born: str
    nonce: str

    def __str__(self) -> str:
        return f"{self.host} {self.place} {self.pid} {self.born} {self.nonce}"

    @classmethod
    def parse(cls, text: str) -> Owner:
        host, place, pid, born, nonce = text.split(" ")
        return cls(host, place, int(pid), born, nonce)


@contextmanager
def ownership() -> Iterator[str]:
    """The name of a new owner, alive for the length of the context."""
    pid = os.getpid()
    owner = str(Owner(_host(), _place(), pid, _born(pid) or "?", secrets.token_hex(4)))
    _alive_here.add(owner)
    try:
        yield owner
    finally:
        _alive_here.discard(owner)


def is_gone(owner: str, heartbeat: float) -> bool:
    """Whether the run of that name is dead, so that its trials are free."""
    other = Owner.parse(owner)
    if (other.host, other.place) == (_host(), _place()):
        if other.pid == os.getpid():
            return owner not in _alive_here
        born = _born(other.pid)
        if born is not None:
            return born != other.born
    return time.time() - heartbeat > STALE


def describe(owner: str) -> str:
    """For people: ``process 4711 on annie``."""
    other = Owner.parse(owner)
    return f"process {other.pid} on {other.host}"


@cache
def _host() -> str:
    return "-".join(platform.node().split()) or "localhost"


@cache
def _place() -> str:
    """Tells apart machines of one name, and containers, whose process numbers mean nothing to each other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return "-"


def _born(pid: int) -> str | None:
    """When a process of this machine began; empty if there is none of that number, None where it cannot be known."""
    if sys.platform == "win32":
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except PermissionError:
        pass
    if sys.platform != "linux":
        asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return "-".join(asked.stdout.split())
    try:
        # The second field is the program's name in brackets, which may hold anything.
        state, *rest = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return "" if state in "ZX" else rest[18]
