"""Four experts."""

from .decoders import DECODER

TINY = {"parameternet_moe": {**DECODER, "num_local_experts": 4}}
