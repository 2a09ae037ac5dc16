import dagster as dg

GRAPH = {
    "raw_readings": [],
    "core_readings": ["raw_readings"],
    "features": ["core_readings"],
    "rul_model": ["core_readings", "features"],
    "released_model": ["rul_model"],
    "fleet_prognoses": ["core_readings", "released_model"],
    "realised_outcomes": ["fleet_prognoses"],
}
GROUPS = {
    "raw_readings": "1_data_acquisition",
    "core_readings": "2_data_manipulation",
    "features": "3_state_detection",
    "rul_model": "4_health_assessment",
    "released_model": "4_health_assessment",
    "fleet_prognoses": "5_prognostic_assessment",
    "realised_outcomes": "5_prognostic_assessment",
}
BLOCKING = {
    "core_readings": {
        "few_rows_are_set_aside",
        "keys_are_unique",
        "no_column_is_missing",
        "some_readings_are_usable",
    },
    "rul_model": {
        "bundle_verifies",
        "coverage_is_kept",
        "leakage_constant_per_life",
        "leakage_label",
        "leakage_label_permutation",
        "leakage_model_dominance",
        "leakage_prefix_invariance",
        "leakage_renamed_units",
        "leakage_shuffled_time",
        "leakage_single_feature_canary",
        "leakage_unit_disjoint",
        "leakage_whole_life_scaling",
    },
}


def test_the_graph_reads_as_documented(definitions):
    graph = definitions.resolve_asset_graph()
    assert {
        key.to_user_string(): sorted(
            parent.to_user_string() for parent in graph.get(key).parent_keys
        )
        for key in graph.get_all_asset_keys()
    } == GRAPH


def test_groups_follow_the_blocks_of_iso_13374_in_order(definitions):
    graph = definitions.resolve_asset_graph()
    assert {name: graph.get(dg.AssetKey(name)).group_name for name in GRAPH} == GROUPS


def test_every_asset_has_a_description_kinds_an_owner_and_the_fleet_as_partition(definitions):
    for spec in definitions.resolve_all_asset_specs():
        assert spec.description
        assert spec.kinds
        assert spec.owners
        assert spec.partitions_def == dg.DynamicPartitionsDefinition(name="fleet")


def test_blocking_checks_stand_before_training_and_before_release(definitions):
    graph = definitions.resolve_asset_graph()
    blocking: dict[str, set[str]] = {}
    for key in graph.asset_check_keys:
        if graph.get(key).blocking:
            blocking.setdefault(key.asset_key.to_user_string(), set()).add(key.name)
    assert blocking == BLOCKING


def test_every_check_is_of_one_fleet(definitions):
    """Without partitions the newest evaluation of any fleet would hold back all of them."""
    graph = definitions.resolve_asset_graph()
    assert all(graph.get(key).partitions_def is not None for key in graph.asset_check_keys)


def test_all_automation_is_on_by_default(definitions):
    running = {
        sensor.name
        for sensor in definitions.sensors
        if sensor.default_status is dg.DefaultSensorStatus.RUNNING
    }
    assert running == {"automation", "new_fleets", "new_files", "new_rows", "retraining"}
    assert len(definitions.sensors) == len(running)


def test_only_the_retraining_sensor_asks_for_a_model(definitions):
    graph = definitions.resolve_asset_graph()
    automatic = {name for name in GRAPH if graph.get(dg.AssetKey(name)).automation_condition}
    assert automatic == {"core_readings", "features", "fleet_prognoses", "realised_outcomes"}
    targets = {
        sensor.name: {target.job_name for target in sensor.targets}
        for sensor in definitions.sensors
        if sensor.name in {"new_files", "new_rows", "retraining"}
    }
    assert targets == {"new_files": {"take_in"}, "new_rows": {"take_in"}, "retraining": {"retrain"}}


def test_jobs_select_what_they_say(definitions):
    jobs = {
        name: {
            key.to_user_string()
            for key in definitions.resolve_job_def(name).asset_layer.executable_asset_keys
        }
        for name in ("take_in", "retrain", "everything")
    }
    assert jobs == {
        "take_in": {"raw_readings"},
        "retrain": {"rul_model", "released_model"},
        "everything": set(GRAPH),
    }


def test_a_run_is_one_process(definitions):
    for name in ("take_in", "retrain", "everything"):
        assert definitions.resolve_job_def(name).executor_def.name == "in_process"
