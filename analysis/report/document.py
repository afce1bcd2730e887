"""The report's Markdown as one HTML page that needs no other file."""

import base64
import html
import re
from collections.abc import Sequence
from pathlib import Path

from markdown import Markdown

STYLE = """
:root { color-scheme: light dark; --line: #dcdcdc; --soft: #f6f6f4; --ink: #1d1d1b; --quiet: #5d5d5a;
  --paper: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --line: #44443f; --soft: #2a2a27; --ink: #e8e8e4; --quiet: #a9a9a3; --paper: #1b1b19; }
}
body { font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; color: var(--ink);
  background: var(--paper); max-width: 1080px; margin: 2.5rem auto 5rem; padding: 0 1.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; }
p { max-width: 46rem; }
code { background: var(--soft); padding: .1em .3em; border-radius: 3px; font-size: .9em; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; margin: .8rem 0;
  width: 100%; }
th, td { padding: .38rem .8rem .38rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { font-weight: 600; border-bottom: 2px solid var(--ink); vertical-align: bottom; }
td { min-width: 9rem; } td[style] { min-width: 3.5rem; }
.wide { overflow-x: auto; }
img { max-width: 100%; height: auto; background: #fff; } p:has(> img) { max-width: none; overflow-x: auto; }
@media (max-width: 44rem) { img { max-width: none; width: 44rem; } }
p > em:only-child { color: var(--quiet); font-size: .88rem; }
blockquote { border-left: 5px solid #7f7f7f; background: var(--soft); margin: 1rem 0; padding: .1rem 1.1rem;
  max-width: 46rem; }
.better blockquote { border-color: #009E73; } .worse blockquote { border-color: #D55E00; }
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)) -> str:
    """Return a Markdown table. The columns `words` are text, the others figures."""
    rule = ["---" if i in words else "---:" for i in range(len(header))]
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, rule, *rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def page(text: str, title: str, tone: str, folder: Path) -> str:
    """Return `text` as an HTML page; pictures of `folder` lie inside.

    Args:
        tone: better, worse or neutral; it colours the text's quotation.
    """
    markdown = Markdown(extensions=["tables"])
    markdown.preprocessors.deregister("html_block")  # names of folders may look like tags: none is meant
    markdown.inlinePatterns.deregister("html")

    def embed(match: re.Match[str]) -> str:
        data = base64.b64encode((folder / html.unescape(match[1])).read_bytes()).decode()
        return f'src="data:image/png;base64,{data}"'

    body = re.sub(r'src="([^"]+\.png)"', embed, markdown.convert(text))
    # Names break where their words end, and what is still too wide for a telephone scrolls by itself.
    body = re.sub(r"(?<=<td>)[^<]+", lambda name: re.sub(r"[+=_]|(?<=[a-z])\.", r"\g<0><wbr>", name[0]), body)
    body = body.replace("<table>", '<div class="wide"><table>').replace("</table>", "</table></div>")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f'<body class="{tone}">\n{body}\n</body>\n</html>\n'
    )
