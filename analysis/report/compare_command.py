"""python compare.py runs/<env>: one report on all runs of an environment, with a verdict in words.

Writes report.html, report.md, pictures and TensorBoard events into <folder>/compare. Runs that do not
match (other budgets, other evaluations, other versions) are refused, and so are values that are not
finite and runs whose metrics are identical. Runs that are not finished are left out, and named.
"""

import argparse
import math
import shlex
import shutil
import sys
import textwrap
from pathlib import Path

from qdreamer.analysis.comparison import Settings, compare
from qdreamer.analysis.metric import METRICS
from qdreamer.analysis.names import short_names
from qdreamer.analysis.report import board, pictures, report
from qdreamer.analysis.run_form import CompareError
from qdreamer.analysis.run_record import find_runs, read_finished
from qdreamer.configs.console import Parser, fail

OUTPUT = "compare"


def main(arguments: list[str] | None = None) -> None:
    """Run compare.py; the arguments are those of the command line unless given."""
    given = sys.argv[1:] if arguments is None else arguments
    a = _parser().parse_args(given)
    settings = Settings(a.baseline, a.primary, a.threshold, a.margin, a.allow_versions)
    try:
        found = find_runs(a.folder)
        if a.agents:
            found = _only(found, a.agents)
        runs, left_out = read_finished(found)
        result = compare(a.folder, runs, settings)
        result.notes.extend(left_out)
        output = a.output or a.folder / OUTPUT
        output.mkdir(parents=True, exist_ok=True)
        command = shlex.join(["qdreamer", "compare", *given])
        written = report.write(result, pictures.draw(result, output), output, command)
        board.write(result, output)
    except (CompareError, OSError) as error:
        fail(error)
    if result.main is not None:
        _say(report.sentence(result.main, result))
    for note in result.notes:
        _say(f"note: {note}")
    board_at = a.folder if a.output is None else output
    print(
        f"report: {written[0]}\ncurves: tensorboard --logdir {shlex.quote(str(board_at))}  (CUSTOM SCALARS)"
    )


def _say(text: str) -> None:
    """Print a paragraph as wide as the terminal, 80 columns where there is none; words stay whole."""
    width = shutil.get_terminal_size((80, 24)).columns
    print(textwrap.fill(text.replace("**", ""), width, break_long_words=False, break_on_hyphens=False))


def _parser() -> argparse.ArgumentParser:
    """Return the parser of all options; none of them is needed."""
    form = argparse.RawDescriptionHelpFormatter
    out = Parser("qdreamer compare", description=__doc__, formatter_class=form)
    out.add_argument("folder", type=Path, help="runs of one environment, as runs/CartPole")
    out.add_argument("--baseline", help="agent that others are held against (default: classical)")
    out.add_argument("--agents", nargs="+", metavar="AGENT", help="compare these only (default: all)")
    out.add_argument(
        "--primary",
        choices=list(METRICS),
        help="metric that decides; name it before you look (default: steps to the threshold where the "
        "environment has one, else the area under the curve)",
    )
    out.add_argument("--threshold", type=_finite, help="return to be reached (default: env.solved)")
    out.add_argument(
        "--margin",
        type=_margin,
        help="difference that counts as none, in units of the metric (default: a tenth of the budget for "
        "steps; for other metrics there is none, and 'no difference shown' is never said)",
    )
    out.add_argument(
        "--allow-versions", action="store_true", help="compare runs of different code or libraries; noted"
    )
    out.add_argument("--output", type=Path, help="folder of the report (default: <folder>/compare)")
    return out


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def _margin(text: str) -> float:
    if (value := _finite(text)) < 0.0:
        raise argparse.ArgumentTypeError(f"{text} must be at least 0")
    return value


def _only(found: list[Path], agents: list[str]) -> list[Path]:
    short, _ = short_names(path.parent.name for path in found)
    for agent in agents:
        if agent not in {*short, *short.values()}:
            raise CompareError(f"--agents {agent} is not one of {', '.join(sorted(short.values()))}")
    return [path for path in found if {path.parent.name, short[path.parent.name]} & set(agents)]
