"""Run-to-failure fleets made from a seed, after the damage-propagation model of C-MAPSS.

What belongs here: the physics of a simulated fleet and the frames it gives. What does not: faults
put into readings afterwards (``simulator_faults``), files of simulated readings.

The model is that of A. Saxena, K. Goebel, D. Simon, N. Eklund, "Damage Propagation Modeling for
Aircraft Engine Run-to-Failure Simulation", PHM 2008: a life starts with some wear ``d0``, its
health falls as ``h(t) = 1 - d0 - c (exp(a t**b) - 1)`` with ``a`` and ``b`` of its own and noise
on every step, and it fails when ``h`` reaches zero. A fault mode says which sensors follow the
damage, how far and in which direction; an operating condition, drawn anew each cycle, shifts the
sensors by far more than damage does, and shows in the settings.

A unit's readings depend on the seed and the unit's number alone. So shards of any size add up to
the same fleet, ``first_unit`` continues one, and a running unit's future is what a simulation
with the same seed and that unit among the failed ones says.
"""

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from rul_core.errors import FleetError
from rul_core.schema import (
    CYCLE,
    LIFE,
    LIVES_SCHEMA,
    TIME,
    UNIT,
    Columns,
    Fleet,
    Learning,
    Maintenance,
    Outcome,
)

TRUE_END_SCHEMA = pl.Schema({UNIT: pl.String, LIFE: pl.Int64, "end_cycle": pl.Float64})

_LIFE_SPREAD = 0.22
"""Standard deviation of the logarithm of a life's length; C-MAPSS has about this."""
_STEP_NOISE = 0.5
"""Standard deviation of the logarithm of one cycle's damage."""
_SETTING_NOISE = 0.01
"""Of a setting that ranges over 0 to 10."""


class Simulation(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What fleet to simulate.

    The sensors are ``sensor_1`` … in C-MAPSS' proportions: two thirds follow the damage, the rest
    are noise around a level or do not move at all.

    Raises:
        FleetError: A figure is out of its limits.
    """

    units: int = 60
    """Units whose every life ended in failure."""
    running_units: int = 20
    """Units whose last life is cut at random before its failure."""
    sensors: int = 8
    settings: int = 3
    conditions: int = 1
    fault_modes: int = 1
    mean_life_cycles: float = 200.0
    noise: float = 0.15
    """Standard deviation of a sensor's noise, as a share of its way from new to failed."""
    lives_per_unit: int = 1
    missing_share: float = 0.0
    """Share of the sensor values that are null."""
    seed: int = 0
    first_unit: int = 1
    """The number of the first unit: the same seed and a later number give more of the fleet."""

    def __post_init__(self) -> None:
        least = {
            "units": 0,
            "running_units": 0,
            "sensors": 1,
            "settings": 0 if self.conditions == 1 else 1,
            "conditions": 1,
            "fault_modes": 1,
            "mean_life_cycles": 10,
            "noise": 0,
            "lives_per_unit": 1,
            "missing_share": 0,
            "seed": 0,
            "first_unit": 1,
        }
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise FleetError(
                    f"simulation: {name} is {getattr(self, name)}; give at least {low}"
                )
        if self.missing_share >= 1:
            raise FleetError(f"simulation: missing_share is {self.missing_share}; stay below 1")
        if self.units + self.running_units == 0:
            raise FleetError("simulation: units and running_units are both 0; ask for one unit")

    @property
    def setting_names(self) -> tuple[str, ...]:
        """``setting_1`` and so on."""
        return tuple(f"setting_{number + 1}" for number in range(self.settings))

    @property
    def sensor_names(self) -> tuple[str, ...]:
        """``sensor_1`` and so on: first those that follow the damage, the constant ones last."""
        return tuple(f"sensor_{number + 1}" for number in range(self.sensors))


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """The frames of a simulated fleet, sorted by unit and life."""

    readings: pl.DataFrame
    """In the fleet's ``readings_schema``; ``time`` is null."""
    lives: pl.DataFrame
    """In ``LIVES_SCHEMA``."""
    true_end_cycles: pl.DataFrame
    """unit, life, end_cycle of every life, also of those that still run."""

    @property
    def table(self) -> pl.DataFrame:
        """As a source delivers it: the readings without a clock, each with its life's outcome."""
        outcomes = self.lives.select(UNIT, LIFE, "outcome")
        return self.readings.drop(TIME).join(
            outcomes, on=[UNIT, LIFE], how="left", maintain_order="left"
        )


class _Physics(NamedTuple):
    """What all units of a simulated fleet share. Arrays are (conditions or modes, channels)."""

    setting_levels: np.ndarray
    levels: np.ndarray
    spans: np.ndarray
    """How far a sensor goes from new to failed, before its fault mode's effect."""
    noises: np.ndarray
    effects: np.ndarray
    """Signed share of the span, per fault mode and sensor; 0 where the mode does not show."""


class _Life(NamedTuple):
    """One life's random course, from its first cycle to its failure."""

    mode: int
    damage: np.ndarray
    """(cycles,): 0 is new, the last value is at least 1."""
    conditions: np.ndarray
    """(cycles,) of int."""
    disturbances: np.ndarray
    """(cycles, settings + sensors), standard normal."""
    missing: np.ndarray
    """(cycles, sensors) of bool, or (cycles, 0) when nothing is missing."""
    cut: int
    """Where the life is cut if its unit still runs: at least 1, before the failure."""


def simulate(simulation: Simulation) -> Simulated:
    """The whole fleet in memory.

    Args:
        simulation: What to simulate.

    Returns:
        Readings, lives, and the true ends; about two seconds a million readings.
    """
    return _shard(
        simulation, _physics(simulation), range(simulation.units + simulation.running_units)
    )


def simulate_shards(simulation: Simulation, units_per_shard: int) -> Iterator[Simulated]:
    """The same fleet, some units at a time, for more readings than memory holds.

    Args:
        simulation: What to simulate.
        units_per_shard: At least 1; memory is in proportion to it.

    Yields:
        Shards that, stacked, equal ``simulate(simulation)``.
    """
    physics = _physics(simulation)
    total = simulation.units + simulation.running_units
    for start in range(0, total, units_per_shard):
        yield _shard(simulation, physics, range(start, min(start + units_per_shard, total)))


def simulated_fleet(simulation: Simulation, name: str) -> Fleet:
    """The description that fits a simulated fleet's ``table``.

    Args:
        simulation: What was simulated.
        name: The fleet's name.
    """
    return Fleet(
        name=name,
        description="Simulated after the C-MAPSS damage-propagation model.",
        columns=Columns(
            unit=UNIT,
            life=LIFE,
            cycle=CYCLE,
            outcome="outcome",
            settings=simulation.setting_names,
            sensors=simulation.sensor_names,
        ),
        learning=Learning(
            label_cap_cycles=float(round(0.6 * simulation.mean_life_cycles)),
            cycles_per_reading=1.0,
            minimum_readings=5,
        ),
        maintenance=Maintenance(
            lead_time_cycles=float(max(1, round(0.15 * simulation.mean_life_cycles)))
        ),
    )


def _physics(simulation: Simulation) -> _Physics:
    rng = np.random.default_rng(np.random.SeedSequence(simulation.seed, spawn_key=(0,)))
    conditions, sensors, modes = simulation.conditions, simulation.sensors, simulation.fault_modes
    telling = -(-2 * sensors // 3)
    constant = (sensors - telling) // 2

    evenly = np.linspace(0.0, 10.0, conditions) if conditions > 1 else np.array([5.0])
    setting_levels = (
        np.stack([rng.permutation(evenly) for _ in range(simulation.settings)], axis=1)
        if simulation.settings
        else np.empty((conditions, 0))
    )

    base = rng.uniform(10.0, 1000.0, sensors)
    levels = base * (1 + 0.3 * rng.uniform(-1, 1, (conditions, sensors)))
    spans = base * rng.uniform(0.01, 0.03, sensors) * rng.uniform(0.7, 1.3, (conditions, sensors))
    noises = simulation.noise * spans
    if constant:
        levels[:, -constant:] = base[-constant:]
        noises[:, -constant:] = 0.0

    effects = rng.choice([-1.0, 1.0], (modes, sensors)) * rng.uniform(0.5, 1.2, (modes, sensors))
    effects[:, telling:] = 0.0
    if modes > 1 and telling > 2:
        # Each mode leaves another third of the sensors alone.
        hidden = (np.arange(telling) + np.arange(modes)[:, None]) % 3 == 2
        effects[:, :telling][hidden] = 0.0
    return _Physics(setting_levels, levels, spans, noises, effects)


def _life(simulation: Simulation, rng: np.random.Generator) -> _Life:
    mode = int(rng.integers(simulation.fault_modes))
    spread = np.clip(rng.standard_normal(), -2.5, 2.5) * _LIFE_SPREAD - _LIFE_SPREAD**2 / 2
    nominal = simulation.mean_life_cycles * np.exp(spread)
    wear, steepness, bend = rng.uniform(0.0, 0.05), rng.uniform(2.5, 3.5), rng.uniform(1.0, 1.2)
    cut_share = rng.uniform(0.3, 0.97)

    cycles = np.arange(int(1.5 * nominal) + 2) / nominal
    steps = np.diff(np.expm1(steepness * cycles**bend)) / np.expm1(steepness)
    shaken = np.exp(_STEP_NOISE * rng.standard_normal(steps.size) - _STEP_NOISE**2 / 2)
    damage = wear + np.cumsum(steps * shaken)
    length = min(int(np.searchsorted(damage, 1.0)) + 1, damage.size)

    return _Life(
        mode=mode,
        damage=damage[:length],
        conditions=rng.integers(simulation.conditions, size=length),
        disturbances=rng.standard_normal((length, simulation.settings + simulation.sensors)),
        missing=rng.random((length, simulation.sensors if simulation.missing_share else 0))
        < simulation.missing_share,
        cut=max(1, min(int(cut_share * length), length - 1)),
    )


def _shard(simulation: Simulation, physics: _Physics, positions: range) -> Simulated:
    names: list[str] = []
    numbers: list[int] = []
    lives: list[_Life] = []
    running: list[bool] = []
    for position in positions:
        number = simulation.first_unit + position
        sequence = np.random.SeedSequence(simulation.seed, spawn_key=(1, number))
        rng = np.random.default_rng(sequence)
        for life in range(1, simulation.lives_per_unit + 1):
            names.append(f"unit-{number:06d}")
            numbers.append(life)
            lives.append(_life(simulation, rng))
            running.append(position >= simulation.units and life == simulation.lives_per_unit)

    ends = np.array([life.damage.size for life in lives])
    seen = np.array(
        [life.cut if runs else life.damage.size for life, runs in zip(lives, running, strict=True)]
    )
    readings = _readings(simulation, physics, lives, seen).with_columns(
        pl.Series(UNIT, names, dtype=pl.String).gather(np.repeat(np.arange(len(lives)), seen)),
        pl.Series(LIFE, np.repeat(numbers, seen), dtype=pl.Int64),
    )
    schema = simulated_fleet(simulation, "simulated").readings_schema
    true_ends = pl.DataFrame(
        {UNIT: names, LIFE: numbers, "end_cycle": ends}, schema_overrides=TRUE_END_SCHEMA
    )
    runs = pl.Series(running)
    return Simulated(
        readings=readings.select(schema.names()),
        lives=true_ends.select(
            UNIT,
            LIFE,
            outcome=pl.when(runs)
            .then(pl.lit(Outcome.RUNNING.value))
            .otherwise(pl.lit(Outcome.FAILED.value)),
            end_cycle=pl.when(~runs).then("end_cycle"),
        ).cast(dict(LIVES_SCHEMA)),
        true_end_cycles=true_ends,
    )


def _readings(
    simulation: Simulation, physics: _Physics, lives: list[_Life], seen: np.ndarray
) -> pl.DataFrame:
    """Everything but unit and life, the first ``seen`` cycles of each life stacked."""

    def stacked(name: str) -> np.ndarray:
        return np.concatenate(
            [getattr(life, name)[:count] for life, count in zip(lives, seen, strict=True)]
        )

    conditions, disturbances = stacked("conditions"), stacked("disturbances")
    modes = np.repeat([life.mode for life in lives], seen)
    shown = physics.spans[conditions] * physics.effects[modes] * stacked("damage")[:, None]
    sensors = (
        physics.levels[conditions]
        + shown
        + physics.noises[conditions] * disturbances[:, simulation.settings :]
    )
    settings = (
        physics.setting_levels[conditions] + _SETTING_NOISE * disturbances[:, : simulation.settings]
    )
    frame = pl.DataFrame(
        {
            CYCLE: np.concatenate([np.arange(1.0, count + 1) for count in seen]),
            TIME: pl.Series([None], dtype=pl.Datetime("us", "UTC")).new_from_index(0, len(modes)),
            **dict(zip(simulation.setting_names, settings.T, strict=True)),
            **dict(zip(simulation.sensor_names, sensors.T, strict=True)),
        }
    )
    if not simulation.missing_share:
        return frame
    gaps = stacked("missing")
    return frame.with_columns(
        pl.when(~pl.Series(gaps[:, column])).then(pl.col(name)).alias(name)
        for column, name in enumerate(simulation.sensor_names)
    )
