"""One place that makes environments."""

import importlib
import inspect
import os
import re
import signal
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

from qdreamer.configs.console import one_line
from qdreamer.configs.schema import closest, did_you_mean
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.entries import ACTION_MASK, ENTRY
from qdreamer.envs.interface import Interface, NamedEntries, make_interface
from qdreamer.envs.leaves import UnsupportedSpaceError
from qdreamer.envs.modules import look_in
from qdreamer.envs.repeated import Repeated
from qdreamer.envs.suites.known import installs, register_suite, rendering_hint, rendering_problem
from qdreamer.envs.wrappers import hide_entries

# Arguments of gymnasium.make that are not the environment's own.
_NOT_KWARGS = {
    "id": "set env.id instead",
    "max_episode_steps": "set env.max_episode_steps instead",
    "disable_env_checker": "the checker always runs",
}


class EnvError(ValueError):
    """An environment that cannot be made; the message is one line and names the fix."""


def make_raw(config: EnvConfig, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """Make one environment in its own terms, with all wrappers that the config asks for.

    Raises EnvError for unknown ids, missing simulators and wrong arguments.
    """
    render_mode = config.kwargs.get("render_mode", render_mode)
    if render_mode == "rgb_array":
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame must not look for a screen
    env = _make(config, render_mode)
    with _closed_on_error(config, env):
        for name in config.wrappers:
            env = _wrapper(name)(env)
        if config.repeat > 1:
            env = Repeated(env, config.repeat)
        if config.hide:
            env = hide_entries(env, config.hide)
    return env


def make_env(
    config: EnvConfig, index: int = 0, render_mode: str | None = None, interface: Interface | None = None
) -> NamedEntries:
    """Make one environment in the agent's terms (`interface.NamedEntries`).

    `interface` is that of another copy, if there is one; `index` its place in a vector. Raises EnvError as
    `make_raw`, and for spaces that the agent cannot use.
    """
    env = make_raw(config, render_mode)
    with _closed_on_error(config, env):
        interface = interface or make_interface(env, config.entries, config.image_size)
    return NamedEntries(env, interface, index)


@contextmanager
def _closed_on_error(config: EnvConfig, env: gymnasium.Env[Any, Any]) -> Iterator[None]:
    """Close an environment for which something fails, and raise EnvError that says what."""
    try:
        yield
    except Exception as error:  # wrappers may raise anything, and so may the reset that looks for masks
        env.close()
        if isinstance(error, EnvError):
            raise
        ours = isinstance(error, UnsupportedSpaceError)
        text = str(error) if ours else f"{_named(error)}{_with(config)}"
        raise EnvError(f"env.id={config.id}: {text}") from error


def describe(config: EnvConfig) -> Interface:
    """Return what the agent sees and does in an environment. Raises EnvError."""
    env = make_env(config)
    env.close()
    return env.interface


def make_vector(config: EnvConfig, num_envs: int) -> SyncVectorEnv | AsyncVectorEnv:
    """Make `num_envs` copies that never reset themselves: the caller resets with a mask and seeds.

    The arrays that they show are overwritten by the next step.
    """
    interface = describe(config)
    if config.vectorization == "async":
        workers = [partial(_worker_env, config, i, interface) for i in range(num_envs)]
        return AsyncVectorEnv(workers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
    makers = [partial(make_env, config, i, interface=interface) for i in range(num_envs)]
    return SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)


def _worker_env(config: EnvConfig, index: int, interface: Interface) -> gymnasium.Env[Any, Any]:
    """Make an environment in a process of its own: Ctrl-C reaches it too, but the parent decides."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return make_env(config, index, interface=interface)


def check_env(config: EnvConfig) -> None:
    """Make, reset and step the environment once, so that wrong arguments show before a run starts.

    Raises EnvError.
    """
    env = make_env(config)
    try:
        observation, _ = env.reset(seed=0)
        mask = observation.get(ACTION_MASK)
        action = env.interface.action.random(
            1, np.random.default_rng(0), None if mask is None else mask[None]
        )
        env.step(action[0])
    except Exception as error:  # environments may raise anything for arguments they did not check
        raise EnvError(
            f"env.id={config.id} fails in its first step{_with(config)}: {_named(error)}"
        ) from error
    finally:
        env.close()
    for name, values in observation.items():
        if not np.all(np.isfinite(values)):
            at = "" if name == ENTRY else f" in entry {name}"
            raise EnvError(
                f"env.id={config.id} begins with an observation that is not finite{at}{_with(config)}"
            )


def _wrapper(name: str) -> Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]:
    """Return what env.wrappers calls module:Name. Raises EnvError."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise EnvError(f"env.wrappers={name} must name a module and a wrapper in it, as my.module:MyWrapper")
    look_in(Path.cwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever the user's module raises
        raise EnvError(f"env.wrappers={name} cannot be imported: {_named(error)}") from error
    return typing.cast(Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]], found)


def _make(config: EnvConfig, render_mode: str | None) -> gymnasium.Env[Any, Any]:
    for key, fix in _NOT_KWARGS.items():
        if key in config.kwargs:
            raise EnvError(f"env.kwargs.{key} is not an argument of the environment: {fix}")
    if config.kwargs.get("render_mode", "rgb_array") != "rgb_array":
        raise EnvError(
            "env.kwargs.render_mode can only be rgb_array, for an agent that sees the rendered picture"
        )
    rendering = {} if render_mode is None else {"render_mode": render_mode}  # not every maker takes it
    kwargs: dict[str, Any] = {**rendering, **config.kwargs}
    if render_mode is not None and (problem := rendering_problem(config.id)) is not None:
        raise EnvError(f"env.id={config.id} {problem}")
    look_in(Path.cwd())
    try:
        register_suite(config.id)
        return gymnasium.make(config.id, max_episode_steps=config.max_episode_steps, **kwargs)
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        raise EnvError(f"env.id={config.id} is not a registered environment{_hint(config.id)}") from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:  # or of module:Name-v0's module
        install, said = installs(config.id), one_line(error)
        text = f" cannot be imported: {said}" if install is None else f": {install} ({said})"
        raise EnvError(f"env.id={config.id}{text}") from error
    except gymnasium.error.Error as error:
        raise EnvError(f"env.id={config.id} cannot be made: {one_line(error)}") from error
    except Exception as error:  # environments may raise anything for wrong arguments
        unknown = _unknown_argument(config, rendering)
        raise EnvError(
            unknown or f"env.id={config.id} cannot be made{_with(config)}: {_named(error)}"
        ) from error


def _with(config: EnvConfig) -> str:
    said = "".join(f" with env.kwargs.{key}={value}" for key, value in config.kwargs.items())
    return said + rendering_hint(config.id)


def _named(error: BaseException) -> str:
    """Return type and text: some errors say little without their type, as KeyError('9x9')."""
    return f"{type(error).__name__}: {one_line(error)}"


def _hint(env_id: str) -> str:
    """Return a hint at the newest version of the registered environment whose name is nearest."""
    module, _, name = env_id.rpartition(":")
    name = re.sub(r"-v\d+$", "", name)
    newest = {re.sub(r"-v\d+$", "", key): key for key in sorted(gymnasium.registry, key=_version)}
    near = closest(name, newest, 0.6)
    if near is not None:
        return f"; did you mean {newest[near]}?"
    install = installs(env_id)
    if install is not None:  # registered by a package that is there, but lacks another one
        return f": {install}"
    if module:
        return f"; {module} registers no such name"
    return "; an environment of another package needs that package's module, as env.id=module:Name-v0"


def _spec(env_id: str) -> EnvSpec:
    """Return the registration of module:Name-v0, which is Name-v0, or of the newest Name."""
    name = env_id.rpartition(":")[2]
    if name in gymnasium.registry:
        return gymnasium.registry[name]
    versions = [key for key in gymnasium.registry if re.sub(r"-v\d+$", "", key) == name]
    return gymnasium.registry[max(versions, key=_version)]


def _version(env_id: str) -> int:
    return gymnasium.registry[env_id].version or 0


def _unknown_argument(config: EnvConfig, rendering: Iterable[str]) -> str | None:
    """Return what to say about the first argument that the environment's maker does not take."""
    maker: Any = _spec(config.id).entry_point
    if isinstance(maker, str):
        maker = load_env_creator(maker)
    try:
        parameters = inspect.signature(maker).parameters
    except (TypeError, ValueError):  # a maker without a signature
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return None
    if not parameters.keys() >= set(rendering):
        return f"env.id={config.id} cannot be rendered: it takes no render_mode"
    accepted = [name for name in parameters if name != "render_mode"]
    for key in config.kwargs:
        if key not in accepted:
            hint = did_you_mean(closest(key, accepted, 0.6))
            takes = ", ".join(accepted) or "none"
            return f"env.kwargs.{key} is no argument of {config.id}{hint}; it takes {takes}"
    return None
