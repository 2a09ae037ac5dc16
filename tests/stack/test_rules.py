"""What Prometheus makes of alerts: when each fires, and that no change of one goes unnoticed.

By promtool of the very image that runs in the stack. Each alert has series that make it fire and
series that just do not; ``fires_at`` is the first evaluation at which it does. Thresholds are
tested at their exact value, so that a mutant of any comparison or number is found out.
"""

import re
import shutil
import subprocess
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from .engine import PROJECT, image_of

pytestmark = pytest.mark.stack

RULES = PROJECT / "monitoring" / "prometheus" / "rules"
ALERTS = yaml.safe_load((RULES / "alerts.yml").read_text())
RECORDING = [
    rule
    for group in yaml.safe_load((RULES / "recording.yml").read_text())["groups"]
    for rule in group["rules"]
]
BY_NAME = {rule["alert"]: rule for group in ALERTS["groups"] for rule in group["rules"]}
STEP_SECONDS, LONG_STEP_SECONDS = 15, 300
"""Between evaluations; where days are looked at, every quarter of a minute is dear."""
ERRORS, SLOW = "job:rul_requests_error:ratio_rate", "job:rul_requests_slow:ratio_rate"
DAY = 86_400


class Case(NamedTuple):
    """One alert: series as promtool writes them, constant unless they say otherwise."""

    fires: dict[str, float | str]
    silent: tuple[dict[str, float | str], ...]
    fires_at_seconds: int
    lasts_seconds: int | None = None
    """Where it ends by itself: it fires until one evaluation before."""
    bears: str = ""
    """Labels beside those of the rule: what is written of whom it is about, and nothing else."""
    step_seconds: int = STEP_SECONDS


def recorded(name: str, **ratios: float) -> dict[str, float | str]:
    """Recorded ratios by window; ``w1h=`` is that of an hour."""
    return {f"{name}{window[1:]}": ratio for window, ratio in ratios.items()}


def burning(alert: str, name: str, budget: float) -> dict[str, Case]:
    """The four rates at which a budget burns, over a long and a short window each."""
    fast, slow = 14.4 * budget, 6 * budget
    day, days = 3 * budget, budget
    counted = name.replace("ratio_rate", "increase")

    def ratios(times: float = 10, **by_window: float) -> dict[str, float | str]:
        few = {f"{counted}6h": times, f"{counted}3d": times}
        return recorded(name, **{key: round(value, 6) for key, value in by_window.items()}) | few

    return {
        f"{alert}Fast": Case(
            ratios(w1h=1.04 * fast, w5m=1.04 * fast),
            (
                ratios(w1h=fast, w5m=1),
                ratios(w1h=1, w5m=fast),
                ratios(w6h=slow, w30m=1),
                ratios(w6h=1, w30m=slow),
                # Where hardly anybody asks, a few errors are a large share.
                ratios(9.9, w1h=1, w5m=1, w6h=1, w30m=1),
            ),
            120,
        ),
        f"{alert}Fast, slower": Case(ratios(w6h=1.04 * slow, w30m=1.04 * slow), (), 120),
        alert: Case(
            ratios(w1d=1.04 * day, w2h=1.04 * day),
            (
                ratios(w1d=day, w2h=1),
                ratios(w1d=1, w2h=day),
                ratios(w3d=days, w6h=1),
                ratios(w3d=1, w6h=days),
                ratios(9.9, w1d=1, w2h=1, w3d=1, w6h=1),
            ),
            900,
        ),
        f"{alert}, slower": Case(ratios(w3d=1.04 * days, w6h=1.04 * days), (), 900),
    }


def failed(check: str) -> str:
    return f'rul_dagster_asset_check_failed{{asset="a",check="{check}",partition="pumps"}}'


DISK = tuple(
    f'node_filesystem_{what}_bytes{{device="/dev/a",mountpoint="{place}"}}'
    for place in ("/etc/hosts", "/prometheus")
    for what in ("avail", "size")
)
INSTANCES = "job:rul_api_instances:count"
HEARTBEAT = 'rul_dagster_daemon_heartbeat_timestamp_seconds{daemon="sensor"}'
LOOKED, DOCKER = "rul_janitor_looked_timestamp_seconds", "rul_docker_up"
DONE = "rul_janitor_done_timestamp_seconds"
HEARD = 'rul_input_staleness_seconds{fleet="pumps",instance="a"}'
TAKEN, TAKEN_ELSEWHERE = (
    f'rul_dagster_asset_last_success_timestamp_seconds{{asset="raw_readings",partition="{fleet}"}}'
    for fleet in ("pumps", "fans")
)
WALKED, INTACT = "rul_audit_chain_walked_timestamp_seconds", "rul_audit_chain_intact"
NEWEST, NEWEST_AWAY = (
    f'rul_backup_newest_timestamp_seconds{{store="{store}",instance="a"}}'
    for store in ("local", "off-site")
)
PROVEN, PROVEN_AWAY = (
    f'rul_backup_proven_timestamp_seconds{{store="{store}",instance="a"}}'
    for store in ("local", "off-site")
)
LOOKED_AT = [
    f'rul_dagster_asset_check_timestamp_seconds{{asset="a",check="{check}"}}'
    for check in (
        "every_object_is_what_was_written", "every_object_is_there", "every_new_run_opens",
        "what_is_beyond_is_what_was_written",
    )
]  # fmt: skip
ANOTHER_CHECK = (
    'rul_dagster_asset_check_timestamp_seconds{asset="backup_manifest",check="nothing_has_shrunk"}'
)
BROUGHT, SEALED = (
    f'rul_dagster_asset_last_success_timestamp_seconds{{asset="{asset}"}}'
    for asset in ("offsite_copy", "backup_manifest")
)
WENT, DID_NOT_GO = (
    f'rul_dagster_run_ended_timestamp_seconds{{job="let_backups_go",status="{status}"}}'
    for status in ("SUCCESS", "FAILURE")
)
RECEIVING, LOG_LAG, LOG_LAG_BEYOND, LOG_LOOKED = (
    f'{name}{{job="{job}"}}'
    for name, job in (
        ("rul_wal_receiving", "wal-archiver"),
        ("rul_wal_lag_seconds", "wal-archiver"),
        ("rul_wal_beyond_lag_seconds", "wal-bringer"),
        ("rul_wal_looked_timestamp_seconds", "wal-archiver"),
    )
)
DRILL_SECONDS = 'rul_backup_drill_duration_seconds{store="local",instance="a"}'
DIFFERENCES = 'rul_backup_drill_differences{store="local",instance="a"}'
TOLD = "0+STEPxN"
"""A moment that is always now, for as long as is looked."""
MEMORY = ("node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes")
API = ('up{job="api",instance="a"}', 'up{job="api",instance="b"}')
DAGSTER = 'rul_dagster_service_up{service="dagster-code"}'
WATCHED = 'up{job="dagster"}'
UNREAD = "_ "
RETRAINED = 'rul_retrain_runs_total{trigger="drift",outcome="success"}'
CASES = {
    "ServiceDown": Case(
        {'up{job="redis"}': 0}, ({'up{job="redis"}': 1}, {API[0]: 0}), 120, bears='job="redis"'
    ),
    "ServiceDown, Redis": Case(
        {'redis_up{job="redis"}': 0}, ({'redis_up{job="redis"}': 1},), 120, bears='job="redis"'
    ),
    "ServiceDown, nginx": Case(
        {'nginx_up{job="nginx"}': 0}, ({'nginx_up{job="nginx"}': 1},), 120, bears='job="nginx"'
    ),
    "ServiceDown, code": Case(
        {DAGSTER: 0}, ({DAGSTER: 1},), 120, bears='job="dagster-code",service="dagster-code"'
    ),
    # Silent since the start of time, so that the threshold is crossed one step after it.
    "ServiceDown, the daemon": Case(
        {HEARTBEAT: 0}, ({HEARTBEAT: TOLD},), 120 + STEP_SECONDS + 120, bears='job="dagster-daemon"'
    ),
    "ServiceDown, the janitor": Case(
        {LOOKED: 0}, ({LOOKED: TOLD},), 240 + STEP_SECONDS + 120, bears='job="dagster-janitor"'
    ),
    "ServiceDown, the archiver": Case(
        {LOG_LOOKED: 0}, ({LOG_LOOKED: TOLD},), 240 + STEP_SECONDS + 120, bears='job="wal-archiver"'
    ),
    "ServiceDown, Docker": Case({DOCKER: 0}, ({DOCKER: 1},), 120, bears='job="socket-proxy"'),
    "ApiDown": Case({API[0]: 0, API[1]: 0}, ({API[0]: 1, API[1]: 0},), 60),
    "DatabaseUnreachable": Case({"pg_up": 0}, ({"pg_up": 1},), 60),
    "DiskAlmostFull": Case(
        {DISK[0]: 2, DISK[1]: 100, DISK[2]: 2, DISK[3]: 100},
        ({DISK[0]: 5, DISK[1]: 100},),
        300,
        bears='device="/dev/a"',
    ),
    # Whoever found it may have ended since; two hours after that it is told no more.
    "AuditChainBroken": Case({INTACT: "0x3 stale"}, ({INTACT: 1},), 0, 4 * STEP_SECONDS + 7200),
    **burning("ErrorBudgetBurns", ERRORS, 0.001),
    **burning("LatencyBudgetBurns", SLOW, 0.01),
    "ApiInstanceDown": Case({API[0]: 0, API[1]: 1}, ({API[0]: 1}, {'up{job="redis"}': 0}), 120),
    # Of the 21 samples of five minutes, 11 say that there is one less.
    "ApiInstanceDown, one that is gone": Case(
        {INSTANCES: "3x79 2x3500"},
        (
            {INSTANCES: "3x79 2x7 3x3500"},  # started anew
            {INSTANCES: "3x79 10x3500"},
            {INSTANCES: f"{UNREAD * 8}1x2 2x2 3x3500"},
        ),
        90 * STEP_SECONDS + 120,
        12 * 3600 + 300 - 10 * STEP_SECONDS - 120,
    ),
    "ErrorRateHigh": Case(recorded(ERRORS, w5m=0.052), (recorded(ERRORS, w5m=0.05),), 300),
    "LatencyHigh": Case(
        {"job:rul_request_duration_seconds:p95_rate5m": 1.05},
        ({"job:rul_request_duration_seconds:p95_rate5m": 1},),
        300,
    ),
    "MemoryHigh": Case({MEMORY[0]: 19, MEMORY[1]: 100}, ({MEMORY[0]: 25, MEMORY[1]: 125},), 600),
    "ModelTooOld": Case(
        {f'rul_model_age_seconds{{fleet="pumps",instance="{n}"}}': 45 * DAY * 1.05 for n in "ab"},
        ({'rul_model_age_seconds{fleet="pumps"}': 45 * DAY},),
        3600,
        bears='fleet="pumps"',
    ),
    "CoverageBroken": Case(
        {failed("bands_hold_in_life"): 1},
        ({failed("bands_hold_in_life"): 0}, {failed("another"): 1}),
        900,
        bears='partition="pumps"',
    ),
    "ReadingsDrifted": Case(
        {failed("readings_resemble_training"): 1},
        ({failed("readings_resemble_training"): 0}, {failed("another"): 1}),
        900,
        bears='partition="pumps"',
    ),
    # The last reading came an hour after the last that were taken in.
    "ReadingsNotTakenIn": Case(
        {HEARD: "0x600", TAKEN: 0, TAKEN_ELSEWHERE: TOLD},
        ({HEARD: "0x600", TAKEN: TOLD}, {HEARD: "0+15x600", TAKEN: 0}),
        3600 + STEP_SECONDS + 300,
        bears='fleet="pumps"',
    ),
    "BackupDamaged": Case(
        {failed("every_object_is_what_was_written"): 1},
        ({failed("every_object_is_what_was_written"): 0}, {failed("another"): 1}),
        300,
        bears='check="every_object_is_what_was_written"',
    ),
    **{
        f"BackupDamaged, {check}": Case({failed(check): 1}, (), 300, bears=f'check="{check}"')
        for check in (
            "every_object_is_there",
            "every_new_run_opens",
            "what_is_beyond_is_what_was_written",
        )
    },
    "RestoreDrillFailed": Case({DIFFERENCES: 1}, ({DIFFERENCES: 0},), 300, bears='store="local"'),
    "BackupMissed": Case(
        {NEWEST: 0, NEWEST_AWAY: TOLD}, ({NEWEST: TOLD},), 3600 + STEP_SECONDS + 300
    ),
    "NoBackup": Case({NEWEST_AWAY: TOLD}, ({NEWEST: TOLD},), 3600, bears='store="local"'),
    "NoBackup, any more": Case(
        {NEWEST: "0x8 stale"}, (), 9 * STEP_SECONDS + 3600 + 3600, bears='store="local"'
    ),
    "BackupShrunk": Case(
        {failed("nothing_has_shrunk"): 1},
        ({failed("nothing_has_shrunk"): 0}, {failed("another"): 1}),
        300,
    ),
    "StackNotKept": Case(
        {failed("what_the_stack_has_is_kept"): 1},
        ({failed("what_the_stack_has_is_kept"): 0}, {failed("another"): 1}),
        300,
    ),
    **{
        f"BackupsUnverified, {number}": Case(
            dict.fromkeys(LOOKED_AT, TOLD) | {looked: 0, ANOTHER_CHECK: TOLD},
            (dict.fromkeys(LOOKED_AT, TOLD),),
            3600 + LONG_STEP_SECONDS + 5700,
            step_seconds=LONG_STEP_SECONDS,
        )
        for number, looked in enumerate(LOOKED_AT)
    },
    "BackupsUnverified, never in one way": Case(
        dict.fromkeys((*LOOKED_AT[:3], ANOTHER_CHECK), TOLD),
        (),
        5700,
        step_seconds=LONG_STEP_SECONDS,
    ),
    "BackupsUnverified, any more": Case(
        dict.fromkeys(LOOKED_AT[1:], TOLD) | {LOOKED_AT[0]: "0x8 stale"},
        (),
        9 * LONG_STEP_SECONDS + 3600 + 5700,
        step_seconds=LONG_STEP_SECONDS,
    ),
    "OffsiteLags": Case({BROUGHT: 0, SEALED: TOLD}, ({BROUGHT: TOLD},), 3600 + STEP_SECONDS + 3900),
    "OffsiteLags, and never did otherwise": Case(
        {SEALED: TOLD}, (), 3900, bears='asset="offsite_copy"'
    ),
    "OffsiteLags, any more": Case(
        {BROUGHT: "0x8 stale"}, (), 9 * STEP_SECONDS + 3600 + 3900, bears='asset="offsite_copy"'
    ),
    "BackupsNotLetGo": Case(
        {WENT: 2, DID_NOT_GO: 3},
        ({WENT: 3, DID_NOT_GO: 3},),
        900,
        step_seconds=LONG_STEP_SECONDS,
    ),
    "BackupsNotLetGo, and never did": Case(
        {DID_NOT_GO: 1}, (), 900, step_seconds=LONG_STEP_SECONDS
    ),
    "BackupsNotLetGo, for two days": Case(
        {WENT: 0}, (), 50 * 3600 + LONG_STEP_SECONDS + 900, step_seconds=LONG_STEP_SECONDS
    ),
    "LogNotReceived": Case({RECEIVING: 0}, ({RECEIVING: 1},), 300, bears='job="wal-archiver"'),
    "LogNotArchived": Case({LOG_LAG: 301}, ({LOG_LAG: 300},), 60, bears='job="wal-archiver"'),
    "LogNotBeyond": Case(
        {LOG_LAG_BEYOND: 301}, ({LOG_LAG_BEYOND: 300},), 60, bears='job="wal-bringer"'
    ),
    "RestoreDrillOverdue": Case(
        {PROVEN: 0, PROVEN_AWAY: TOLD},
        ({PROVEN: TOLD, PROVEN_AWAY: 0}, {PROVEN: 0, PROVEN_AWAY: TOLD, NEWEST_AWAY: TOLD}),
        26 * 3600 + LONG_STEP_SECONDS + 300,
        bears='store="local"',
        step_seconds=LONG_STEP_SECONDS,
    ),
    # Nothing gets there any more, and so nobody expects a drill from there: until a week after.
    "RestoreDrillOverdue, beyond the machine": Case(
        {PROVEN: TOLD, PROVEN_AWAY: 0, NEWEST_AWAY: 0},
        (),
        26 * 3600 + LONG_STEP_SECONDS + 300,
        7 * DAY - (26 * 3600 + LONG_STEP_SECONDS + 300),
        'store="off-site"',
        LONG_STEP_SECONDS,
    ),
    "RestoreDrillOverdue, here again": Case(
        {PROVEN: 0, PROVEN_AWAY: TOLD, NEWEST_AWAY: 0},
        (),
        7 * DAY + 300,
        bears='store="local"',
        step_seconds=LONG_STEP_SECONDS,
    ),
    "NoRestoreDrill": Case(
        {NEWEST: TOLD, PROVEN_AWAY: 0},
        ({NEWEST: TOLD, PROVEN: 0}, {NEWEST: TOLD, NEWEST_AWAY: TOLD, PROVEN_AWAY: 0}),
        26 * 3600,
        bears='store="local"',
        step_seconds=LONG_STEP_SECONDS,
    ),
    "NoRestoreDrill, beyond the machine": Case(
        {NEWEST: TOLD, NEWEST_AWAY: 0, PROVEN: TOLD},
        (),
        26 * 3600,
        7 * DAY - 26 * 3600,
        'store="off-site"',
        LONG_STEP_SECONDS,
    ),
    "NoRestoreDrill, here again": Case(
        {NEWEST: TOLD, NEWEST_AWAY: 0, PROVEN_AWAY: 0},
        (),
        7 * DAY + 26 * 3600,
        bears='store="local"',
        step_seconds=LONG_STEP_SECONDS,
    ),
    "RestoreDrillSlow": Case(
        {DRILL_SECONDS: 901}, ({DRILL_SECONDS: 900},), 300, bears='store="local"'
    ),
    "BackupsCompleted": Case(  # one at eight o'clock, told the next day
        {NEWEST: "1x95 2x400"},
        ({NEWEST: 1},),
        30 * 3600,
        3600,
        'store="local"',
        step_seconds=LONG_STEP_SECONDS,
    ),
    "RestoreDrillPassed": Case(
        {PROVEN: f"{UNREAD * 80}1200x400"},
        ({PROVEN: f"{UNREAD * 80}300x400"},),
        80 * STEP_SECONDS,
        900,
        'store="local"',
    ),
    "JanitorFails": Case({DONE: 0}, ({DONE: TOLD},), 1800 + STEP_SECONDS + 300),
    "RunQueueStuck": Case(
        {"rul_dagster_run_queue_oldest_seconds": 1810},
        ({"rul_dagster_run_queue_oldest_seconds": 1800},),
        300,
    ),
    "DaemonSilent": Case(
        {HEARTBEAT: 0}, ({HEARTBEAT: TOLD},), 300 + STEP_SECONDS + 120, bears='daemon="sensor"'
    ),
    "AuditUnwalked": Case({}, ({WALKED: TOLD},), 900),
    "AuditUnwalked, for long": Case({WALKED: 0}, (), 7200 + STEP_SECONDS + 900),
    "AuditUnwalked, by nobody": Case({WALKED: "0x8 stale"}, (), 9 * STEP_SECONDS + 7200 + 900),
    "DagsterUnwatched": Case({"rul_dagster_up": 0}, ({"rul_dagster_up": 1},), 300),
    "ModelRetrained": Case(
        {RETRAINED: "4x80 5x400"},
        ({RETRAINED: "4x400"},),
        81 * STEP_SECONDS,
        15 * 60,
        'trigger="drift"',
    ),
    # One that nobody saw before, though the exporter was there; not one that was away itself.
    "ModelRetrained, the first": Case(
        {RETRAINED: f"{UNREAD * 80}1x400", WATCHED: 1},
        ({RETRAINED: f"{UNREAD * 180}1x400", WATCHED: f"{UNREAD * 180}1x400"},),
        80 * STEP_SECONDS,
        15 * 60,
        'trigger="drift"',
    ),
    "Scaled": Case(
        {API[0]: 1, API[1]: f"{UNREAD * 80}1x400"},
        (
            {API[0]: 1, API[1]: 1},
            {API[0]: 1, API[1]: f"1x80 stale {UNREAD * 6}1x400"},  # started anew
        ),
        80 * STEP_SECONDS + 300,
        300,
    ),
    "Watchdog": Case({}, (), 0),
}
ALWAYS = {
    "ApiDown", "AuditUnwalked", "BackupsUnverified", "NoBackup", "OffsiteLags", "Watchdog",
}  # fmt: skip
"""These fire where no series is there at all."""


def test_every_alert_has_a_case():
    assert {name.partition(",")[0] for name in CASES} == set(BY_NAME)


def checks(alert: str, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The cases of an alert, for rules of other names where some are told.

    They are files of promtool, one for each time between evaluations.
    """
    names = names or [alert]
    by_step: dict[int, list[dict[str, Any]]] = defaultdict(list)
    by_step[STEP_SECONDS].append(
        group(f"{alert} without series", names, {}, [(7200, int(alert in ALWAYS))], STEP_SECONDS)
    )
    for title, case in CASES.items():
        if title.partition(",")[0] != alert:
            continue
        last, step = case.fires_at_seconds, case.step_seconds
        told = [(last - step, 0), (last, 1)] if last else [(last, 1)]
        if case.lasts_seconds:
            ends = last + case.lasts_seconds
            told += [(ends - step, 1), (ends, 0)]
        fires = group(title, names, case.fires, told, step)
        fires["promql_expr_test"] += [labelled(alert, case, last, name) for name in names]
        by_step[step].append(fires)
        by_step[step] += [
            group(f"{title} is silent {n}", names, series, [(last + 2100, 0)], step, ever=True)
            for n, series in enumerate(case.silent)
        ]
    return [
        {"rule_files": ["alerts.yml"], "evaluation_interval": f"{step}s", "tests": groups}
        for step, groups in by_step.items()
    ]


def group(
    title: str,
    names: Sequence[str],
    series: dict[str, float | str],
    told: list[tuple[int, int]],
    step_seconds: int,
    *,
    ever: bool = False,
) -> dict[str, Any]:
    """Whether alerts fire at some moments, or have ever done so until then."""
    steps = max(at for at, _ in told) // step_seconds + 1
    each = [f'ALERTS{{alertname="{name}",alertstate="firing"}}' for name in names]
    asked = [f"count_over_time({firing}[1d])" if ever else firing for firing in each]

    def values(said: float | str) -> str:
        text = said if isinstance(said, str) else f"{said!r}xN"
        return text.replace("STEP", f"{step_seconds}").replace("xN", f"x{steps}")

    return {
        "name": title,
        "interval": f"{step_seconds}s",
        "input_series": [{"series": name, "values": values(said)} for name, said in series.items()],
        "promql_expr_test": [
            {
                "expr": f"count({firing}) or vector(0)",
                "eval_time": f"{at}s",
                "exp_samples": [{"labels": "{}", "value": count}],
            }
            for at, count in told
            for firing in asked
        ],
    }


def labelled(alert: str, case: Case, at_seconds: int, name: str) -> dict[str, Any]:
    """That one of that name bears the alert's labels as they are sent, and no other."""
    labels = dict(BY_NAME[alert]["labels"])
    told = dict(re.findall(r'(\w+)="([^"]*)"', case.bears))
    labels["service"] = labels["service"].replace("{{ $labels.job }}", told.get("job", ""))
    everything = {"alertname": name, "alertstate": "firing", **told, **labels}
    inside = ",".join(f'{label}="{value}"' for label, value in everything.items())
    return {
        "expr": f'ALERTS{{alertname="{name}",alertstate="firing"}}',
        "eval_time": f"{at_seconds}s",
        "exp_samples": [{"labels": f"ALERTS{{{inside}}}", "value": 1}],
    }


HISTORY_MINUTES = (
    (60, 400, 0), (2880, 300, 1), (1080, 250, 2), (240, 200, 5), (60, 150, 10), (30, 130, 20),
    (25, 120, 30), (3, 110, 40), (2, 100, 60),
)  # fmt: skip
"""For how long, how many requests a minute, and how many of them went wrong; so that every span has
figures of its own."""
WINDOW_MINUTES = {"5m": 5, "30m": 30, "1h": 60, "2h": 120, "6h": 360, "1d": 1440, "3d": 4320}


def counted(of_minute: Callable[[int, int], float]) -> str:
    """A counter that grows by what is said of each minute's requests, as promtool reads it."""
    total, told = 0.0, ["0"]
    for minutes, requests, wrong in HISTORY_MINUTES:
        for _ in range(minutes):
            total += of_minute(requests, wrong)
            told.append(f"{total:g}")
    return " ".join(told)


def sums(window: str) -> tuple[int, int]:
    """Requests of the last so many minutes, and how many of them went wrong."""
    each = [(requests, wrong) for m, requests, wrong in HISTORY_MINUTES for _ in range(m)]
    requests, wrong = zip(*each[-WINDOW_MINUTES[window] :], strict=True)
    return sum(requests), sum(wrong)


def share(window: str) -> float:
    requests, wrong = sums(window)
    return wrong / requests


END = f"{sum(minutes for minutes, *_ in HISTORY_MINUTES)}m"
LAST, LAST_WRONG = sums("5m")
DURATION = "rul_request_duration_seconds"
PATH = 'path="/v1/fleets/{fleet}/units"'
PROBES = (
    "/metrics", "/livez", "/readyz", "/health", "/v2/health/live", "/v2/health/ready", "unmatched",
)  # fmt: skip
HISTORY = {
    f'rul_requests_total{{instance="a",{PATH}}}': counted(lambda requests, _: 0.4 * requests),
    f'rul_requests_total{{instance="b",{PATH}}}': counted(lambda requests, _: 0.6 * requests),
    f'rul_requests_error_total{{instance="b",{PATH}}}': counted(lambda _, wrong: wrong),
    f'{DURATION}_bucket{{le="0.1",{PATH}}}': counted(
        lambda requests, wrong: (requests - wrong) / 2
    ),
    f'{DURATION}_bucket{{le="1.0",{PATH}}}': counted(lambda requests, wrong: requests - wrong),
    f'{DURATION}_bucket{{le="2.5",{PATH}}}': counted(lambda requests, _: requests),
    f'{DURATION}_bucket{{le="+Inf",{PATH}}}': counted(lambda requests, _: requests),
    f"{DURATION}_count{{{PATH}}}": counted(lambda requests, _: requests),
    # Probes and scrapes, of which some fail and are slow, count for nothing.
    **{
        f'{name},path="{probe}"}}': "0+50x10000"
        for probe in PROBES
        for name in (
            'rul_requests_total{instance="a"',
            'rul_requests_error_total{instance="a"',
            f'{DURATION}_bucket{{le="+Inf"',
            f'{DURATION}_count{{instance="a"',
        )
    },
    'up{job="api",instance="a"}': "1x10000",
    'up{job="api",instance="b"}': "1x10000",
    'up{job="api",instance="c"}': "0x10000",
}
EXPECTED = {
    "job:rul_api_instances:count": 2,
    "job:rul_requests:rate5m": LAST / 300,
    # What went wrong took between 1 and 2.5 seconds, spread evenly.
    "job:rul_request_duration_seconds:p95_rate5m": (
        1 + 1.5 * (0.95 * LAST - (LAST - LAST_WRONG)) / LAST_WRONG
    ),
    **{f"{name}{window}": share(window) for name in (ERRORS, SLOW) for window in WINDOW_MINUTES},
    **{
        f"job:rul_requests_{what}:increase{window}": sums(window)[1]
        for what in ("error", "slow")
        for window in ("6h", "3d")
    },
}
"""What each recording rule must say at the end of that history."""


def recorded_checks(records: Mapping[str, str]) -> dict[str, Any]:
    """What rules must record, as a file of promtool's: the names they have, and whose value."""
    groups = [
        {
            "name": "a history in which each window has its share",
            "interval": "1m",
            "input_series": [{"series": n, "values": values} for n, values in HISTORY.items()],
            "promql_expr_test": [
                {
                    "expr": f"round({name}, 0.001)",
                    "eval_time": END,
                    "exp_samples": [{"labels": "{}", "value": round(EXPECTED[record], 3)}],
                }
                for name, record in records.items()
            ],
        }
    ]
    groups += [
        {
            "name": f"{name} where no error was ever counted",
            "interval": "1m",
            "input_series": [{"series": f"rul_requests_total{{{PATH}}}", "values": "0+100x10000"}],
            "promql_expr_test": [
                {
                    "expr": name,
                    "eval_time": END,
                    "exp_samples": [{"labels": name, "value": 0}],
                }
            ],
        }
        for name, record in records.items()
        if record.startswith(ERRORS)
    ]
    # The end alone is looked at, and days of evaluations before it are dear.
    return {"rule_files": ["recording.yml"], "evaluation_interval": END, "tests": groups}


@pytest.fixture
def promtool(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Runs a shell with promtool, in the test's folder."""
    tmp_path.chmod(0o755)

    def run(script: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["docker", "run", "--rm", "--network=none", f"--volume={tmp_path}:/rules",
             "--workdir=/rules", "--entrypoint=sh", image_of("prometheus"), "-c",
             script],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


def written(folder: Path, kind: str, rules: dict[str, Any], tests: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{kind}.yml").write_text(yaml.safe_dump(rules))
    for n, one in enumerate(tests):
        (folder / f"{kind}_{n}_test.yml").write_text(yaml.safe_dump(one))


def test_every_alert_fires_on_time_and_not_before_and_needs_its_series(tmp_path: Path, promtool):
    """Each alone: some need days of series, which the others need not look at."""
    shutil.copy(RULES / "alerts.yml", tmp_path)
    files = 0
    for name, rule in BY_NAME.items():
        alone = {"groups": [{"name": "alone", "rules": [rule]}]}
        tests = checks(name)
        files += len(tests)
        written(tmp_path / name, "alerts", alone, tests)
    told = promtool(
        "promtool check rules --lint=all alerts.yml && ls -d */ | xargs -P 2 -I {} sh -c"
        " 'cd {} && promtool test rules *_test.yml'"
    )
    assert told.returncode == 0, told.stdout + told.stderr
    assert told.stdout.count("SUCCESS") == files + 1, told.stdout + told.stderr


def test_what_is_recorded_is_what_its_name_says(tmp_path: Path, promtool):
    shutil.copy(RULES / "recording.yml", tmp_path)
    tests = recorded_checks({name: name for name in EXPECTED})
    (tmp_path / "recording_test.yml").write_text(yaml.safe_dump(tests))
    told = promtool("promtool check rules recording.yml && promtool test rules *_test.yml")
    assert told.returncode == 0, told.stdout + told.stderr
    assert EXPECTED.keys() == {rule["record"] for rule in RECORDING}


NUMBER = re.compile(r"(?<![\w.\[:])\d+(?:\.\d+)?(?![\w.\]:])")
COMPARISON = re.compile(r"(?<![=!<>~])(?:==|!=|>=|<=|>|<)(?![=~])")
SPAN = re.compile(r"(?<=\[)\d+[mhd](?=\])|(?<=offset )\d+[mhd]")
BUCKET = re.compile(r'(?<=le=")[\d.]+(?=")')
OTHERS = {
    ">": (">=", "<"), "<": ("<=", ">"), ">=": (">", "<"), "<=": ("<", ">"),
    "==": ("!=",), "!=": ("==",),
}  # fmt: skip
CHANGES: tuple[tuple[re.Pattern[str], Callable[[str], Iterable[str]]], ...] = (
    (
        NUMBER,
        lambda text: [f"{float(text) * by:.6g}" for by in (0.9, 1.1)] if float(text) else ["1"],
    ),
    (COMPARISON, lambda text: OTHERS[text]),
    (SPAN, lambda text: [f"{seconds(text) // 2}s", f"{2 * seconds(text)}s"]),
    (BUCKET, lambda text: [other for other in ("0.1", "2.5") if other != text]),
)


def mutants() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Every rule with one number, comparison, span, bucket or duration changed: whose, and how."""
    for name, rule in [*BY_NAME.items(), *((rule["record"], rule) for rule in RECORDING)]:
        for what, changed in variants(rule):
            yield name, what, {**rule, **changed}


def variants(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
    expr = rule["expr"]
    # Matchers of labels are no comparisons, and names of what is recorded no spans.
    bare = re.sub(r"\{[^}]*\}", lambda found: "_" * len(found[0]), expr)
    for pattern, others in CHANGES:
        for found in pattern.finditer(expr if pattern is BUCKET else bare):
            for other in others(found[0]):
                changed = expr[: found.start()] + other + expr[found.end() :]
                yield f"{found[0]} at {found.start()} is {other}", {"expr": changed}
    if "for" in rule:
        for other in ("0s", f"{2 * seconds(rule['for'])}s"):
            yield f"for is {other}", {"for": other}


def seconds(duration: str) -> int:
    return int(duration[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": DAY}[duration[-1]]


def test_hardly_any_change_of_a_rule_goes_unnoticed(tmp_path: Path, promtool):
    """All changes of an alert are asked at once, and all of what is recorded: each has a name."""
    changes: dict[str, tuple[str, str]] = {}
    by_file: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for n, (name, what, rule) in enumerate(mutants()):
        changed = f"changed_{n:03}"
        changes[changed] = name, what
        if name in BY_NAME:
            by_file[name].append({**rule, "alert": changed})
        else:
            by_file["recording"].append({**rule, "record": changed})
    assert len(changes) > 150
    for file, rules in by_file.items():
        groups = {"groups": [{"name": "changed", "rules": rules}]}
        if file == "recording":
            records = {rule["record"]: changes[rule["record"]][0] for rule in rules}
            written(tmp_path / file, "recording", groups, [recorded_checks(records)])
        else:
            names = [rule["alert"] for rule in rules]
            written(tmp_path / file, "alerts", groups, checks(file, names))
    told = promtool(
        "ls | xargs -P 2 -I {} sh -c 'cd {} && promtool test rules *_test.yml 2>&1; true'"
    )
    found = {*re.findall(r"changed_\d{3}", told.stdout)}
    survived = [change for name, change in changes.items() if name not in found]
    print(f"  {len(found)} of {len(changes)} changed rules found out; not: {survived}")
    assert len(survived) <= 0.05 * len(changes), survived
