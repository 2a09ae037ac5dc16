"""Metrics that several worker processes keep in one folder, so that each can tell the sum.

What belongs here: where a metric's number lives, and how those of all workers become one. What does
not: the metrics (``metrics``, ``counted``), the processes (``supervisor``).

The files are those of prometheus_client's multiprocess mode, which also reads them. Writing is our
own: its value packs bytes and asks for the process's number each time, which costs several times a
number in memory; ours is a number in mapped memory, as cheap as one of this process alone, and what
was counted survives a kill.

Files belong to a worker's number, not to its process: the next worker of the same number counts on
where the last one ended. So counters of the dead stay, and files never become more.
"""

from mmap import mmap
from pathlib import Path
from threading import Lock
from typing import Any, cast

from prometheus_client import REGISTRY, CollectorRegistry, values
from prometheus_client.mmap_dict import MmapedDict, mmap_key
from prometheus_client.multiprocess import MultiProcessCollector

GAUGE_MODE = "livesum"
"""Every gauge is the sum over workers that live; other modes have labels for processes."""
_kept_in: Path | None = None
_making = Lock()


def keep_in(folder: Path, owner: str) -> None:
    """Keep the metrics of this process in the folder; to be called before any is made.

    Args:
        folder: Of all processes that are told as one.
        owner: A name that no other living process of them has.
    """
    global _kept_in
    _kept_in = folder
    values.ValueClass = _values_of(folder, owner)


def collected() -> CollectorRegistry:
    """What is to be told: of this process, or of all that share a folder with it."""
    if _kept_in is None:
        return REGISTRY
    registry = CollectorRegistry()
    MultiProcessCollector(registry, path=str(_kept_in))
    return registry


def forget_gauges(folder: Path, owner: str) -> None:
    """Remove what a dead process said of its present; what it counted stays."""
    for path in folder.glob(f"gauge_*_{owner}.db"):
        path.unlink()


def _values_of(folder: Path, owner: str) -> type:
    files: dict[str, MmapedDict] = {}

    class SharedValue:
        """A number in mapped memory; the interface is ``prometheus_client.values.MutexValue``'s."""

        _multiprocess = True

        def __init__(
            self,
            kind: str,
            metric: str,
            name: str,
            labels: list[str],
            label_values: list[str],
            text: str,
            multiprocess_mode: str = "",
            **_: Any,
        ) -> None:
            if kind == "gauge":
                if multiprocess_mode != GAUGE_MODE:
                    raise ValueError(f"{metric} has no multiprocess_mode={GAUGE_MODE!r}; give it")
                kind = f"gauge_{multiprocess_mode}"
            key = mmap_key(metric, name, labels, label_values, text)
            with _making:
                if kind not in files:
                    files[kind] = MmapedDict(str(folder / f"{kind}_{owner}.db"))
                file = files[kind]
                file.read_value(key)  # makes room for it
                # A file that grows is mapped anew; the older map shows the same memory.
                self._cells = memoryview(cast(mmap, file._m)).cast("d")
                self._at = file._positions[key] // self._cells.itemsize
            self._lock = Lock()

        def inc(self, amount: float) -> None:
            with self._lock:
                self._cells[self._at] += amount

        def set(self, value: float, timestamp: float | None = None) -> None:  # noqa: ARG002
            with self._lock:
                self._cells[self._at] = value

        def get(self) -> float:
            return self._cells[self._at]

        def set_exemplar(self, exemplar: object) -> None:
            raise NotImplementedError("exemplars are not shared between workers")

        def get_exemplar(self) -> None:
            return None

    return SharedValue
