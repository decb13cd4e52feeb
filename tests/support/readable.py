"""What makes a page readable: contrast, nothing beyond its edge, no cell over another; asked of a browser."""

from __future__ import annotations

from servers.chromium import Page

# Text whose contrast with what is behind it is below 4.5 to 1 (WCAG 2.2, 1.4.3), with the ratio.
FAINT = """
(() => {
  const parts = color => [...color.match(/[0-9.]+/g).map(Number), 1].slice(0, 4);
  const light = color => {
    const part = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = parts(color).map(v => part(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = e => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (parts(color)[3] === 1) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const text = walk.currentNode.data.trim(), e = walk.currentNode.parentElement;
    if (!text || e.closest('.unseen')) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push([text.slice(0, 40), Math.round(ratio * 100) / 100]);
  }
  return found;
})()
"""
# What is wider than the page, or goes beyond its edge, but for what scrolls by itself.
TOO_WIDE = """
[...document.body.querySelectorAll('*')].filter(e => {
  const box = e.getBoundingClientRect();
  return box.width > 1 && box.right > innerWidth + 1 && !e.closest('.key');
}).map(e => e.tagName + '.' + e.className + ' ' + e.textContent.slice(0, 40))
"""
OVERLAPPING = """
(() => {
  const boxes = [...document.querySelectorAll('th, td')].map(e => [e, e.getBoundingClientRect()])
    .filter(([e, b]) => b.width > 1 && b.height > 1 && !e.closest('thead'));
  const found = [];
  for (let i = 0; i + 1 < boxes.length; i++) {
    const [e, a] = boxes[i], [f, b] = boxes[i + 1];
    if (a.right > b.left + 1 && b.right > a.left + 1 && a.bottom > b.top + 1 && b.bottom > a.top + 1)
      found.push([e.textContent.slice(0, 30), f.textContent.slice(0, 30)]);
  }
  return found;
})()
"""


def check(page: Page) -> None:
    """All that holds of every page, at every width, in light and dark."""
    assert page.run("document.documentElement.scrollWidth") <= page.run("innerWidth")
    assert page.run(TOO_WIDE) == []
    assert page.run(OVERLAPPING) == []
    assert page.run(FAINT) == []
