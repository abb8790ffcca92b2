"""Writers of a journal: what one is called, and whether their process is known to be dead."""

from __future__ import annotations

import hashlib
import os
import re
import socket
from pathlib import Path
from typing import Final
from uuid import uuid4

__all__ = ["is_dead", "new_name"]

NAME: Final = re.compile(r"process (\d+) on .* \((\w+)-(\w*)-\w+\)", re.DOTALL)


def new_name() -> str:
    """The name of a writer in this process, that no other has: whoever reads it can look whether the process lives."""
    pid = os.getpid()
    return f"process {pid} on {socket.gethostname()} ({_here()}-{_started(pid)}-{uuid4().hex[:12]})"


def is_dead(name: str) -> bool:
    """Whether the process of a writer has ended; False where that can't be known, as on another machine."""
    named = NAME.fullmatch(name)
    if named is None or named[2] != _here():
        return False
    pid, started = int(named[1]), named[3]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return _started(pid) not in ("", started)


def _here() -> str:
    """Where pids mean what they mean here: the boot and the pid namespace; a name of no place where that is unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        return uuid4().hex
    return hashlib.blake2b(b"%b %d" % (boot, namespace), digest_size=8).hexdigest()


def _started(pid: int) -> str:
    """When a process started, in ticks since the boot; "dead" for one that only waits to be reaped; empty: unknown."""
    try:
        state, *rest = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode("ascii").split()
    except (OSError, ValueError):
        return ""
    return "dead" if state in ("Z", "X") else rest[18]
