"""A document of headings, paragraphs, tables and pictures, as Markdown and as one HTML file.

Text may hold **bold** and `code`, nothing else of Markdown.
"""

import base64
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Callout:
    """The sentence to remember; `tone` is better, worse or neutral."""

    text: str
    tone: str


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are figures unless they are in `words`."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[int] = frozenset({0})


@dataclass(frozen=True)
class Picture:
    path: Path
    caption: str


Block = Heading | Paragraph | Callout | Table | Picture

_STYLE = """
:root { color-scheme: light; --line: #dcdcdc; --soft: #f6f6f4; --ink: #1d1d1b; --quiet: #5d5d5a; }
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: #fff; max-width: 1080px; margin: 2.5rem auto 5rem; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p { max-width: 46rem; }
code { background: var(--soft); padding: .1em .3em; border-radius: 3px; font-size: .9em; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .8rem 0; }
th, td { padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); text-align: right;
  white-space: nowrap; vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid var(--ink); white-space: normal; vertical-align: bottom; }
th.word, td.word { text-align: left; white-space: normal; padding-right: 1.4rem; }
td.word:not(:only-child) { min-width: 9rem; } td.word:last-child { min-width: 16rem; }
figure { margin: 1.2rem 0; } img { max-width: 100%; height: auto; }
figcaption { color: var(--quiet); font-size: .88rem; max-width: 46rem; }
.callout { border-left: 5px solid #7f7f7f; background: var(--soft); padding: .8rem 1.1rem; max-width: 46rem; }
.callout.better { border-color: #009E73; } .callout.worse { border-color: #D55E00; }
"""


def markdown(blocks: Sequence[Block]) -> str:
    """Pictures are named by their file, which lies beside the text."""
    return "\n\n".join(_markdown(block) for block in blocks) + "\n"


def _markdown(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {text}"
        case Paragraph(text):
            return text
        case Callout(text):
            return f"> {text}"
        case Picture(path, caption):
            return f"![{caption}]({path.name})\n\n*{caption}*"
        case Table(header, rows, words):
            rule = ["---" if i in words else "---:" for i in range(len(header))]
            cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows)]
            return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def page(blocks: Sequence[Block], title: str) -> str:
    """One file that needs no other: pictures are inside."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{_inline(text)}</p>"
        case Callout(text, tone):
            return f'<p class="callout {html.escape(tone)}">{_inline(text)}</p>'
        case Picture(path, caption):
            data = base64.b64encode(path.read_bytes()).decode()
            image = f'<img alt="{html.escape(caption)}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{_inline(caption)}</figcaption></figure>"
        case Table(header, rows, words):
            head = _row(header, words, "th")
            lines = "\n".join(_row(row, words, "td") for row in rows)
            return (
                f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>{lines}</tbody>\n</table></div>'
            )


def _row(cells: Sequence[str], words: frozenset[int], tag: str) -> str:
    inner = "".join(
        f"<{tag}{' class=word' if i in words else ''}>{_inline(cell)}</{tag}>" for i, cell in enumerate(cells)
    )
    return f"<tr>{inner}</tr>"


def _inline(text: str) -> str:
    """Bold and code."""
    safe = html.escape(text, quote=False)
    safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", safe)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", safe)
