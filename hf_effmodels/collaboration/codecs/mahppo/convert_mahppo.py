"""Official checkpoints of MAHPPO's networks: none are published, so no file is one."""

import re

from ....hub.fit import foreign
from .configuration_mahppo import ChannelCodedConfig

IGNORED = re.compile(r"(?!)")
RESHAPED = re.compile(r"(?!)")
RULES = ()


def adapt(state_dict: dict, config: ChannelCodedConfig) -> ChannelCodedConfig:
    """No file is one of these networks.

    Raises:
        ConversionError: always.
    """
    raise foreign("No weights of it are published.")
