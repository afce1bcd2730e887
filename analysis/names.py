"""Names of agents as a comparison shows them: without the settings that all of its runs share."""

import re
from collections.abc import Iterable

_SETTING = re.compile(r"\+(?=[A-Za-z_][\w.]*=)")  # between the parts of <agent>+key=value+key=value


def short_names(names: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Return each folder's name without what all share, and the settings that they share."""
    parts = {name: _SETTING.split(name) for name in dict.fromkeys(names)}
    common = set.intersection(*(set(settings) for _, *settings in parts.values())) if parts else set()
    short = {
        name: "+".join([agent, *(setting for setting in settings if setting not in common)])
        for name, (agent, *settings) in parts.items()
    }
    return short, sorted(common)


def within(name: str, width: int = 44) -> str:
    """Return a name that fits: its settings lose the groups that they are in, then it loses its end."""
    if len(name) > width:
        name = re.sub(r"(?<=\+)[\w.]+\.(?=\w+=)", "", name)
    return name if len(name) <= width else f"{name[: width - 1]}…"
