"""Who asks: keys are known at once, refused soon, and known while PostgreSQL is away."""

import re
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta

import httpx
import pytest
import sqlalchemy as sa
from litestar.testing import TestClient
from pydantic import SecretStr
from structlog.testing import capture_logs

from rul_core.errors import SettingsError, Unavailable
from rul_serving.access import UNKNOWN_KEY_SECONDS, Access
from rul_serving.principal import ANONYMOUS, Principal
from rul_serving.settings import ServingSettings
from rul_store import audit, keys, swallowed
from rul_store.database import begin
from rul_store.keys import Author, Role

ANN = Author(principal="cli:ann")
NOBODY_LISTENS = "postgresql://u@127.0.0.1:1/rul"


def ask(client: TestClient, key: str, header: str = "authorization") -> httpx.Response:
    value = f"Bearer {key}" if header == "authorization" else key
    return client.get("/v1/fleets", headers={header: value})


@contextmanager
def refused_questions(client: TestClient) -> Generator[list[int]]:
    """Count the queries for keys, and answer none while the list holds a number below zero."""
    database = client.app.state.service.database
    ask_really, counted = database.ask, [0]

    async def count(question, *args, **named):
        if question is keys.changed_since:
            if counted[0] < 0:
                raise Unavailable("PostgreSQL is away")
            counted[0] += 1
        return await ask_really(question, *args, **named)

    database.ask = count
    yield counted
    database.ask = ask_really


def test_a_key_is_taken_from_either_header(platform):
    key = platform.key("viewer")
    with platform.client(access="keys") as client:
        assert ask(client, key).status_code == 200
        assert ask(client, key, "x-api-key").status_code == 200
        basic = {"authorization": "Basic dTpw", "X-API-Key": key}
        assert client.get("/v1/fleets", headers=basic).status_code == 200
        lower = {"authorization": f"bearer  {key} "}
        assert client.get("/v1/fleets", headers=lower).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key[:0],
        lambda key: key[:4] + "hunter2",
        lambda key: key[:-1],
        lambda key: key + "A",
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: "rul_zzzzzzzz" + key[12:],
        lambda key: key.upper(),
    ],
)
def test_what_is_not_quite_the_key_is_refused_and_not_repeated(platform, change):
    wrong = change(platform.key("viewer"))
    with platform.client(access="keys") as client:
        answer = ask(client, wrong)
    assert answer.status_code == 401
    assert answer.json()["type"] == "/problems/unauthenticated"
    assert answer.headers["www-authenticate"] == 'Bearer realm="rul", error="invalid_token"'
    assert wrong == "" or wrong not in answer.text


def test_a_key_made_elsewhere_is_known_at_once(platform):
    with platform.client(access="keys") as client:
        assert ask(client, platform.key("viewer")).status_code == 200


def test_a_key_revoked_elsewhere_is_refused_within_seconds(platform, eventually):
    key = platform.key("viewer")
    with platform.client(access="keys") as client:
        assert ask(client, key).status_code == 200
        keys.revoke(platform.engine, key[4:12], by=ANN)
        eventually(lambda: ask(client, key).status_code == 401)


def test_a_key_expires_to_the_moment(platform, eventually):
    made = keys.create(
        platform.engine, name="brief", roles=["viewer"], expires_in=timedelta(seconds=1.5), by=ANN
    )
    with platform.client(access="keys") as client:
        assert ask(client, made.secret).status_code == 200
        assert made.key.expires_at is not None
        time.sleep(max(0, made.key.expires_at.timestamp() - time.time()) + 0.001)
        assert ask(client, made.secret).status_code == 401


def test_garbage_keys_do_not_load_postgresql(platform):
    with platform.client(access="keys") as client, refused_questions(client) as counted:
        started = time.monotonic()
        with ThreadPoolExecutor(20) as threads:
            found = threads.map(lambda _: ask(client, keys.generate()).status_code, range(200))
            assert set(found) == {401}
        seconds = time.monotonic() - started
        assert 1 <= counted[0] <= 2 + seconds / 2 + seconds / UNKNOWN_KEY_SECONDS
        asked = counted[0]
        assert {ask(client, "garbage").status_code for _ in range(50)} == {401}
        assert counted[0] - asked <= 1


def test_while_postgresql_is_away_known_keys_are_good_and_unknown_ones_may_be_tried_again(
    platform, eventually
):
    key = platform.key("viewer")
    with platform.client(access="keys") as client:
        assert ask(client, key).status_code == 200
        before = swallowed.counts().get("keys", 0)
        with refused_questions(client) as counted:
            counted[0] = -1
            new = platform.key("viewer")
            eventually(lambda: ask(client, new).status_code == 503)
            unknown = ask(client, new)
            assert unknown.headers["retry-after"] == "5"
            assert new not in unknown.text
            assert ask(client, key).status_code == 200
            assert ask(client, "garbage").status_code == 401
        assert swallowed.counts()["keys"] > before
        eventually(lambda: ask(client, new).status_code == 200)


def test_a_server_that_starts_without_postgresql_takes_keys_once_it_is_there(platform):
    with platform.client(access="keys", database_url=NOBODY_LISTENS) as client:
        assert ask(client, platform.key("viewer")).status_code == 503
        assert client.get("/livez").status_code == 200


def test_a_restored_earlier_state_of_keys_is_followed(platform, eventually):
    kept, lost = platform.key("viewer"), platform.key("planner")
    with platform.client(access="keys") as client:
        assert ask(client, lost).status_code == 200
        with begin(platform.engine) as connection:
            connection.execute(
                sa.text("DELETE FROM api_keys WHERE key_id = :key_id"), {"key_id": lost[4:12]}
            )
        eventually(lambda: ask(client, lost).status_code == 401)
        assert ask(client, kept).status_code == 200


def test_the_last_use_of_a_key_is_written_down_in_time(platform, eventually, monkeypatch):
    monkeypatch.setattr("rul_serving.access.FLUSH_SECONDS", 0.0)
    monkeypatch.setattr("rul_serving.access.POLL_SECONDS", 0.05)
    key, unused = platform.key("viewer"), platform.key("viewer")
    with platform.client(access="keys") as client:
        ask(client, key)
        eventually(lambda: keys.every(platform.engine)[0].last_used_at is not None)
    assert [each.key_id for each in keys.every(platform.engine) if not each.last_used_at] == [
        unused[4:12]
    ]


def test_uses_are_written_down_when_the_service_ends(platform):
    key = platform.key("viewer")
    with platform.client(access="keys") as client:
        ask(client, key)
    assert keys.every(platform.engine)[0].last_used_at is not None


def test_the_first_admin_key_is_made_once_from_its_setting(platform):
    key = SecretStr(keys.generate())
    with capture_logs() as logs:
        for _ in range(2):
            with platform.client(access="keys", admin_key=key) as client:
                answer = client.get("/v1/keys", headers={"x-api-key": key.get_secret_value()})
    (made,) = answer.json()["keys"]
    assert (made["name"], made["roles"], made["created_by"]) == ("first admin", ["admin"], "system")
    assert [entry.action for entry in audit.page(platform.engine, limit=9).entries] == [
        "key.create"
    ]
    assert [line["made_now"] for line in logs if line["event"] == "first admin key is there"] == [
        True, False
    ]  # fmt: skip
    assert key.get_secret_value()[13:] not in str(logs)


def test_a_first_admin_key_with_the_id_of_another_is_told_and_not_made(platform):
    key = platform.key("viewer")
    with (
        capture_logs() as logs,
        platform.client(access="keys", admin_key=SecretStr(key[:13] + keys.generate()[13:])),
    ):
        pass
    (line,) = (line for line in logs if line["event"] == "first admin key refused")
    assert line["log_level"] == "error"
    assert len(keys.every(platform.engine)) == 1


def test_a_first_admin_key_is_made_as_soon_as_postgresql_answers(platform, eventually, monkeypatch):
    monkeypatch.setattr("rul_serving.access.POLL_SECONDS", 0.05)
    make, left = keys.ensure, [2]

    def away(*args, **named):
        if left[0]:
            left[0] -= 1
            raise Unavailable("PostgreSQL is away")
        return make(*args, **named)

    monkeypatch.setattr(keys, "ensure", away)
    key = keys.generate()
    with platform.client(access="keys", admin_key=SecretStr(key)) as client:
        eventually(lambda: ask(client, key).status_code == 200)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_open_access_is_for_this_machine(platform, host):
    settings = platform.with_settings(host=host, access="open")
    assert settings.access == "open"


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.8", "rul.example.org", ""])  # noqa: S104
def test_open_access_is_refused_where_others_can_reach_it(platform, host):
    with pytest.raises(SettingsError, match=f"RUL_HOST={host} can be reached from other machines"):
        platform.with_settings(host=host, access="open")


def test_keys_are_asked_for_unless_told_otherwise(monkeypatch):
    monkeypatch.setenv("RUL_DATABASE_URL", "postgresql://localhost/rul")
    assert ServingSettings().access == "keys"


@pytest.mark.parametrize(
    ("value", "told"),
    [("hunter2-hunter2", "it is not rul_"), ("rul_abcdefgh_" + "a" * 43, "too regular")],
)
def test_an_admin_key_of_the_wrong_form_is_refused_unseen(monkeypatch, tmp_path, value, told):
    (tmp_path / "key").write_text(value + "\n")
    monkeypatch.setenv("RUL_DATABASE_URL", "postgresql://localhost/rul")
    monkeypatch.setenv("RUL_ADMIN_KEY_FILE", str(tmp_path / "key"))
    with pytest.raises(SettingsError, match=told) as refused:
        ServingSettings()
    assert value not in str(refused.value)
    assert "RUL_ADMIN_KEY cannot be used" in str(refused.value)
    assert "rul keys generate" in str(refused.value)


def test_in_open_access_everybody_is_anonymous_and_may_do_all(platform):
    with platform.client() as client:
        made = client.post("/v1/keys", json={"name": "a", "roles": ["viewer"]}).json()
        assert ask(client, "garbage").status_code == 200
    assert made["key"]["created_by"] == "anonymous"


def test_a_stream_can_ask_whether_its_key_is_still_good(platform, eventually):
    key = platform.key("viewer")
    with platform.client(access="keys") as client:
        access: Access = client.app.state.service.access
        ask(client, key)
        headers = [(b"x-api-key", key.encode())]
        principal = access.known(headers)
        assert principal is not None
        assert (principal.roles, principal.fleets) == (frozenset({Role.VIEWER}), None)
        assert access.holds(principal)
        assert not access.holds(ANONYMOUS)
        keys.revoke(platform.engine, key[4:12], by=ANN)
        eventually(lambda: not access.holds(principal))
    assert Access(None).holds(ANONYMOUS)
    assert not Access(None).holds(Principal(name="a", key_id="b", roles=frozenset()))


def test_a_role_of_a_later_version_gives_nothing(platform):
    key = platform.key("viewer")
    with begin(platform.engine) as connection:
        connection.execute(sa.text("UPDATE api_keys SET roles = ARRAY['seer']"))
    with platform.client(access="keys") as client:
        answer = ask(client, key)
    assert answer.status_code == 403
    assert "has the roles none" in answer.json()["detail"]


def test_requests_are_counted_by_what_whoever_asked_is_for(platform):
    key = platform.key("viewer", "planner")
    with platform.client(access="keys") as client:

        def counts() -> dict[str, float]:
            told = re.findall(
                r'^rul_requests_by_role_total\{role="(\w+)"\} ([\d.]+)$',
                client.get("/metrics").text,
                re.MULTILINE,
            )
            return {role: float(count) for role, count in told}

        before = counts()
        assert ask(client, key).status_code == 200
        assert client.get("/v1/fleets").status_code == 401
        grown = {role: count - before.get(role, 0) for role, count in counts().items()}
        assert {role: by for role, by in grown.items() if by} == {"viewer": 1, "planner": 1}
