"""How the stack's runs become containers: Dagster's Docker launcher, which here does not give up.

What belongs here: what is done when Docker does not answer. What does not: what a container may be
(``dagster.yaml``, the code locations' environment, the socket proxy).

Dagster fails a run for good when its launch fails, and three in a row are lost within seconds of
Docker's or the proxy's restart. It puts a run back into the queue for one reason alone: that its
code server cannot be reached; so that is what is said of Docker too.
"""

from collections.abc import Generator
from contextlib import contextmanager

import requests
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.launcher import LaunchRunContext
from dagster_docker import DockerRunLauncher
from docker.errors import APIError, DockerException

TRY_AGAIN_STATUSES = frozenset({500, 502, 503, 504})


class PatientDockerRunLauncher(DockerRunLauncher):
    """Puts a run back into the queue while Docker cannot be reached."""

    def launch_run(self, context: LaunchRunContext) -> None:
        """Make and start the run's container.

        Raises:
            DagsterUserCodeUnreachableError: Docker does not answer; the run goes back to the queue,
                as often as the coordinator's ``max_user_code_failure_retries`` says.
            APIError: Docker or the socket proxy refuses the container, now and always.
        """
        with unreachable_is_told_so():
            super().launch_run(context)


@contextmanager
def unreachable_is_told_so() -> Generator[None]:
    """Turn the errors of a Docker that cannot be reached into the one that the daemon waits for."""
    try:
        yield
    except APIError as error:
        if error.status_code not in TRY_AGAIN_STATUSES:
            raise
        raise DagsterUserCodeUnreachableError(f"Docker cannot make containers: {error}") from error
    except (DockerException, requests.RequestException) as error:
        raise DagsterUserCodeUnreachableError(f"Docker cannot be reached: {error}") from error
