"""A matplotlib figure as inline SVG: selectable text, the page's own colours, the same bytes every time."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from warnings import catch_warnings, filterwarnings

import matplotlib as mpl
from matplotlib.figure import Figure

WIDTH = 380  # pixels of every figure: a phone's, so that no text is scaled below its size there
# Colours stand for the page's, so that a figure follows the reader's light or dark theme.
INK = "#010101"
MUTED = "#020202"
SERIES = "#030303"
DOCUMENTED = "#040404"
PASS = "#050505"  # noqa: S105  a colour
MISS = "#060606"
NOT_PROVEN = "#070707"
PAGE = "#080808"
KINDS = ("#0a0a0a", "#0b0b0b", "#0c0c0c", "#0d0d0d", "#0e0e0e", "#0f0f0f")  # tell categories apart
_CSS = {
    INK: "currentColor",
    MUTED: "var(--muted)",
    SERIES: "var(--series)",
    DOCUMENTED: "var(--documented)",
    PASS: "var(--pass)",
    MISS: "var(--miss)",
    NOT_PROVEN: "var(--not-proven)",
    PAGE: "var(--page)",
    **{colour: f"var(--kind-{number})" for number, colour in enumerate(KINDS, start=1)},
}
_COLOUR = re.compile("|".join(_CSS))
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "bench",
    "font.size": 11,
    "text.color": INK,
    "text.parse_math": False,  # a $ in a label is a $
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "path.simplify": False,  # points are chosen before they come here, and none may go missing
}
_SVG = "http://www.w3.org/2000/svg"
_XLINK = "http://www.w3.org/1999/xlink"


@contextmanager
def canvas(height: int) -> Iterator[Figure]:
    """A figure of `WIDTH` by `height` pixels in the report's style; draw it before the context ends."""
    with mpl.rc_context(), catch_warnings():
        mpl.rcdefaults()  # whatever style the reader's own matplotlib has
        mpl.rcParams.update(_STYLE)
        filterwarnings("ignore", "Glyph .* missing from font")  # the browser draws the text, not matplotlib
        yield Figure(figsize=(WIDTH / 72, height / 72), dpi=72)


def write(figure: Figure, key: str, title: str, alternative: str) -> str:
    """Write `figure` as an SVG element whose ids begin with `key`; `alternative` says what is to be seen."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    root = ET.fromstring(buffer.getvalue())  # noqa: S314  matplotlib has just written it
    _strip(root)
    for element in root.iter():
        _adapt(element, key)
    _describe(root, key, title, alternative)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def _strip(root: ET.Element) -> None:
    """Take off the metadata, and a style sheet that would reach the whole page."""
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)


def _adapt(element: ET.Element, key: str) -> None:
    """Make ids unique in the page, and colours the page's."""
    for name, value in element.attrib.items():
        if name == "id":
            element.set(name, f"{key}-{value}")
        elif name == f"{{{_XLINK}}}href":
            element.set(name, value.replace("#", f"#{key}-", 1))
        elif name == "clip-path":
            element.set(name, value.replace("url(#", f"url(#{key}-"))
        elif name == "style":
            element.set(name, _COLOUR.sub(lambda found: _CSS[found[0]], value))


def _describe(root: ET.Element, key: str, title: str, alternative: str) -> None:
    for name in ("width", "height"):
        del root.attrib[name]
    root.set("role", "img")
    root.set("aria-label", title)
    root.set("aria-describedby", f"{key}-description")
    for index, (tag, text) in enumerate((("title", title), ("desc", alternative))):
        child = ET.Element(f"{{{_SVG}}}{tag}")
        child.text = text
        root.insert(index, child)
    root[1].set("id", f"{key}-description")
