"""For mkdocs: the pages are written to be read in the repository, too, and link to files outside of docs/."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leave the words of links that lead out of the site, and start pages where they are read."""
    at_top = "/" not in page.file.src_uri
    return OUTSIDE.sub(r"\1", markdown) if at_top else markdown
