"""The graph as an SVG picture: boxes in columns, drawn without a browser's or a library's help.

What is committed is drawn in full lines, what is not in dashed ones: colour is never the only sign.
"""

from __future__ import annotations

from xml.sax.saxutils import escape

from leviathan.cxl.graph import Box, Graph

__all__ = ["svg"]

WIDTH = 210
COLUMN_GAP = 60
ROW_GAP = 16
LINE = 16
TOP = 76
MARGIN = 24

STYLE = """\
text { font: 12px "DejaVu Sans", Verdana, sans-serif; fill: #1b1f24; }
.title { font-size: 18px; font-weight: bold; }
.column { fill: #57606a; }
.name { font-weight: bold; }
rect { fill: #ffffff; stroke: #8c959f; rx: 5px; stroke-width: 1.2; stroke-dasharray: 5 3; }
.committed { fill: #dafbe1; stroke: #1a7f37; stroke-width: 1.8; stroke-dasharray: none; }
.error { fill: #ffebe9; stroke: #cf222e; stroke-width: 1.8; stroke-dasharray: none; }
path { fill: none; stroke: #8c959f; stroke-width: 1.2; stroke-dasharray: 5 3; }
path.committed { fill: none; }
"""


class _Layout:
    """Where each box is: columns from left to right, boxes stacked beside what they hang on."""

    def __init__(self, graph: Graph) -> None:
        self.at: dict[str, tuple[float, float]] = {}
        used = sorted({box.column for box in graph.boxes.values()})
        self.columns = {column: index for index, column in enumerate(used)}
        parents: dict[str, list[str]] = {}
        for edge in graph.edges:
            parents.setdefault(edge.end, []).append(edge.start)
        for column, index in self.columns.items():
            x = MARGIN + index * (WIDTH + COLUMN_GAP)
            boxes = [box for box in graph.boxes.values() if box.column == column]
            boxes.sort(key=lambda box: self._wish(box.key, parents))
            y = float(TOP)
            for box in boxes:
                y = max(y, self._wish(box.key, parents))
                self.at[box.key] = (x, y)
                y += height(box) + ROW_GAP
        self.width = 2 * MARGIN + len(used) * (WIDTH + COLUMN_GAP) - COLUMN_GAP
        self.height = max((y + height(graph.boxes[key]) for key, (_, y) in self.at.items()), default=TOP) + MARGIN + 20

    def _wish(self, key: str, parents: dict[str, list[str]]) -> float:
        ys = [self.at[parent][1] for parent in parents.get(key, ()) if parent in self.at]
        return min(ys) if ys else float(TOP)


def height(box: Box) -> float:
    """Of a box, in pixels."""
    return 14 + LINE * (1 + len(box.lines))


def svg(graph: Graph, title: str) -> str:
    """The picture as an SVG document."""
    layout = _Layout(graph)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{layout.width:.0f}" height="{layout.height:.0f}" '
        f'viewBox="0 0 {layout.width:.0f} {layout.height:.0f}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>\n{STYLE}</style>",
        '<rect width="100%" height="100%" style="stroke: none; fill: #fbfcfd; rx: 0"/>',
        f'<text class="title" x="{MARGIN}" y="34">{escape(title)}</text>',
    ]
    out += _headings(layout)
    for edge in graph.edges:
        if edge.start in layout.at and edge.end in layout.at:
            out.append(_curve(graph, layout, edge.start, edge.end, committed=edge.committed))
    for box in graph.boxes.values():
        out += _box(box, *layout.at[box.key])
    legend = "full lines, green: committed · dashed: not committed, empty or offline · red: poisoned, or without a path"
    out.append(f'<text class="column" x="{MARGIN}" y="{layout.height - 14:.0f}">{legend}</text>')
    return "\n".join([*out, "</svg>\n"])


def _headings(layout: _Layout) -> list[str]:
    return [
        f'<text class="column" x="{MARGIN + index * (WIDTH + COLUMN_GAP)}" y="{TOP - 14}">{escape(heading)}</text>'
        for (_, _, heading), index in layout.columns.items()
    ]


def _curve(graph: Graph, layout: _Layout, start: str, end: str, *, committed: bool) -> str:
    x0, y0 = layout.at[start]
    x1, y1 = layout.at[end]
    x0, y0 = x0 + WIDTH, y0 + height(graph.boxes[start]) / 2
    y1 += height(graph.boxes[end]) / 2
    middle = (x0 + x1) / 2
    kind = ' class="committed"' if committed else ""
    return f'<path{kind} d="M{x0:.0f},{y0:.0f} C{middle:.0f},{y0:.0f} {middle:.0f},{y1:.0f} {x1:.0f},{y1:.0f}"/>'


def _box(box: Box, x: float, y: float) -> list[str]:
    kind = f' class="{box.state}"' if box.state in ("committed", "error") else ""
    rows = [f'<rect{kind} x="{x:.0f}" y="{y:.0f}" width="{WIDTH}" height="{height(box):.0f}"/>']
    for row, text in enumerate((box.title, *box.lines)):
        name = ' class="name"' if row == 0 else ""
        rows.append(f'<text{name} x="{x + 10:.0f}" y="{y + 20 + LINE * row:.0f}">{escape(_short(text))}</text>')
    return rows


def _short(text: str) -> str:
    return text if len(text) <= 32 else text[:31] + "…"
