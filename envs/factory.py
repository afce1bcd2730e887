"""One place that makes environments."""

import difflib
from functools import partial
from typing import Any

import gymnasium
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.wrappers import RescaleAction

from envs.config import EnvConfig
from envs.spaces import UnsupportedSpace, action_spec, observation_spec
from envs.wrappers import HideObservation, Recreate


class EnvError(ValueError):
    """An environment that cannot be made; the message is one line and names the fix."""


def make_env(config: EnvConfig, index: int = 0, render_mode: str | None = None) -> gymnasium.Env[Any, Any]:
    """One environment, wrapped: hidden entries, actions rescaled to [−1, 1], re-creatable.

    Raises EnvError for unknown ids, missing simulators, wrong arguments and spaces
    that the agent cannot use.
    """
    limit = {} if config.max_episode_steps is None else {"max_episode_steps": config.max_episode_steps}
    try:
        env = gymnasium.make(config.id, render_mode=render_mode, **limit, **config.kwargs)
        if config.hide:
            env = HideObservation(env, config.hide)
        observation_spec(env.observation_space)
        if not action_spec(env.action_space).discrete:
            env = RescaleAction(env, -1.0, 1.0)
    except gymnasium.error.DependencyNotInstalled as error:
        raise EnvError(f"env.id={config.id} needs another package: {_one_line(error)}") from error
    except (gymnasium.error.Error, ModuleNotFoundError) as error:
        raise EnvError(_unknown(config.id, error)) from error
    except UnsupportedSpace as error:
        raise EnvError(f"env.id={config.id}: {error}") from error
    except (TypeError, ValueError) as error:
        raise EnvError(f"env.id={config.id} cannot be made: {_one_line(error)}") from error
    return Recreate(env, index)


def make_vector(config: EnvConfig, num_envs: int) -> VectorEnv[Any, Any, Any]:
    """`num_envs` copies that never reset themselves: the caller resets with a mask and seeds."""
    makers = [partial(make_env, config, i) for i in range(num_envs)]
    kind = {"sync": SyncVectorEnv, "async": AsyncVectorEnv}[config.vectorization]
    return kind(makers, autoreset_mode=AutoresetMode.DISABLED)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _unknown(env_id: str, error: Exception) -> str:
    known = list(gymnasium.registry)
    lowered = {name.lower(): name for name in known}
    near = difflib.get_close_matches(env_id.lower(), lowered, n=1, cutoff=0.4)
    if env_id in known:
        return f"env.id={env_id} cannot be made: {_one_line(error)}"
    hint = f"; did you mean {lowered[near[0]]}?" if near else ""
    return f"env.id={env_id} is not a registered Gymnasium environment{hint}"
