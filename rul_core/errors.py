"""The errors that this project raises on purpose.

Each message names the thing, the value and what to do. Nothing here is caught to be ignored.

    RulError
      FleetError        a fleet description is missing, unreadable or contradicts the data
      ReadingsError     a file or table of readings cannot be used at all
      NotEnoughData     there are too few ended lives, units or rows to learn or to judge
      ModelError        a model cannot be fitted, loaded or applied
      StepRefused       an advisory cannot take that step from where it is
      StoreError        something kept is missing, damaged or held by another
        BundleError     a bundle is damaged, or a pointer names one that is not there
          UnknownVersion  a fleet has no model of that version
        GateNotPassed   the release gate speaks against a model that shall become the champion
        NotProjected    the champion moved, and the file that follows it could not be written
        ReplayError     what a prognosis was computed from is not there any more
        Conflict        what is kept does not allow the change: look at it, then decide again
        Outdated        it was decided on a state that another has changed since
        UnknownUnit     nothing is kept of a unit
        UnknownAdvisory there is no such advisory
        Unavailable     a database or cache does not answer: trying again may help
      SettingsError     a setting is missing or wrong; names the variable
"""

from typing import Any


class RulError(Exception):
    """Any error that this project raises on purpose."""


class FleetError(RulError):
    """A fleet description is missing, unreadable or contradicts the data."""


class ReadingsError(RulError):
    """A file or table of readings cannot be used at all.

    Args:
        message: What is wrong, with the value and the remedy.
        source: The file or table.
        line: The line of a text file, counted from 1 with its header, where there is one.
        row: The row of data, counted from 1, where there is one.
        column: The column, where there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        source: str = "",
        line: int | None = None,
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        where = ", ".join(
            part
            for part in (
                source,
                f"line {line}" if line is not None else "",
                f"row {row}" if row is not None else "",
                f"column {column!r}" if column is not None else "",
            )
            if part
        )
        super().__init__(f"{where}: {message}" if where else message)
        self.source, self.line, self.row, self.column = source, line, row, column


class NotEnoughData(RulError):
    """There are too few ended lives, units or rows to learn from or to judge by."""


class ModelError(RulError):
    """A model cannot be fitted, loaded or applied."""


class StepRefused(RulError):
    """An advisory cannot take that step from where it is; the message says which it can."""


class StoreError(RulError):
    """Something kept is missing, damaged or held by another."""


class BundleError(StoreError):
    """A bundle is damaged, or a pointer names one that is not there."""


class UnknownVersion(BundleError):
    """A fleet has no model of that version."""


class GateNotPassed(StoreError):
    """The release gate speaks against a model that shall become the champion; says what."""


class NotProjected(StoreError):
    """The champion moved, and the file that follows it could not be written.

    Args:
        message: What is wrong with the file.
        champion: The new one.
    """

    def __init__(self, message: str, champion: Any) -> None:
        super().__init__(message)
        self.champion = champion


class ReplayError(StoreError):
    """What a prognosis was computed from is not there any more, or was never there."""


class Conflict(StoreError):
    """What is kept does not allow the change; the same call would fail again."""


class Outdated(StoreError):
    """It was decided on a state that another has changed since; look again, then decide."""


class InvalidCursor(StoreError):
    """It is none that the list gave."""


class UnknownUnit(StoreError):
    """Nothing is kept of a unit of that name."""


class UnknownAdvisory(StoreError):
    """There is no advisory of that id."""


class Unavailable(StoreError):
    """A database or cache does not answer; the same call may succeed later."""


class SettingsError(RulError):
    """A setting is missing or wrong; the message names the environment variable."""
