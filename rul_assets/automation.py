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

    ``eager`` alone looks only at updates: a check that failed in an earlier run would not stop it.
    A run that failed is not repeated until an input changes again.
    """
    return AC.eager() & AC.all_deps_blocking_checks_passed()


def when_readings_or_the_champion_change() -> dg.AutomationCondition:
    """The same for prognoses, which neither wait for a first champion nor for the next one.

    A fleet without a champion still has units, and each is shown as ``not_configured``. And while
    a challenger is trained, which may take an hour, the champion keeps answering.
    """
    return (
        AC.eager()
        .replace("any_deps_missing", AC.any_deps_missing().ignore(RELEASED_MODEL))
        .replace("any_deps_in_progress", AC.any_deps_in_progress().ignore(RELEASED_MODEL))
        & AC.all_deps_blocking_checks_passed()
    )
