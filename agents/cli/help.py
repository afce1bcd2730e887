"""What `train.py --help` prints."""

from qdreamer.agents.cli.overrides import groups

TEXT = """\
QDreamer: train a world-model agent on a Gymnasium environment.

  python train.py env=CartPole                        the main job, minutes on two CPU cores
  python train.py env=CartPole agent=classical        the baseline: nothing quantum
  python train.py env=Pendulum seed=3 steps=20000     another task, seed and length
  python train.py env=gym env.id=FrozenLake-v1        any registered Gymnasium environment
  python train.py env=CartPole env.hide=[1,3]         velocities hidden
  python train.py env=CartPole sequence=gru           one part swapped back: no attention
  python train.py env=CartPole replay=prioritized     … classical replay
  python train.py env=CartPole optimizer=laprop       … no search with QAOA
  python train.py env=CartPole quantum=aer            circuits on another backend
  python train.py -m agent=classical,hybrid seed=0,1,2  a sweep
  python train.py -m 'seed=range(0,10)' launcher.jobs=4   … four runs at a time (launcher=slurm: a cluster)
  python train.py resume=runs/CartPole/hybrid/seed_0 steps=20000
  python train.py --cfg job                           every setting and its value (--resolve: as it comes out)
  tensorboard --logdir runs                           watch the curves

Installed, qdreamer train … does from any folder what python train.py … does in the repository.

Groups and their choices (group=choice):

{groups}

Settings are written key=value, as in optimizer.lr=3e-4. Each run is kept in
runs/<env>/<agent>[+settings]/seed_<k>; the same command again resumes it, and with --repair
also when a file of it was damaged."""


def help_text() -> str:
    """Return the text with every group's choices, those of installed third parties included."""
    return TEXT.format(groups="\n".join(f"{group}: {', '.join(names)}" for group, names in groups().items()))
