"""The table ours / paper / verdict: ``expected.csv`` against what a figure measured. No verdict is typed by hand.

====================  ==================================================================================================
column                of ``expected.csv``
====================  ==================================================================================================
quantity, label       our value is ``measure(data)["quantity[label]"]``; for an ordering the label is free
published             level: a number; band: ``low..high``; trend: rises, falls or flat;
                      ordering: labels such as ``cbp > l2 ~ l2-init > bp``, where ~ is: no difference
tolerance             in units of the quantity (empty: 0)
kind                  level, ordering, trend or band
source, note          where the number comes from; what differs there, which is shown as the cause of a deviation
scales                optional: the scales at which the row is judged, or ``none`` for a protocol that is not carried out here.
                      Empty: a level or band at paper only, an ordering or trend at teach and paper (smoke is too short to judge)
====================  ==================================================================================================

========  ==============================================================================================================
kind      verdict
========  ==============================================================================================================
level     matched if |ours − published| ≤ tolerance, or published ± tolerance meets our interval
band      matched if [low − tolerance, high + tolerance] meets our interval
trend     of the change ``quantity[label]`` (last − first): rises (falls) if its interval lies above tolerance (below −tolerance);
          flat if the mean is within the tolerance or the interval holds 0; matched if that is what is published.
          Both can be true of a small certain change: then the published word decides
ordering  same ordering if every a > b has mean a > mean b, and every a ~ b differs by at most the tolerance or by an interval
          that holds 0. The interval of a difference is ``quantity[a - b]`` where measured (paired seeds), else of means
========  ==============================================================================================================

Everything else *deviates*, with its cause; a row that is not judged at this scale is *not run*, with the cost.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from experiments.figures import SCALES
from experiments.figures.intervals import Interval

__all__ = ["Expected", "Judged", "Verdict", "read_expected", "judge", "judge_all", "as_csv", "as_markdown"]

COLUMNS = ("quantity", "label", "published", "tolerance", "kind", "source", "note")
DEFAULT_SCALES = {"level": ("paper",), "band": ("paper",), "ordering": ("teach", "paper"), "trend": ("teach", "paper")}


class Verdict(StrEnum):
    """What a row of the table says."""

    MATCHED = "matched"
    SAME_ORDERING = "same ordering"
    DEVIATES = "deviates"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Expected:
    """One row of ``expected.csv``; raises ``ValueError`` for one that could not be judged.

    >>> Expected("error", "bp", "1.2", 0.1, "level", "Figure 2").scales
    ('paper',)
    >>> Expected("error", "bp", "about 1", 0.1, "level", "Figure 2")
    Traceback (most recent call last):
    ...
    ValueError: published = 'about 1' of error[bp]; a level is a number such as 0.95
    """

    quantity: str
    label: str
    published: str
    tolerance: float
    kind: str
    source: str
    note: str = ""
    scales: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in DEFAULT_SCALES:
            raise ValueError(f"kind = {self.kind!r} of {self.name}; choose one of {', '.join(DEFAULT_SCALES)}")
        if not self.source:
            raise ValueError(f"source of {self.name} is empty; say where the published value stands")
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(f"tolerance = {self.tolerance} of {self.name}; give a finite number that is not negative")
        scales = self.scales or DEFAULT_SCALES[self.kind]
        if unknown := set(scales) - {*SCALES, "none"}:
            raise ValueError(f"scales = {sorted(unknown)} of {self.name}; choose from {', '.join(SCALES)}, or none")
        object.__setattr__(self, "scales", scales)
        rule, wanted = {
            "level": ("a level is a number such as 0.95", NUMBER),
            "band": ("a band is low..high such as 0.3..0.5", f"{NUMBER}\\.\\.{NUMBER}"),
            "trend": ("a trend is one of rises, falls, flat", "rises|falls|flat"),
            "ordering": ("an ordering has at least two labels, such as cbp > l2 ~ bp", "[^<>~]+([>~][^<>~]+)+"),
        }[self.kind]
        if not re.fullmatch(wanted, self.published):
            raise ValueError(f"published = {self.published!r} of {self.name}; {rule}")

    @property
    def name(self) -> str:
        """The key of our value."""
        return f"{self.quantity}[{self.label}]" if self.label else self.quantity


NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"


@dataclass(frozen=True)
class Judged:
    """A row of the table: what was expected, what we measured (None: nothing), the verdict and why."""

    expected: Expected
    ours: Interval | None
    shown: str
    verdict: Verdict
    why: str


def read_expected(path: Path) -> list[Expected]:
    """The rows of a file; raises ``ValueError`` that names file and line."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        names = reader.fieldnames or []
        if tuple(names) not in (COLUMNS, (*COLUMNS, "scales")):
            raise ValueError(f"{path} has columns {', '.join(names)}; give {', '.join(COLUMNS)} and perhaps scales")
        rows = []
        for row in reader:
            try:
                cells = {name: (value or "").strip() for name, value in row.items() if name is not None}
                tolerance, scales = float(cells.pop("tolerance") or 0), tuple(cells.pop("scales", "").split())
                rows.append(Expected(**cells, tolerance=tolerance, scales=scales))
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    return rows


# -- verdicts --------------------------------------------------------------------------------------------------------------


def judge_all(
    rows: Sequence[Expected], measured: Mapping[str, Interval], scale: str, costs: Mapping[str, str], missing: str = ""
) -> list[Judged]:
    """The table at a scale. ``missing`` says which data are not there, so that nothing was run."""
    return [judge(row, measured, scale, costs, missing) for row in rows]


def judge(
    row: Expected, measured: Mapping[str, Interval], scale: str, costs: Mapping[str, str], missing: str = ""
) -> Judged:
    """The verdict on one row.

    >>> row = Expected("error", "bp", "1.2", 0.1, "level", "Figure 2")
    >>> costs = {"smoke": "1 s", "teach": "1 min", "paper": "9 days"}
    >>> judge(row, {"error[bp]": Interval(1.25, 1.24, 1.26, 9)}, "paper", costs).verdict.value
    'matched'
    >>> judge(row, {"error[bp]": Interval(0.5, 0.4, 0.6, 9)}, "teach", costs).why
    'needs scale paper: 9 days'
    """
    ours = measured.get(row.name)
    shown = "" if ours is None else _interval(ours)
    if missing:
        return Judged(row, None, "", Verdict.NOT_RUN, f"data not at hand; scale {scale} costs {costs[scale]}")
    if scale not in row.scales:
        if "none" in row.scales:
            return Judged(row, ours, shown, Verdict.NOT_RUN, row.note or "this protocol is not carried out here")
        where = next(s for s in SCALES if s in row.scales)
        return Judged(row, ours, shown, Verdict.NOT_RUN, f"needs scale {where}: {costs[where]}")
    if row.kind == "ordering":
        return _judge_ordering(row, measured)
    if ours is None:
        raise ValueError(f"the figure does not measure {row.name}, which expected.csv judges at scale {scale}")
    if not math.isfinite(ours.mean):
        return Judged(row, ours, shown, Verdict.DEVIATES, _cause("no finite value: every replica diverged", row))
    if row.kind == "trend":
        fault, remark = _trend_fault(row, ours), ""
    else:
        fault, remark = _distance(row, ours)
    if fault:
        return Judged(row, ours, shown, Verdict.DEVIATES, _cause(fault, row))
    return Judged(row, ours, shown, Verdict.MATCHED, remark)


def _distance(row: Expected, ours: Interval) -> tuple[str, str]:
    """Why a level or band is missed, and else whether only the width of our interval meets it."""
    ends = [float(end) for end in row.published.split("..")]
    low, high = ends[0] - row.tolerance, ends[-1] + row.tolerance
    away = ours.mean - ends[0] if ours.mean < ends[0] else ours.mean - ends[-1]
    if not ours.overlaps(low, high):
        return f"{away:+.3g} away, tolerance {row.tolerance:.3g}", ""
    return "", "" if low <= ours.mean <= high else f"the mean is {away:+.3g} away; only the interval meets it"


def _trend_fault(row: Expected, ours: Interval) -> str:
    low, high = ours.ends
    by = (
        f" by more than {row.tolerance:g}" if row.tolerance else ""
    )  # else an interval beside 0 would look like a change
    neither = f"neither rises nor falls for certain{by}"
    seen = "rises" if low > row.tolerance else "falls" if high < -row.tolerance else neither
    if row.published == seen:
        return ""
    if row.published == "flat" and (abs(ours.mean) <= row.tolerance or low <= 0 <= high):
        return ""
    return f"ours {seen}"


def _judge_ordering(row: Expected, measured: Mapping[str, Interval]) -> Judged:
    parts = [part.strip() for part in re.split("([>~])", row.published)]
    names, signs = parts[::2], parts[1::2]
    keys = [f"{row.quantity}[{name}]" for name in names]
    if absent := [key for key in keys if key not in measured]:
        raise ValueError(f"the figure does not measure {', '.join(absent)}, which expected.csv orders")
    means = {name: measured[key].mean for name, key in zip(names, keys)}
    shown = " > ".join(f"{name} {means[name]:.4g}" for name in sorted(names, key=lambda n: -means[n]))
    faults, ties = [], []
    for a, sign, b in zip(names, signs, names[1:]):
        gap = _gap(measured, row.quantity, a, b)
        certain = gap.ends[0] > 0 or gap.ends[1] < 0
        if sign == "~":
            if not abs(gap.mean) <= row.tolerance and certain:
                faults.append(f"{a} and {b} differ by {_interval(gap)}")
        elif not gap.mean > 0:  # NaN, too
            faults.append(f"{a} − {b} = {_interval(gap)}" + ("" if certain else ", within the interval"))
        elif not certain:
            ties.append(f"{a} and {b} are not told apart: {_interval(gap)}")
    if faults:
        return Judged(row, None, shown, Verdict.DEVIATES, _cause("; ".join(faults), row))
    return Judged(row, None, shown, Verdict.SAME_ORDERING, "; ".join(ties))


def _gap(measured: Mapping[str, Interval], quantity: str, a: str, b: str) -> Interval:
    """The interval of a − b: paired if measured, else from the two intervals as if independent."""
    for first, second, sign in ((a, b, 1), (b, a, -1)):
        paired = measured.get(f"{quantity}[{first} - {second}]")
        if paired is not None:
            low, high = sorted((sign * paired.low, sign * paired.high))
            return Interval(sign * paired.mean, low, high, paired.n)
    x, y = measured[f"{quantity}[{a}]"], measured[f"{quantity}[{b}]"]
    half = math.hypot(x.high - x.mean, y.high - y.mean)
    return Interval(x.mean - y.mean, x.mean - y.mean - half, x.mean - y.mean + half, min(x.n, y.n))


def _cause(computed: str, row: Expected) -> str:
    return f"{computed}. {row.note}" if row.note else computed


# -- output ----------------------------------------------------------------------------------------------------------------


def _interval(value: Interval) -> str:
    """The mean with its interval.

    >>> _interval(Interval(0.5, 0.4, 0.6, 5)), _interval(Interval(0.5, math.nan, math.nan, 1))
    ('0.5 [0.4, 0.6]', '0.5')
    """
    return f"{value.mean:.4g}" + ("" if math.isnan(value.low) else f" [{value.low:.4g}, {value.high:.4g}]")


def as_csv(table: Sequence[Judged]) -> str:
    """All columns; numbers read back exactly, and are empty where there are none."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*COLUMNS[:5], "ours", "low", "high", "n", "verdict", "why", "source", "note"])
    for line in table:
        row, ours = line.expected, line.ours
        numbers = [line.shown, "", "", ""]
        if ours is not None:
            numbers = [_cell(ours.mean), _cell(ours.low), _cell(ours.high), str(ours.n)]
        writer.writerow([row.quantity, row.label, row.published, f"{row.tolerance:g}", row.kind, *numbers,
                         line.verdict.value, line.why, row.source, row.note])  # fmt: skip
    return out.getvalue()


def _cell(value: float) -> str:
    return "" if math.isnan(value) else repr(value)


def as_markdown(table: Sequence[Judged]) -> str:
    """What a reader needs, one line per row."""
    lines = ["| quantity | ours | published | verdict | why | source |", "|---|---|---|---|---|---|"]
    for line in table:
        row = line.expected
        published = row.published + (f" ± {row.tolerance:g}" if row.tolerance and row.kind in ("level", "band") else "")
        cells = [row.name, line.shown, published, line.verdict.value, line.why, row.source]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
