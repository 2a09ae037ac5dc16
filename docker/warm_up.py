"""Compiles every kernel once, into the cache that the image carries (``NUMBA_CACHE_DIR``).

A small fleet is learnt from and followed, so that batch and online use find their code compiled.
The code is for any machine of the architecture (``NUMBA_CPU_NAME=generic``): it is found in the
cache wherever the image runs, and gives the same bits there.
"""

import sys

from rul_core.model import Recipe, train
from rul_core.simulator import Simulation, simulate, simulated_fleet

SIMULATION = Simulation(units=15, running_units=3, sensors=4, settings=1, mean_life_cycles=60)
RECIPE = Recipe(iterations=5, folds=3, threads=1)


def main() -> None:
    """Learn, then say something of every reading, in batch and one reading after another."""
    simulated = simulate(SIMULATION)
    model = train(
        simulated.readings, simulated.lives, simulated_fleet(SIMULATION, "warm"), RECIPE
    ).model
    few = simulated.readings.head(20)
    model.predict(few)
    model.predict_rows(model.compiled.matrix(few)[:1])
    model.follower.follow_frame(few)
    compiled, state = model.compiled, model.compiled.start()
    for reading in few.iter_rows(named=True):
        compiled.step(state, reading)
    sys.stdout.write(f"compiled for {len(model.pipeline.names)} features\n")


if __name__ == "__main__":
    main()
