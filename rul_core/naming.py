"""What column names mean in the tables that people have.

What belongs here: words. What does not: looking at values (``columns``).
"""

import re


def _each(words: str) -> frozenset[str]:
    return frozenset(words.split())


UNIT_WORDS = _each(
    "asset battery bearing cell component device drive engine equipment machine motor part pump "
    "robot serial system tool truck turbine unit vehicle"
)
RUN_WORDS = _each("episode experiment run test trajectory")
"""What a unit may be called where each has one life."""
NUMBERING_WORDS = _each("code id identifier index key name no nr num number sn")
LIFE_WORDS = _each("campaign life overhaul")
_UNITS_OF_LIFE = {
    "cycles": "cycle cycles flight flights start starts",
    "hours": "hour hours hr hrs",
    "seconds": "sec second seconds secs",
    "minutes": "min minute minutes mins",
    "days": "day days",
    "kilometres": "kilometer kilometers kilometre kilometres km",
    "miles": "mile mileage miles",
}
UNIT_OF_LIFE_BY_WORD = {
    word: unit for unit in _UNITS_OF_LIFE for word in _each(_UNITS_OF_LIFE[unit])
}
COUNTING_WORDS = _each("age distance elapsed h odometer runtime s step t tick time")
"""What may count use without saying clearly in what unit."""
FILLING_WORDS = _each(
    "count counter cumulative flying has in index is life new nr number of operating operation "
    "run running service since the to total until usage use useful"
)
CYCLE_WORDS = COUNTING_WORDS.union(UNIT_OF_LIFE_BY_WORD)
SETTING_WORDS = _each(
    "altitude condition mach mode op operational os regime setpoint setting settings throttle tra"
)
TIME_WORDS = _each("at clock date datetime stamp time timestamp utc when")
TELLING_WORDS = _each("censored eol label lifetime rul ttf")
"""Words that never name a sensor."""
ANSWER_WORDS = TELLING_WORDS | _each("broken event failed failure fault remaining target")
"""Words that name the answer where nothing else is in the name but filling."""


def words_of(name: str) -> set[str]:
    """The words of a column's name: ``timeInCycles2`` is time, in, cycles, 2."""
    apart = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)
    return set(re.findall(r"[a-z]+|\d+", apart.lower()))


def is_named(name: str, words: frozenset[str], filling: frozenset[str] = frozenset()) -> bool:
    """Whether a name holds one of the words and else filling at most."""
    found = words_of(name)
    return bool(found & words) and found <= words | filling
