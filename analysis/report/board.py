"""The comparison for TensorBoard: custom scalars that overlay agents with bands.

Each agent is a run of its own, `compare/<agent>`, since TensorBoard gives a run, not a line, its colour;
the charts that lay them over each other belong to the run `compare`.
"""

from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard.writer import SummaryWriter

from qdreamer.analysis.comparison import Band, Report

AXES = {"by_step": "against environment steps", "by_second": "against seconds of wall-clock"}
LINES = ("iqm", "low", "high")
OURS = ".compare"  # ends the names of our files


def write(report: Report, folder: Path) -> None:
    """Write events into `folder` and into one folder for each agent.

    Only events of an earlier comparison are replaced: `folder` may be one that holds runs.
    """
    for old in (*folder.glob(f"events.*{OURS}"), *folder.glob(f"*/events.*{OURS}")):
        old.unlink()
    for agent in report.agents:
        writer = SummaryWriter(str(folder / agent.name), filename_suffix=OURS)
        for axis in AXES:
            _curve(writer, _tag(report, axis), getattr(agent, axis))
        writer.close()
    writer = SummaryWriter(str(folder), filename_suffix=OURS)
    writer._get_file_writer().add_summary(_layout(report))
    writer.close()


def _tag(report: Report, axis: str) -> str:
    """Return the tag's beginning, one for each environment: several may lie in one logdir."""
    return f"compare/{report.folder.resolve().name}/{axis}"


def _curve(writer: SummaryWriter, tag: str, band: Band) -> None:
    for at, *values in zip(band.at, band.mid, band.low, band.high, strict=True):
        for name, value in zip(LINES, values, strict=True):
            writer.add_scalar(f"{tag}/{name}", float(value), round(float(at)))


def _layout(report: Report) -> Summary:
    """Return one chart for each axis, with every agent's line and margin."""
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=f"{report.env}: return on unseen episodes, interquartile mean with 95 % interval",
                chart=[_chart(_tag(report, axis), title) for axis, title in AXES.items()],
            )
        ]
    )
    plugin = SummaryMetadata.PluginData(plugin_name="custom_scalars")
    value = Summary.Value(tag="custom_scalars__config__", metadata=SummaryMetadata(plugin_data=plugin))
    value.tensor.dtype = 7  # DT_STRING
    value.tensor.string_val.append(layout.SerializeToString())
    return Summary(value=[value])


def _chart(tag: str, title: str) -> layout_pb2.Chart:
    value, lower, upper = (f"{tag}/{name}" for name in LINES)
    series = layout_pb2.MarginChartContent.Series(value=value, lower=lower, upper=upper)
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=[series]))
