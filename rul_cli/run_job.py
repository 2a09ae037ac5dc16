"""A job of Dagster's, from beginning to end: ``python -m rul_cli.run_job JOB [FLEET]``.

A process of its own, which can be stopped while a model is fitted, and whose standard error Dagster
may turn into the logs of steps while its parent shows progress.
"""

import sys

import dagster as dg

from rul_assets.laptop import defs
from rul_assets.partitions import FLEETS

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""What Dagster tells is kept in its event log."""


def main(job: str, fleet: str | None = None) -> None:
    """Run the job, of a fleet where one is named; a failure ends the process with what and why."""
    with dg.DagsterInstance.get() as instance:
        if fleet is not None:
            instance.add_dynamic_partitions(str(FLEETS.name), [fleet])
        result = (
            defs()
            .resolve_job_def(job)
            .execute_in_process(
                partition_key=fleet, instance=instance, run_config=QUIET, raise_on_error=False
            )
        )
    failures = [event for event in result.all_events if event.is_step_failure]
    if not result.success:
        sys.exit("\n".join(f"{event.step_key}: {_why(event)}" for event in failures))


def _why(event: dg.DagsterEvent) -> str:
    failure = event.step_failure_data
    if failure.user_failure_data and failure.user_failure_data.description:
        return failure.user_failure_data.description
    return failure.error_display_string


if __name__ == "__main__":
    main(*sys.argv[1:])
