"""The model card: what a person should know before trusting a model.

What belongs here: the words and tables, in Markdown. What does not: computing what they say, the
pictures (``pictures``), files.

The sections follow M. Mitchell et al., "Model Cards for Model Reporting", FAT* 2019, as far as they
fit machines.
"""

from collections.abc import Sequence
from datetime import datetime

import msgspec

from rul_core.leakage_report import GateReport
from rul_core.resampling import Figure
from rul_core.schema import Fleet
from rul_core.scoring import Evaluation, Regimes

NOTHING = "–"


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """A picture beside the card."""

    file_name: str
    """Relative to the card."""
    caption: str


class Card(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a card says. Dictionaries are printed as two columns, in their order."""

    fleet: Fleet
    made_at: datetime
    version: str = ""
    """The bundle's; a card that is written before the bundle has none."""
    data: dict[str, str] = {}
    """What it was trained on: lives, readings, sources, time span."""
    protocol: tuple[str, ...] = ()
    """How it was trained and judged, a sentence each."""
    metrics: Regimes
    gate: GateReport
    importance: dict[str, float] = {}
    """Share by group."""
    limits: tuple[str, ...] = ()
    """Beyond those that every model of the fleet has."""
    provenance: dict[str, str] = {}
    """From what it can be made again: code, recipe, seed, data."""
    pictures: tuple[Picture, ...] = ()


def to_markdown(card: Card) -> str:
    """The card's text; ends with a line break."""
    version = f", version `{card.version}`" if card.version else ""
    sections = [
        f"# Remaining useful life of {card.fleet.name}{version}",
        _summary(card),
        _section("Data", _two_columns(card.data)),
        _section("How it was trained and judged", _bullets(card.protocol)),
        _section("Accuracy", _accuracy(card)),
        _section("Bands", _bands(card)),
        _section("Leakage gate", _gate(card.gate)),
        _section("What moves the prediction", _importance(card.importance)),
        _section("Limits of use", _bullets((*_limits(card.fleet), *card.limits))),
        _section("Provenance", _two_columns(card.provenance)),
        _section("Pictures", _pictures(card.pictures)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _section(title: str, body: str) -> str:
    return f"## {title}\n\n{body}" if body else ""


def _summary(card: Card) -> str:
    clipped, unit = card.metrics.clipped, card.fleet.unit_of_life
    said = f"{card.fleet.description.rstrip('.')}. " if card.fleet.description else ""
    promise = next((band for band in clipped.bands if band.level == 0.9), None)
    band = (
        f" Its 90 % band holds the truth in {promise.overall.share:.0%} of them and "
        f"{'keeps' if promise.promise_kept else '**breaks**'} its promise."
        if promise
        else ""
    )
    gate = "clean" if card.gate.passed else "**not clean**"
    return (
        f"{said}Made on {card.made_at:%Y-%m-%d %H:%M} UTC. On {clipped.units} units that it did "
        f"not see, with the truth clipped at {_at(clipped)} {unit}, its error (RMSE) is "
        f"{_figure(clipped.rmse_cycles)} {unit}.{band} The leakage gate is {gate}."
    )


def _at(evaluation: Evaluation) -> str:
    return NOTHING if evaluation.clip_at_cycles is None else f"{evaluation.clip_at_cycles:g}"


def _accuracy(card: Card) -> str:
    unit = card.fleet.unit_of_life
    both = (card.metrics.clipped, card.metrics.unclipped)
    near = f"{both[0].near_end_cycles:g}"
    names = {
        "rmse_cycles": f"RMSE ({unit})",
        "mae_cycles": f"mean absolute error ({unit})",
        "bias_cycles": f"bias: predicted less true ({unit})",
        "rmse_near_end_cycles": f"RMSE where the true RUL is at most {near} ({unit})",
        "crps_cycles": f"CRPS ({unit})",
        "phm08_score": "PHM08 score, sum",
        "phm08_mean": "PHM08 score, per unit",
        "late_share": f"late by more than 10 {unit}",
        "early_share": f"early by more than 13 {unit}",
        "alpha_lambda": "within 20 % of the true RUL",
    }
    shares = {"late_share", "early_share", "alpha_lambda"}
    rows = [
        (title, *(_figure(getattr(e, name), share=name in shares) for e in both))
        for name, title in names.items()
        if getattr(both[0], name) is not None
    ]
    head = ("", f"truth clipped at {_at(both[0])}", "truth as it was")
    return (
        f"{both[0].units} units, {both[0].rows} readings; in brackets the 95 % interval over units "
        "(bootstrap). The two columns must not be compared with each other.\n\n"
        f"{_table(head, rows)}"
    )


def _bands(card: Card) -> str:
    if not card.metrics.clipped.bands:
        return ""
    unit = card.fleet.unit_of_life
    rows = []
    for evaluation in (card.metrics.clipped, card.metrics.unclipped):
        for band in evaluation.bands:
            places = [("all", band.overall)]
            if band.near_end:
                places.append((f"true RUL ≤ {evaluation.near_end_cycles:g}", band.near_end))
            rows += [
                (
                    f"{band.level:.0%}",
                    evaluation.regime,
                    where,
                    f"{found.share:.1%} ({found.low:.1%} to {found.high:.1%})",
                    str(found.n),
                    "yes" if found.reaches(band.level) else "**no**",
                    _figure(band.mean_width_cycles) if where == "all" else "",
                )
                for where, found in places
            ]
    head = (
        "band",
        "truth",
        "units",
        "coverage",
        "n",
        "reaches its level",
        f"mean width ({unit})",
    )
    return (
        "In brackets the exact binomial 95 % interval; a band reaches its level when the interval "
        "does. An upper bound at the label cap is no bound: it counts as open.\n\n"
        f"{_table(head, rows)}"
    )


def _gate(gate: GateReport) -> str:
    if not gate.findings:
        return "No test was run."
    said = (
        f"{len(gate.findings) - len(gate.failed) - len(gate.not_run)} passed, {len(gate.failed)} "
        f"failed, {len(gate.not_run)} not run."
    )
    return f"{said}\n\n{gate.to_markdown().rstrip()}"


def _importance(shares: dict[str, float]) -> str:
    total = sum(shares.values())
    if not total:
        return ""
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    rest = sum(share for _, share in ordered[15:]) / total
    rows = [(name, f"{share / total:.1%}") for name, share in ordered[:15]]
    if len(ordered) > 15:
        rows.append((f"{len(ordered) - 15} others", f"{rest:.1%}"))
    return _table(("group", "share"), rows)


def _limits(fleet: Fleet) -> tuple[str, ...]:
    """What no model of this fleet can do."""
    cap, unit = fleet.learning.label_cap_cycles, fleet.unit_of_life
    return (
        f"Remaining lives above {cap:g} {unit} are not told apart: a healthy machine shows no sign "
        "of its end. A band that reaches the cap has no upper bound.",
        f"A machine with fewer than {fleet.learning.minimum_readings} readings in its life gets no "
        "estimate.",
        "It learnt from lives that ended in failure. Other causes of failure, other operating "
        "conditions and other machines than those in its data are outside of what it knows.",
        (
            f"It uses the {unit} since new. Where machines wear by another law than those it "
            "learnt from, or the count does not begin at new, it misleads."
            if fleet.learning.uses_age
            else f"It does not use the {unit} since new."
        ),
        "It assumes that a machine goes on being used as in its recent readings.",
        "The intervals hold for machines like those it was judged on, on average over them; not "
        "for each machine.",
    )


def _pictures(pictures: tuple[Picture, ...]) -> str:
    return "\n\n".join(f"![{picture.caption}]({picture.file_name})" for picture in pictures)


def _figure(figure: Figure | None, *, share: bool = False) -> str:
    if figure is None or figure.value is None:
        return NOTHING

    def number(value: float) -> str:
        if share:
            return f"{value:.1%}"
        # Plus zero, so that nothing prints as minus nothing.
        return f"{round(value, 2) + 0.0:,.2f}" if abs(value) < 1e5 else f"{value:.3g}"

    if figure.low is None or figure.high is None:
        return number(figure.value)
    return f"{number(figure.value)} ({number(figure.low)} to {number(figure.high)})"


def _bullets(sentences: tuple[str, ...]) -> str:
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _two_columns(facts: dict[str, str]) -> str:
    return _table(("", ""), list(facts.items())) if facts else ""


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")
