"""JSON bodies: decoded strictly, documented, refused at the place that is wrong.

What belongs here: what every JSON body has in common. What does not: the bodies (beside what takes
them).

Litestar's decoder is not used: it takes "1" for 1.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from litestar import Request
from litestar.openapi.spec import (
    Example,
    OpenAPIMediaType,
    Operation,
    Reference,
    RequestBody,
)
from msgspec import Meta

from rul_serving.problems import Flaw, Kind, Refusal

JSON = "application/json"
T = TypeVar("T")
_VISIBLE = r"[^\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]"
"""Anything but white space; spelt out, since regular expressions differ in what `\\s` is."""
Words = Annotated[
    str, Meta(min_length=1, max_length=2000, pattern=rf"^[^\x00]*{_VISIBLE}[^\x00]*$")
]
"""What a person says: something, and nothing that PostgreSQL cannot keep."""
_PLACE = re.compile(r"^(?P<message>.*) - at `\$\.?(?P<path>.*)`$")


def takes(type_: type, summary: str, example: dict[str, Any]) -> type[Operation]:
    """Documents the body of an operation; for ``operation_class=`` of a handler.

    Args:
        type_: Of the body, one of ``openapi.BODIES``.
        summary: Of the example.
        example: As JSON.
    """

    @dataclass
    class Takes(Operation):
        def __post_init__(self) -> None:
            body = OpenAPIMediaType(
                schema=Reference(ref=f"#/components/schemas/{type_.__name__}"),
                examples={"example": Example(summary=summary, value=example)},
            )
            self.request_body = RequestBody(content={JSON: body}, required=True)

    return Takes


def refuse_other_types(request: Request[Any, Any, Any]) -> None:
    """Refuse a body that is not said to be JSON.

    Raises:
        Refusal: It is not.
    """
    given = request.content_type[0].lower()
    if given != JSON:
        detail = f"the content type is {given or 'missing'}; send JSON with Content-Type: {JSON}"
        raise Refusal(Kind.UNSUPPORTED_MEDIA_TYPE, detail)


def refuse_far_times(*times: datetime | None) -> None:
    """Refuse times that UTC has no year for; for ``__post_init__`` of a body.

    Raises:
        ValueError: One of them is such.
    """
    for time in times:
        try:
            if time is not None:
                time.astimezone(UTC)
        except (OverflowError, ValueError):
            message = f"{time.isoformat()} is outside the years 1 to 9999 in UTC"
            raise ValueError(message) from None


def located(error: str, _body: bytes) -> Flaw:
    """The error of msgspec, with its place apart."""
    found = _PLACE.match(error)
    if found is None:
        return Flaw(at="body", message=error)
    return Flaw(at=found["path"], message=found["message"])


def parsed(body: bytes | msgspec.Raw, type_: type[T]) -> T:
    """What JSON says, where 1.0 is a whole number: JSON knows one kind of number, msgspec two.

    Raises:
        msgspec.DecodeError: It is no JSON or of another form.
    """
    try:
        return msgspec.json.decode(body, type=type_)
    except msgspec.ValidationError as error:
        if "got `float`" not in str(error):
            raise
        return msgspec.convert(_with_whole_numbers(msgspec.json.decode(body)), type_)


def _with_whole_numbers(value: Any) -> Any:
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_with_whole_numbers(item) for item in value]
        case dict():
            return {name: _with_whole_numbers(item) for name, item in value.items()}
    return value


def decode(body: bytes, type_: type[T], locate: Callable[[str, bytes], Flaw] = located) -> T:
    """What a JSON body says; numbers as text are not taken for numbers.

    Raises:
        Refusal: It is no JSON or of another form; names the place.
    """
    try:
        try:
            return parsed(body, type_)
        except msgspec.ValidationError as error:
            flaw = locate(str(error), body)
            raise Refusal(Kind.INVALID_REQUEST, f"{flaw.at}: {flaw.message}", [flaw]) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Refusal(Kind.INVALID_REQUEST, f"the body is not JSON: {error}") from error


def read(request: Request[Any, Any, Any], body: bytes, type_: type[T]) -> T:
    """What the JSON body of a request says.

    Raises:
        Refusal: It is not said to be JSON, or ``decode`` refuses it.
    """
    refuse_other_types(request)
    return decode(body, type_)
