"""Where modules that users name, in env.id and env.wrappers, are looked for."""

import sys
from pathlib import Path


def look_in(folder: Path) -> None:
    """Let modules of a folder be imported, after all others."""
    path = str(folder.absolute())
    if path not in sys.path:
        sys.path.append(path)
