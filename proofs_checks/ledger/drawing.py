"""Drawings as SVG: a network of a witness with its weights, and the graph of what rests on what.

Layouts are computed here (longest paths give columns, barycentres the order in a column); no layout program is needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from html import escape
from typing import Any

import networkx as nx

from proofs_checks.ledger.words import subscript
from proofs_checks.recheck_core.network import Edge, Network, parse_network
from proofs_checks.recheck_core.numbers import Number, WitnessError
from proofs_checks.recheck_core.quantities import Point, constant_units
from proofs_checks.recheck_core.steps import initial_theta

MAX_LABELLED_EDGES = 40
"""With more edges the weights are left to the JSON."""
MAX_DRAWN_UNITS = 80

FILLS = ("#ffffff", "#eef3f8", "#d3e1ef", "#a9c6e0", "#6f9fc8", "#2f6ea5")
"""Fill by strength S0 … S5: one hue, darker is stronger."""

_RADIUS, _COLUMN, _ROW = 19, 150, 78


# -- networks --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Box:
    """A rectangle that a label occupies."""

    left: float
    top: float
    right: float
    bottom: float

    def overlap(self, other: _Box) -> float:
        width = min(self.right, other.right) - max(self.left, other.left)
        height = min(self.bottom, other.bottom) - max(self.top, other.top)
        return max(0.0, width) * max(0.0, height)


def network_svg(raw: Mapping[str, Any], name: str = "net", name_params: bool = False) -> str:
    """A NETWORK of a witness (see :mod:`proofs_checks.recheck`): inputs left, outputs right, weights on the edges.

    Biases stand below their units; dead and constant units are marked by shape as well as by name; a tied weight carries
    the name of its parameter (all do if ``name_params``); zero weights are dotted. Raises WitnessError for what is not a network.

    >>> raw = {"num_inputs": 1, "has_constant": False, "activation": ["identity"], "outputs": [1], "edges": [[0, 1, 0]],
    ...        "theta": ["1/2"], "x": [["1"]], "y": [["0"]], "loss": "mse_sum"}
    >>> svg = network_svg(raw)
    >>> svg.startswith("<svg"), ">1/2</text>" in svg
    (True, True)
    """
    network = parse_network(raw, name)
    places = _unit_places(network)
    if len(places) > MAX_DRAWN_UNITS:
        return f"<p>{len(places)} units: too large to draw.</p>"
    states = _unit_states(network)
    sizes = f"{network.num_inputs} inputs, {len(network.activations)} computed units, {len(network.theta)} parameters"
    curves = [_curve(edge, places) for edge in network.edges if edge.source in places]
    heights = [y for curve in curves for _, y in curve.points()] + [y for _, y in places.values()]
    top, bottom = min(heights) - 30, max(heights) + 62
    width = max(x for x, _ in places.values()) + 70
    parts = [
        f'<svg class="net" viewBox="0 {top:.0f} {width:.0f} {bottom - top:.0f}" width="{width:.0f}" role="img" '
        f'aria-label="{escape(f"Network {name}: {sizes}")}">'
    ]
    parts += _edges_svg(network, curves, places, states, name_params)
    for unit, place in places.items():
        parts += _unit_svg(network, unit, place, states.get(unit, ""), name_params)
    return "".join([*parts, "</svg>"])


def data_table(raw: Mapping[str, Any], name: str = "net") -> str:
    """HTML table of the samples: inputs, output of the network, target."""
    network = parse_network(raw, name)
    outputs = _output_values(network)
    head = [f"x{subscript(i + 1)}" for i in range(network.num_inputs)]
    head += [f"f{subscript(k)}" for k in _numbered(len(network.outputs))]
    head += (
        ["class"] if network.loss == "cross_entropy" else [f"y{subscript(k)}" for k in _numbered(len(network.outputs))]
    )
    rows = []
    for n, x in enumerate(network.x):
        target = [network.y[n]] if network.loss == "cross_entropy" else network.y[n]
        cells = [*map(short, x), *(values[n] for values in outputs), *map(short, target)]
        rows.append(f"<tr><th>{n}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    header = "".join(f"<th>{cell}</th>" for cell in head)
    return f'<table class="data"><thead><tr><th>sample</th>{header}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def short(value: Number) -> str:
    """A number as short text with a proper minus sign; ≈ marks what is rounded.

    >>> short(Fraction(-1, 3)), short(Fraction(123456789, 1000000007))
    ('−1/3', '≈0.123457')
    """
    text = str(value)
    if not isinstance(value, (int, Fraction)) or len(text) > 9:
        text = f"≈{float(value):.6g}"
    return text.replace("-", "−")


def _numbered(count: int) -> list[int | str]:
    return [""] if count == 1 else [*range(1, count + 1)]


def _unit_places(network: Network) -> dict[int, tuple[float, float]]:
    """Coordinates of all units but the constant one: a column per depth, outputs in the last."""
    constant = network.num_inputs if network.has_constant else None
    depth = dict.fromkeys(range(network.num_inputs), 0)
    for unit in range(network.first_computed, network.num_units):
        depth[unit] = 1 + max((depth[e.source] for e in network.incoming[unit] if e.source != constant), default=0)
    last = max(depth.values())
    feeds = {edge.source for edge in network.edges}
    depth |= {unit: last for unit in network.outputs if unit not in feeds}
    columns = [[unit for unit in depth if depth[unit] == column] for column in range(last + 1)]
    tallest = max(len(column) for column in columns)
    return {
        unit: (40 + _COLUMN * k, 34 + _ROW * (row + (tallest - len(column)) / 2))
        for k, column in enumerate(columns)
        for row, unit in enumerate(column)
    }


def _unit_states(network: Network) -> dict[int, str]:
    """``dead`` or ``constant`` for the units that are so on every sample, by the re-checker's own definition."""
    try:
        point = Point(network, initial_theta(network))
        dead = set(constant_units(point, ("relu",)))
        return {unit: "dead" if unit in dead else "constant" for unit in constant_units(point)}
    except (WitnessError, ArithmeticError, ImportError):
        return {}


def _output_values(network: Network) -> list[list[str]]:
    try:
        trace = Point(network, initial_theta(network)).trace()
        return [[short(jet.value) for jet in trace.h[unit]] for unit in network.outputs]
    except (WitnessError, ArithmeticError, ImportError):
        return [["–"] * len(network.x) for _ in network.outputs]


Place = tuple[float, float]


@dataclass(frozen=True)
class _Curve:
    """An edge as a quadratic curve from rim to rim; over several columns it bends around the units that lie between."""

    edge: Edge
    start: Place
    bend: Place
    end: Place

    @property
    def path(self) -> str:
        (ax, ay), (bx, by), (cx, cy) = self.start, self.bend, self.end
        return f"M{ax:.1f} {ay:.1f} Q{bx:.1f} {by:.1f} {cx:.1f} {cy:.1f}"

    def at(self, t: float) -> Place:
        (ax, ay), (bx, by), (cx, cy) = self.start, self.bend, self.end
        a, b, c = (1 - t) ** 2, 2 * t * (1 - t), t**2
        return a * ax + b * bx + c * cx, a * ay + b * by + c * cy

    def points(self) -> list[Place]:
        return [self.at(k / 20) for k in range(21)]


def _curve(edge: Edge, places: Mapping[int, Place]) -> _Curve:
    (x0, y0), (x1, y1) = places[edge.source], places[edge.target]
    between = [place for unit, place in places.items() if unit not in (edge.source, edge.target)]

    def bent(lift: float) -> _Curve:
        return _Curve(edge, (x0 + _RADIUS, y0), ((x0 + x1) / 2, (y0 + y1) / 2 + lift), (x1 - _RADIUS - 1, y1))

    def hits(curve: _Curve) -> int:
        return sum(
            abs(x - u) < _RADIUS + 6 and -_RADIUS - 6 < y - v < _RADIUS + 30
            for x, y in curve.points()
            for u, v in between
        )

    if x1 - x0 <= _COLUMN:
        return bent(0)
    return min((bent(lift) for lift in (0, -60, 60, -110, 110, -170, 170, -240, 240)), key=hits)


def _edges_svg(
    network: Network,
    curves: Sequence[_Curve],
    places: Mapping[int, Place],
    states: Mapping[int, str],
    name_params: bool,
) -> list[str]:
    """Edges, then their labels above all of them."""
    uses = Counter(edge.param for edge in network.edges if edge.param is not None)
    lines, labels = [], []
    taken = [_Box(x - _RADIUS - 2, y - _RADIUS - 2, x + _RADIUS + 2, y + _RADIUS + 15) for x, y in places.values()]
    for curve in curves:
        edge = curve.edge
        value = edge.weight if edge.param is None else network.theta[edge.param]
        at_dead = "dead" in (states.get(edge.source), states.get(edge.target))
        kind = "zero" if value == 0 else "deadedge" if at_dead else ""
        lines.append(f'<path class="edge {kind}" d="{curve.path}"/>')
        if len(curves) > MAX_LABELLED_EDGES:
            continue
        text = short(value)
        if edge.param is None:
            text = f"[{text}]"
        elif name_params or uses[edge.param] > 1:
            text = f"θ{subscript(edge.param)}={text}"
        x, y = _free_spot(curve, text, taken)
        labels.append(f'<text class="weight" x="{x:.1f}" y="{y + 4:.1f}">{text}</text>')
    return lines + labels


def _free_spot(curve: _Curve, text: str, taken: list[_Box]) -> tuple[float, float]:
    """The point of the curve where the label meets the least of what is already there."""
    half = 3.6 * len(text) + 3

    def box(t: float) -> _Box:
        x, y = curve.at(t)
        return _Box(x - half, y - 8, x + half, y + 8)

    best = min((0.5, 0.36, 0.64, 0.26, 0.74, 0.18, 0.82), key=lambda t: sum(box(t).overlap(other) for other in taken))
    taken.append(box(best))
    return curve.at(best)


def _unit_svg(network: Network, unit: int, place: Place, state: str, name_params: bool) -> list[str]:
    x, y = place
    is_input = unit < network.num_inputs
    name = f"x{subscript(unit + 1)}" if is_input else _short_activation(network.activation(unit).name)
    kind = "input" if is_input else "output" if unit in network.outputs else "hidden"
    if is_input:
        shape = f'<rect class="unit input" x="{x - 17}" y="{y - 15}" width="34" height="30" rx="4"/>'
    else:
        shape = f'<circle class="unit {kind} {state}" cx="{x}" cy="{y}" r="{_RADIUS}"/>'
    size = 11 if len(name) <= 5 else 8
    parts = [shape, f'<text class="name" x="{x}" y="{y + 4}" font-size="{size}">{escape(name)}</text>']
    if state == "dead":
        a = _RADIUS * 0.72
        parts.insert(1, f'<path class="cross" d="M{x - a} {y - a}L{x + a} {y + a}M{x - a} {y + a}L{x + a} {y - a}"/>')
    below = [_bias_text(network, unit, name_params)] if not is_input else []
    below += [state] if state else []
    below += [f"unit {unit}"]
    caption = "".join(f'<tspan x="{x}" dy="12">{line}</tspan>' for line in below if line)
    return [*parts, f'<text class="under" x="{x}" y="{y + _RADIUS + 1}">{caption}</text>']


def _short_activation(name: str) -> str:
    """What fits into a unit: the name without its slope, or a formula."""
    stem = name.split(":")[0]
    names = {
        "identity": "lin",
        "leaky_relu": "leaky",
        "quadratic": "z+½z²",
        "square": "z²",
        "cube": "z³",
        "hard_tanh": "htanh",
    }
    return names.get(stem, stem)


def _bias_text(network: Network, unit: int, name_params: bool) -> str:
    """``b = …`` (or ``θ = …``) from the edge of the constant unit, if there is one."""
    if not network.has_constant:
        return ""
    biases = [edge for edge in network.incoming[unit] if edge.source == network.num_inputs]
    values = [edge.weight if edge.param is None else network.theta[edge.param] for edge in biases]
    named = name_params and len(biases) == 1 and biases[0].param is not None
    label = f"θ{subscript(biases[0].param or 0)}" if named else "b"
    return f"{label} = " + " + ".join(map(short, values)) if values else ""


# -- the dependency graph --------------------------------------------------------------------------------------------

_BOX_HEIGHT, _GAP_X, _GAP_Y = 30, 44, 14


def graph_svg(rows: Sequence[Mapping[str, Any]]) -> str:
    """What rests on what, left to right; dashed arrows lead from a refuted statement to its repair.

    Fill: strength. Octagon: refuted. Solid border: the statement was executed. Double border: it and all it rests on are
    settled. Every box links to the card of its claim.
    """
    by_id = {row["id"]: row for row in rows}
    needs = [(needed, row["id"]) for row in rows for needed in row["depends_on"]]
    repairs = [(row["repairs"], row["id"]) for row in rows if row["repairs"]]
    graph = nx.DiGraph([*needs, *repairs])
    if not graph or not nx.is_directed_acyclic_graph(graph):
        return "<p>No claim rests on another.</p>"
    places, widths = _graph_places(graph)
    width = max(x + widths[name] for name, (x, _) in places.items()) + 12
    height = max(y for _, y in places.values()) + _BOX_HEIGHT + 12
    parts = [
        f'<svg class="graph" viewBox="0 0 {width} {height}" width="{width}" role="img" '
        'aria-label="Dependency graph of the claims">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#555"/></marker></defs>',
    ]
    for kind, edges in (("needs", needs), ("repair", repairs)):
        for source, target in edges:
            (x0, y0), (x1, y1) = places[source], places[target]
            left, start, end = x0 + widths[source], y0 + _BOX_HEIGHT // 2, y1 + _BOX_HEIGHT // 2
            middle = (left + x1) // 2
            parts.append(
                f'<path class="{kind}" marker-end="url(#tip)" d="M{left} {start}C{middle} {start} {middle} {end} {x1} {end}"/>'
            )
    parts += [_claim_svg(name, by_id.get(name), places[name], widths[name]) for name in places]
    return "".join([*parts, "</svg>"])


def _graph_places(graph: nx.DiGraph) -> tuple[dict[str, tuple[int, int]], dict[str, int]]:
    """Top left corners and widths of the boxes: generations as columns, ordered by the barycentre of what they rest on."""
    generations = [sorted(generation) for generation in nx.topological_generations(graph)]
    rank = {name: float(k) for k, name in enumerate(generations[0])}
    for sweep in range(4):
        towards = graph.predecessors if sweep % 2 == 0 else graph.successors
        for generation in generations if sweep % 2 == 0 else reversed(generations):
            centre = {
                name: _mean((rank[other] for other in towards(name) if other in rank), rank.get(name, 0.0))
                for name in generation
            }
            generation.sort(key=lambda name, centre=centre: (centre[name], name))  # type: ignore[misc]
            rank |= {name: k - len(generation) / 2 for k, name in enumerate(generation)}
    widths = {name: 24 + round(6.7 * len(name)) for name in graph}
    places: dict[str, tuple[int, int]] = {}
    left = 12
    tallest = max(map(len, generations))
    for generation in generations:
        for k, name in enumerate(generation):
            offset = (tallest - len(generation)) / 2
            places[name] = (left, round(12 + (k + offset) * (_BOX_HEIGHT + _GAP_Y)))
        left += max(widths[name] for name in generation) + _GAP_X
    return places, widths


def _mean(values: Iterable[float], otherwise: float) -> float:
    found = list(values)
    return sum(found) / len(found) if found else otherwise


def _claim_svg(name: str, row: Mapping[str, Any] | None, place: tuple[int, int], width: int) -> str:
    x, y = place
    h = _BOX_HEIGHT
    if row is None:
        box = f'<rect class="claim absent" x="{x}" y="{y}" width="{width}" height="{h}" rx="6"/>'
        return f'{box}<text class="claimname" x="{x + width / 2}" y="{y + 19}">{escape(name)}</text>'
    strength = int(row["effective_strength"][1:])
    refuted = row["verdict"] == "fails"
    executed = "executed" if row["instances"] else "absent"

    def outline(inset: float, fill: str, kind: str = "") -> str:
        left, top, right, bottom = x + inset, y + inset, x + width - inset, y + h - inset
        if not refuted:
            size = f'width="{right - left}" height="{bottom - top}"'
            return f'<rect class="claim {executed} {kind}" x="{left}" y="{top}" {size} rx="6" fill="{fill}"/>'
        c = 9 - inset / 2
        corners = [(left + c, top), (right - c, top), (right, top + c), (right, bottom - c)]
        corners += [(right - c, bottom), (left + c, bottom), (left, bottom - c), (left, top + c)]
        points = " ".join(f"{px},{py}" for px, py in corners)
        return f'<polygon class="claim refuted {executed} {kind}" points="{points}" fill="{fill}"/>'

    shapes = outline(0, FILLS[strength]) + (
        outline(3.5, "none", "onlight" if strength < 4 else "ondark") if row["grounded"] else ""
    )
    ink = "#fff" if strength >= 5 else "#111"
    mark = {"fails": "✘ ", "undecided": "? ", "not run": "· "}.get(row["verdict"], "")
    text = f'<text class="claimname" x="{x + width / 2}" y="{y + 19}" fill="{ink}">{mark}{escape(name)}</text>'
    tip = f"<title>{escape(name)}: {row['status']}, {row['strength']} {escape(row['scope'])}</title>"
    return f'<a href="#card-{escape(name, quote=True)}">{tip}{shapes}{text}</a>'
