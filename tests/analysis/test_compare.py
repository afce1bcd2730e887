"""compare.py: the whole report from made-up runs, and everything that it must refuse."""

import json
import re
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from benchmarks.comparison import AGENTS, write_runs
from qdreamer.analysis.ablation import classify
from qdreamer.analysis.comparison import Band, Settings, choose, compare
from qdreamer.analysis.names import short_names, within
from qdreamer.analysis.report import board, compare_command
from qdreamer.analysis.report.compare_command import main
from qdreamer.analysis.report.pictures import curves
from qdreamer.analysis.run_form import CompareError
from qdreamer.analysis.run_record import find_runs, read_run
from qdreamer.configs import streams

Refused = Callable[..., str]
FAST = {**AGENTS, "hybrid": (AGENTS["hybrid"][0], 1500)}  # far ahead
PAIR = {name: FAST[name] for name in ("classical", "hybrid")}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "CartPole"
    write_runs(folder, 10, agents=PAIR)
    return folder


@pytest.fixture
def runs(written: Path, tmp_path: Path) -> Path:
    """Ten seeds of classical and hybrid, to be spoiled."""
    return Path(shutil.copytree(written, tmp_path / "CartPole"))


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Refused:
    """compare.py's one line of refusal."""

    def run(*arguments: Any) -> str:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        err = capsys.readouterr().err
        assert end.value.code == 2
        assert err.startswith("error: ") and err.count("\n") == 1
        return err

    return run


def edit(path: Path, change: Callable[[Any], Any]) -> None:
    """Rewrite a JSON or YAML file."""
    load, dump = (json.loads, json.dumps) if path.suffix == ".json" else (yaml.safe_load, yaml.safe_dump)
    values = load(path.read_text())
    change(values)
    path.write_text(dump(values))


def edit_lines(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = run / "metrics.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for line in lines:
        change(line)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_whole_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "CartPole"
    names = ["classical", "hybrid", "hybrid+replay=uniform", "hybrid+optimizer.solver=random"]
    write_runs(folder, 10, agents={name: FAST[name] for name in names})
    main([str(folder)])
    printed = capsys.readouterr().out
    output = folder / "compare"
    text = (output / "report.md").read_text()
    assert "hybrid is better than classical in steps to threshold" in printed
    assert "**hybrid is better than classical**" in text
    assert "hybrid − replay" in text and "control of optimizer" in text
    assert "Ceiling" in text
    row = next(line for line in text.splitlines() if line.startswith("| hybrid | 286,917 |"))
    assert row.split(" | ")[2:6] == ["2", "2,872", "57", "58,368"]
    page = (output / "report.html").read_text()
    assert page.count("<img") == 3
    assert not re.search(r"(src|href)=\"(?!data:)", page), "the page must need no other file"
    for name in ("curves", "profiles", "comparisons"):
        picture = np.asarray(Image.open(output / f"{name}.png"))
        assert picture.shape[1] > 700 and picture.std() > 5
    assert find_runs(folder) and len(find_runs(folder)) == 40, "a report is no run"
    main([str(folder)])
    assert len(list(output.glob("events*"))) == 1


def test_custom_scalars_overlay_the_agents(runs: Path) -> None:
    """One chart shows the same tags of all agents; each agent is a run, and so has its colour."""
    bystander = runs / "compare" / "hybrid" / "events.out.tfevents.0.training"
    bystander.parent.mkdir(parents=True)
    bystander.write_bytes(b"")
    (runs / "hybrid").rename(runs / "other")
    main([str(runs)])
    (runs / "other").rename(runs / "hybrid")
    main([str(runs)])
    assert bystander.exists()
    assert not list((runs / "compare" / "other").glob("events*")), "those of an earlier comparison are gone"
    tags = [f"compare/CartPole/by_step/{line}" for line in ("low", "iqm", "high")]
    for name in PAIR:
        (ours,) = (runs / "compare" / name).glob("events*.compare")
        events = EventAccumulator(str(ours)).Reload()
        assert len(events.Scalars(tags[1])) == 12
        last = [events.Scalars(tag)[-1].value for tag in tags]
        assert last == sorted(last)
    events = EventAccumulator(str(runs / "compare")).Reload()
    (tensor,) = events.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    (series,) = layout.category[0].chart[0].margin.series
    assert [series.lower, series.value, series.upper] == tags


def many_agents(folder: Path) -> Any:
    """A report's curves of 12 agents."""
    band = Band(*(np.array([0.0, 100.0]) + i for i in range(4)))
    names = ["classical", "hybrid", *(f"hybrid+seven={i}" for i in range(10))]
    agents = [SimpleNamespace(name=name, by_step=band, by_second=band) for name in names]
    facts = {"baseline": "classical", "candidate": "hybrid", "threshold": 90.0, "env": "CartPole-v1"}
    return SimpleNamespace(folder=folder, agents=agents, **facts)


def test_every_agent_is_drawn_and_no_two_of_a_row_have_one_colour(tmp_path: Path) -> None:
    report = many_agents(tmp_path)
    rows = [
        {text.get_text(): text.get_color() for text in axis.texts if text.get_text() != "threshold 90"}
        for axis in curves(report).axes[1::2]
    ]
    assert all(len(set(row.values())) == len(row) and {"classical", "hybrid"} <= set(row) for row in rows)
    assert set().union(*rows) == {agent.name for agent in report.agents}


def test_no_chart_of_tensorboard_has_more_agents_than_it_has_colours(tmp_path: Path) -> None:
    report = many_agents(tmp_path)
    board.write(report, tmp_path / "compare")
    (tensor,) = EventAccumulator(str(tmp_path / "compare")).Reload().Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(tensor.tensor_proto.string_val[0])
    names = sorted(agent.name for agent in report.agents)
    events = {name: EventAccumulator(str(tmp_path / "compare" / name)).Reload() for name in names}
    shown: list[str] = []
    for chart in layout.category[0].chart[::2]:  # against steps
        (series,) = chart.margin.series
        here = [name for name in names if series.value in events[name].Tags()["scalars"]]
        assert here == names[len(shown) : len(shown) + len(here)] and len(here) <= board.COLOURS
        shown += here
    assert shown == names


def test_failed_seeds_stay_in(runs: Path) -> None:
    def fail(line: dict[str, Any]) -> None:
        if "eval/return" in line:
            line["eval/return"] = min(line["eval/return"], 300.0)

    for seed in range(9):
        edit_lines(runs / "hybrid" / f"seed_{seed}", fail)
    report = compare(runs, [read_run(path) for path in find_runs(runs)], Settings())
    hybrid = report.agent("hybrid")
    assert hybrid.failures == 9 and len(hybrid.runs) == 10
    assert hybrid.estimates["steps"].point > 5000
    assert report.main is not None and report.main.verdict.word == "worse"
    assert report.main.improvement.point < 0.2


def test_fewer_seeds_are_inconclusive(runs: Path) -> None:
    records = [read_run(path) for path in find_runs(runs)]
    for seeds, words in ((4, "needs at least 5"), (9, "takes 10 seeds")):
        some = [run for run in records if run.seed < seeds]
        report = compare(runs, some, Settings())
        assert report.main is not None and report.main.verdict.word == "inconclusive"
        assert words in report.main.verdict.reason


def test_figures_of_a_pair_do_not_depend_on_what_else_is_compared(tmp_path: Path) -> None:
    """Only Holm's correction does: the levels of intervals of all but the main comparison."""
    folder = tmp_path / "CartPole"
    names = ["classical", "hybrid", "hybrid+replay=uniform", "hybrid+optimizer.solver=random"]
    write_runs(folder, 5, agents={name: FAST[name] for name in names})
    records = [read_run(path) for path in find_runs(folder)]
    all_four, three = (
        compare(folder, [run for run in records if run.agent != left_out], Settings())
        for left_out in ("", "hybrid+optimizer.solver=random")
    )
    assert all_four.main is not None and three.main is not None
    assert vars(all_four.main) == vars(three.main)
    for agent in three.agents:
        assert agent.estimates == all_four.agent(agent.name).estimates
    (judged,) = three.others
    same = next(other for other in all_four.others if other.comparison == judged.comparison)
    assert (same.improvement, same.beside) == (judged.improvement, judged.beside)
    assert same.verdict.interval.point == judged.verdict.interval.point
    # A metric has the same interval in the first place as beside another one.
    by_area = compare(folder, [run for run in records if run.agent in PAIR], Settings(primary="area"))
    assert by_area.main is not None
    assert by_area.main.verdict.interval == three.main.beside["area"]
    assert by_area.main.beside["steps"] == three.main.verdict.interval


def test_the_metric_follows_the_environment_and_may_be_chosen(runs: Path, refused: Refused) -> None:
    records = [read_run(path) for path in find_runs(runs)]
    assert compare(runs, records, Settings()).metric.name == "steps"
    chosen = compare(runs, records, Settings(primary="area", margin=3.0))
    assert chosen.metric.name == "area" and chosen.chosen and chosen.margin == 3.0
    for path in find_runs(runs):
        edit(path / "config.yaml", lambda values: values["env"].update(solved=None))
    without = compare(runs, [read_run(path) for path in find_runs(runs)], Settings())
    assert without.metric.name == "area" and without.margin is None
    assert "needs --threshold" in refused(runs, "--primary", "steps")


def test_refuses_other_budgets_evaluations_and_environments(runs: Path, refused: Refused) -> None:
    config = runs / "hybrid" / "seed_3" / "config.yaml"
    original = config.read_text()
    for section, key, value, words in (
        ("evaluation", "seed", 7, "other evaluations: evaluation.seed (7 in hybrid/seed_3"),
        ("evaluation", "episodes", 5, "evaluation.episodes"),
        ("env", "hide", [1, 3], "other environments: env.hide"),
        ("optimizer", "lr", 0.5, "hybrid was trained with different settings: optimizer.lr"),
    ):
        edit(config, lambda values, s=section, k=key, v=value: values[s].update({k: v}))  # type: ignore[misc]
        assert words in refused(runs)
        config.write_text(original)
    # The default of `steps` is no setting: runs of one length may come from versions that differ in it.
    edit(config, lambda values: values["env"].update(steps=6000 + values["env"]["steps"]))
    compare(runs, [read_run(path) for path in find_runs(runs)], Settings())
    for seed in range(10):
        run = runs / "hybrid" / f"seed_{seed}"
        edit(run / "config.yaml", lambda values: values.update(steps=5000))
        lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
        (run / "metrics.jsonl").write_text("".join(x for x in lines if json.loads(x)["step"] <= 5000))
    line = refused(runs)
    assert "other budgets: steps" in line and "5000" in line and "and 7 more" in line


def test_refuses_other_versions_unless_told(runs: Path, refused: Refused, capsys: Any) -> None:
    summary = runs / "hybrid" / "seed_2" / "summary.json"
    edit(summary, lambda values: values["sessions"][0]["versions"].update(torch="1"))
    line = refused(runs)
    assert "torch 1: hybrid/seed_2" in line and "--allow-versions" in line
    main([str(runs), "--allow-versions"])
    assert "Versions differ" in capsys.readouterr().out
    assert "Versions differ" in (runs / "compare" / "report.md").read_text()
    summary.unlink()
    assert "hybrid/seed_2 recorded no versions" in refused(runs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"threads": 2}, "Runs were made on 1 or 2 threads: compare no times."),
        (
            {"machine": {"processor": "another"}},
            "on different processors (another; made up): compare no times.",
        ),
    ],
)
def test_it_says_where_times_do_not_compare(change: dict[str, Any], words: str, runs: Path) -> None:
    summary = runs / "hybrid" / "seed_2" / "summary.json"
    main([str(runs)])
    assert "compare no times" not in (runs / "compare" / "report.md").read_text()
    edit(summary, lambda values: values["sessions"][0].update(change))
    main([str(runs)])
    assert words in (runs / "compare" / "report.md").read_text()


def test_settings_that_came_later_need_other_versions_to_be_allowed(
    runs: Path, refused: Refused, capsys: Any
) -> None:
    newer = runs / "hybrid" / "seed_2"
    edit(newer / "config.yaml", lambda values: values["env"].update(colour=3))
    assert "other environments: env.colour (3 in hybrid/seed_2" in refused(runs)
    main([str(runs), "--allow-versions"])
    assert "does not have: env.colour." in capsys.readouterr().out
    edit(runs / "hybrid" / "seed_3" / "config.yaml", lambda values: values["env"].update(colour=4))
    with pytest.raises(SystemExit):  # those that have it must agree
        main([str(runs), "--allow-versions"])
    assert "env.colour (" in capsys.readouterr().err


def test_refuses_a_run_whose_sessions_had_different_versions(runs: Path, refused: Refused) -> None:
    def resumed(values: dict[str, Any]) -> None:
        session = values["sessions"][0]
        values["sessions"].append({**session, "step": 500, "versions": {**session["versions"], "code": "1"}})

    edit(runs / "hybrid" / "seed_0" / "summary.json", resumed)
    assert "code 1: hybrid/seed_0" in refused(runs)


def test_fails_on_what_is_not_finite(runs: Path, refused: Refused) -> None:
    run = runs / "classical" / "seed_4"
    edit_lines(run, lambda line: line.update({"loss/1": None} if line.get("loss/1") else {}))
    line = refused(runs)
    assert "classical/seed_4 diverged: loss/1 is not finite at step 250" in line
    edit_lines(run, lambda line: line.update({"loss/1": float("nan")} if "loss/1" in line else {}))
    assert "not finite" in refused(runs)


def test_fails_on_identical_streams(runs: Path, refused: Refused) -> None:
    """The clock may differ; everything else that is equal means that one run is the other."""
    source = (runs / "hybrid" / "seed_0" / "metrics.jsonl").read_text()
    (runs / "hybrid" / "seed_1" / "metrics.jsonl").write_text(source)
    edit_lines(runs / "hybrid" / "seed_1", lambda line: line.update({"time/eval_at": 3.0}))
    line = refused(runs)
    assert "hybrid/seed_0" in line and "hybrid/seed_1" in line and "the seed has no effect" in line
    (runs / "hybrid" / "seed_1" / "metrics.jsonl").write_text(
        (runs / "classical" / "seed_1" / "metrics.jsonl").read_text()
    )
    assert "the setting that tells them apart has no effect" in refused(runs)


def test_a_ceiling_is_no_identical_stream(runs: Path) -> None:
    """500 at every evaluation of every seed: reported as a ceiling, and nothing can be told apart."""
    for path in find_runs(runs):
        edit_lines(path, lambda line: line.update({"eval/return": 500.0} if "eval/return" in line else {}))
    report = compare(runs, [read_run(path) for path in find_runs(runs)], Settings())
    assert report.ceiling is not None and "20 of 20 runs end at 500" in report.ceiling
    assert report.main is not None and report.main.verdict.word == "inconclusive"
    assert "every run of both has the same score" in report.main.verdict.reason


def test_unfinished_runs_are_left_out_and_named(
    runs: Path, refused: Refused, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs / "classical" / "seed_0"
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[: len(lines) // 2]))
    main([str(runs)])
    out = capsys.readouterr().out
    assert re.search(
        r"note: Left out: \S+classical/seed_0 is not finished \(\d+ of 6000", out.replace("\n", " ")
    )
    assert max(map(len, (line for line in out.splitlines() if " " in line and str(runs) not in line))) <= 80
    assert "classical/seed_0 is not finished" in (runs / "compare" / "report.md").read_text()
    for other in (path for agent in runs.glob("*") for path in agent.glob("seed_*") if path != run):
        shutil.rmtree(other)
    assert "is not finished" in refused(runs)


def test_names_leave_out_what_all_runs_share() -> None:
    names = ["classical+env.hide=1_3+train.prefill=128", "hybrid+lr=1e+3+train.prefill=128"]
    short, shared = short_names(names)
    assert (list(short.values()), shared) == (
        ["classical+env.hide=1_3", "hybrid+lr=1e+3"],
        ["train.prefill=128"],
    )
    assert short_names(["hybrid+a=1"]) == ({"hybrid+a=1": "hybrid"}, ["a=1"])
    assert within("hybrid+replay.diverse=qubo+replay=quantum", 40) == "hybrid+diverse=qubo+replay=quantum"
    assert within("classical+env.hide=1_3") == "classical+env.hide=1_3"
    assert within("hybrid+quantum=aer", 9) == "hybrid+q…"


def test_a_baseline_goes_by_its_short_name(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for agent in ("classical", "hybrid"):
        (runs / agent).rename(runs / f"{agent}+train.prefill=128")
    main([str(runs), "--baseline", "classical", "--agents", "classical", "hybrid"])
    out = " ".join(capsys.readouterr().out.split())
    assert "hybrid is better than classical" in out
    assert "note: All runs were made with train.prefill=128" in out


def test_refuses_broken_runs(runs: Path, refused: Refused, tmp_path: Path) -> None:
    run = runs / "classical" / "seed_0"
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:50]) + '{"step": 12')
    assert "damaged in line 51" in refused(runs)
    (run / "metrics.jsonl").unlink()
    assert "cannot be read" in refused(runs)
    (run / "metrics.jsonl").write_text("".join(lines))
    assert "choose one environment" in refused(tmp_path)
    assert "is not a folder" in refused(tmp_path / "nothing")
    assert "--baseline random is not one of classical, hybrid" in refused(runs, "--baseline", "random")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[1, 2]", "all of it"), ("3", "all of it"), ("null", "all of it"), ('"a"', "all of it"),
        ('{"eval/return": 1.0}', "a line needs a step"), ('{"step": -1}', "a line needs a step"),
        ('{"step": 1.5}', "a line needs a step"), ('{"step": null}', "a line needs a step"),
        ('{"step": "12"}', "step ('12')"), ('{"step": 1, "eval/return": true}', "eval/return (True)"),
        ('{"step": 1, "eval/return": "9"}', "eval/return ('9')"), ('{"step": 1, "a": [1]}', "a ([1])"),
        ('{"step": 1, "a": {"b": 1}}', "a ({'b': 1})"), ("[" * 100_000, "damaged in line 2"),
    ],
)  # fmt: skip
def test_lines_of_another_form_are_refused(line: str, words: str, runs: Path, refused: Refused) -> None:
    path = runs / "classical" / "seed_0" / "metrics.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, *lines[1:]]))
    said = refused(runs)
    assert words in said
    assert "line 2" in said


THREADS_IN_WORDS = {"versions": {}, "commit": None, "machine": {}, "threads": "two"}


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("summary.json", {"updates": "7"}), ("summary.json", {"seconds": None}),
        ("summary.json", {"quantum": 3}), ("summary.json", {"sessions": {"a": 1}}),
        ("summary.json", {"sessions": [1]}),
        ("summary.json", {"sessions": [THREADS_IN_WORDS]}),
        ("summary.json", {"parameters": {"classical": True}}),
        ("config.yaml", {"steps": "many"}), ("config.yaml", {"steps": 0}), ("config.yaml", {"env": "A"}),
        ("config.yaml", {"env": {"id": 3, "solved": None}}), ("config.yaml", {"world_model": None}),
        ("config.yaml", {"sequence": []}),
    ],
)  # fmt: skip
def test_settings_and_costs_of_another_form_are_refused(
    file: str, change: dict[str, Any], runs: Path, refused: Refused
) -> None:
    edit(runs / "hybrid" / "seed_1" / file, lambda values: values.update(change))
    said = refused(runs)
    assert f"hybrid/seed_1/{file} is damaged: {next(iter(change))}" in said


def test_evaluations_beyond_the_budget_are_refused(runs: Path, refused: Refused) -> None:
    for seed in range(10):
        edit(runs / "hybrid" / f"seed_{seed}" / "config.yaml", lambda values: values.update(steps=5000))
    assert "beyond its budget of 5000 steps: set steps in its config.yaml back to 6000" in refused(runs)


def test_doubled_seeds_are_named(runs: Path, refused: Refused) -> None:
    shutil.copytree(runs / "hybrid" / "seed_3", runs / "hybrid" / "seed_33")
    said = refused(runs)
    assert said.count("seed_") == 2
    assert "hybrid/seed_3," in said and "hybrid/seed_33" in said


@pytest.mark.parametrize("option", ["--margin=nan", "--margin=inf", "--margin=-1", "--threshold=nan"])
def test_impossible_options_are_refused(option: str, runs: Path, refused: Refused) -> None:
    assert option.split("=")[0] in refused(runs, option)


@pytest.mark.parametrize("option", ["--margin", "--threshold"])
def test_words_for_numbers_are_refused(option: str, runs: Path, refused: Refused) -> None:
    assert f"argument {option}: abc is not a finite number;" in refused(runs, option, "abc")


@pytest.mark.parametrize("part", ["report.write", "board.write"])
def test_a_full_disk_is_one_line(
    part: str, runs: Path, refused: Refused, full_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, name = part.split(".")
    write = getattr(getattr(compare_command, module), name)

    def on_a_full_disk(*arguments: Any) -> Any:
        with full_disk:
            return write(*arguments)

    monkeypatch.setattr(getattr(compare_command, module), name, on_a_full_disk)
    monkeypatch.setattr(threading, "excepthook", streams._of_a_thread)  # as settle does
    assert "File too large" in refused(runs)


def test_choice_of_baseline_and_candidate() -> None:
    assert choose(["classical", "hybrid", "x"], None) == ("classical", "hybrid")
    assert choose(["classical", "x"], None) == ("classical", "x")
    assert choose(["classical", "x", "y"], None) == ("classical", None)
    assert choose(["classical", "hybrid", "x"], "x") == ("x", "hybrid")
    with pytest.raises(CompareError, match="--baseline"):
        choose(["x", "y"], None)


def test_ablations_are_told_from_settings(make_config: Any) -> None:
    """Names may be anything: what counts is which part differs."""
    from dataclasses import asdict

    names = {name: overrides for name, (overrides, _) in AGENTS.items()}
    configs = {name: asdict(make_config("agent=classical", *overrides)) for name, overrides in names.items()}
    kinds = {name: classify(name, configs, "hybrid", "classical") for name in names if name != "classical"}
    expected = {
        "hybrid": ("against the baseline", "hybrid", "classical"),
        "hybrid+replay=uniform": ("hybrid − replay", "hybrid", "hybrid+replay=uniform"),
        "hybrid+sequence=gru": ("hybrid − attention", "hybrid", "hybrid+sequence=gru"),
        "hybrid+attention=softmax": ("control of attention", "hybrid", "hybrid+attention=softmax"),
        "hybrid+replay=prioritized": ("control of replay", "hybrid", "hybrid+replay=prioritized"),
        "hybrid+optimizer.solver=random": (
            "control of optimizer", "hybrid", "hybrid+optimizer.solver=random",
        ),
        "classical+optimizer=hybrid": (
            "classical + optimizer", "classical+optimizer=hybrid", "classical",
        ),
        "classical+sequence=gru_attention": (
            "classical + attention", "classical+sequence=gru_attention", "classical",
        ),
        "classical+world_model.units=72": (
            "classical, other size or settings", "hybrid", "classical+world_model.units=72",
        ),
    }  # fmt: skip
    shipped = {name: asdict(make_config(f"agent={name}")) for name in ("hybrid", "classical")}
    weights = {"hybrid": 0.01, "classical": 0.01}  # of the posterior's KL divergence, alone
    for agent, weight in weights.items():
        name = f"{agent}+weight"
        setting = f"world_model.loss_scales.representation={weight}"
        shipped[name] = asdict(make_config(f"agent={agent}", setting))
        kind = classify(name, shipped, "hybrid", "classical").kind
        assert kind == f"{agent}, other size or settings"
    presets = {
        "hybrid_with_optimizer": "hybrid, other optimizer", "classical_with_attention": "hybrid − replay",
        "classical_with_replay": "hybrid − attention",
        "classical_with_optimizer": "classical, other optimizer",
        "hybrid_softmax": "control of attention", "hybrid_uniform_attention": "control of attention",
        "hybrid_random_keys": "control of attention", "hybrid_born": "control of attention",
        "hybrid_ffm": "control of attention", "hybrid_prioritized": "control of replay",
        "hybrid_random_search": "hybrid, other optimizer", "hybrid_exact_search": "hybrid, other optimizer",
        "hybrid_scalar_search": "hybrid, other optimizer",
    }  # fmt: skip
    for name, kind in presets.items():
        shipped[name] = asdict(make_config(f"agent={name}"))
        assert classify(name, shipped, "hybrid", "classical").kind == kind
    for name, words in expected.items():
        found = kinds[name]
        assert (found.kind, found.first, found.second) == words
