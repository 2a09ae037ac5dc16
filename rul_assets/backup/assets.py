"""What is kept, the manifest that makes it a backup, and the drill that proves it.

What belongs here: the assets and their checks. What does not: when they are made (``schedules``).
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

import dagster as dg

from rul_assets import reports
from rul_assets.backup.resources import Underway
from rul_assets.failures import explained
from rul_backup.keeping import Backups
from rul_backup.manifest import Artefact, Kind
from rul_backup.reading import LOCAL, OFF_SITE
from rul_backup.runs import Sealed
from rul_backup.verification import Level
from rul_core import pictures
from rul_core.errors import StoreError

SHRUNK = 0.5
"""A thing that has become smaller than this share of the week's median is told."""
FORGETS = {Kind.DAGSTER, Kind.STACK}
"""Logs, metrics and runs, of which the old ones go by themselves: these may shrink."""
WEEK = timedelta(days=7)
EVERY_HALF_HOUR = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(minutes=60), warn_window=timedelta(minutes=45)
)
_COMMON: dict[str, Any] = {
    "group_name": reports.Group.BACKUPS,
    "owners": reports.OWNERS,
}


@dg.asset(kinds={"postgres"}, freshness_policy=EVERY_HALF_HOUR, **_COMMON)
@explained
def postgres_snapshot(
    _context: dg.AssetExecutionContext,
    backups: dg.ResourceParam[Backups],
    underway: dg.ResourceParam[Underway],
):
    """A dump of the database, with rows and sum of every table of the same moment."""
    return _keep(backups, underway, Kind.POSTGRES)


@dg.asset(deps=[postgres_snapshot], kinds={"redis"}, freshness_policy=EVERY_HALF_HOUR, **_COMMON)
@explained
def redis_snapshot(
    _context: dg.AssetExecutionContext,
    backups: dg.ResourceParam[Backups],
    underway: dg.ResourceParam[Underway],
):
    """All that Redis has, of one moment, as it gives it to a replica."""
    if Kind.REDIS not in backups.kinds:
        return dg.MaterializeResult(metadata={"kept": "nothing: RUL_REDIS_URL is not set"})
    return _keep(backups, underway, Kind.REDIS)


@dg.asset(deps=[postgres_snapshot], kinds={"file"}, freshness_policy=EVERY_HALF_HOUR, **_COMMON)
@explained
def model_snapshot(
    _context: dg.AssetExecutionContext,
    backups: dg.ResourceParam[Backups],
    underway: dg.ResourceParam[Underway],
):
    """Models and descriptions of fleets, after the database that names them.

    Where nothing was written since the run before, what that one kept is promised again.
    """
    return _keep(backups, underway, Kind.MODELS)


@dg.asset(deps=[postgres_snapshot], kinds={"postgres"}, freshness_policy=EVERY_HALF_HOUR, **_COMMON)
@explained
def base_snapshot(
    _context: dg.AssetExecutionContext,
    backups: dg.ResourceParam[Backups],
    underway: dg.ResourceParam[Underway],
):
    """PostgreSQL's own files, from which its archived log leads to any moment since.

    Taken once a day, and where the log has a gap; else what an earlier run kept is promised again.
    """
    if Kind.BASE not in backups.kinds:
        told = "nothing: RUL_BACKUP_REPLICATION_URL is not set"
        return dg.MaterializeResult(metadata={"kept": told})
    return _keep(backups, underway, Kind.BASE)


@dg.asset(
    deps=[postgres_snapshot],
    kinds={"postgres", "file"},
    freshness_policy=EVERY_HALF_HOUR,
    check_specs=[
        dg.AssetCheckSpec(
            "what_the_stack_has_is_kept",
            asset="stack_snapshot",
            description="Everything of the container stack could be read, where there is one. "
            "Where not, the platform is kept all the same.",
        )
    ],
    **_COMMON,
)
@explained
def stack_snapshot(
    _context: dg.AssetExecutionContext,
    backups: dg.ResourceParam[Backups],
    underway: dg.ResourceParam[Underway],
):
    """Of the container stack: Dagster's database and logs, Grafana, Prometheus, its settings.

    Taken once a week; else what an earlier run kept is promised again. Where it cannot be read, the
    run goes on without it.
    """
    wanted = [kind for kind in (Kind.DAGSTER, Kind.STACK) if kind in backups.kinds]
    if not wanted:
        told = "nothing: neither RUL_BACKUP_DAGSTER_URL nor RUL_BACKUP_STACK is set"
        return dg.MaterializeResult(metadata={"kept": told}, check_results=[_stack_is_kept({})])
    started = time.monotonic()
    kept, problems = [], {}
    for kind in wanted:
        try:
            kept.append(backups.keep(underway.run, kind))
        except StoreError as error:
            problems[kind.value] = str(error)
    sources = {
        f"files of {source}": count
        for one in kept
        for source, count in one.facts.get("sources", {}).items()
    }
    return dg.MaterializeResult(
        metadata={
            "bytes": sum(one.sums.plain_bytes for one in kept),
            "stored_bytes": sum(one.sums.stored_bytes for one in kept),
            "seconds": time.monotonic() - started,
            "kept": _table(kept),
            **sources,
        },
        check_results=[_stack_is_kept(problems)],
    )


def _stack_is_kept(problems: Mapping[str, str]) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="what_the_stack_has_is_kept",
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        metadata=dict(problems),
    )


@dg.asset(
    deps=[postgres_snapshot, redis_snapshot, model_snapshot, base_snapshot, stack_snapshot],
    kinds={"file"},
    freshness_policy=EVERY_HALF_HOUR,
    check_specs=[
        dg.AssetCheckSpec(
            "nothing_has_shrunk",
            asset="backup_manifest",
            description=f"Nothing that is kept is smaller than {SHRUNK:.0%} of its median of the "
            "last seven days, but for what forgets by itself: logs, metrics, Dagster's runs.",
        )
    ],
    **_COMMON,
)
@explained
def backup_manifest(
    _context: dg.AssetExecutionContext,
    backups: dg.ResourceParam[Backups],
    underway: dg.ResourceParam[Underway],
):
    """That the run is complete: what it kept, signed, and bound to the run before it.

    Written last. A run without it is no backup.
    """
    sealed = backups.seal(underway.run)
    told = [found.sealed for found in backups.there()]
    shrunk = _shrunk(told)
    return dg.MaterializeResult(
        metadata={
            "run": sealed.manifest.run,
            "number": sealed.manifest.number,
            "stored_bytes": sealed.stored_bytes,
            "seconds": (sealed.manifest.finished_at - sealed.manifest.started_at).total_seconds(),
            "kept": _table(sealed.manifest.artefacts),
            "sizes": reports.picture("What runs kept", _sizes(told)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="nothing_has_shrunk",
                passed=not shrunk,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"shrunk": list(shrunk)},
            )
        ],
    )


@dg.asset(deps=[backup_manifest], kinds={"s3"}, **_COMMON)
@explained
def offsite_copy(
    _context: dg.AssetExecutionContext, backups: dg.ResourceParam[Backups]
) -> dg.MaterializeResult:
    """What runs kept, brought beyond the machine: what is there is never brought again.

    The manifest goes last, so whatever breaks off promises nothing; the next run goes on there.
    """
    if not backups.goes_off_site:
        return dg.MaterializeResult(metadata={"brought": "nothing: RUL_BACKUP_OFFSITE is not set"})
    started = time.monotonic()
    brought = backups.bring()
    return dg.MaterializeResult(
        metadata={
            "runs": brought.runs,
            "bytes": brought.bytes,
            "segments": brought.segments,
            "seconds": time.monotonic() - started,
            "newest": backups.find(None).manifest.run,
        }
    )


@dg.asset_check(asset=offsite_copy)
@explained
def every_object_is_there(
    _context: dg.AssetCheckExecutionContext, backups: dg.ResourceParam[Backups]
) -> dg.AssetCheckResult:
    """Beyond the machine every object of every run is there, with its size, and signed."""
    if not backups.goes_off_site:
        return dg.AssetCheckResult(passed=True, metadata={"objects": 0})
    return _looked_at(backups, Level.EXISTS, OFF_SITE)


@dg.asset_check(asset=backup_manifest)
@explained
def every_object_is_what_was_written(
    _context: dg.AssetCheckExecutionContext, backups: dg.ResourceParam[Backups]
) -> dg.AssetCheckResult:
    """Every object of every run that stays: there, of its checksum, signed, in its place."""
    return _looked_at(backups, Level.STORED, LOCAL)


def _looked_at(backups: Backups, level: Level, store: str) -> dg.AssetCheckResult:
    started = time.monotonic()
    found = backups.verify(level, datetime.now(UTC), store)
    return dg.AssetCheckResult(
        passed=not found.findings,
        metadata={
            "runs": found.runs,
            "objects": found.objects,
            "seconds": time.monotonic() - started,
            "findings": [f"{one.object}: {one.problem}" for one in found.findings],
        },
    )


def _keep(backups: Backups, underway: Underway, kind: Kind) -> dg.MaterializeResult:
    started = time.monotonic()
    kept = backups.keep(underway.run, kind)
    tables = kept.facts.get("tables", {})
    facts = {name: value for name, value in kept.facts.items() if isinstance(value, int | str)}
    if tables:
        facts["dagster/row_count"] = sum(table["rows"] for table in tables.values())
        facts["tables"] = len(tables)
    return dg.MaterializeResult(
        metadata={
            "bytes": kept.sums.plain_bytes,
            "stored_bytes": kept.sums.stored_bytes,
            "seconds": time.monotonic() - started,
            "sha256": kept.sums.plain_sha256,
            **({"kept_by": kept.run} if kept.run else {}),
            **facts,
        }
    )


def _table(artefacts: Iterable[Artefact]) -> dg.MarkdownMetadataValue:
    return reports.markdown_table(
        {
            "name": one.name,
            "bytes": f"{one.sums.plain_bytes:,}",
            "stored": f"{one.sums.stored_bytes:,}",
            "kept by": one.run or "this run",
        }
        for one in artefacts
    )


def _shrunk(runs: Sequence[Sealed]) -> list[str]:
    """What of the newest run is much smaller than it was in the week before."""
    *before, newest = runs
    since = newest.manifest.finished_at - WEEK
    sizes: dict[str, list[int]] = {}
    for run in before:
        if run.manifest.finished_at >= since:
            for one in run.manifest.artefacts:
                sizes.setdefault(one.name, []).append(one.sums.stored_bytes)
    return [
        f"{one.name} has {one.sums.stored_bytes:,} bytes; the week's median is {usual:,.0f}"
        for one in newest.manifest.artefacts
        if one.kind not in FORGETS
        and one.name in sizes
        and one.sums.stored_bytes < SHRUNK * (usual := median(sizes[one.name]))
    ]


def _sizes(runs: Sequence[Sealed]) -> bytes:
    series: dict[str, list[tuple[datetime, float]]] = {}
    for run in runs:
        for one in run.manifest.artefacts:
            series.setdefault(one.name, []).append((run.manifest.finished_at, _megabytes(one)))
    return pictures.sizes_over_time(series, title="What runs kept")


def _megabytes(artefact: Artefact) -> float:
    return artefact.sums.stored_bytes / 1e6
