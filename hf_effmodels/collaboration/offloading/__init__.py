"""Several devices share radio channels to a server: where does each cut its network, on which channel, how loud?"""

from .environment import OffloadingEnvironment, OffloadingSettings
from .policy import OffloadingActor, OffloadingCritic
from .profiles import PROFILES, SplitProfile

__all__ = [
    "PROFILES",
    "OffloadingActor",
    "OffloadingCritic",
    "OffloadingEnvironment",
    "OffloadingSettings",
    "SplitProfile",
]
