"""Would an equivariant architecture pay? A plain and an equivariant arm of one task at equal steps, FLOP and seconds.

The training-dynamics paper weighs the loss penalty of imperfect symmetry against the efficiency gap, which has two
parts: the speed of a step, and how much a step teaches. Arms are curves as `sweep_report.mean_curve` makes them.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from equiscale.studies.alternatives import Alternative
from equiscale.studies.crossings import NEVER, Interval, first_reached, value_at
from equiscale.studies.figures import COSTS, Rows, column
from equiscale.studies.paired import ByExample, draw_losses, in_pairs


class Match(NamedTuple):
    """Losses at the largest cost that both arms cover, and equivariant over plain."""

    at: float
    plain: float
    equivariant: float
    ratio: Interval
    share: float  # of the plain arm's whole budget that `at` is


class BreakEven(NamedTuple):
    """In one cost, what a step of the equivariant arm may take: `margin` is how many times more than it does take.

    Below 1 it has to become cheaper; 0 where it never gets as far as the plain arm.
    """

    ratio: float  # what a step of the equivariant arm takes, over one of the plain arm
    margin: Interval
    bound: float  # what the margin is below where the equivariant arm never gets there


class Gap(NamedTuple):
    """What `efficiency_gap` finds. A cost that rows lack is missing; one without a common range is None."""

    names: tuple[str, str]  # plain, equivariant
    steps: tuple[int, int]  # that each trained for
    matches: Mapping[str, Match | None]
    loss: float  # of the plain arm at its end
    penalty: Interval  # equiv = total - mean of the plain arm at its end
    reached: Interval  # the step at which the equivariant arm gets to the plain arm's last loss
    break_even: Mapping[str, BreakEven]
    paired: bool  # whether intervals are of the same examples, drawn together
    alternatives: Sequence[Alternative]  # the plain arm used in other ways


def efficiency_gap(
    names: tuple[str, str],
    plain: Rows,
    equivariant: Rows,
    losses: tuple[ByExample | None, ByExample | None] = (None, None),
    alternatives: Sequence[Alternative] = (),
) -> Gap:
    """Compare two curves; `losses` are those behind their rows, example by example, for intervals of pairs.

    Without them each curve is moved as a whole by its standard error; since arms that are measured on the same examples
    err alike, such intervals are too wide rather than too narrow. Raises ValueError for an arm that was not measured
    after its start, and for losses that are not positive.
    """
    for name, rows in zip(names, (plain, equivariant), strict=True):
        if sum(row["step"] > 0 for row in rows) < 2:
            raise ValueError(f"{name} has fewer than 2 evaluations after its start: nothing to compare")
        if not (column(rows, "total") > 0).all():
            raise ValueError(f"{name} has losses that are not positive: their logarithms cannot be compared")
    drawn = draw_losses((plain, equivariant), losses)
    costs = [cost for cost in COSTS if all(cost in row for rows in (plain, equivariant) for row in rows)]
    ends = {cost: (plain[-1][cost], equivariant[-1][cost]) for cost in costs}
    steps = column(equivariant, "step")

    measured = [column(rows, "total") for rows in (plain, equivariant)]
    times = np.array([first_reached(steps, b, a[-1]) for a, b in zip(*drawn, strict=True)])
    reached = Interval.of(first_reached(steps, measured[1], measured[0][-1]), times)
    n_plain, n_equivariant = plain[-1]["step"], equivariant[-1]["step"]
    break_even = {}
    for cost in (c for c in costs if c != "step"):
        ratio = (ends[cost][1] / n_equivariant) / (ends[cost][0] / n_plain)
        with np.errstate(divide="ignore"):  # the equivariant arm may start below the plain one's end
            margin = Interval.of(np.divide(n_plain / ratio, reached.value), n_plain / ratio / times)
        break_even[cost] = BreakEven(ratio, margin, n_plain / n_equivariant / ratio)
    last = plain[-1]
    error = 1.96 * last["equiv_stderr"]
    penalty = Interval(last["equiv"], last["equiv"] - error, last["equiv"] + error)
    matches = {cost: _match(cost, plain, equivariant, drawn) for cost in costs}
    steps = n_plain, n_equivariant
    return Gap(names, steps, matches, last["total"], penalty, reached, break_even, in_pairs(losses), alternatives)


def _match(cost: str, plain: Rows, equivariant: Rows, drawn: Sequence[np.ndarray]) -> Match | None:
    costs = [column(rows, cost) for rows in (plain, equivariant)]
    spent = [x > 0 for x in costs]  # curves are log-log
    x = [x[some] for x, some in zip(costs, spent, strict=True)]
    at = min(x[0][-1], x[1][-1])
    if at < max(x[0][0], x[1][0]):
        return None
    a, b = (value_at(x[i], column(rows, "total")[spent[i]], at) for i, rows in enumerate((plain, equivariant)))
    pairs = [np.array([value_at(x[i], curve[spent[i]], at) for curve in drawn[i]]) for i in range(2)]
    return Match(float(at), a, b, Interval.of(b / a, pairs[1] / pairs[0]), float(at / x[0][-1]))


UNITS = {"step": "steps", "flop": "FLOP", "train_seconds": "seconds of training"}
EQUAL = {"step": "at equal steps", "flop": "at equal FLOP", "train_seconds": "at equal time"}


def verdict(gap: Gap) -> str:
    """One sentence, by time where it was measured, else by operations, else by steps."""
    plain, equivariant = gap.names
    shared = [cost for cost in reversed(COSTS) if gap.matches.get(cost)]
    if not shared:
        return f"Whether {equivariant} pays against {plain} cannot be told: they have no budget in common."
    cost = shared[0]
    match = gap.matches[cost]
    ratio = match.ratio
    answer = "pays" if ratio.high < 1 else "does not pay" if ratio.low > 1 else "may or may not pay"
    part = "the plain arm's whole budget" if match.share > 0.995 else f"{100 * match.share:.0f} % of the plain arm's"
    return (
        f"At this budget the equivariant arm ({equivariant}) {answer} {EQUAL[cost]}: after {match.at:.3g} "
        f"{UNITS[cost]} ({part}) its loss is {match.equivariant:.3g}, {_range(ratio)} times the {match.plain:.3g} of "
        f"{plain}."
    )


def paragraph(gap: Gap) -> list[str]:
    """Plain sentences: the verdict, the penalty, equal costs, and the speed at which both would be even."""
    plain, _ = gap.names
    share = [100 * x / gap.loss for x in gap.penalty]
    found = [
        verdict(gap),
        f"Imperfect symmetry costs {plain} {gap.penalty.value:.2g} of its last loss of {gap.loss:.3g}, "
        f"{share[0]:.2g} % ({max(share[1], 0):.2g} to {share[2]:.2g} %): at equal speed and ease of learning an "
        f"exactly equivariant network would gain this and no more, and so does {plain} averaged over all elements.",
    ]
    if gap.alternatives:
        found.append(_alternatives(gap))
    for cost in gap.matches:
        match = gap.matches[cost]
        if match is None:
            found.append(f"There is no number of {UNITS[cost]} that both arms cover.")
        elif cost != "train_seconds":
            found.append(f"{EQUAL[cost].replace('at', 'At')} its loss is {_range(match.ratio)} times that of {plain}.")
    found.append(_reached(gap))
    found += [_break_even(gap, cost) for cost in gap.break_even]
    return found


def _alternatives(gap: Gap) -> str:
    ways = []
    for way in gap.alternatives:
        jumps = f", jumping on {100 * way.jumps:.0f} % of paths" if way.jumps else ""
        ways.append(f"{way.name} {_range(way.ratio)} in {way.time:.2g} times the time{jumps}")
    return f"Not trained anew but used in other ways, {gap.names[0]} has so many times its loss: {'; '.join(ways)}."


def _reached(gap: Gap) -> str:
    plain, _ = gap.names
    value, low, high = gap.reached
    n_plain, n_equivariant = gap.steps
    if value == NEVER:
        some = "" if low == NEVER else f" (within errors it may, from step {low:.0f} on)"
        return f"It does not reach the last loss of {plain} in {n_equivariant} steps{some}."
    until = f"more than {n_equivariant}" if high == NEVER else f"{high:.0f}"
    return f"It needs {value:.0f} steps ({low:.0f} to {until}) for what takes {plain} {n_plain}."


def _break_even(gap: Gap, cost: str) -> str:
    of = "time" if cost == "train_seconds" else "FLOP"
    ratio, margin, bound = gap.break_even[cost]
    takes = f"Its step takes {ratio:.2g} times the {of} of a plain one's"
    if margin.value == 0:
        return f"{takes}, and it would have to take at least {1 / bound:.2g} times less to break even."
    low = f"{margin.low:.2g}" if margin.low > 0 else f"below {bound:.2g}"
    ends = f"({low} to {'any' if margin.high == NEVER else format(margin.high, '.2g')})"
    if margin.value == NEVER:
        return f"{takes}; it starts below the last loss of {gap.names[0]}, so no cost of a step is too high."
    even = f"{ratio * margin.value:.2g} times, which is {margin.value:.2g} {ends} times what it takes"
    return f"{takes}; it breaks even at {even}."


def _range(x: Interval) -> str:
    return f"{x.value:.2f} ({x.low:.2f} to {x.high:.2f})"
