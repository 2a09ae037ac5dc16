"""Pictures as PNG bytes, for cards, reports and asset metadata.

What belongs here: drawing what was computed elsewhere. What does not: computing it, or files.

Matplotlib is imported when the first picture is drawn, and used without pyplot: no global state, so
threads may draw at once, and no display is needed. Colours are those of M. Okabe, K. Ito, "Color
Universal Design", 2008: told apart with any colour vision, and never the only sign.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from io import BytesIO
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from rul_core.errors import NotEnoughData
from rul_core.schema import CYCLE
from rul_core.scoring import BandReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, ORANGE, RED, SKY, INK, GREY = (
    "#0072B2",
    "#E69F00",
    "#D55E00",
    "#56B4E9",
    "#222222",
    "#8A8A8A",
)
MARKERS = (("o", BLUE), ("s", ORANGE), ("D", RED))
MOST_POINTS = 3000
MOST_WHISKERS = 300
MOST_BARS = 20
LEAST_SPAN = timedelta(hours=1)
"""Of an axis of times, so that one moment alone has a place on it."""


def predicted_against_true(
    true: ArrayLike,
    predicted: ArrayLike,
    *,
    lower_90: ArrayLike | None = None,
    upper_90: ArrayLike | None = None,
    cap_cycles: float | None = None,
    unit_of_life: str = "cycles",
    title: str = "Predicted against true",
) -> bytes:
    """A point a row, on the diagonal where the prediction is right, above it where it is late.

    Args:
        true: (n,) remaining life.
        predicted: (n,) of the same rows; beyond 3,000 rows a fixed sample is drawn.
        lower_90: (n,) bounds, drawn as whiskers for up to 300 rows.
        upper_90: (n,)
        cap_cycles: Where the model stops telling lives apart.
        unit_of_life: For the axes.
        title: Above the picture.

    Raises:
        NotEnoughData: There are no rows.
    """
    x, y = np.asarray(true, dtype=np.float64), np.asarray(predicted, dtype=np.float64)
    if not len(x):
        raise NotEnoughData("no rows to draw; give at least one prediction with its truth")
    shown = np.arange(len(x))
    if len(x) > MOST_POINTS:
        shown = np.sort(np.random.default_rng(0).choice(len(x), MOST_POINTS, replace=False))
    figure, axes = _canvas(6.4, 6.0)
    # A capped model against uncapped truth: the picture need not be square.
    right, top = 1.04 * float(x.max()), 1.08 * float(max(y.max(), cap_cycles or 0.0, 1.0))
    diagonal = [0.0, max(right, 1.0)]
    axes.plot(diagonal, diagonal, color=INK, linewidth=1.2, label="exact")
    if lower_90 is not None and upper_90 is not None and len(x) <= MOST_WHISKERS:
        low, high = np.asarray(lower_90, dtype=float), np.asarray(upper_90, dtype=float)
        axes.vlines(x, low, high, color=SKY, linewidth=1.4, alpha=0.6, label="90 % band")
        top = max(top, 1.04 * float(high.max()))
    axes.plot(
        x[shown],
        y[shown],
        linestyle="none",
        marker="o",
        markersize=4.5 if len(shown) <= MOST_WHISKERS else 2.5,
        color=BLUE,
        alpha=0.85 if len(shown) <= MOST_WHISKERS else 0.35,
        label=f"{len(shown):,} of {len(x):,} rows" if len(shown) < len(x) else f"{len(x):,} rows",
    )
    if cap_cycles is not None:
        axes.axhline(cap_cycles, color=GREY, linestyle="--", linewidth=1, label="label cap")
    axes.text(0.03, 0.97, "late", transform=axes.transAxes, va="top", color=GREY)
    axes.text(0.97, 0.03, "early", transform=axes.transAxes, ha="right", color=GREY)
    axes.set(
        xlim=(0, max(right, 1.0)),
        ylim=(0, top),
        xlabel=f"true remaining life ({unit_of_life})",
        ylabel=f"predicted remaining life ({unit_of_life})",
        title=title,
    )
    _legend_below(axes)
    return _png(figure)


def fan_of_one_life(
    predictions: pl.DataFrame,
    *,
    end_cycle: float | None = None,
    cap_cycles: float | None = None,
    unit: str = "",
    unit_of_life: str = "cycles",
) -> bytes:
    """What was said along one life, with its bands, and the truth where the end is known.

    Args:
        predictions: One life, one row a reading: ``cycle``, ``rul_cycles``, ``lower_50``,
            ``upper_50``, ``lower_90``, ``upper_90``.
        end_cycle: When it failed.
        cap_cycles: Where the model stops seeing: an upper bound there is no bound.
        unit: The machine, for the title.
        unit_of_life: For the axes.

    Raises:
        NotEnoughData: There are no rows.
    """
    if predictions.is_empty():
        raise NotEnoughData("no predictions to draw; give those of one life")
    rows = predictions.sort(CYCLE)
    cycle = rows[CYCLE].to_numpy()
    figure, axes = _canvas(8.0, 4.8)
    for level, colour, alpha in ((90, SKY, 0.35), (50, BLUE, 0.35)):
        axes.fill_between(
            cycle,
            rows[f"lower_{level}"].to_numpy(),
            rows[f"upper_{level}"].to_numpy(),
            color=colour,
            alpha=alpha,
            linewidth=0,
            label=f"{level} % band",
        )
    axes.plot(cycle, rows["rul_cycles"].to_numpy(), color=BLUE, linewidth=1.8, label="predicted")
    top = float(rows["upper_90"].to_numpy().max())
    if end_cycle is not None:
        axes.plot(
            [cycle[0], end_cycle],
            [end_cycle - cycle[0], 0.0],
            color=INK,
            linestyle="--",
            linewidth=1.4,
            label="true",
        )
    if cap_cycles is not None:
        axes.axhline(cap_cycles, color=GREY, linestyle=":", linewidth=1.2)
        axes.annotate(
            "label cap: a band that reaches it is open above",
            (1.0, cap_cycles),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 3),
            textcoords="offset points",
            ha="right",
            color=GREY,
            fontsize=9,
        )
        top = max(top, cap_cycles)
    axes.set(
        xlim=(cycle[0], max(cycle[-1], end_cycle or cycle[-1], cycle[0] + 1)),
        ylim=(0, 1.12 * max(top, 1.0)),
        xlabel=f"life so far ({unit_of_life})",
        ylabel=f"remaining life ({unit_of_life})",
        title=f"What was said along the life of {unit}" if unit else "What was said along one life",
    )
    _legend_below(axes)
    return _png(figure)


def importance(
    shares: Mapping[str, float], *, title: str = "What moves the prediction", most: int = MOST_BARS
) -> bytes:
    """Bars of each group's share, the heaviest on top; the smallest are added up.

    Args:
        shares: By group (a sensor, age, all sensors), in any order and scale.
        title: Above the picture.
        most: Bars at most.

    Raises:
        NotEnoughData: There are no groups, or all shares are 0.
    """
    total = sum(shares.values())
    if not total > 0:
        raise NotEnoughData("no importance to draw; give the shares of a fitted model")
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    if len(ordered) > most:
        rest = ordered[most - 1 :]
        ordered = [
            *ordered[: most - 1],
            (f"{len(rest)} others", sum(share for _, share in rest)),
        ]
    names = [name for name, _ in ordered]
    percents = [100 * share / total for _, share in ordered]
    figure, axes = _canvas(8.0, 1.4 + 0.32 * len(names))
    bars = axes.barh(names, percents, color=BLUE, height=0.7)
    axes.bar_label(bars, fmt="{:.1f} %", padding=4, fontsize=9)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.grid(visible=False, axis="y")
    axes.set(xlim=(0, 1.15 * max(percents)), xlabel="share of importance (%)", title=title)
    return _png(figure)


def coverage(
    bands: Sequence[BandReport],
    *,
    unit_of_life: str = "cycles",
    title: str = "How often the bands held the truth",
) -> bytes:
    """Coverage overall and by true remaining life, with binomial 95 % whiskers, beside the promise.

    Args:
        bands: Of an ``Evaluation``, up to three levels.
        unit_of_life: For the axis.
        title: Above the picture.

    Raises:
        NotEnoughData: There are no bands.
    """
    if not bands:
        raise NotEnoughData("no bands to draw; evaluate with bands")
    places: dict[tuple[float, float | None], str] = {(-1.0, None): "all"}
    for band in bands:
        for at in band.by_true_rul:
            end = "" if at.to_cycles is None else f"{at.to_cycles:g}"
            places[at.from_cycles, at.to_cycles] = (
                f"{at.from_cycles:g} to {end}" if end else f"{at.from_cycles:g} and more"
            )
    order = sorted(places, key=lambda place: place[0])
    units = dict.fromkeys(order, 0)
    figure, axes = _canvas(8.0, 4.8)
    for number, (band, (marker, colour)) in enumerate(zip(bands, MARKERS, strict=False)):
        aside = 0.16 * (number - (len(bands) - 1) / 2)
        found = {(-1.0, None): band.overall} | {
            (at.from_cycles, at.to_cycles): at.coverage for at in band.by_true_rul
        }
        axes.axhline(100 * band.level, color=colour, linestyle="--", linewidth=1.1)
        x = [order.index(place) + aside for place in found]
        shares, lows, highs = (
            100 * np.array([getattr(c, name) for c in found.values()])
            for name in ("share", "low", "high")
        )
        axes.errorbar(
            x,
            shares,
            yerr=[np.maximum(shares - lows, 0), np.maximum(highs - shares, 0)],
            linestyle="none",
            marker=marker,
            color=colour,
            markersize=6,
            capsize=4,
            label=f"{100 * band.level:g} % band (promise dashed)",
        )
        for place, counted in found.items():
            units[place] = max(units[place], counted.n)
    axes.set_xticks(range(len(order)), [f"{places[p]}\nn = {units[p]:,}" for p in order])
    axes.axvline(0.5, color=GREY, linewidth=0.8)
    axes.grid(visible=False, axis="x")
    axes.set(
        ylim=(0, 104),
        xlabel=f"true remaining life ({unit_of_life})",
        ylabel="truth inside the band (% of units)",
        title=title,
    )
    _legend_below(axes)
    return _png(figure)


def sizes_over_time(series: Mapping[str, Sequence[tuple[datetime, float]]], *, title: str) -> bytes:
    """How large things were, one line each; where a line leaps, something was lost or added.

    Args:
        series: By name, at least one: when (UTC), and how many megabytes, at least once.
        title: Above the picture.
    """
    from matplotlib.dates import ConciseDateFormatter, date2num

    figure, axes = _canvas(7.0, 3.6)
    for (name, points), (marker, colour) in zip(series.items(), cycle(MARKERS), strict=False):
        times, sizes = zip(*points, strict=True)
        axes.plot(times, sizes, marker=marker, markevery=[-1], color=colour, label=name)
    every = [at for points in series.values() for at, _ in points]
    axes.set_xlim(date2num(min(every) - LEAST_SPAN / 2), date2num(max(every) + LEAST_SPAN / 2))
    axes.xaxis.set_major_formatter(ConciseDateFormatter(axes.xaxis.get_major_locator()))
    axes.set_ylim(bottom=0)
    axes.set_ylabel("MB")
    axes.set_title(title, loc="left", color=INK)
    _legend_below(axes)
    return _png(figure)


def _canvas(width: float, height: float) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.grid(color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend_below(axes: "Axes") -> None:
    axes.figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=9)


def _png(figure: "Figure") -> bytes:
    out = BytesIO()
    # Without the software's version the same picture is the same bytes.
    figure.savefig(out, format="png", metadata={"Software": None})
    return out.getvalue()
