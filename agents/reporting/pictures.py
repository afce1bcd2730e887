"""Pictures and videos of a run."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.interaction.collector import to_agent_observations, to_env_actions
from qdreamer.agents.reporting.openloop import OpenLoop
from qdreamer.configs.console import one_line
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.factory import EnvError, make_env
from qdreamer.envs.seeds import evaluation_seed

MAX_TRACES = 6


def open_loop_picture(result: OpenLoop, title: str) -> NDArray[np.uint8]:
    """Draw three predictions beside the truth, and the error against the horizon: RGB (H, W, 3)."""
    from matplotlib.figure import Figure  # lazily: half a second

    entries = min(result.true.shape[-1], MAX_TRACES)
    lengths = np.isfinite(result.true[..., 0]).sum(1)
    longest = np.argsort(-lengths, kind="stable")
    shown = longest[np.linspace(0, max(np.sum(lengths == lengths.max()) - 1, 0), 3).astype(int)]
    figure = Figure(figsize=(10, 1.6 * entries + 2.2), layout="constrained")
    axes = figure.subplots(entries + 1, 3, squeeze=False, sharex=True)
    steps = np.arange(1, result.true.shape[1] + 1)
    for column, m in enumerate(shown):
        for entry in range(entries):
            axis = axes[entry][column]
            axis.plot(steps, result.true[m, :, entry], color="black", lw=1.2, label="true")
            axis.plot(steps, result.predicted[m, :, entry], color="tab:red", lw=1.2, label="predicted")
            axis.set_ylabel(f"o[{entry}]" if column == 0 else "")
    axes[0][0].legend(frameon=False, fontsize=8)
    for axis in axes[-2]:
        axis.set_xlabel("steps ahead")
        axis.tick_params(labelbottom=True)
    for axis in axes[-1][1:]:
        axis.set_visible(False)
    axes[-1][0].plot(steps, result.model_error, color="tab:red", label="model")
    axes[-1][0].plot(steps, result.persistence_error, color="gray", ls="--", label="persistence")
    axes[-1][0].set_yscale("log")
    axes[-1][0].set_xlabel("steps ahead")
    axes[-1][0].set_ylabel("standardised MSE")
    axes[-1][0].legend(frameon=False, fontsize=8)
    figure.suptitle(title)
    return rgb(figure)


def rgb(figure: Any) -> NDArray[np.uint8]:
    """Return a figure of matplotlib as an RGB picture (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def record_video(
    agent: Dreamer, env_config: EnvConfig, seed: int, deterministic: bool, frames: int, width: int = 300
) -> list[Image.Image]:
    """Return frames of one evaluation episode. Raises EnvError when the environment cannot render."""
    env = make_env(env_config, render_mode="rgb_array")
    try:
        actor = ActingLoop(agent, 1, seed, deterministic, averaged=True)
        observation, _ = env.reset(seed=evaluation_seed(seed, 0))
        first = np.ones(1, np.bool_)
        images, done = [_thumbnail(env, width)], False
        while len(images) < frames and not done:
            seen = to_agent_observations(np.asarray(observation)[None], agent.observation)
            decision = actor.act(seen, first)
            action = to_env_actions(decision.action, agent.action, env.action_space.shape or ())[0]
            observation, _, terminal, truncated, _ = env.step(action)
            first, done = np.zeros(1, np.bool_), terminal or truncated
            images.append(_thumbnail(env, width))
        return images
    finally:
        env.close()


def gif(frames: list[Image.Image], fps: float = 30.0) -> bytes:
    """Encode an endless GIF. Its frames share one palette, which keeps it small."""
    shown = [frames[i] for i in {0, len(frames) // 2, len(frames) - 1}]
    together = Image.new("RGB", (shown[0].width, sum(frame.height for frame in shown)))
    for i, frame in enumerate(shown):
        together.paste(frame, (0, i * frame.height))
    palette = together.quantize(64)
    small = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    buffer = io.BytesIO()
    small[0].save(buffer, "GIF", save_all=True, append_images=small[1:], duration=round(1000 / fps), loop=0)
    return buffer.getvalue()


def save_gif(directory: Path, name: str, data: bytes) -> Path:
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_bytes(data)
    return path


def _thumbnail(env: Any, width: int) -> Image.Image:
    try:
        image = Image.fromarray(np.asarray(env.render(), np.uint8))
    except Exception as error:  # drivers and simulators fail in ways of their own
        raise EnvError(f"this environment cannot be rendered here: {one_line(error)}") from error
    return image.resize((width, round(width * image.height / image.width)), Image.Resampling.BILINEAR)
