"""The page of metrics of a server, for Prometheus."""

from __future__ import annotations

import re
import time
import urllib.request

LINE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
"""Of the page: name, labels, value."""
SETTLED_S = 2.5
"""Every process publishes once a second, the largest numbers of measurements with pauses."""

Page = dict[tuple[str, str], float]
"""By name and labels."""


def page_text(address: str, timeout_s: float = 60.0) -> str:
    """The page.

    Args:
        address: ``host:port`` of the server's metrics.

    Raises:
        OSError: there is no answer.
    """
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=timeout_s) as page:
        text: str = page.read().decode()
    return text


def scrape(address: str, timeout_s: float = 60.0) -> Page:
    """The numbers on the page; arguments and errors as in :func:`page_text`."""
    found = LINE.findall(page_text(address, timeout_s))
    return {(name, labels): float(value) for name, labels, value in found}


def settled(address: str) -> Page:
    """The page once none of the service's own numbers changes any more."""
    last = scrape(address)
    while True:
        time.sleep(SETTLED_S)
        now = scrape(address)
        if all(now[key] == last.get(key) for key in now if key[0].startswith("segs_")):
            return now
        last = now


def growth(before: Page, now: Page, name: str, labels: str = "") -> float:
    """The increase of a number between two pages."""
    return now.get((name, labels), 0.0) - before.get((name, labels), 0.0)


def total(page: Page, name: str, **labels: str) -> float:
    """The sum of all numbers of a name that have these labels, among others."""
    wanted = {f'{label}="{value}"' for label, value in labels.items()}
    return sum(
        value
        for (found, text), value in page.items()
        if found == name and wanted <= set(text.split(","))
    )


def increase(before: Page, now: Page) -> Page:
    """By how much every number has grown."""
    return {key: value - before.get(key, 0.0) for key, value in now.items()}
