"""Runs wait for a Docker that cannot be reached, and fail on one that refuses."""

import pytest
import requests
from dagster._core.errors import DagsterUserCodeUnreachableError
from docker.errors import APIError, DockerException, ImageNotFound

import docker
from rul_assets.launcher import PatientDockerRunLauncher, unreachable_is_told_so


def api_error(status: int) -> APIError:
    response = requests.Response()
    response.status_code = status
    return APIError("told", response=response, explanation="told")


@pytest.mark.parametrize(
    "error",
    [
        requests.ConnectionError("refused"),
        requests.Timeout("slow"),
        DockerException("Error while fetching server API version"),
        api_error(502),
        api_error(500),
    ],
)
def test_a_docker_that_cannot_be_reached_sends_the_run_back_to_the_queue(error):
    with pytest.raises(DagsterUserCodeUnreachableError, match="Docker"), unreachable_is_told_so():
        raise error


@pytest.mark.parametrize("error", [api_error(403), api_error(400), api_error(404)])
def test_a_container_that_is_refused_fails_the_run(error):
    with pytest.raises(APIError), unreachable_is_told_so():
        raise error


def test_an_error_of_another_kind_stays_what_it_is():
    with pytest.raises(ZeroDivisionError), unreachable_is_told_so():
        raise ZeroDivisionError


def test_the_launcher_asks_the_docker_that_the_environment_names(monkeypatch):
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(DagsterUserCodeUnreachableError), unreachable_is_told_so():
        docker.from_env()
    assert issubclass(ImageNotFound, APIError)
    assert PatientDockerRunLauncher.config_type()
