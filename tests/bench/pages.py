"""What every page has to be: well-formed where it is drawn, and in need of nothing else."""

from __future__ import annotations

import re
from xml.etree import ElementTree

Number = re.compile(r"-?\d+(?:\.\d+)?")


def drawings(page: str) -> list[ElementTree.Element]:
    """The SVG of a page, each read as XML."""
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]


def assert_needs_nothing(page: str) -> None:
    """No address that a browser would fetch, no script, and elements that are closed."""
    assert not re.search(r"(?:src|href|srcset|action|xlink:href)\s*=", page)
    assert not re.search(r"url\(|@import|<script|<link|<iframe|<img|<object", page)
    assert "prefers-color-scheme:dark" in page
    assert "@media print" in page
    body = page[page.index("<body>") : page.index("</body>") + len("</body>")]
    ElementTree.fromstring(body)


def assert_drawn_inside(page: str) -> None:
    """Nothing lies outside of its drawing, and no text runs out of it to the right by far."""
    shown = drawings(page)
    assert shown
    for svg in shown:
        width, height = (float(number) for number in Number.findall(svg.attrib["viewBox"])[2:])
        for element in svg.iter():
            for name, most in (("x", width), ("cx", width), ("y", height), ("cy", height)):
                if name in element.attrib:
                    assert -0.1 <= float(element.attrib[name]) <= most + 0.1, (element.tag, element.attrib)
            if "width" in element.attrib:
                assert float(element.attrib["width"]) >= 0
            if element.tag == "text":
                assert _right_end(element) <= width + 2, element.text


def _right_end(element: ElementTree.Element) -> float:
    wide = 5.4 * len(element.text or "")
    share = {"start": 1.0, "middle": 0.5, "end": 0.0}[element.attrib["text-anchor"]]
    return float(element.attrib["x"]) + share * wide
