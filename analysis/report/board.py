"""The comparison for TensorBoard: custom scalars that overlay agents with bands.

Each agent is a run of its own, `compare/<agent>`, since TensorBoard gives a run, not a line, its colour;
the charts that lay them over each other belong to the run `compare`. It goes through its colours in the order
of the runs' names, so a chart holds no more neighbours than there are colours.
"""

from pathlib import Path

from torch.utils.tensorboard.writer import SummaryWriter

from qdreamer.analysis.comparison import Band, Report

AXES = {"by_step": "against environment steps", "by_second": "against seconds of wall-clock"}
LINES = ("iqm", "low", "high")
COLOURS = 7  # of TensorBoard
OURS = ".compare"  # ends the names of our files


def write(report: Report, folder: Path) -> None:
    """Write events into `folder` and into one folder for each agent.

    Only events of an earlier comparison are replaced: `folder` may be one that holds runs.
    """
    for old in (*folder.glob(f"events.*{OURS}"), *folder.glob(f"*/events.*{OURS}")):
        old.unlink()
    # Tags begin with the environment's folder: several may lie in one logdir.
    start = f"compare/{report.folder.resolve().name}"
    agents = sorted(report.agents, key=lambda agent: agent.name)
    charts = {}
    for first in range(0, len(agents), COLOURS):
        group = agents[first : first + COLOURS]
        part, of = "", ""
        if len(agents) > COLOURS:
            part, of = f"_{first // COLOURS}", f", {group[0].name} … {group[-1].name}"
        tags = {axis: f"{start}/{axis}{part}" for axis in AXES}
        for axis, tag in tags.items():
            charts[f"{AXES[axis]}{of}"] = ["Margin", [f"{tag}/{name}" for name in LINES]]
        for agent in group:
            writer = SummaryWriter(str(folder / agent.name), filename_suffix=OURS)
            for axis, tag in tags.items():
                _curve(writer, tag, getattr(agent, axis))
            writer.close()
    writer = SummaryWriter(str(folder), filename_suffix=OURS)
    title = f"{report.env}: return on unseen episodes, interquartile mean with 95 % interval"
    writer.add_custom_scalars({title: charts})
    writer.close()


def _curve(writer: SummaryWriter, tag: str, band: Band) -> None:
    for at, *values in zip(band.at, band.mid, band.low, band.high, strict=True):
        for name, value in zip(LINES, values, strict=True):
            writer.add_scalar(f"{tag}/{name}", float(value), round(float(at)))
