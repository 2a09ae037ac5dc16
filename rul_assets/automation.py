"""When an asset is made by itself: conditions, each with its reason.

What belongs here: the conditions. What does not: which asset has which (``defs``), what starts a
training (``retraining``; a training is dear and wants more reason than "something is newer").
Concept: https://docs.dagster.io/guides/automate/declarative-automation
"""

import dagster as dg

AC = dg.AutomationCondition
RELEASED_MODEL = dg.AssetSelection.assets("released_model")


def when_inputs_are_sound() -> dg.AutomationCondition:
    """Make a fleet's partition when an input changed and all blocking checks of the inputs passed.

    This is ``eager`` with three differences. It waits for checks that failed in an earlier run. It
    does not forget what happened before its own first look: files that were taken in while the
    daemon started would wait for the next ones. And what changes between a request or a run and
    the next look counts: ``eager`` takes it for answered, so prognoses that were made a moment
    before a release would stay the old champion's until the next reading.
    A run that failed is not repeated until an input changes again.
    """
    return (
        _input_changed()
        & ~AC.any_deps_missing()
        & ~AC.any_deps_in_progress()
        & ~AC.in_progress()
        & AC.all_deps_blocking_checks_passed()
    )


def when_readings_or_the_champion_change() -> dg.AutomationCondition:
    """The same for prognoses, which neither wait for a first champion nor for the next one.

    A fleet without a champion still has units, and each is shown as ``not_configured``. And while
    a challenger is trained, which may take an hour, the champion keeps answering.
    """
    return (
        _input_changed()
        & ~AC.any_deps_missing().ignore(RELEASED_MODEL)
        & ~AC.any_deps_in_progress().ignore(RELEASED_MODEL)
        & ~AC.in_progress()
        & AC.all_deps_blocking_checks_passed()
    )


def _input_changed() -> dg.AutomationCondition:
    """An input is newer, or there is nothing yet, and no run was asked for or seen since."""
    changed = AC.newly_missing() | AC.any_deps_updated()
    return changed.since((AC.newly_requested() | AC.newly_updated()) & ~changed)
