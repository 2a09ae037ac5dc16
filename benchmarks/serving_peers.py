"""Who else serves the model: installing the peers, starting them, and what each is asked.

What belongs here: an environment for each, apart from the project's, their requests and answers.
What does not: the programs that they run (``peers/``), the race (``serving``).

Each peer is as it comes, without debugging and access log, and with adaptive batching where that is
its way. MLServer is there twice more, tuned for the one core that it has here.
"""

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Collection, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.serving_load import Address, post
from benchmarks.serving_stage import FLEET, BenchmarkError, Server, Stage

HERE = Path(__file__).parent
PEERS = HERE / "peers"
PINS = HERE.parent / "requirements"
LIMIT, OURS, FASTAPI, BENTOML = "limit", "rul", "FastAPI", "BentoML"
MLSERVER, MLSERVER_ALONE = "MLServer", "MLServer, without its worker"
MLSERVER_BATCHING = "MLServer, without its worker, adaptive batching"
INSTALLED = {
    BENTOML: "bentoml", FASTAPI: "fastapi",
    MLSERVER: "mlserver", MLSERVER_ALONE: "mlserver", MLSERVER_BATCHING: "mlserver",
}  # fmt: skip
BATCHING = {"max_batch_size": 32, "max_batch_time": 0.002}
"""Of MLServer, as many rows as there are connections."""


@dataclass(frozen=True)
class Contestant:
    """A server that says what the model says of a feature row."""

    name: str
    server: Server
    address: Address
    requests: list[bytes]
    """One a feature row."""
    read: Callable[[Any], float] | None
    """The figure in its answer; None where it gives none."""


def cache_folder() -> Path:
    """Where the peers are installed, from one run to the next."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "rul-platform", "benchmarks")


def install(peer: str) -> Path:
    """The peer's interpreter; made anew where its pins, or this Python, are others.

    Raises:
        BenchmarkError: It cannot be installed.
    """
    pins = PINS / f"benchmark-{INSTALLED[peer]}.txt"
    version = ".".join(map(str, sys.version_info[:2]))
    digest = hashlib.sha256(pins.read_bytes() + version.encode()).hexdigest()[:12]
    folder = cache_folder() / f"{INSTALLED[peer]}-{digest}"
    python, ready = folder / "bin" / "python", folder / ".ready"
    if not ready.exists():
        uv = Path(sys.executable).with_name("uv")
        into = [str(uv), "pip", "install", "--quiet", "--python", str(python)]
        _run(peer, [sys.executable, "-m", "venv", "--clear", str(folder)])
        _run(peer, [*into, "--require-hashes", "--requirement", str(pins)])
        ready.touch()
    return python


def _run(peer: str, command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise BenchmarkError(f"{peer} cannot be installed: {error}; run `make setup`") from error
    if done.returncode:
        raise BenchmarkError(
            f"{peer} cannot be installed; {' '.join(command)} said:\n{done.stderr[-2000:]}"
        )


@contextmanager
def started(
    stage: Stage, rows: np.ndarray, core: int, peers: Collection[str]
) -> Generator[dict[str, Contestant]]:
    """The limit and some peers, listening, until the end of the context.

    Args:
        stage: Whose model they have.
        rows: (n, features) float32.
        core: Where they run.
        peers: Their names.
    """
    model = stage.folder / "model.cbm"
    stage.learnt.model.booster.save_model(str(model))
    bodies = infer_bodies(rows)
    plain = [post("/predict", json.dumps({"features": [row.tolist()]}).encode()) for row in rows]
    protocol = [post(f"/v2/models/{FLEET}/infer", body) for body in bodies]
    bento = ["-m", "bentoml", "serve", "bentoml_service:Pumps", "--host", "127.0.0.1"]
    with ExitStack() as stack:

        def run(name: str, command: list[str], folder: Path = HERE.parent) -> Contestant:
            port = free_port()
            environment = {
                "BENCHMARK_MODEL": str(model),
                "BENCHMARK_PORT": str(port),
                "MLSERVER_HTTP_PORT": str(port),
                "BENTOML_PORT": str(port),
                "BENTOML_DO_NOT_TRACK": "true",
            }
            log = stage.folder / f"{name}.log"
            server = Server(
                name, command, core=core, log=log, environment=environment, folder=folder
            )
            stack.callback(server.stop)
            return Contestant(name, server, Address("127.0.0.1", port), *asked[name])

        asked: dict[str, tuple[list[bytes], Callable[[Any], float] | None]] = {
            LIMIT: ([post("/infer", body) for body in bodies], None),
            FASTAPI: (plain, lambda answer: answer[0]),
            BENTOML: (plain, lambda answer: answer[0]),
            **dict.fromkeys(
                (MLSERVER, MLSERVER_ALONE, MLSERVER_BATCHING),
                (protocol, lambda answer: answer["outputs"][0]["data"][0]),
            ),
        }

        def mlserver(name: str, *, workers: int, **batching: float) -> Contestant:
            folder = _mlserver_folder(stage.folder / name, model, workers, batching)
            return run(name, [str(install(name).with_name("mlserver")), "start", "."], folder)

        starts: dict[str, Callable[[], Contestant]] = {
            FASTAPI: lambda: run(FASTAPI, [str(install(FASTAPI)), str(PEERS / "fastapi_app.py")]),
            BENTOML: lambda: run(BENTOML, [str(install(BENTOML)), *bento], PEERS),
            MLSERVER: lambda: mlserver(MLSERVER, workers=1),
            MLSERVER_ALONE: lambda: mlserver(MLSERVER_ALONE, workers=0),
            MLSERVER_BATCHING: lambda: mlserver(MLSERVER_BATCHING, workers=0, **BATCHING),
        }
        yield {
            LIMIT: run(LIMIT, [sys.executable, "-m", "benchmarks.serving_limit"]),
            **{name: starts[name]() for name in peers},
        }


def infer_bodies(rows: np.ndarray) -> list[bytes]:
    """A request of the Open Inference Protocol for each feature row."""
    return [
        json.dumps(
            {
                "inputs": [
                    {
                        "name": "features",
                        "shape": [1, len(row)],
                        "datatype": "FP32",
                        "data": row.tolist(),
                    }
                ]
            }
        ).encode()
        for row in rows
    ]


def _mlserver_folder(folder: Path, model: Path, workers: int, batching: dict[str, float]) -> Path:
    """Its settings but for the port, which is given by the environment.

    It comes with one worker beside the process that answers, which on one core costs it time.
    """
    folder.mkdir()
    (folder / "mlserver_runtime.py").write_text((PEERS / "mlserver_runtime.py").read_text())
    settings = {"debug": False, "host": "127.0.0.1", "parallel_workers": workers}
    ports = {name: free_port() for name in ("grpc_port", "metrics_port")}
    (folder / "settings.json").write_text(json.dumps({**settings, **ports}))
    described = {
        "name": FLEET,
        "implementation": "mlserver_runtime.CatBoostRegressorRuntime",
        "parameters": {"uri": str(model)},
        **batching,
    }
    (folder / "model-settings.json").write_text(json.dumps(described))
    return folder


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
