#!/opt/rul/bin/python -I
"""Asks one service whether it is well, in a tenth of a second.

``probe http URL``, ``probe metric URL LINE``, ``probe recent URL METRIC SECONDS``, ``probe grpc
PORT`` and ``probe daemon`` end with 0, or say why not.
Dagster's own checks import all of Dagster, a second of CPU each time, which is most of what an
idle stack would do.
"""

import os
import sys
import time
import urllib.request

TIMEOUT_SECONDS = 8.0
HEARTBEAT_SECONDS = 120.0


def http(url: str) -> None:
    """Pass if the address answers with success."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS):  # noqa: S310 - our own address
        return


def metric(url: str, line: str) -> None:
    """Pass if the metrics at the address have that line."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
        if line not in answer.read().decode().splitlines():
            sys.exit(f"{url} does not say {line}")


def recent(url: str, name: str, seconds: str) -> None:
    """Pass if a metric at the address is a time of the last so many seconds."""
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
        told = dict(
            line.split(" ", 1) for line in answer.read().decode().splitlines() if " " in line
        )
    age_seconds = time.time() - float(told.get(name, 0))
    if age_seconds > float(seconds):
        sys.exit(f"{url} says of {name} that it was {age_seconds:.0f} s ago")


def grpc(port: str) -> None:
    """Pass if the code server says that it serves."""
    import grpc as grpc_client
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc_client.insecure_channel(f"127.0.0.1:{port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="DagsterApi"), timeout=TIMEOUT_SECONDS
        )
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(f"the code server on port {port} does not serve: status {answer.status}")


def daemon() -> None:
    """Pass if every part of Dagster's daemon told of itself lately."""
    import psycopg2

    with (
        psycopg2.connect(
            os.environ["DAGSTER_DATABASE_URL"].replace("+psycopg2", ""), connect_timeout=5
        ) as connection,
        connection.cursor() as cursor,
    ):
        cursor.execute(
            "SELECT daemon_type, extract(epoch FROM now() AT TIME ZONE 'utc' - timestamp)"
            " FROM daemon_heartbeats"
        )
        ages = dict(cursor.fetchall())
    late = {name: f"{age:.0f} s" for name, age in ages.items() if age > HEARTBEAT_SECONDS}
    if late or not ages:
        sys.exit(f"no heartbeat of Dagster's daemon: {late or 'none ever'}")


VERBS = {"http": http, "metric": metric, "recent": recent, "grpc": grpc, "daemon": daemon}

if __name__ == "__main__":
    VERBS[sys.argv[1]](*sys.argv[2:])
