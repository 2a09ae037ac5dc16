"""What the leakage gate says: one finding a test, and the whole.

What belongs here: the tests' names, what each catches and why, and how a report is put together
and printed. What does not: the tests (``leakage``, ``leakage_canary``).
"""

from enum import StrEnum

import msgspec


class GateOutcome(StrEnum):
    """How a test ended."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not_run"
    """What the test needs was not given, or is too little; the detail says which."""


CATCHES = {
    "prefix_invariance": (
        "features that change when later readings exist: whole-life scaling, centred windows, "
        "back-filling, statistics over the table they happen to be computed in"
    ),
    "shuffled_time": (
        "features that depend on what later readings say, or on the order in which rows arrive"
    ),
    "renamed_units": "features looked up by the machine's name, such as the length of its life",
    "label": (
        "labels that are not the cycles left until one end of the life: misaligned truth, labels "
        "of another life, a cap where there is none"
    ),
    "unit_disjoint": (
        "a machine in more than one of training, validation, calibration and test: its rows "
        "resemble each other, so the model is asked what it was told"
    ),
    "single_feature_canary": (
        "one feature that alone knows the end: the label or a noisy copy of it, the share of life "
        "used, a flag that is set near the end"
    ),
    "constant_per_life": (
        "one figure a life that ranks the lives by their length, such as their last cycle"
    ),
    "whole_life_scaling": (
        "features scaled with the least, greatest or mean value of the whole life, which is known "
        "only when it is over"
    ),
    "label_permutation": (
        "a way of fitting and scoring that finds what is not there: rows of one life on both "
        "sides of a split, scoring on training rows, choices made on the test set"
    ),
    "model_dominance": "a model whose prediction is perfect and rests on a single feature",
}
"""The gate's tests, in the order in which they are printed, and what each catches."""


class GateTest(msgspec.Struct, frozen=True, kw_only=True):
    """One finding."""

    name: str
    """A key of ``CATCHES``."""
    outcome: GateOutcome
    detail: str
    """What was found or is missing, and the remedy."""
    figures: dict[str, float] = {}

    @property
    def catches(self) -> str:
        """What the test is for."""
        return CATCHES[self.name]


class GateReport(msgspec.Struct, frozen=True, kw_only=True):
    """All findings; JSON by msgspec."""

    findings: tuple[GateTest, ...]

    @property
    def passed(self) -> bool:
        """Whether no test failed. A test that did not run has not failed, nor has it passed."""
        return not self.failed

    @property
    def failed(self) -> tuple[GateTest, ...]:
        """The findings that hold a model back."""
        return tuple(f for f in self.findings if f.outcome is GateOutcome.FAILED)

    @property
    def not_run(self) -> tuple[GateTest, ...]:
        """The findings that are missing."""
        return tuple(f for f in self.findings if f.outcome is GateOutcome.NOT_RUN)

    def to_markdown(self) -> str:
        """A table, one row a test."""
        words = {
            GateOutcome.PASSED: "passed",
            GateOutcome.FAILED: "**failed**",
            GateOutcome.NOT_RUN: "not run",
        }
        rows = [
            f"| {finding.name.replace('_', ' ')} | {words[finding.outcome]} | "
            f"{finding.detail.replace('|', '/')} |"
            for finding in self.findings
        ]
        return "\n".join(["| test | outcome | detail |", "| --- | --- | --- |", *rows]) + "\n"


def combine(*reports: GateReport) -> GateReport:
    """One report of several: for each test a failure counts first, then a pass, then not run."""
    order = [GateOutcome.FAILED, GateOutcome.PASSED, GateOutcome.NOT_RUN]
    found: dict[str, GateTest] = {}
    for report in reports:
        for finding in report.findings:
            known = found.get(finding.name)
            if known is None or order.index(finding.outcome) < order.index(known.outcome):
                found[finding.name] = finding
    return GateReport(findings=tuple(found[name] for name in CATCHES if name in found))


def passed(name: str, detail: str, figures: dict[str, float] | None = None) -> GateTest:
    """A test that found nothing."""
    return GateTest(name=name, outcome=GateOutcome.PASSED, detail=detail, figures=figures or {})


def failed(name: str, detail: str, figures: dict[str, float] | None = None) -> GateTest:
    """A test that found a leak."""
    return GateTest(name=name, outcome=GateOutcome.FAILED, detail=detail, figures=figures or {})


def not_run(name: str, detail: str) -> GateTest:
    """A test that was not given what it needs."""
    return GateTest(name=name, outcome=GateOutcome.NOT_RUN, detail=detail)
