"""The instance that a process belongs to: all workers behind one port.

What belongs here: who the instance is, where several instances share one database. What does not:
how its processes start and end (``supervisor``).
"""

import secrets
import socket
from dataclasses import dataclass, field


def _new_name() -> str:
    # A process's number would not do: in containers it is the same for all.
    return f"{socket.gethostname()}/{secrets.token_hex(4)}"


@dataclass
class Instance:
    """What a process must know of the instance."""

    name: str = field(default_factory=_new_name)
    """No other instance has it; all workers of one do."""
    ends: bool = True
    """Whether the instance ends when this process does; a worker that is replaced leaves others."""
