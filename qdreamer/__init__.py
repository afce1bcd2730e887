"""Hybrid quantum-classical reinforcement learning with world models."""

from importlib.metadata import version
from pkgutil import extend_path

# In a checkout this folder comes before the installed package, which knows where the rooms lie.
__path__ = extend_path(__path__, __name__)
__version__ = version("qdreamer")
