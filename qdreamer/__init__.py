"""Hybrid quantum-classical reinforcement learning with world models."""

from importlib.metadata import version

__version__ = version("qdreamer")
