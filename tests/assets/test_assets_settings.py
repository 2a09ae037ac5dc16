"""What the environment may change of learning, and the errors that name the variable."""

from datetime import timedelta

import pytest

from rul_assets.retraining import Policy
from rul_assets.settings import AssetsSettings, Learning
from rul_core.errors import SettingsError


def test_without_variables_the_defaults_hold():
    assert AssetsSettings().learning == Learning()
    assert AssetsSettings().policy == Policy()


def test_variables_change_recipe_and_policy(monkeypatch):
    monkeypatch.setenv("RUL_LEARNING_ITERATIONS", "50")
    monkeypatch.setenv("RUL_LEARNING_SEED", "7")
    monkeypatch.setenv("RUL_RETRAIN_NEW_LIVES", "2")
    monkeypatch.setenv("RUL_RETRAIN_COOL_DOWN_SECONDS", "5")
    monkeypatch.setenv("RUL_RETRAIN_CAP_PER_DAY", "9")
    monkeypatch.setenv("RUL_RETRAIN_MAX_AGE_DAYS", "1.5")
    settings = AssetsSettings()
    assert settings.learning.recipe.iterations == 50
    assert settings.learning.seed == 7
    assert settings.policy == Policy(
        new_lives=2,
        cool_down=timedelta(seconds=5),
        cap_per_day=9,
        max_age=timedelta(days=1.5),
    )


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("RUL_LEARNING_ITERATIONS", "0"),
        ("RUL_RETRAIN_CAP_PER_DAY", "many"),
        ("RUL_RETRAIN_MAX_AGE_DAYS", "-1"),
    ],
)
def test_a_wrong_value_is_named_with_its_variable(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=f"{variable}={value} cannot be used"):
        AssetsSettings()


def test_a_run_without_a_database_says_which_variable_to_set(house, monkeypatch):
    monkeypatch.delenv("RUL_DATABASE_URL")
    result = house.make("raw_readings", fails=True)
    errors = [str(event.event_specific_data) for event in result.all_events if event.is_failure]
    assert any("RUL_DATABASE_URL is not set" in error for error in errors)
