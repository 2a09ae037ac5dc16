"""Settings come from the environment or files, and errors name the variable."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, SecretStr

from rul_core.errors import SettingsError
from rul_store.settings import Settings, StoreSettings

DATABASE = "postgresql://rul:hush@db:5432/rul"


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch):
    for name in ("ROOT", "DATABASE_URL", "REDIS_URL", "PORT", "TAGS"):
        monkeypatch.delenv(f"RUL_{name}", raising=False)
        monkeypatch.delenv(f"RUL_{name}_FILE", raising=False)


class ServerSettings(Settings):
    port: int = Field(default=80, gt=0, description="a port number")
    tags: tuple[str, ...] = ()
    token: SecretStr = SecretStr("")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RUL_ROOT", str(tmp_path))
    monkeypatch.setenv("RUL_DATABASE_URL", DATABASE)
    settings = StoreSettings()
    assert settings.root == tmp_path
    assert settings.database_url.get_secret_value() == DATABASE
    assert settings.redis_url is None
    assert "hush" not in repr(settings)


def test_the_root_is_absolute_and_has_a_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.chdir(tmp_path)
    assert StoreSettings(database_url=DATABASE).root == tmp_path / ".rul"


def test_a_secret_may_stand_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "secret").write_text(f"{DATABASE}\n \n")
    monkeypatch.setenv("RUL_DATABASE_URL_FILE", str(tmp_path / "secret"))
    (tmp_path / "redis").write_text("redis://cache:6379/0")
    monkeypatch.setenv("RUL_REDIS_URL_FILE", str(tmp_path / "redis"))
    settings = StoreSettings()
    assert settings.database_url.get_secret_value() == DATABASE
    assert settings.redis_url is not None
    assert settings.redis_url.get_secret_value() == "redis://cache:6379/0"


def test_the_file_rule_holds_for_every_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "port").write_text("8080\n")
    (tmp_path / "tags").write_text('["a", "b"]')
    monkeypatch.setenv("RUL_PORT_FILE", str(tmp_path / "port"))
    monkeypatch.setenv("RUL_TAGS_FILE", str(tmp_path / "tags"))
    settings = ServerSettings()
    assert (settings.port, settings.tags) == (8080, ("a", "b"))


def test_a_variable_and_its_file_together_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "secret").write_text(DATABASE)
    monkeypatch.setenv("RUL_DATABASE_URL", DATABASE)
    monkeypatch.setenv("RUL_DATABASE_URL_FILE", str(tmp_path / "secret"))
    with pytest.raises(SettingsError, match=r"RUL_DATABASE_URL and RUL_DATABASE_URL_FILE are both"):
        StoreSettings()


def test_an_unreadable_file_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("RUL_DATABASE_URL_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"RUL_DATABASE_URL_FILE=.*nowhere cannot be read"):
        StoreSettings()


def test_a_missing_setting_is_named_with_its_remedy():
    with pytest.raises(SettingsError) as refused:
        StoreSettings()
    message = str(refused.value)
    assert "RUL_DATABASE_URL is not set; set it, or RUL_DATABASE_URL_FILE" in message
    assert "postgresql://user:password@host:5432/rul" in message


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUL_DATABASE_URL", "")
    monkeypatch.setenv("RUL_DATABASE_URL_FILE", "")
    with pytest.raises(SettingsError, match="RUL_DATABASE_URL is not set"):
        StoreSettings()


def test_a_wrong_value_is_shown_with_its_remedy(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUL_PORT", "-5")
    with pytest.raises(SettingsError, match=r"RUL_PORT=-5 cannot be used: .*; give a port number"):
        ServerSettings()


def test_a_list_that_is_no_json_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUL_TAGS", "a,b")
    with pytest.raises(SettingsError, match=r"RUL_TAGS is not JSON"):
        ServerSettings()


@pytest.mark.parametrize("url", ["mysql://rul:hush@db/rul", "hush", "postgresql://u:hush@h:x/rul"])
def test_a_wrong_secret_is_never_shown(monkeypatch: pytest.MonkeyPatch, url: str):
    monkeypatch.setenv("RUL_DATABASE_URL", url)
    with pytest.raises(SettingsError, match="RUL_DATABASE_URL cannot be used: ") as refused:
        StoreSettings()
    assert "hush" not in str(refused.value)
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_every_wrong_setting_is_named_at_once(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RUL_REDIS_URL", "http://cache")
    monkeypatch.setenv("RUL_ROOT", "s3://bucket/rul")
    with pytest.raises(SettingsError) as refused:
        StoreSettings()
    assert [line.split()[0] for line in str(refused.value).splitlines()] == [
        "RUL_ROOT=s3://bucket/rul",
        "RUL_DATABASE_URL",
        "RUL_REDIS_URL",
    ]


def test_settings_do_not_change_and_unknown_ones_are_refused():
    settings, misspelt = ServerSettings(port=1), dict[str, Any](prot=1)
    with pytest.raises(ValueError, match="frozen"):
        settings.__setattr__("port", 2)
    with pytest.raises(SettingsError, match="RUL_PROT is no setting of ServerSettings"):
        ServerSettings(**misspelt)
