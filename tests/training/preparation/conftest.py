"""The pictures and the table of the super-resolution tests."""

from ..tasks.super_resolution.conftest import pictures, table  # noqa: F401
