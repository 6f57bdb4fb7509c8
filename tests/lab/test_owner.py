"""Whether a run lives is told by its process, and only from afar by its heartbeat."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from landform.lab.owner import STALE, Owner, describe, is_gone, ownership


def test_a_run_of_this_process_lives_until_it_ends() -> None:
    with ownership() as owner, ownership() as other:
        assert owner != other
        assert not is_gone(owner, heartbeat=0.0)
    assert is_gone(owner, heartbeat=time.time())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_is_told_from_a_later_one_of_its_number() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        with ownership() as mine:
            here = Owner.parse(mine)
        stat = open(f"/proc/{child.pid}/stat").read()  # noqa: SIM115, PTH123
        owner = replace(here, pid=child.pid, born=stat.rpartition(")")[2].split()[19])
        assert not is_gone(str(owner), heartbeat=0.0)
        assert is_gone(str(replace(owner, born="17")), heartbeat=time.time())
    finally:
        child.kill()
    # Killed, but not waited for: there is still an entry of that number.
    deadline = time.monotonic() + 10
    while not is_gone(str(owner), heartbeat=time.time()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_gone(str(owner), heartbeat=time.time())
    child.wait()
    assert is_gone(str(owner), heartbeat=time.time())


def test_elsewhere_the_heartbeat_decides() -> None:
    with ownership() as mine:
        for change in ({"host": "elsewhere"}, {"place": "another-container"}):
            owner = str(replace(Owner.parse(mine), pid=os.getpid(), **change))
            assert not is_gone(owner, time.time() - STALE / 2)
            assert is_gone(owner, time.time() - STALE * 2)


def test_a_run_can_be_named_to_people() -> None:
    assert describe("annie boot/1 4711 99 n") == "process 4711 on annie"
