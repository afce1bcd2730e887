"""Every name that a run logs, by pattern, with what it means: docs/tags.md is this table.

`python -m qdreamer.agents.reporting.tags` prints the page.
"""

import re

PAGE = """# What a run logs

Names of `metrics.jsonl`, which are TensorBoard's tags as well. `NAME` stands for a part of a name that
depends on the run. All but what begins with `time/` is the same in every run of the same settings on the
same machine. This page is generated: `python -m qdreamer.agents.reporting.tags > docs/tags.md`.

| name | what it is |
|---|---|
"""

TAGS = {
    "step": "environment steps so far",
    "updates": "updates so far",
    "train/return": "mean return of training episodes that ended since the last line",
    "train/length": "their length in steps",
    "eval/return": "mean return of evaluation episodes, on seeds that training never saw",
    "eval/return_low": "lower end of its 95 % interval, bootstrap over episodes",
    "eval/return_high": "upper end",
    "eval/return_min": "worst episode",
    "eval/return_max": "best episode",
    "eval/length": "mean length of evaluation episodes",
    "overfitting/held_out": "world-model loss (observations, prior), scaled, on evaluation episodes",
    "overfitting/replay": "the same on what is learned from, of the last line",
    "eval/video": "an evaluation episode (picture)",
    "open_loop/traces": "predicted beside true observations (picture)",
    "open_loop/NAME": "predicted beside true images of an entry (picture)",
    "attention/maps": "what each head attended to in an evaluation episode (picture)",
    "replay/priority": "weights of sequences in the buffer (histogram)",
    "replay/weight": "importance weights of the draws (histogram)",
    "open_loop/mse_NAME": "squared error of observations so many steps ahead, in deviations",
    "open_loop/persistence_NAME": "the same for the guess that nothing changes",
    "loss/observation": "error of the observation, summed over its numbers; unscaled like all losses",
    "loss/observation/NAME": "the same of each entry, where there are several",
    "loss/reward": "cross-entropy of the reward over 255 bins",
    "loss/continue": "cross-entropy of whether the episode goes on",
    "loss/dynamics": "KL that teaches the prior, above free nats",
    "loss/representation": "KL that teaches the posterior, above free nats",
    "loss/policy": "the actor's, REINFORCE with entropy",
    "loss/value": "the critic's, on imagined states",
    "loss/replay_value": "the critic's, on replayed states",
    "world_model/kl": "KL of posterior and prior before free nats, in nats",
    "world_model/kl_is_free": "share of steps whose KL is below free nats",
    "world_model/posterior_entropy": "entropy of the latents once the observation is seen, in nats",
    "world_model/prior_entropy": "entropy of the latents before",
    "imagination/reward": "mean imagined reward",
    "imagination/weight": "mean probability that the end of the imagination is reached, discounted",
    "actor/entropy": "entropy of the policy, in nats",
    "actor/advantage_abs": "mean size of normalised advantages",
    "critic/value": "mean value of imagined states",
    "critic/return": "mean λ-return",
    "critic/return_spread": "P95 − P5 of λ-returns, by which advantages are divided",
    "gradient_norm/NAME": "norm of a part's gradient before clipping",
    "gradient_norm/group/NAME": "the same of a group of `optimizer.groups`",
    "optimizer/imbalance": "share of the last 100 updates in which two groups' gradients differ ten times",
    "attention/entropy/NAME": "entropy of a head's weights, in nats",
    "attention/effective_keys/NAME": "1/Σw²: how many steps matter to a head",
    "attention/age/NAME": "mean age of what a head attends to, in steps",
    "attention/beyond_batch/NAME": "share of a head's attention on steps before the replayed sequence",
    "attention/gradient_norm/NAME": "norm of the gradient of a head's projections",
    "attention/photons/NAME": "sharpness that a coherent head learned: photons of its state",
    "attention/memory_steps/NAME": "how many steps a fading head remembers",
    "replay/rows": "rows in the buffer",
    "replay/coverage": "share of them that were replayed at least once",
    "replay/entropy": "entropy of the draws; 1 is uniform",
    "replay/diversity": "mean distance between the mean features of sequences that are learned from together",
    "replay/effective_sample_size": "1 if all importance weights are equal",
    "replay/weight_mean": "mean importance weight",
    "replay/weight_max": "largest importance weight",
    "replay/beta": "exponent of the importance weights",
    "replay/NAME": "other figures of a sampler",
    "pool/NAME": "the pool of measured shots: its age, size and distance to the target",
    "optimizer/searches": "searches for a direction since the last line",
    "optimizer/tried": "steps that were tried",
    "optimizer/failed": "searches without an outcome, because a loss was not finite",
    "optimizer/late": "results that came too late",
    "optimizer/accepted": "share of tried steps that were taken",
    "optimizer/age": "updates between the problem and its result",
    "optimizer/decrease_base": "decrease of the loss on fresh data by the base's step",
    "optimizer/decrease_chosen": "the same by the step that was found",
    "optimizer/decrease_taken": "the same by the step that was taken",
    "optimizer/off_diagonal": "share of ‖curvature‖² off the diagonal, rows of earlier searches included",
    "optimizer/predicted_base": "what the quadratic model predicts for the base's step",
    "optimizer/predicted_chosen": "for the step that was found",
    "optimizer/approximation_ratio": "energy of the bits that were found, 1 the best, 0 the worst there is",
    "optimizer/approximation_ratio_mean": "the same of the mean energy of all samples",
    "optimizer/rate/NAME": "factor that searches have steered a block's learning rate to (`optimizer.steer`)",
    "optimizer/multiplier/NAME": "multiplier of a block's step",
    "optimizer/NAME": "circuit (qubits, depth, gates), jobs, shots and what is left of the budget",
    "quantum/NAME": "jobs of circuits: counts and costs",
    "time/seconds": "wall-clock seconds since the run began",
    "time/eval_at": "of them, when the evaluation's result was there",
    "time/search": "seconds in updates that searched",
    "time/optimizer_NAME": "seconds of the search's circuits, and of waiting in queues",
    "time/quantum_NAME": "seconds of circuits by kind",
    "time/NAME": "seconds of a part of the work since the last line",
}


def meaning(tag: str) -> str | None:
    """Return what a name means, by the longest pattern that fits; None for a name that no run logs."""
    fits = [pattern for pattern in TAGS if re.fullmatch(re.escape(pattern).replace("NAME", ".+"), tag)]
    return TAGS[max(fits, key=len)] if fits else None


def page() -> str:
    """Return docs/tags.md."""
    return PAGE + "\n".join(f"| `{pattern}` | {text} |" for pattern, text in TAGS.items()) + "\n"


if __name__ == "__main__":
    print(page(), end="")
