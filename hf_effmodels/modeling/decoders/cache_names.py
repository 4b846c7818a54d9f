"""The key-value cache under both of its names: `past_key_values` up to transformers 5.23, `cache` since.

Models here take either name from their caller, whichever version is installed, and hand it on under the one that the
installed version knows.
"""

from dataclasses import fields
from typing import Any

from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

CACHE = "cache" if any(field.name == "cache" for field in fields(BaseModelOutputWithPast)) else "past_key_values"
"""What the installed version calls the cache: an argument of its models and a field of their outputs."""


def given_cache(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache, by whichever name it was given.

    Raises:
        ValueError: two different caches were given.
    """
    if cache is not None and past_key_values is not None and cache is not past_key_values:
        raise ValueError("cache: got another cache as past_key_values; they are two names of one argument, give one.")
    return past_key_values if cache is None else cache


def cache_of(outputs: Any) -> Cache | None:
    """The cache in the outputs of any decoder of transformers; None where there is none."""
    return getattr(outputs, CACHE, None)
