"""Golden values of rliable 1.2.0 (Agarwal et al. 2021): python make_rliable_golden.py > rliable.json.

rliable imports only with pandas < 3, so it is no dependency: make an environment of its own with
`python -m venv v && v/bin/pip install rliable==1.2.0 'pandas<3'`.
"""

import json

import numpy as np
from rliable import library, metrics

CASES = {  # name: (runs, tasks, shape)
    "normal": (10, 1, lambda r, s: r.normal(size=s)),
    "log_normal": (7, 1, lambda r, s: r.lognormal(size=s)),
    "ceiling": (10, 1, lambda r, s: np.minimum(500.0, r.normal(500.0, 40.0, size=s))),
    "five": (5, 1, lambda r, s: r.normal(size=s)),
    "tasks": (12, 4, lambda r, s: r.normal(size=s) + np.arange(s[1])),
    "three": (3, 2, lambda r, s: r.normal(size=s)),
}
LEVELS = np.linspace(-2.0, 4.0, 13)


def estimates(scores, statistic, reps):
    """Point estimates and ends of intervals, by name."""
    random = np.random.RandomState(0)
    return library.get_interval_estimates(scores, statistic, reps=reps, random_state=random)


def main() -> None:
    out = {}
    for seed, (name, (runs, tasks, shape)) in enumerate(CASES.items()):
        random = np.random.default_rng(seed)
        x, y = shape(random, (runs, tasks)), shape(random, (runs + seed % 3, tasks))
        levels = np.linspace(400.0, 500.0, 11) if name == "ceiling" else LEVELS
        iqm, iqm_ends = estimates({"x": x}, lambda s: np.array([metrics.aggregate_iqm(s)]), 20_000)
        better, better_ends = estimates({"x,y": (x, y)}, metrics.probability_of_improvement, 1_000)
        profiles, _ = library.create_performance_profile({"x": x}, levels, reps=10)
        out[name] = {
            "x": x.tolist(),
            "y": y.tolist(),
            "iqm": float(iqm["x"][0]),
            "iqm_interval": iqm_ends["x"][:, 0].tolist(),
            "improvement": float(better["x,y"]),
            "improvement_interval": np.ravel(better_ends["x,y"]).tolist(),
            "levels": levels.tolist(),
            "profile": profiles["x"].tolist(),
        }
    print(json.dumps(out, indent=1))


if __name__ == "__main__":
    main()
