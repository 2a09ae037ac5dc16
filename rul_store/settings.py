"""Settings, from the environment and from files that the environment names.

What belongs here: the rules every setting follows, and what the store needs to know. What does
not: settings of the web service or of Dagster (they subclass ``Settings``), choices of a fleet
(``fleets``).

Each setting ``name`` is read from ``RUL_NAME``, or from the file that ``RUL_NAME_FILE`` names
(secrets under Docker are files); both at once is an error. Empty counts as not set.
"""

import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from rul_core.errors import SettingsError

PREFIX = "RUL_"


class Settings(BaseSettings):
    """A base for typed, frozen settings. A field's description says what a right value looks like.

    Raises:
        SettingsError: Names each wrong variable, its value unless it is secret, and the remedy.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid")

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            # The cause would show the values, secrets too.
            raise SettingsError(_explain(type(self), error)) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment and its files; no ``.env``, which is Compose's own."""
        return init_settings, _EnvironmentAndFiles(settings_cls)


def _data_root(path: Path) -> Path:
    if ":/" in str(path):
        raise ValueError("object stores are not supported yet")
    return path.expanduser().absolute()


def _url_of(*schemes: str) -> AfterValidator:
    def check(secret: SecretStr) -> SecretStr:
        try:
            scheme = make_url(secret.get_secret_value()).drivername
        except (ArgumentError, ValueError):
            # The parser's message may quote the password.
            raise ValueError("this is no URL") from None
        if scheme not in schemes:
            raise ValueError(f"the URL begins with {scheme}://")
        return secret

    return AfterValidator(check)


DatabaseUrl = Annotated[
    SecretStr, _url_of("postgresql", "postgresql+psycopg", "postgresql+psycopg2", "postgres")
]
RedisUrl = Annotated[SecretStr, _url_of("redis", "rediss", "unix")]


class StoreSettings(Settings):
    """Where the platform keeps its data."""

    root: Annotated[Path, AfterValidator(_data_root)] = Field(
        default=Path(".rul"),
        validate_default=True,
        description="a local folder, which holds landing/, lake/, models/ and fleets/",
    )
    """A plain path for now; the design foresees object-store URLs, which are refused."""
    database_url: DatabaseUrl = Field(
        description="a PostgreSQL URL such as postgresql://user:password@host:5432/rul"
    )
    redis_url: RedisUrl | None = Field(
        default=None, description="a Redis URL such as redis://:password@host:6379/0"
    )


class _EnvironmentAndFiles(PydanticBaseSettingsSource):
    """The environment, where ``NAME_FILE`` may stand for ``NAME``; lists and the like are JSON."""

    def __call__(self) -> dict[str, Any]:
        found = {}
        for name, field in self.settings_cls.model_fields.items():
            text, _, is_json = self.get_field_value(field, name)
            if text:
                found[name] = _from_json(text, variable_of(name)) if is_json else text
        return found

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return _read(variable_of(field_name)), field_name, self.field_is_complex(field)


def _read(variable: str) -> str:
    value, file_name = os.environ.get(variable, ""), os.environ.get(f"{variable}_FILE", "")
    if not file_name:
        return value
    if value:
        raise SettingsError(f"{variable} and {variable}_FILE are both set; unset one of them")
    try:
        return Path(file_name).read_text().rstrip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{variable}_FILE={file_name} cannot be read: {error}; "
            "name a text file that this user may read"
        ) from error


def _from_json(text: str, variable: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise SettingsError(f"{variable} is not JSON: {error}; correct it") from error


def variable_of(field_name: str) -> str:
    """The environment variable of a field."""
    return f"{PREFIX}{field_name}".upper()


def _explain(settings: type[Settings], error: ValidationError) -> str:
    return "\n".join(_explain_one(settings, problem) for problem in error.errors())


def _explain_one(settings: type[Settings], problem: Any) -> str:
    name = str(problem["loc"][0])
    variable = variable_of(name)
    field = settings.model_fields.get(name)
    if field is None:
        return f"{variable} is no setting of {settings.__name__}; leave it out"
    remedy = f"give {field.description}" if field.description else "correct it"
    if problem["type"] == "missing":
        return f"{variable} is not set; set it, or {variable}_FILE to a file's name: {remedy}"
    secret = "Secret" in str(field.annotation)
    shown = variable if secret else f"{variable}={problem['input']}"
    reason = problem["msg"].removeprefix("Value error, ")
    return f"{shown} cannot be used: {reason}; {remedy}"
