"""Both sides of the seams: the service's platform, and the assets' definitions."""

from tests.assets.conftest import definitions
from tests.serving.conftest import learnt, platform

__all__ = ["definitions", "learnt", "platform"]
