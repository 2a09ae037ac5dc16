"""Several worker processes behind one port: started, watched, replaced, ended together.

What belongs here: the life of workers. What does not: what a worker does (``worker``).

The supervisor owns the socket that listens, so connections that nobody took yet outlive every
worker. A worker that dies is replaced at once. SIGHUP replaces all, one after another, each by one
that is ready before the old one stops taking connections. SIGTERM and SIGINT end all. A worker that
cannot even start ends everything with one line, for the next one could not either.
"""

import asyncio
import contextlib
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import Process
from collections.abc import Coroutine
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import structlog
from prometheus_client import Counter

from rul_core.errors import RulError
from rul_serving import shared_values
from rul_serving.instance import Instance
from rul_serving.server import address_of
from rul_serving.settings import ServingSettings
from rul_serving.worker import Place

SILENT_SECONDS = 30
"""After so long without a beat a worker counts as hung. Seconds of this process: when the whole
machine pauses nobody is hung."""
READY_SECONDS = 60.0
"""How long a worker that is to take over may take to be ready, once it has loaded what it needs."""
LOADING_SECONDS = 60.0
MOST_KILLED_STARTS = 3
"""So many workers in a row may be killed before they answer; then it is no mishap."""

_log = structlog.stdlib.get_logger(__name__)


class WorkerError(RulError):
    """A worker cannot start."""


class _Worker:
    def __init__(self, number: int, process: Process, line: socket.socket) -> None:
        self.number, self.process, self.line = number, process, line
        self.answers: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        """Whether it came so far; false when it ended before."""
        self.may_end = False
        self.ended = asyncio.Event()

    @property
    def end(self) -> str:
        code = self.process.returncode or 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"code {code}"

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def stop(self, *, for_good: bool = False) -> None:
        """Tell it to stop; for good when the whole instance does."""
        self.may_end = True
        if for_good:
            with contextlib.suppress(OSError):
                self.line.shutdown(socket.SHUT_WR)  # heard before the signal is
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()


class Supervisor:
    """The workers of an instance.

    Args:
        settings: How many, and how long they may take to stop.
        listener: The socket that they share.
        metrics: A folder for theirs.
    """

    def __init__(self, settings: ServingSettings, listener: socket.socket, metrics: Path) -> None:
        self._settings, self._listener, self._metrics = settings, listener, metrics
        self._instance = Instance().name
        self._alive: list[_Worker] = []
        """The oldest first."""
        self._numbers: set[int] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop, self._roll = asyncio.Event(), asyncio.Event()
        self._failure: BaseException | None = None
        self._killed_starts = 0
        shared_values.keep_in(metrics, "supervisor")
        self._replaced = Counter(
            "rul_workers_replaced", "Workers that others took over from, by why.", ("reason",)
        )

    async def run(self) -> None:
        """Serve until a signal says to stop.

        Raises:
            WorkerError: A worker cannot start.
        """
        loop = asyncio.get_running_loop()
        for sign in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(sign, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._roll.set)
        try:
            first = [await self._start() for _ in range(self._settings.workers)]
            self._do(self._tell_when_all_answer(first))
            self._do(self._roll_when_asked())
            await self._stop.wait()
        finally:
            await self._end_all()
        if self._failure is not None:
            raise self._failure

    async def _start(self, *, takes_over: bool = False) -> _Worker:
        number = next(number for number in count() if number not in self._numbers)
        self._numbers.add(number)
        ours, theirs = socket.socketpair()
        with theirs:
            place = Place(
                instance=self._instance,
                number=number,
                metrics=str(self._metrics),
                listener=self._listener.fileno(),
                line=theirs.fileno(),
                ready_seconds=READY_SECONDS if takes_over else None,
            )
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "rul_serving.worker", msgspec.json.encode(place).decode()),
                pass_fds=(place.listener, place.line),
            )
        ours.setblocking(False)
        worker = _Worker(number, process, ours)
        self._alive.append(worker)
        self._do(self._follow(worker))
        if self._stop.is_set():
            worker.stop(for_good=True)
        return worker

    async def _follow(self, worker: _Worker) -> None:
        """See what becomes of a worker, and replace it when it dies."""
        hearing = asyncio.create_task(self._hear(worker))
        await worker.process.wait()
        hearing.cancel()
        await asyncio.wait([hearing])
        worker.line.close()
        shared_values.forget_gauges(self._metrics, str(worker.number))
        self._alive.remove(worker)
        self._numbers.remove(worker.number)
        answered = worker.answers.done()
        if not answered:
            worker.answers.set_result(False)
        worker.ended.set()
        if worker.may_end or self._stop.is_set():
            return
        _log.error("worker died", pid=worker.process.pid, end=worker.end, answered=answered)
        if answered:
            self._replaced.labels("died").inc()
        elif not self._may_be_tried_again(worker):
            self._failure = WorkerError(
                f"a worker ended with {worker.end} before it answered; its own lines above say why"
            )
            self._stop.set()
            return
        await self._start()

    def _may_be_tried_again(self, worker: _Worker) -> bool:
        """A start that was killed from outside may succeed the next time; others would not."""
        self._killed_starts += 1
        was_killed = (worker.process.returncode or 0) < 0
        return was_killed and self._killed_starts < MOST_KILLED_STARTS

    async def _hear(self, worker: _Worker) -> None:
        """Take its beats; kill it when they cease."""
        loop, silent_seconds = asyncio.get_running_loop(), 0
        while silent_seconds < SILENT_SECONDS or worker.may_end:
            try:
                async with asyncio.timeout(1):
                    if not await loop.sock_recv(worker.line, 4096):
                        return
            except TimeoutError:
                silent_seconds += worker.answers.done()
                continue
            except OSError:
                return
            silent_seconds = 0
            if not worker.answers.done():
                self._killed_starts = 0
                worker.answers.set_result(True)
        _log.error("worker hangs", pid=worker.process.pid, silent_seconds=silent_seconds)
        worker.kill()

    async def _tell_when_all_answer(self, workers: list[_Worker]) -> None:
        if all([await worker.answers for worker in workers]):
            address = address_of(self._listener)
            _log.info(f"running on {address}", address=address, workers=len(workers))

    async def _roll_when_asked(self) -> None:
        while True:
            await self._roll.wait()
            self._roll.clear()
            await self._replace_all()

    async def _replace_all(self) -> None:
        old = set(self._alive)
        _log.info("workers are replaced one after another", workers=len(old))
        while old & set(self._alive) and not self._stop.is_set():
            new = await self._start(takes_over=True)
            new.may_end = True  # as long as the old ones answer, nothing is lost with it
            if not await self._answers_in_time(new):
                if not self._stop.is_set():
                    _log.error("workers stay, for a new one is not ready; its own lines say why")
                return
            new.may_end = False
            while len(self._alive) > self._settings.workers:
                oldest = self._alive[0]
                oldest.stop()
                self._replaced.labels("rolled").inc()
                await self._ended_in_time([oldest])
        _log.info("workers replaced", workers=len(self._alive))

    async def _answers_in_time(self, worker: _Worker) -> bool:
        try:
            async with asyncio.timeout(LOADING_SECONDS + READY_SECONDS):
                return await asyncio.shield(worker.answers)
        except TimeoutError:
            worker.kill()
            await worker.ended.wait()
            return False

    async def _ended_in_time(self, workers: list[_Worker]) -> None:
        """Wait until they ended; kill those that take too long."""
        ends = [asyncio.create_task(worker.ended.wait()) for worker in workers]
        if ends:
            await asyncio.wait(ends, timeout=self._settings.shutdown_seconds)
        for worker in workers:
            if not worker.ended.is_set():
                _log.error("worker does not stop and is killed", pid=worker.process.pid)
                worker.kill()
        await asyncio.gather(*ends)

    async def _end_all(self) -> None:
        self._stop.set()
        self._listener.close()
        while self._alive:
            for worker in self._alive:
                worker.stop(for_good=True)
            await self._ended_in_time(list(self._alive))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Do it meanwhile; what goes wrong with it ends everything."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("supervisor failed", exc_info=error)
            self._failure = self._failure or error
            self._stop.set()


def supervise(settings: ServingSettings, listener: socket.socket) -> None:
    """Serve with as many workers as the settings say, until told to stop.

    Raises:
        WorkerError: A worker cannot start.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix="rul-metrics-", ignore_cleanup_errors=True)
    except OSError as error:
        raise WorkerError(
            f"there is no place for metrics: {error}; set TMPDIR to a folder that can be written"
        ) from error
    with folder as metrics:
        asyncio.run(Supervisor(settings, listener, Path(metrics)).run())
