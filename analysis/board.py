"""The comparison for TensorBoard: one run `compare`, whose custom scalars overlay agents with bands."""

from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard.writer import SummaryWriter

from analysis.comparison import Agent, Band, Report

AXES = {"by_step": "against environment steps", "by_second": "against seconds of wall-clock"}


def write(report: Report, folder: Path) -> None:
    """Events in `folder`; those of an earlier comparison are replaced."""
    for old in folder.glob("events.out.tfevents.*"):
        old.unlink()
    writer = SummaryWriter(str(folder))
    for axis in AXES:
        for agent in report.agents:
            _curve(writer, axis, agent)
    writer._get_file_writer().add_summary(_layout(report))
    writer.close()


def _curve(writer: SummaryWriter, axis: str, agent: Agent) -> None:
    band: Band = getattr(agent, axis)
    for at, *values in zip(band.at, band.mid, band.low, band.high, strict=True):
        for tag, value in zip(_tags(axis, agent), values, strict=True):
            writer.add_scalar(tag, float(value), round(float(at)))


def _tags(axis: str, agent: Agent) -> list[str]:
    return [f"{axis}/{agent.name}/{name}" for name in ("iqm", "low", "high")]


def _layout(report: Report) -> Summary:
    """One chart for each axis, with a line and its margin for each agent."""
    layout = layout_pb2.Layout(
        category=[
            layout_pb2.Category(
                title=f"{report.env}: return on unseen episodes, interquartile mean with 95 % interval",
                chart=[_chart(axis, title, report) for axis, title in AXES.items()],
            )
        ]
    )
    plugin = SummaryMetadata.PluginData(plugin_name="custom_scalars")
    value = Summary.Value(tag="custom_scalars__config__", metadata=SummaryMetadata(plugin_data=plugin))
    value.tensor.dtype = 7  # DT_STRING
    value.tensor.string_val.append(layout.SerializeToString())
    return Summary(value=[value])


def _chart(axis: str, title: str, report: Report) -> layout_pb2.Chart:
    series = [
        layout_pb2.MarginChartContent.Series(value=value, lower=lower, upper=upper)
        for value, lower, upper in (_tags(axis, agent) for agent in report.agents)
    ]
    return layout_pb2.Chart(title=title, margin=layout_pb2.MarginChartContent(series=series))
