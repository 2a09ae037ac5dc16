"""What the assets are told by the environment.

What belongs here: how models are learnt, and how often. What does not: where data are kept
(``rul_store.settings``), what is true of one fleet only (its description).
"""

from datetime import timedelta

import msgspec
from pydantic import Field

from rul_assets.retraining import Policy
from rul_core.model import Recipe
from rul_store.settings import Settings


class Learning(msgspec.Struct, frozen=True, kw_only=True):
    """How a model is made."""

    recipe: Recipe = Recipe()
    seed: int = 0


class AssetsSettings(Settings):
    """How eager the platform is to learn, and how thorough."""

    learning_iterations: int | None = Field(
        default=None, ge=1, description="trees of a model; the default serves every fleet"
    )
    learning_seed: int = Field(default=0, ge=0, description="a whole number from 0 on")
    retrain_new_lives: int | None = Field(
        default=None,
        ge=1,
        description="newly failed lives that are worth a training; a tenth of those learnt from, "
        "at least 3, when not set",
    )
    retrain_cool_down_seconds: float = Field(
        default=3600.0, ge=0, description="seconds between two trainings of a fleet"
    )
    retrain_cap_per_day: int = Field(default=4, ge=1, description="trainings of a fleet a day")
    retrain_max_age_days: float = Field(
        default=30.0, gt=0, description="days after which a model is learnt anew"
    )

    @property
    def learning(self) -> Learning:
        """How a model is made."""
        recipe = Recipe()
        if self.learning_iterations is not None:
            recipe = msgspec.structs.replace(recipe, iterations=self.learning_iterations)
        return Learning(recipe=recipe, seed=self.learning_seed)

    @property
    def policy(self) -> Policy:
        """When a model is learnt anew."""
        return Policy(
            new_lives=self.retrain_new_lives,
            cool_down=timedelta(seconds=self.retrain_cool_down_seconds),
            cap_per_day=self.retrain_cap_per_day,
            max_age=timedelta(days=self.retrain_max_age_days),
        )
