"""Grafana's dashboards: what each panel asks; ``make dashboards`` writes the files it reads.

What belongs here: panels and their queries. What does not: what is computed once and by which name
(``../prometheus/rules/recording.yml``), alerts. A panel shows one unit and says what a high or low
figure means; ``make stack-test`` runs each query against a Prometheus that watches the stack.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.common import (
    LegendDisplayMode,
    LegendPlacement,
    StackingMode,
    TooltipDisplayMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableRefresh,
)

FOLDER = Path(__file__).with_suffix("")
TAG = "rul"
SOURCE = DataSourceRef(type_val="prometheus", uid="prometheus")
Query = tuple[str, str]
"""What is asked, and how a series is named."""


def graph(
    title: str, unit: str, *queries: Query, about: str, stacked: bool = False, width: int = 8
) -> timeseries.Panel:
    """Figures over time.

    Args:
        title: What is shown.
        unit: Grafana's name of it.
        queries: Lines.
        about: What to read out of it.
        stacked: Whether the lines are parts of a whole.
        width: Of 24.
    """
    panel = (
        timeseries.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .min(0)
        .datasource(SOURCE)
        .height(7)
        .span(width)
        .fill_opacity(30 if stacked else 8)
        .legend(
            common.VizLegendOptions()
            .display_mode(LegendDisplayMode.LIST)
            .placement(LegendPlacement.BOTTOM)
            .show_legend(True)
        )
        .tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI))
    )
    if stacked:
        panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL))
    for number, (expr, legend) in enumerate(queries):
        panel.with_target(
            prometheus.Dataquery()
            .expr(expr)
            .legend_format(legend)
            .range()
            .ref_id(chr(ord("A") + number))
        )
    return panel


def figure(title: str, unit: str, expr: str, *, about: str, legend: str = "") -> stat.Panel:
    """One figure, as it is now, over its course."""
    return (
        stat.Panel()
        .title(title)
        .description(about)
        .unit(unit)
        .datasource(SOURCE)
        .height(4)
        .span(4)
        .with_target(prometheus.Dataquery().expr(expr).legend_format(legend).range().ref_id("A"))
    )


Panels = Iterable[timeseries.Panel | stat.Panel]


def board(
    name: str, title: str, about: str, rows: dict[str, Panels], *, by_fleet: bool = False
) -> dashboard.Dashboard:
    """A dashboard of rows, with a way to the others."""
    made = (
        dashboard.Dashboard(title)
        .uid(f"rul-{name}")
        .description(about)
        .tags([TAG])
        .time("now-6h", "now")
        .timezone("browser")
        .refresh("30s")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .link(
            dashboard.DashboardLink("Dashboards")
            .type(DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .as_dropdown(True)
            .keep_time(True)
        )
    )
    if by_fleet:
        made.with_variable(
            dashboard.QueryVariable("fleet")
            .label("Fleet")
            .query("label_values(rul_model_info, fleet)")
            .datasource(SOURCE)
            .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
            .multi(True)
            .include_all(True)
        )
    number = 0
    for heading, panels in rows.items():
        made.with_row(dashboard.Row(heading))
        for panel in panels:
            number += 1
            made.with_panel(panel.id(number))
    return made


def quantiles(histogram: str, by: str = "", where: str = "") -> tuple[Query, ...]:
    """The middle, the 95th and the 99th percentile of a histogram."""
    labels = f"le, {by}" if by else "le"
    legend = f"{{{{{by}}}}} " if by else ""
    return tuple(
        (
            f"histogram_quantile({share}, sum by ({labels}) "
            f"(rate({histogram}_bucket{where}[$__rate_interval])))",
            f"{legend}p{round(100 * share)}",
        )
        for share in (0.5, 0.95, 0.99)
    )


PLATFORM = board(
    "platform",
    "Platform",
    "Whether machines and people get answers, and what the machine has left.",
    {
        "Now": (
            figure(
                "Instances that answer",
                "none",
                'count(up{job="api"} == 1)',
                about="Of the API. nginx asks those that answer.",
            ),
            figure(
                "Targets down",
                "none",
                "count(up) - sum(up)",
                about="What Prometheus watches and cannot reach.",
            ),
            figure(
                "Alerts",
                "none",
                'count(ALERTS{alertstate="firing"}) - 1',
                about="That fire now, beside the watchdog; the runbook says what to do at each.",
            ),
            figure(
                "Requests", "reqps", "job:rul_requests:rate5m", about="Answered, of all instances."
            ),
            figure(
                "Failed, last hour",
                "percentunit",
                "job:rul_requests_error:ratio_rate1h",
                about="With an error of the server. 0.1 % may, over a month.",
            ),
            figure(
                "Slowest twentieth",
                "s",
                "job:rul_request_duration_seconds:p95_rate5m",
                about="One request in twenty takes longer.",
            ),
        ),
        "Requests: rate, errors, duration": (
            graph(
                "By status",
                "reqps",
                (
                    "sum by (status_code) (rate(rul_requests_total[$__rate_interval]))",
                    "{{status_code}}",
                ),
                about="429: over their limit; 503: PostgreSQL was away.",
                stacked=True,
            ),
            graph(
                "Share that fails",
                "percentunit",
                ("job:rul_requests_error:ratio_rate5m", "5 minutes"),
                ("job:rul_requests_error:ratio_rate1h", "hour"),
                ("job:rul_requests_error:ratio_rate1d", "day"),
                about="Beside the 0.1 % that the objective allows.",
            ),
            graph(
                "Duration",
                "s",
                *quantiles("rul_request_duration_seconds"),
                about="Until the answer was sent, of all routes.",
            ),
            graph(
                "Busiest routes",
                "reqps",
                (
                    "topk(8, sum by (method, path) (rate(rul_requests_total[$__rate_interval])))",
                    "{{method}} {{path}}",
                ),
                about="Where requests go.",
            ),
            graph(
                "Slowest routes, 95th percentile",
                "s",
                (
                    "topk(8, histogram_quantile(0.95, sum by (le, path) "
                    "(rate(rul_request_duration_seconds_bucket[$__rate_interval]))))",
                    "{{path}}",
                ),
                about="What to look at when people wait.",
            ),
            graph(
                "At work, by instance",
                "none",
                ("rul_requests_in_progress", "{{instance}}"),
                about="It grows where something is waited for.",
            ),
        ),
        "Who asks": (
            graph(
                "By role",
                "reqps",
                (
                    "sum by (role) (rate(rul_requests_by_role_total[$__rate_interval]))",
                    "{{role}}",
                ),
                about="What the keys are for; one with several roles counts for each.",
                width=12,
            ),
            graph(
                "Refused",
                "reqps",
                (
                    "sum by (status_code) (rate(rul_requests_total"
                    '{status_code=~"401|403|429"}[$__rate_interval]))',
                    "{{status_code}}",
                ),
                about="401: no good key; 403: not for its role; 429: over its limit.",
                width=12,
            ),
        ),
        "Readings": (
            graph(
                "Readings, by what became of them",
                "rps",
                ("sum by (fate) (rate(rul_readings_received_total[$__rate_interval]))", "{{fate}}"),
                about="New, repeated, and those that were set aside.",
                stacked=True,
            ),
            graph(
                "Transactions",
                "s",
                *quantiles("rul_ingest_transaction_duration_seconds"),
                about="From the first lock to the commit. It is PostgreSQL's disk that is slow.",
            ),
            graph(
                "Waiting for one",
                "none",
                ("sum(rul_ingest_waiting_readings)", "readings"),
                about="They go together into the next transaction.",
            ),
        ),
        "Processes": (
            graph(
                "Calls in threads",
                "none",
                ("sum by (lane) (rul_lane_calls)", "{{lane}}"),
                about="At work and waiting. Above its threads, calls wait.",
                width=12,
            ),
            graph(
                "Threads",
                "none",
                ("sum by (lane) (rul_lane_threads)", "{{lane}}"),
                about="How many calls of a kind are at work at once.",
                width=12,
            ),
        ),
        "Machine: utilisation, saturation, errors": (
            graph(
                "Processor",
                "percentunit",
                ('1 - avg(rate(node_cpu_seconds_total{mode="idle"}[$__rate_interval]))', "busy"),
                (
                    'avg(rate(node_cpu_seconds_total{mode="iowait"}[$__rate_interval]))',
                    "waits for disks",
                ),
                about="Of all cores.",
            ),
            graph(
                "Load per core",
                "none",
                (
                    'node_load5 / on () count(node_cpu_seconds_total{mode="idle"})',
                    "load",
                ),
                about="Above 1 something waits for a core.",
            ),
            graph(
                "Memory",
                "percentunit",
                ("1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes", "taken"),
                about="A run that needs more than is left is killed.",
            ),
            graph(
                "Disks, full",
                "percentunit",
                ("1 - node_filesystem_avail_bytes / node_filesystem_size_bytes", "{{mountpoint}}"),
                about="PostgreSQL stops taking readings when its disk is full.",
            ),
            graph(
                "Disks, busy",
                "percentunit",
                ("rate(node_disk_io_time_seconds_total[$__rate_interval])", "{{device}}"),
                about="The share of time in which a disk was at work.",
            ),
            graph(
                "Pages fetched from disk",
                "ops",
                ("rate(node_vmstat_pgmajfault[$__rate_interval])", "major faults"),
                about="Many of them: there is too little memory.",
            ),
        ),
    },
)

FLEETS = board(
    "fleets",
    "Fleets",
    "How the machines are, and whether what is said of them comes true.",
    {
        "Now": (
            figure(
                "Units to act on",
                "none",
                'sum(rul_units{fleet=~"$fleet",band="act"})',
                about="Their safe bound is below the horizon.",
            ),
            figure(
                "Units without prognosis",
                "none",
                'sum(rul_units_without_prognosis{fleet=~"$fleet"})',
                about="No valid one; the panel below says why.",
            ),
            figure(
                "Model's age",
                "s",
                'max(rul_model_age_seconds{fleet=~"$fleet"})',
                about="The oldest. A training is asked for after 30 days.",
            ),
            figure(
                "Prognoses an hour",
                "none",
                'sum(increase(rul_predictions_total{fleet=~"$fleet"}[1h]))',
                about="Given by the API: for readings, for questions, anew after a release.",
            ),
            figure(
                "Behind the model",
                "none",
                'sum(rul_units_behind_champion{fleet=~"$fleet"})',
                about="Units whose prognosis is of an earlier model; they get new ones by and by.",
            ),
            figure(
                "Silent for",
                "s",
                'max(rul_input_staleness_seconds{fleet=~"$fleet"})',
                about="Since readings of a fleet last came.",
            ),
        ),
        "Units": (
            graph(
                "By band",
                "none",
                ('sum by (band) (rul_units{fleet=~"$fleet"})', "{{band}}"),
                about="act: the safe bound is below the horizon; plan: below twice the horizon.",
                stacked=True,
            ),
            graph(
                "By what was said",
                "rps",
                (
                    "sum by (state) "
                    '(rate(rul_predictions_total{fleet=~"$fleet"}[$__rate_interval]))',
                    "{{state}}",
                ),
                about="States of the prognoses that were given.",
                stacked=True,
            ),
            graph(
                "Time for a question",
                "s",
                *quantiles("rul_prediction_duration_seconds"),
                about="From readings to the prognoses of one question.",
            ),
        ),
        "Whether it comes true": (
            graph(
                "Coverage",
                "percentunit",
                ('rul_interval_coverage_ratio{fleet=~"$fleet"}', "{{fleet}}, promised {{level}}"),
                about="How often bands held the truth of units that failed.",
            ),
            graph(
                "Error, by lead",
                "none",
                ('rul_realised_abs_error_cycles{fleet=~"$fleet"}', "{{fleet}}, {{lead}}"),
                about="Mean absolute error in cycles, by cycles before the failure.",
            ),
            graph(
                "Drift",
                "none",
                ('topk(8, rul_feature_drift_score{fleet=~"$fleet"})', "{{fleet}}, {{group}}"),
                about="Population stability index at like conditions; above 0.2 is a shift.",
            ),
        ),
        "Learning": (
            graph(
                "Age of models",
                "s",
                ('rul_model_age_seconds{fleet=~"$fleet"}', "{{fleet}}"),
                about="It falls when one is released.",
            ),
            graph(
                "Trainings",
                "none",
                ("sum by (trigger, outcome) (rul_retrain_runs_total)", "{{trigger}}: {{outcome}}"),
                about="So far, by what asked for them.",
            ),
            graph(
                "Models that answer",
                "none",
                ('rul_model_info{fleet=~"$fleet"}', "{{fleet}} {{version}}"),
                about="A line for each version; it ends where the next one answers.",
            ),
        ),
    },
    by_fleet=True,
)

DAGSTER = board(
    "dagster",
    "Dagster",
    "Whether what should run runs, and what came of it.",
    {
        "Now": (
            figure(
                "Runs waiting",
                "none",
                "sum(rul_dagster_run_queue_length)",
                about="In the queue; STACK_MAX_CONCURRENT_RUNS are at work at once.",
            ),
            figure(
                "Oldest waits for",
                "s",
                "max(rul_dagster_run_queue_oldest_seconds)",
                about="An alert fires at half an hour.",
            ),
            figure(
                "Runs failed",
                "none",
                'sum(rul_dagster_runs) - sum(rul_dagster_runs{status!="FAILURE"})',
                about="Of those that are kept.",
            ),
            figure(
                "Checks failed",
                "none",
                "sum(rul_dagster_asset_check_failed)",
                about="Asset checks whose last result is a failure.",
            ),
            figure(
                "Daemon silent for",
                "s",
                "time() - min(rul_dagster_daemon_heartbeat_timestamp_seconds)",
                about="The part that has said nothing for longest.",
            ),
            figure(
                "Watched",
                "none",
                "min(rul_dagster_up)",
                about="1 when Dagster's database can be read.",
            ),
        ),
        "Runs": (
            graph(
                "By status",
                "none",
                ("sum by (status) (rul_dagster_runs)", "{{status}}"),
                about="Of those that are kept.",
                stacked=True,
            ),
            graph(
                "Duration",
                "s",
                *quantiles("rul_dagster_run_duration_seconds"),
                about="From start to end, of all jobs.",
            ),
            graph(
                "Oldest at work",
                "s",
                ("max by (job) (rul_dagster_active_run_oldest_seconds)", "{{job}}"),
                about="A run that goes on and on.",
            ),
        ),
        "Assets": (
            graph(
                "Since they were last made",
                "s",
                (
                    "time() - max by (asset) (rul_dagster_asset_last_success_timestamp_seconds)",
                    "{{asset}}",
                ),
                about="Over all partitions.",
                width=12,
            ),
            graph(
                "Checks that fail",
                "none",
                ("max by (asset, check) (rul_dagster_asset_check_failed)", "{{asset}}: {{check}}"),
                about="1 where the last result is a failure.",
                width=12,
            ),
        ),
        "Sensors, schedules, daemon": (
            graph(
                "Since the last tick",
                "s",
                (
                    "time() - max by (kind, name) (rul_dagster_tick_last_timestamp_seconds)",
                    "{{kind}} {{name}}",
                ),
                about="Of each sensor and schedule.",
            ),
            graph(
                "Switched on",
                "none",
                ("max by (kind, name) (rul_dagster_instigator_running)", "{{kind}} {{name}}"),
                about="1 while it looks.",
            ),
            graph(
                "Since the last heartbeat",
                "s",
                (
                    "time() - max by (daemon) (rul_dagster_daemon_heartbeat_timestamp_seconds)",
                    "{{daemon}}",
                ),
                about="Of each part of the daemon; an alert fires at five minutes.",
            ),
        ),
    },
)

BACKUPS = board(
    "backups",
    "Backups",
    "What would be lost now, and whether what is kept restores.",
    {
        "Now": (
            figure(
                "Lost with the machine, at most",
                "s",
                "time() - max(rul_wal_beyond_reaches_timestamp_seconds)",
                about="What was committed since may be here alone; one or two minutes are usual.",
            ),
            figure(
                "Lost with PostgreSQL, at most",
                "s",
                "time() - max(rul_wal_reaches_timestamp_seconds)",
                about="What was committed since may be nowhere else; a minute is usual.",
            ),
            figure(
                "Newest backup",
                "s",
                "time() - max(rul_backup_newest_timestamp_seconds)",
                about="Its age; one is made every half hour.",
            ),
            figure(
                "Proved",
                "s",
                "time() - max(rul_backup_proven_timestamp_seconds)",
                about="Since a drill restored one and found what was kept; one is every night.",
            ),
            figure(
                "Restored in",
                "s",
                "max(rul_backup_drill_duration_seconds)",
                about="What the last drill took; an alert fires above 15 minutes.",
            ),
            figure(
                "Differences",
                "none",
                "max(rul_backup_drill_differences)",
                about="Between what the last drill restored and what was kept; 0 is the good case.",
            ),
        ),
        "PostgreSQL's log": (
            graph(
                "Waits",
                "s",
                ("max(rul_wal_lag_seconds)", "to be sealed"),
                ("max(rul_wal_beyond_lag_seconds)", "to be brought beyond the machine"),
                about="Alerts fire at five minutes.",
            ),
            graph(
                "Written and not sealed",
                "bytes",
                ("max(rul_wal_lag_bytes)", "log"),
                about="A segment has 16 MiB; more means that the archiver does not follow.",
            ),
            graph(
                "Received",
                "none",
                ("min(rul_wal_receiving)", "received"),
                (
                    "sum(increase(rul_wal_beyond_failures_total[$__rate_interval]))",
                    "bringing failed",
                ),
                about="1 while PostgreSQL sends its log; what failed is tried again.",
            ),
        ),
        "Runs": (
            graph(
                "Age of the newest",
                "s",
                (
                    "time() - max by (store) (rul_backup_newest_timestamp_seconds)",
                    "{{store}}",
                ),
                about="An alert fires at an hour.",
            ),
            graph(
                "Size of the newest",
                "bytes",
                ("max by (store) (rul_backup_stored_bytes)", "{{store}}"),
                about="Once a day with PostgreSQL's own files, once a week with the stack's.",
            ),
            graph(
                "Since they were looked at",
                "s",
                (
                    "time() - max by (check) (rul_dagster_asset_check_timestamp_seconds"
                    '{check=~"every_object_.*|every_new_run_opens|what_is_beyond_.*"})',
                    "{{check}}",
                ),
                about="Each is hourly.",
            ),
        ),
        "Drills": (
            graph(
                "Since one proved a backup",
                "s",
                ("time() - max by (store) (rul_backup_proven_timestamp_seconds)", "{{store}}"),
                about="An alert fires at 26 hours.",
            ),
            graph(
                "Restored, by store",
                "s",
                ("max by (store) (rul_backup_drill_duration_seconds)", "{{store}}"),
                about="From nothing to a golden prognosis, on this machine.",
            ),
            graph(
                "Would have been lost",
                "s",
                ("max by (store) (rul_backup_drill_recovery_point_seconds)", "{{store}}"),
                about="How long before the drill what it restored ends.",
            ),
        ),
    },
)

POSTGRESQL = board(
    "postgresql",
    "PostgreSQL",
    "What it does, how fast, and what is nearly used up.",
    {
        "Work": (
            graph(
                "Transactions",
                "ops",
                (
                    "sum by (datname) (rate(pg_stat_database_xact_commit[$__rate_interval]))",
                    "{{datname}}",
                ),
                about="Committed.",
            ),
            graph(
                "Rolled back, deadlocks",
                "ops",
                ("sum(rate(pg_stat_database_xact_rollback[$__rate_interval]))", "rolled back"),
                ("sum(rate(pg_stat_database_deadlocks[$__rate_interval]))", "deadlocks"),
                about="Deadlocks should be none; one side of each is tried again.",
            ),
            graph(
                "Rows",
                "ops",
                ("sum(rate(pg_stat_database_tup_inserted[$__rate_interval]))", "inserted"),
                ("sum(rate(pg_stat_database_tup_updated[$__rate_interval]))", "updated"),
                ("sum(rate(pg_stat_database_tup_fetched[$__rate_interval]))", "fetched"),
                ("sum(rate(pg_stat_database_tup_deleted[$__rate_interval]))", "deleted"),
                about="Of all databases.",
            ),
        ),
        "What is used up": (
            graph(
                "Connections",
                "none",
                ("sum by (datname) (pg_stat_database_numbackends)", "{{datname}}"),
                ("max(pg_settings_max_connections)", "at most"),
                about="Each instance and each run has a few.",
                stacked=False,
            ),
            graph(
                "Found in memory",
                "percentunit",
                (
                    "sum(rate(pg_stat_database_blks_hit[$__rate_interval])) / "
                    "(sum(rate(pg_stat_database_blks_hit[$__rate_interval])) "
                    "+ sum(rate(pg_stat_database_blks_read[$__rate_interval])))",
                    "hits",
                ),
                about="Below 0.98 for long: more shared_buffers.",
            ),
            graph(
                "Size",
                "bytes",
                ("pg_database_size_bytes", "{{datname}}"),
                about="It grows with the readings.",
            ),
        ),
        "What waits": (
            graph(
                "Locks",
                "none",
                ("sum by (mode) (pg_locks_count)", "{{mode}}"),
                about="Held or waited for.",
            ),
            graph(
                "Longest transaction",
                "s",
                ("max by (datname) (pg_stat_activity_max_tx_duration)", "{{datname}}"),
                about="One that stays open keeps dead rows from being removed.",
            ),
            graph(
                "Dead rows",
                "none",
                ("topk(8, pg_stat_user_tables_n_dead_tup)", "{{datname}} {{relname}}"),
                about="Until vacuum comes by.",
            ),
        ),
    },
)

REDIS = board(
    "redis",
    "Redis",
    "Live states of units, and limits. Lost means slower, never wrong.",
    {
        "Work": (
            graph(
                "Commands",
                "ops",
                ("topk(8, sum by (cmd) (rate(redis_commands_total[$__rate_interval])))", "{{cmd}}"),
                about="The most frequent.",
            ),
            graph(
                "Time for a command",
                "s",
                (
                    "topk(8, sum by (cmd) "
                    "(rate(redis_commands_duration_seconds_total[$__rate_interval])) "
                    "/ sum by (cmd) (rate(redis_commands_total[$__rate_interval])))",
                    "{{cmd}}",
                ),
                about="On average, within Redis.",
            ),
            graph(
                "Found",
                "percentunit",
                (
                    "rate(redis_keyspace_hits_total[$__rate_interval]) / "
                    "(rate(redis_keyspace_hits_total[$__rate_interval]) "
                    "+ rate(redis_keyspace_misses_total[$__rate_interval]))",
                    "hits",
                ),
                about="What is not found is made anew from PostgreSQL.",
            ),
        ),
        "What is used up": (
            graph(
                "Memory",
                "bytes",
                ("redis_memory_used_bytes", "used"),
                ("redis_memory_max_bytes", "at most"),
                about="At the most, keys that were not used for longest go.",
            ),
            graph(
                "Keys",
                "none",
                ('sum by (db) (redis_db_keys{db="db0"})', "{{db}}"),
                about="All of them.",
            ),
            graph(
                "Gone for want of memory",
                "ops",
                ("rate(redis_evicted_keys_total[$__rate_interval])", "evicted"),
                about="States are made anew when they are needed; many: more memory.",
            ),
        ),
        "Keeping": (
            graph(
                "Clients",
                "none",
                ("redis_connected_clients", "connected"),
                about="Connections.",
                width=12,
            ),
            graph(
                "Since the last snapshot",
                "s",
                ("time() - redis_rdb_last_save_timestamp_seconds", "RDB"),
                about="The append-only file holds what came since.",
                width=12,
            ),
        ),
    },
)

NGINX = board(
    "nginx",
    "nginx",
    "The door: connections and requests.",
    {
        "Connections": (
            graph(
                "Open",
                "none",
                ("nginx_connections_reading", "reading"),
                ("nginx_connections_writing", "writing"),
                ("nginx_connections_waiting", "waiting"),
                about="By what they do.",
                stacked=True,
            ),
            graph(
                "Accepted",
                "ops",
                ("rate(nginx_connections_accepted[$__rate_interval])", "accepted"),
                about="New connections.",
            ),
            graph(
                "Dropped",
                "ops",
                (
                    "rate(nginx_connections_accepted[$__rate_interval]) "
                    "- rate(nginx_connections_handled[$__rate_interval])",
                    "dropped",
                ),
                about="Accepted and not handled; none, unless a limit is reached.",
            ),
        ),
        "Requests": (
            graph(
                "Requests",
                "reqps",
                ("rate(nginx_http_requests_total[$__rate_interval])", "nginx"),
                ("job:rul_requests:rate5m", "of them the API, 5 minutes"),
                about="Pages of Dagster are the rest.",
                width=12,
            ),
            graph(
                "Requests a connection",
                "none",
                (
                    "rate(nginx_http_requests_total[$__rate_interval]) "
                    "/ rate(nginx_connections_accepted[$__rate_interval])",
                    "requests",
                ),
                about="Clients that open a connection for each request are near 1.",
                width=12,
            ),
        ),
    },
)

BOARDS = (PLATFORM, FLEETS, DAGSTER, BACKUPS, POSTGRESQL, REDIS, NGINX)


def files() -> dict[str, str]:
    """Each file's name and content."""
    built = [made.build() for made in BOARDS]
    return {
        f"{str(one.uid).removeprefix('rul-')}.json": json.dumps(
            one, cls=JSONEncoder, indent=2, sort_keys=True
        )
        + "\n"
        for one in built
    }


if __name__ == "__main__":
    for name, content in files().items():
        (FOLDER / name).write_text(content)
