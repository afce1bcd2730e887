"""One place that makes environments."""

import importlib
import inspect
import os
import re
import typing
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, load_env_creator
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import PassiveEnvChecker

from qdreamer.configs.console import one_line
from qdreamer.configs.schema import closest, did_you_mean
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.edge.guard import EnvError as EnvError
from qdreamer.envs.edge.guard import EnvFailure, Member, UnknownEnvError, close, is_users, told, told_apart
from qdreamer.envs.edge.surroundings import Surroundings
from qdreamer.envs.entries import ACTION_MASK
from qdreamer.envs.interface import Interface, NamedEntries, make_interface
from qdreamer.envs.leaves import UnsupportedSpaceError
from qdreamer.envs.modules import look_in
from qdreamer.envs.repeated import Repeated
from qdreamer.envs.suites.known import installs, register_suite, rendering_hint, rendering_problem
from qdreamer.envs.vector import Vector
from qdreamer.envs.workers import in_workers
from qdreamer.envs.wrappers import hide_entries

# Arguments of gymnasium.make that are not the environment's own.
_NOT_KWARGS = {
    "id": "set env.id instead",
    "max_episode_steps": "set env.max_episode_steps instead",
    "disable_env_checker": "the checker always runs",
}


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
    config: EnvConfig,
    index: int = 0,
    render_mode: str | None = None,
    interface: Interface | None = None,
    surroundings: AbstractContextManager[Any] | None = None,
) -> NamedEntries:
    """Make one environment in the agent's terms (`interface.NamedEntries`).

    `interface` is that of another copy, if there is one; `index` its place in a vector; `surroundings` what
    the process is to the environment, with those of other copies. Raises EnvError as `make_raw`, and for
    spaces that the agent cannot use.
    """
    surroundings = surroundings or Surroundings()
    with surroundings:
        env = make_raw(config, render_mode)
        with _closed_on_error(config, env):
            interface = interface or make_interface(env, config.entries, config.image_size)
    return NamedEntries(env, interface, index, surroundings)


@contextmanager
def _closed_on_error(config: EnvConfig, env: gymnasium.Env[Any, Any]) -> Iterator[None]:
    """Close an environment for which something fails, and raise EnvError that says what."""
    try:
        yield
    except BaseException as error:  # wrappers may raise anything, and so may the reset that looks for masks
        close(env, config.id)
        if isinstance(error, EnvError) or is_users(error):
            raise
        ours = isinstance(error, UnsupportedSpaceError)
        text = str(error) if ours else f"{told(error)}{_with(config)}"
        raise EnvError(f"env.id={config.id}: {text}") from error


def describe(config: EnvConfig) -> Interface:
    """Return what the agent sees and does in an environment. Raises EnvError."""
    env = make_env(config)
    close(env, config.id)
    return env.interface


def make_vector(
    config: EnvConfig, num_envs: int, role: str = "", interface: Interface | None = None
) -> Vector:
    """Make `num_envs` copies that never reset themselves: the caller resets with a mask and seeds.

    `role` says in errors what they are for; `interface` is that of another copy. Raises EnvError.
    """
    interface = interface or describe(config)
    if config.vectorization == "async":
        return in_workers(config.id, interface, num_envs, partial(_member, config, interface), role)
    surroundings = Surroundings()
    members: list[Member] = []
    try:
        for i in range(num_envs):
            members.append(_member(config, interface, i, surroundings))
    except EnvError:
        for member in members:
            member.close()
        raise
    makers = [partial(_same, member) for member in members]
    envs = SyncVectorEnv(makers, copy=False, autoreset_mode=AutoresetMode.DISABLED)
    return Vector(envs, config.id, interface, role, surroundings)


def _member(
    config: EnvConfig,
    interface: Interface,
    index: int,
    surroundings: AbstractContextManager[Any] | None = None,
) -> Member:
    env = make_env(config, index, interface=interface, surroundings=surroundings or nullcontext())
    return Member(env, config.id, index)


def _same(member: Member) -> Member:
    return member


def check_env(config: EnvConfig) -> None:
    """Go training's own way with one or two copies: make, reset, step, reset one, step, close.

    So wrong arguments, shapes and types show before a run starts. Raises EnvError.
    """
    with told_apart():
        _walk(config, min(config.num_envs, 2), _advised(config))


def _walk(config: EnvConfig, copies: int, interface: Interface) -> None:
    random, seeds = np.random.default_rng(0), list(range(copies))
    try:
        envs = make_vector(config, copies, interface=interface)
        try:
            observation, _ = envs.reset(seed=seeds)
            for _ in range(2):
                for _ in range(2):
                    mask = observation.get(ACTION_MASK)
                    observation, _, terminal, truncated, _ = envs.step(
                        envs.interface.action.random(copies, random, mask)
                    )
                    if (done := terminal | truncated).any():
                        observation, _ = envs.reset(seed=seeds, options={"reset_mask": done})
                again = np.arange(copies) == 0
                observation, _ = envs.reset(seed=seeds, options={"reset_mask": again})
        finally:
            envs.close()
    except EnvFailure as error:
        raise EnvError(f"{error}{_with(config)}") from error


def _advised(config: EnvConfig) -> Interface:
    """Let Gymnasium's checker warn of what it finds odd in a reset and a step; return the interface."""
    env = make_env(config)
    spec = env.spec
    if spec is None or not _spec(config.id).disable_env_checker:
        action = env.interface.action.random(1, np.random.default_rng(0))[0]
        try:
            with Surroundings():
                checked = PassiveEnvChecker(env.env)
                checked.reset(seed=0)
                checked.step(env.interface.to_environment(action))
        except BaseException as error:  # it comes again, where it is named
            if is_users(error):
                raise
    close(env, config.id)
    return env.interface


def renders(config: EnvConfig) -> bool:
    """Tell whether a registered environment may show pictures: not where its class says it has none."""
    maker: Any = _spec(config.id).entry_point
    if isinstance(maker, str):
        maker = load_env_creator(maker)
    metadata = getattr(maker, "metadata", None)
    return not isinstance(metadata, dict) or "rgb_array" in (metadata.get("render_modes") or ())


def _wrapper(name: str) -> Callable[[gymnasium.Env[Any, Any]], gymnasium.Env[Any, Any]]:
    """Return what env.wrappers calls module:Name. Raises EnvError."""
    module, colon, attribute = name.partition(":")
    if not (module and colon and attribute):
        raise EnvError(f"env.wrappers={name} must name a module and a wrapper in it, as my.module:MyWrapper")
    look_in(Path.cwd())
    try:
        found = getattr(importlib.import_module(module), attribute)
    except BaseException as error:  # whatever the user's module raises
        if is_users(error):
            raise
        kind = UnknownEnvError if isinstance(error, ImportError) else EnvError
        raise kind(f"env.wrappers={name} cannot be imported: {told(error)}") from error
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
        return gymnasium.make(  # `check_env` asks Gymnasium's checker, which is stricter than the agent
            config.id, config.max_episode_steps, disable_env_checker=True, **kwargs
        )
    except (gymnasium.error.UnregisteredEnv, gymnasium.error.DeprecatedEnv) as error:
        said = f"env.id={config.id} is not a registered environment"
        raise UnknownEnvError(said, _hint(config.id)) from error
    except (gymnasium.error.DependencyNotInstalled, ImportError) as error:  # or of module:Name-v0's module
        install, said = installs(config.id), one_line(error)
        text = f" cannot be imported: {said}" if install is None else f": {install} ({said})"
        kind = UnknownEnvError if ":" in config.id and install is None else EnvError
        raise kind(f"env.id={config.id}{text}") from error
    except gymnasium.error.Error as error:
        raise EnvError(f"env.id={config.id} cannot be made: {one_line(error)}") from error
    except BaseException as error:  # environments may raise anything for wrong arguments
        if is_users(error):
            raise
        unknown = None if isinstance(error, SystemExit) else _unknown_argument(config, rendering)
        raise EnvError(
            unknown or f"env.id={config.id} cannot be made{_with(config)}: {told(error)}"
        ) from error


def _with(config: EnvConfig) -> str:
    said = "".join(f" with env.kwargs.{key}={value}" for key, value in config.kwargs.items())
    return said + rendering_hint(config.id)


def _hint(env_id: str) -> str:
    """Return a hint at the newest version of the registered environment whose name is nearest."""
    module, _, name = env_id.rpartition(":")
    name = re.sub(r"-v\d+$", "", name)
    newest = {re.sub(r"-v\d+$", "", key): key for key in sorted(gymnasium.registry, key=_version)}
    near = closest(name, newest, 0.6)
    if near is not None:
        entry = gymnasium.registry[newest[near]].entry_point
        own = str(getattr(entry, "__module__", entry)).startswith("gymnasium.")
        prefix = f"{module}:" if module and not own else ""  # whose import registers it
        return f"; did you mean {prefix}{newest[near]}?"
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
