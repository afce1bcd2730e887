"""The outside world: one factory, wrappers, vector environments, episode seeds, tasks of our own.

Importing it registers these tasks with Gymnasium.
"""

from gymnasium.envs.registration import register

register("qdreamer/MountainCarRepeated-v0", entry_point="qdreamer.envs.repeated:mountain_car")
register("qdreamer/Pairs-v0", entry_point="qdreamer.envs.tasks.pairs:Pairs")
register("qdreamer/Cliffwalk-v0", entry_point="qdreamer.envs.tasks.cliffwalk:Cliffwalk")
register("qdreamer/TMaze-v0", entry_point="qdreamer.envs.tasks.tmaze:TMaze")
register("qdreamer/RepeatPrevious-v0", entry_point="qdreamer.envs.tasks.repeat_previous:RepeatPrevious")
register("CrafterReward-v1", entry_point="qdreamer.envs.suites.crafter:Crafter")
register("CrafterNoReward-v1", entry_point="qdreamer.envs.suites.crafter:Crafter", kwargs={"reward": False})
