"""Several devices share radio channels to a server: where does each cut its network, on which channel, how loud?"""

import importlib

#: Public name -> its module; loaded when it is asked for: `-h` of the commands shall not wait for torch.
_PLACES = {
    "OffloadingEnvironment": "environment",
    "OffloadingSettings": "settings",
    "OffloadingActor": "policy",
    "OffloadingCritic": "policy",
    "PROFILES": "profiles",
    "SplitProfile": "profiles",
}

__all__ = list(_PLACES)


def __getattr__(name: str):
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
