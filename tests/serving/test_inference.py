"""The Open Inference Protocol: its clients get the model's figures without knowing us."""

import asyncio
import json
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import uvicorn
from litestar.testing import TestClient
from tritonclient.utils import InferenceServerException

from rul_core.model import RulModel
from rul_core.trees import ENGINE
from rul_serving.app import create_app
from rul_serving.gathering import Gathering
from rul_serving.inference import OUTPUTS
from rul_serving.shortcut import LARGE_BYTES
from tests.serving.conftest import Platform

INFER = "/v2/models/pumps/infer"


@pytest.fixture
def rows(platform: Platform) -> np.ndarray:
    """Feature rows, some features not known."""
    found = platform.learnt.training.model.compiled.matrix(platform.learnt.readings)[:300].copy()
    found[3, 1] = np.nan
    return found


@pytest.fixture
def client(platform: Platform) -> Generator[TestClient]:
    platform.release()
    with platform.client() as running:
        yield running


def tensor(rows: np.ndarray, **changed: Any) -> dict[str, Any]:
    data = [None if np.isnan(number) else float(number) for number in rows.ravel()]
    given = {"name": "features", "shape": list(rows.shape), "datatype": "FP32", "data": data}
    return {**given, **changed}


def ask(client: TestClient, rows: np.ndarray, path: str = INFER, **more: Any) -> dict[str, Any]:
    answer = client.post(path, json={"inputs": [tensor(rows)], **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def known(rows: np.ndarray) -> np.ndarray:
    """The rows of which every feature is known."""
    return rows[~np.isnan(rows).any(axis=1)]


def expected(platform: Platform, rows: np.ndarray) -> dict[str, list[float]]:
    figures = platform.learnt.training.model.figures(rows).values()
    return dict(zip(OUTPUTS, (figure.tolist() for figure in figures), strict=True))


def figures(answer: dict[str, Any]) -> dict[str, list[float]]:
    return {output["name"]: output["data"] for output in answer["outputs"]}


@pytest.mark.parametrize("count", [0, 1, 5, 300])
def test_rows_get_the_models_figures_to_the_last_digit(platform, client, rows, count):
    answer = ask(client, rows[:count], id="mine")
    assert figures(answer) == expected(platform, rows[:count])
    assert (answer["model_name"], answer["id"]) == ("pumps", "mine")
    assert answer["model_version"] == client.get("/v2/models/pumps").json()["versions"][0]
    assert all(
        (output["datatype"], output["shape"]) == ("FP64", [count]) for output in answer["outputs"]
    )
    if count == 300:
        assert len(json.dumps(tensor(rows))) > LARGE_BYTES


def test_a_row_may_be_an_array_of_its_own_and_optional_things_null(platform, client, rows):
    few = known(rows)[:3]
    question = {
        "id": None, "parameters": None, "outputs": None,
        "inputs": [tensor(few, data=few.tolist(), parameters=None)],
    }  # fmt: skip
    answer = client.post(INFER, json=question).json()
    assert figures(answer) == expected(platform, few)
    assert "id" not in answer


def test_outputs_come_as_they_are_wanted(platform, client, rows):
    wanted = [{"name": "safe_cycles"}, {"name": "rul_cycles", "parameters": None}]
    answer = ask(client, rows[:2], outputs=wanted)
    all_of_them = expected(platform, rows[:2])
    assert list(figures(answer)) == ["safe_cycles", "rul_cycles"]
    assert figures(answer) == {name: all_of_them[name] for name in figures(answer)}


def test_the_metadata_name_the_tensors_and_the_order_of_the_features(platform, client):
    told = client.get("/v2/models/pumps").json()
    model = platform.learnt.training.model
    (features,) = told["inputs"]
    assert (told["name"], told["platform"]) == ("pumps", ENGINE)
    assert features["shape"] == [-1, len(model.pipeline.names)]
    assert features["parameters"]["names"] == list(model.pipeline.names)
    assert [output["name"] for output in told["outputs"]] == list(OUTPUTS)
    assert told["parameters"] == {"feature_spec": model.feature_spec}


def test_the_version_that_answers_may_be_named_and_no_other(client, rows):
    (version,) = client.get("/v2/models/pumps").json()["versions"]
    path = f"/v2/models/pumps/versions/{version}"
    assert client.get(path).json() == client.get("/v2/models/pumps").json()
    assert client.get(f"{path}/ready").json() == {"name": "pumps", "ready": True}
    assert ask(client, rows[:1], f"{path}/infer") == ask(client, rows[:1])
    for other in ("/v2/models/pumps/versions/other", "/v2/models/pumps/versions/other/ready"):
        problem = client.get(other)
        assert problem.status_code == 404
        assert problem.json()["type"] == "/problems/unknown-model"
        assert repr(version) in problem.json()["detail"]


def test_the_server_says_that_it_lives_and_is_ready(platform, client):
    assert client.get("/v2").json()["name"] == "rul-platform"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2/models/pumps/ready").json() == {"name": "pumps", "ready": True}


def test_what_cannot_answer_says_so(platform, rows):
    with platform.client() as client:
        missing = client.post(INFER, json={"inputs": [tensor(rows[:1])]})
        assert (missing.status_code, missing.json()["type"]) == (404, "/problems/unknown-model")
        assert client.get("/v2/models/pumps/ready").status_code == 404
    version = platform.release().version
    (platform.bundle(version) / "model.cbm").write_bytes(b"damaged")
    with platform.client() as client:
        damaged = client.post(INFER, json={"inputs": [tensor(rows[:1])]})
        assert damaged.status_code == 503
        assert "Retry-After" in damaged.headers
        ready = client.get("/v2/models/pumps/ready")
        assert (ready.status_code, ready.json()) == (503, {"name": "pumps", "ready": False})
        platform.root.rename(platform.root.with_name("gone"))
        health = client.get("/v2/health/ready")
        platform.root.with_name("gone").rename(platform.root)
    assert (health.status_code, health.json()) == (503, {"ready": False})


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inputs": []}, "inputs"),
        ({"inputs": [{"name": "features"}]}, "missing required field `shape`"),
        ({"name": "other"}, "the model takes 'features'"),
        ({"shape": [1, 2]}, "the model takes 'features' of shape [rows, "),
        ({"shape": [1]}, "length >= 2"),
        ({"shape": [-1, 5]}, ">= 0"),
        ({"datatype": "BYTES"}, "BYTES"),
        ({"data": [1.0]}, "there are 1 numbers"),
        ({"data": [[1.0], 2.0]}, "flat or an array a row, and not both"),
        ({"data": [2.0, [1.0]]}, "flat or an array a row, and not both"),
        ({"data": ["1"]}, "str"),
        ({"data": [True]}, "bool"),
        ({"parameters": {"binary_data_size": 8}}, "0 bytes follow the JSON"),
        ({"outputs": [{"name": "other"}]}, "there is no 'other'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_a_problem_that_the_protocols_clients_can_read(
    client, rows, changed, said
):
    of_tensor = {"name", "shape", "datatype", "data", "parameters"}
    if changed.keys() <= of_tensor:
        question = {"inputs": [tensor(rows[:1], **changed)]}
    else:
        question = {"inputs": [tensor(rows[:1])], **changed}
    answer = client.post(INFER, json=question)
    problem = answer.json()
    assert answer.status_code == 400, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert problem["type"] == "/problems/invalid-request"
    assert said in problem["error"]
    assert problem["error"] == problem["detail"]


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b"\xff", b'{"inputs": [NaN]}'])
def test_what_is_no_request_is_refused(client, body):
    answer = client.post(INFER, content=body)
    assert (answer.status_code, answer.json()["type"]) == (400, "/problems/invalid-request")


def test_problems_elsewhere_have_no_error_of_the_protocol(client):
    assert "error" not in client.get("/v1/nothing").json()
    assert client.get("/v2/nothing").json()["error"]


def test_more_rows_than_one_request_may_bring_are_refused(platform, rows):
    platform.release()
    with platform.client(max_readings=2) as client:
        assert client.post(INFER, json={"inputs": [tensor(rows[:2])]}).status_code == 200
        answer = client.post(INFER, json={"inputs": [tensor(rows[:3])]})
    assert (answer.status_code, answer.json()["type"]) == (413, "/problems/too-large")


@pytest.mark.parametrize("length", [b"many", b"-1", b"1000000", b"\xb2"])
def test_a_length_of_the_json_that_cannot_be_is_refused(client, rows, length):
    body = json.dumps({"inputs": [tensor(rows[:1])]}).encode()
    headers = {b"inference-header-content-length": length}
    answer = client.post(INFER, content=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["at"] == "Inference-Header-Content-Length"


def test_a_number_beyond_float32_is_infinite_to_the_model(platform, client, rows):
    large, infinite = rows[:1].astype(np.float64), rows[:1].copy()
    large[0, 0], infinite[0, 0] = 1e300, np.inf
    answer = ask(client, large)
    assert figures(answer) == expected(platform, infinite)


def test_requests_that_are_answered_together_get_each_their_own(platform, client, rows):
    chosen = [rows[i : i + 1 + i % 3] for i in range(40)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda some: ask(client, some), chosen))
    for some, answer in zip(chosen, answers, strict=True):
        assert figures(answer) == expected(platform, some)


def test_rows_that_come_in_one_turn_of_the_loop_are_computed_at_once(platform, rows, monkeypatch):
    calls = []
    model, figures_of = platform.learnt.training.model, RulModel.figures

    def counted(model: RulModel, given: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(len(given))
        return figures_of(model, given)

    async def together() -> list[np.ndarray]:
        gathering = Gathering()
        asked = [gathering.figures(model, rows[i : i + 2]) for i in range(5)]
        asked[1].cancel()
        return [await one for i, one in enumerate(asked) if i != 1]

    monkeypatch.setattr(RulModel, "figures", counted)
    answers = asyncio.run(together())
    assert calls == [10]
    for i, answer in zip((0, 2, 3, 4), answers, strict=True):
        assert dict(zip(OUTPUTS, answer.T.tolist(), strict=True)) == expected(
            platform, rows[i : i + 2]
        )


def test_a_model_that_fails_is_500_for_everybody_who_waits(client, rows, monkeypatch):
    monkeypatch.setattr(RulModel, "figures", lambda *_: 1 / 0)
    answer = client.post(INFER, json={"inputs": [tensor(rows[:1])]})
    assert (answer.status_code, answer.json()["type"]) == (500, "/problems/internal-error")


@pytest.fixture
def address(platform: Platform, eventually) -> Generator[str]:
    """Of the application on a real server, which the protocol's own clients need."""
    platform.release()
    server = uvicorn.Server(uvicorn.Config(create_app(platform.settings), port=0, log_config=None))
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(server.run)
        eventually(lambda: server.started)
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        server.should_exit = True
        running.result()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_tritons_client_gets_figures_in_bytes_and_in_json(
    platform, address, rows, binary, datatype
):
    dtype = {"FP32": np.float32, "FP64": np.float64}[datatype]
    given = triton.InferInput("features", [4, rows.shape[1]], datatype)
    few = known(rows)[:4]  # Triton's client writes NaN as no JSON
    given.set_data_from_numpy(few.astype(dtype), binary_data=binary)
    wanted = [triton.InferRequestedOutput(name, binary_data=binary) for name in OUTPUTS]
    with triton.InferenceServerClient(address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("pumps")
        assert client.get_model_metadata("pumps")["outputs"][0]["name"] == "rul_cycles"
        asked = client.infer("pumps", [given], outputs=wanted, request_id="7")
        by_default = client.infer("pumps", [given])
    for name, figure in expected(platform, few).items():
        for answer in (asked, by_default):
            np.testing.assert_array_equal(answer.as_numpy(name), figure)
    assert asked.get_response()["id"] == "7"


def test_tritons_client_can_leave_features_unknown_in_bytes(platform, address, rows):
    given = triton.InferInput("features", [1, rows.shape[1]], "FP32")
    given.set_data_from_numpy(rows[3:4])
    with triton.InferenceServerClient(address) as client:
        answer = client.infer("pumps", [given], outputs=[triton.InferRequestedOutput("rul_cycles")])
    assert np.isnan(rows[3]).any()
    assert answer.as_numpy("rul_cycles").tolist() == expected(platform, rows[3:4])["rul_cycles"]


def test_tritons_client_reads_what_is_wrong(address, rows):
    given = triton.InferInput("features", [1, 2], "FP32")
    given.set_data_from_numpy(rows[:1, :2])
    with triton.InferenceServerClient(address) as client:
        with pytest.raises(InferenceServerException, match="the model takes 'features'"):
            client.infer("pumps", [given])
        with pytest.raises(InferenceServerException, match="no model 'other' answers"):
            client.get_model_metadata("other")
        assert not client.is_model_ready("other")


@pytest.mark.parametrize(
    "told",
    [
        {"json": "rows"},
        {"json": "rows", "headers": {"X-Request-Id": "mine"}},
        {"json": "rows", "key": ""},
        {"json": "rows", "key": "rul_" + "0" * 8},
        {"json": "rows", "key": "other fleet"},
        {"json": "rows", "key": "new"},
        {"json": "rows", "path": "/v2/models/nobody/infer"},
        {"json": "rows", "method": "PUT"},
        {"json": "many rows"},
        {"json": {"inputs": []}},
        {"content": b"\xff"},
        {"content": b""},
        {"json": "rows", "headers": {"Inference-Header-Content-Length": "-1"}},
    ],
)
def test_both_ways_to_an_answer_say_the_same(platform, rows, told):
    """A query, which means nothing here, makes a request take the long way."""
    platform.release()
    given = {"rows": {"inputs": [tensor(rows[:3])]}, "many rows": {"inputs": [tensor(rows)]}}
    keys = {
        "": "",
        "known": platform.key("viewer"),
        "other fleet": platform.key("viewer", fleets=["fans"]),
    }
    content = {name: told[name] for name in ("content",) if name in told}
    if "json" in told:
        content["content"] = json.dumps(given.get(str(told["json"]), told["json"])).encode()
    with platform.client(access="keys") as client:
        answers = []
        keys["new"] = platform.key("viewer")  # which the service has not seen
        for query in ("", "?long=1"):
            name = told.get("key", "known")
            key = keys.get(name, name)
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            before = counted(client)
            answer = client.request(
                told.get("method", "POST"),
                told.get("path", INFER) + query,
                headers=headers | told.get("headers", {}),
                **content,
            )
            after = counted(client)
            answers.append((answer, {k: n - before.get(k, 0.0) for k, n in after.items()}))
    (short, counted_short), (long, counted_long) = answers
    assert short.status_code == long.status_code
    assert counted_short == counted_long
    ours = {"x-request-id", "ratelimit", "content-length"}
    assert [name for name in short.headers if name not in ours] == [
        name for name in long.headers if name not in ours
    ]
    assert told.get("headers", {}).get("X-Request-Id", "") in short.headers["x-request-id"]
    bodies = [{**json.loads(each.content), "trace_id": ""} for each in (short, long)]
    assert bodies[0] == bodies[1]


def counted(client: TestClient) -> dict[str, float]:
    """Requests for figures so far, by method, path and status."""
    lines = client.get("/metrics").text.splitlines()
    found = (line.rsplit(" ", 1) for line in lines if line.startswith("rul_requests_total"))
    return {labels: float(number) for labels, number in found if "infer" in labels}


def test_the_short_way_counts_towards_the_limit(platform, rows):
    platform.release()
    key = {"Authorization": f"Bearer {platform.key('viewer')}"}
    with platform.client(access="keys", requests_per_second=0.001, requests_burst=5) as client:
        statuses = [
            client.post(INFER, json={"inputs": [tensor(rows[:1])]}, headers=key).status_code
            for _ in range(7)
        ]
    assert statuses == [200] * 5 + [429] * 2


def test_a_body_in_pieces_takes_the_long_way(platform, client, rows):
    body = json.dumps({"inputs": [tensor(rows[:2])]}).encode()
    answer = client.post(INFER, content=iter([body[:50], body[50:]]))
    assert figures(answer.json()) == expected(platform, rows[:2])
