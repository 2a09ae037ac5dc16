"""What a prognosis is worth: the long-run cost of maintaining by it.

What belongs here: replacement policies and their cost rate over lives that ended. What does not:
when to act in one case (advisories), accuracy (``metrics``).

By the renewal-reward theorem the long-run cost per cycle of a policy is the mean cost of a life
under it over the mean cycles a life is used under it (R. Barlow, F. Proschan, "Mathematical Theory
of Reliability", 1965, chapter 3). The policy "replace when P(RUL <= lead) >= c_planned / c_failure"
and the comparison with a perfect forecast follow A. Kamariotis, K. Tatsis, E. Chatzi, K. Goebel,
D. Straub, "A metric for assessing and optimizing data-driven prognostic algorithms for predictive
maintenance", Reliability Engineering & System Safety 242, 2024.
"""

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from rul_core.errors import ModelError, NotEnoughData
from rul_core.resampling import REPEATS, Figure, bootstrap_interval


class CostRates(msgspec.Struct, frozen=True, kw_only=True):
    """Cost per cycle of use, of four policies on the same lives; less is better."""

    predictive: Figure
    """Replace when P(RUL <= lead) reaches c_planned / c_failure, with its bootstrap interval."""
    run_to_failure: float
    fixed_age: float
    """Replace at the age that is best for these very lives: a favour to this baseline."""
    best_age_cycles: float | None
    """Null where no age beats running to failure."""
    perfect_forecast: float
    """Replace at the last cycle, just before the failure: nothing can be cheaper."""
    failed_share: float
    """Lives that failed under the predictive policy."""
    unused_cycles: float
    """Mean cycles of life given away by the predictive policy."""
    lives: int


def maintenance_cost_rate(
    lives: ArrayLike,
    cycles: ArrayLike,
    end_cycles: ArrayLike,
    failure_probabilities: ArrayLike,
    *,
    cost_planned: float,
    cost_failure: float,
    delay_cycles: float = 0.0,
    repeats: int = REPEATS,
    seed: int = 0,
) -> CostRates:
    """The cost rate of maintaining by P(RUL <= lead), beside the policies without a prognosis.

    The first reading whose probability reaches ``cost_planned / cost_failure`` decides; the
    machine is replaced ``delay_cycles`` later. It fails when its end comes first.

    Args:
        lives: (n,) the life of each reading, of any kind that sorts.
        cycles: (n,) cycles since new; readings in any order.
        end_cycles: (n,) the cycle at which the reading's life ended in failure.
        failure_probabilities: (n,) P(RUL <= lead) said at the reading, by a model that did not
            see this life.
        cost_planned: Of one replacement before failure.
        cost_failure: Of one failure, replacement included.
        delay_cycles: From the decision to the replacement; 0 is at once.
        repeats: Draws of lives for the interval.
        seed: Of the draws.

    Raises:
        NotEnoughData: There are no readings.
        ModelError: The columns differ in length, a life ended at no cycle above 0, or the
            costs are not 0 < planned < failure.
    """
    names = np.asarray(lives)
    at, end, risk = (
        np.asarray(column, dtype=np.float64)
        for column in (cycles, end_cycles, failure_probabilities)
    )
    if not len(names):
        raise NotEnoughData("no readings to replay the policy on; give at least one ended life")
    if not len(names) == len(at) == len(end) == len(risk):
        raise ModelError(
            f"{len(names)} lives, {len(at)} cycles, {len(end)} ends and {len(risk)} probabilities: "
            "give one of each a reading"
        )
    if not np.all(end > 0):
        raise ModelError(f"a life ended at cycle {end.min():g}; count its cycles from new, above 0")
    if not 0 < cost_planned < cost_failure:
        raise ModelError(
            f"cost_planned is {cost_planned} and cost_failure {cost_failure}; a prognosis is only "
            "worth something where 0 < planned < failure"
        )
    _, codes = np.unique(names, return_inverse=True)
    count = int(codes.max()) + 1
    length = np.zeros(count)
    np.maximum.at(length, codes, end)
    decided = np.full(count, np.inf)
    alarmed = risk >= cost_planned / cost_failure
    np.minimum.at(decided, codes[alarmed], at[alarmed])

    planned = decided + delay_cycles < length
    used = np.where(planned, decided + delay_cycles, length)
    cost = np.where(planned, cost_planned, cost_failure)
    best_age, fixed = _best_fixed_age(length, cost_planned, cost_failure)

    return CostRates(
        predictive=bootstrap_interval(_rate, cost, used, repeats=repeats, seed=seed),
        run_to_failure=float(cost_failure / length.mean()),
        fixed_age=fixed,
        best_age_cycles=best_age,
        perfect_forecast=float(cost_planned / length.mean()),
        failed_share=float(np.mean(~planned)),
        unused_cycles=float(np.mean(length - used)),
        lives=count,
    )


def _rate(
    cost: NDArray[np.float64], used: NDArray[np.float64], *, weights: NDArray[np.float64]
) -> float:
    cycles = weights @ used
    # A policy that replaces every machine at cycle 0 buys no cycle at any price.
    return float(weights @ cost / cycles) if cycles > 0 else float("inf")


def _best_fixed_age(
    length: NDArray[np.float64], cost_planned: float, cost_failure: float
) -> tuple[float | None, float]:
    """The age with the lowest (c_p P(L > age) + c_f P(L <= age)) / E[min(L, age)], and that cost.

    Between two ends nothing is won by stopping earlier, so only ages just before a life's end
    compete: at such an age the life itself is still replaced as planned.
    """
    ends = np.sort(length)
    below = np.searchsorted(ends, ends, side="left")
    used = (np.concatenate([[0.0], np.cumsum(ends)])[below] + ends * (len(ends) - below)) / len(
        ends
    )
    failed = below / len(ends)
    rates = (cost_planned * (1 - failed) + cost_failure * failed) / used
    best = int(np.argmin(rates))
    never = cost_failure / ends.mean()
    if rates[best] < never:
        return float(ends[best]), float(rates[best])
    return None, float(never)
