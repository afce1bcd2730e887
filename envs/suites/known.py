"""Suites of environments in packages of their own: whose ids they are, and what installs them."""

import importlib
import os
import sys
from typing import NamedTuple

import gymnasium


class Suite(NamedTuple):
    """One package's environments."""

    ids: tuple[str, ...]  # how they begin
    module: str  # whose import registers them with Gymnasium …
    install: str
    register: str = ""  # … unless it has a function for it


def _extra(name: str) -> str:
    return f"pip install 'qdreamer[{name}]'"


SUITES = (
    Suite(("ALE/",), "ale_py", _extra("atari")),
    Suite(("MiniGrid-", "BabyAI-"), "minigrid", _extra("minigrid")),
    Suite(("MinAtar/",), "minatar.gym", "pip install minatar (GPL-3)", "register_envs"),
    Suite(("popgym-",), "popgym", _extra("popgym")),
    Suite(("dm_control/",), "shimmy", _extra("dmc")),
)
MUJOCO = _extra("mujoco"), _extra("dmc")
REGISTERED = {
    "gymnasium.envs.box2d": _extra("box2d"),
    "gymnasium.envs.mujoco": _extra("mujoco"),
    "gymnasium.envs.toy_text": _extra("toy-text"),
    "qdreamer.envs.suites.crafter": _extra("crafter"),
}
"""Of modules whose environments are registered whether they can be made or not."""


def suite_of(env_id: str) -> Suite | None:
    """Return the suite that an id, as ALE/Pong-v5, belongs to."""
    return next((suite for suite in SUITES if env_id.startswith(suite.ids)), None)


def register_suite(env_id: str) -> None:
    """Let Gymnasium know the environments of the suite that an id belongs to, if any.

    Raises ImportError, or whatever the suite's package raises when it is imported.
    """
    suite = suite_of(env_id)
    if suite is None or env_id in gymnasium.registry:
        return
    module = importlib.import_module(suite.module)
    if suite.register:
        getattr(module, suite.register)()


def installs(env_id: str) -> str | None:
    """Return the command that installs what an environment needs, if it is of a known suite."""
    suite, spec = suite_of(env_id), gymnasium.registry.get(env_id)
    if suite is not None:
        return suite.install
    maker = "" if spec is None or callable(spec.entry_point) else str(spec.entry_point)
    return next((install for module, install in REGISTERED.items() if maker.startswith(module)), None)


def rendering_problem(env_id: str) -> str | None:
    """Return why an environment cannot be rendered: without a screen MuJoCo fails, or ends the process."""
    screen = sys.platform != "linux" or any(os.environ.get(x) for x in ("DISPLAY", "WAYLAND_DISPLAY"))
    if screen or os.environ.get("MUJOCO_GL") or installs(env_id) not in MUJOCO:
        return None
    return "cannot be rendered without a screen: set MUJOCO_GL=egl"


def rendering_hint(env_id: str) -> str:
    """Return what may help where MuJoCo fails, or nothing."""
    chosen = os.environ.get("MUJOCO_GL", "egl")
    return f" (with MUJOCO_GL={chosen}: try egl)" if chosen != "egl" and installs(env_id) in MUJOCO else ""
