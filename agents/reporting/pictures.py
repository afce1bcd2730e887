"""Pictures and videos of a run."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from qdreamer.agents.dreamer import Dreamer
from qdreamer.agents.interaction.acting import ActingLoop
from qdreamer.agents.reporting.openloop import OpenLoop, Prediction
from qdreamer.envs.config import EnvConfig
from qdreamer.envs.edge.guard import EnvError, UnknownEnvError, brief, close, is_users, told
from qdreamer.envs.factory import make_env, renders
from qdreamer.envs.seeds import evaluation_seed
from qdreamer.envs.suites.known import rendering_hint

WIDTH, FONT, DPI = 3.5, 7.0, 100  # inches, points: TensorBoard shows pictures 350 pixels wide, and no finer
MAX_TRACES = 6
TRACED = 2  # predictions of vectors
SHOWN = 3  # of images
ENLARGED = 192  # least height of an image in a video
GAP, MARGIN = 4, 70  # pixels between images, and left of them


def open_loop_picture(result: OpenLoop, title: str) -> NDArray[np.uint8]:
    """Draw two predictions beside the truth, and the error against the horizon: RGB (H, W, 3).

    Images have videos instead, see `open_loop_videos`.
    """
    import matplotlib  # lazily: half a second
    from matplotlib.figure import Figure

    traces = _traces(result)
    steps = np.arange(1, len(result.model_error) + 1)
    # Places in inches: matplotlib's own layout, which tries and measures, would take three times as long.
    height = 1.05 * len(traces) + 2.1
    top, bottom = 1.0 - 0.45 / height, 0.36 / height
    with matplotlib.rc_context({"font.size": FONT}):
        figure = Figure(figsize=(WIDTH, height), dpi=DPI)
        figure.suptitle(title, fontsize=FONT + 1, y=1.0 - 0.04 / height, va="top")
        places: dict[str, Any] = {"left": 0.16, "right": 0.98, "wspace": 0.06, "hspace": 0.12}
        if traces:
            grid = figure.add_gridspec(len(traces), TRACED, top=top, bottom=1.8 / height, **places)
            axes = grid.subplots(squeeze=False, sharex=True, sharey="row")
            for column, m in enumerate(_longest(result, TRACED)):
                for row, (label, predicted, true) in enumerate(traces):
                    axis = axes[row][column]
                    axis.plot(steps, true[m], color="black", lw=1.2, label="true")
                    axis.plot(steps, predicted[m], color="tab:red", lw=1.2, label="predicted")
                    axis.set_ylabel(label if column == 0 else "")
            _legend_above(figure, top, axes[0][0].get_legend_handles_labels())
        below = figure.add_gridspec(1, 1, top=1.3 / height, bottom=bottom, **places)
        error: Any = below.subplots()
        error.plot(steps, result.model_error, color="tab:red", label="model")
        error.plot(steps, result.persistence_error, color="gray", ls="--", label="persistence")
        error.set(yscale="log", xlabel="steps ahead", ylabel="standardised MSE")
        _legend_above(figure, 1.3 / height, error.get_legend_handles_labels())
        return rgb(figure)


def _legend_above(figure: Any, top: float, shown: Any) -> None:
    """Put a legend in one row above what ends at `top`."""
    figure.legend(*shown, loc="lower center", bbox_to_anchor=(0.57, top), ncols=2, frameon=False)


def _longest(result: OpenLoop, count: int) -> NDArray[np.int64]:
    """Return the numbers of some predictions among those that go on longest."""
    first = next(iter(result.entries.values())).true
    lengths = np.isfinite(first.reshape(*first.shape[:2], -1)[..., 0]).sum(1)
    longest = np.argsort(-lengths, kind="stable")
    return longest[np.linspace(0, max(np.sum(lengths == lengths.max()) - 1, 0), count).astype(int)]


def _traces(result: OpenLoop) -> list[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
    """Return label, prediction and truth (M, H) of the first numbers of each entry that is not an image."""
    vectors = {name: entry for name, entry in result.entries.items() if entry.true.ndim == 3}
    each = max(MAX_TRACES // max(len(vectors), 1), 1)
    return [
        (f"{name}[{i}]", entry.predicted[..., i], entry.true[..., i])
        for name, entry in list(vectors.items())[:MAX_TRACES]
        for i in range(min(entry.true.shape[-1], each))
    ]


def open_loop_videos(result: OpenLoop) -> dict[str, list[Image.Image]]:
    """Return a video of each entry that is an image: true, predicted and their difference, some starts.

    It ends with the longest of these episodes.
    """
    shown, videos = _longest(result, SHOWN), {}
    for name, entry in result.entries.items():
        if entry.true.ndim == 5:
            steps = int(np.isfinite(entry.true[shown, :, 0, 0, 0]).any(0).sum())
            videos[name] = [_rows_of_frames(entry, shown, step) for step in range(steps)]
    return videos


def _rows_of_frames(entry: Prediction, shown: NDArray[np.int64], step: int) -> Image.Image:
    """Return one frame: a column for each of the starts that are shown, black where its episode is over."""
    predicted, true = (np.nan_to_num(x[shown, step]) for x in entry)  # (3, H, W, C)
    height, width = true.shape[1:3]
    times = -(-ENLARGED // height) if height < ENLARGED // 2 else 1
    down, across = height * times + GAP, width * times + GAP
    frame = Image.new("RGB", (MARGIN + SHOWN * across, 3 * down), "gray")
    for row, (label, images) in enumerate(
        {"true": true, "predicted": predicted, "difference": np.abs(true - predicted)}.items()
    ):
        ImageDraw.Draw(frame).text((GAP, row * down + GAP), label)
        pictures = np.rint(255.0 * in_colours(images).clip(0.0, 1.0)).astype(np.uint8)
        for column, picture in enumerate(pictures.repeat(times, 1).repeat(times, 2)):
            frame.paste(Image.fromarray(picture), (MARGIN + column * across, row * down))
    return frame


def in_colours(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return images (…, C) as RGB: one channel is grey; of many, each has a hue of its own."""
    count = images.shape[-1]
    if count == 3:
        return images
    hues = np.arange(count)[:, None] / count + np.array([0.0, 1 / 3, 2 / 3])
    colours = np.ones((1, 3)) if count == 1 else 0.5 + 0.5 * np.cos(2.0 * np.pi * hues)
    return (images @ colours.astype(np.float32)).clip(0.0, 1.0)


def rgb(figure: Any) -> NDArray[np.uint8]:
    """Return a figure of matplotlib as an RGB picture (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def record_video(
    agent: Dreamer, env_config: EnvConfig, seed: int, deterministic: bool, frames: int, width: int = 300
) -> list[Image.Image]:
    """Return RGB frames of one evaluation episode. Raises EnvError when the environment cannot show any."""
    try:
        env = make_env(env_config, render_mode="rgb_array")
    except UnknownEnvError:
        raise
    except EnvError as error:
        raise _without_picture(env_config, error) from error
    try:
        actor = ActingLoop(agent, 1, seed, deterministic, averaged=True)
        observation, _ = env.reset(seed=evaluation_seed(seed, 0))
        first = np.ones(1, np.bool_)
        images, done = [_thumbnail(env, width)], False
        while len(images) < frames and not done:
            decision = actor.act({name: values[None] for name, values in observation.items()}, first)
            observation, _, terminal, truncated, _ = env.step(decision.action[0])
            first, done = np.zeros(1, np.bool_), terminal or truncated
            images.append(_thumbnail(env, width))
        return images
    except BaseException as error:  # drivers and simulators fail in ways of their own
        if is_users(error):
            raise
        raise _without_picture(env_config, error) from error
    finally:
        close(env, env_config.id)


def _without_picture(config: EnvConfig, error: BaseException) -> EnvError:
    """Return the error that says why there is none."""
    if not renders(config):
        return EnvError("it renders nothing")
    if isinstance(error, EnvError):
        return error
    return EnvError(f"env.id={config.id} cannot be rendered here: {told(error)}")


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
        frame = np.asarray(env.render())
        if frame.ndim not in (2, 3) or frame.dtype.kind not in "biuf":
            raise ValueError(f"render() gave {brief(frame)}, not a picture")
        image = Image.fromarray(frame.astype(np.uint8).squeeze()).convert("RGB")
    except Exception as error:  # drivers and simulators fail in ways of their own
        hint = rendering_hint(env.unwrapped.spec.id)
        raise EnvError(f"this environment cannot be rendered here: {told(error)}{hint}") from error
    return image.resize((width, round(width * image.height / image.width)), Image.Resampling.BILINEAR)
