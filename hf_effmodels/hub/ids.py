"""What is an id on the Hub, and what a place on this machine: `_places`, which is there without the rest of `hub`."""

from .._places import PATIENCE, check_place, check_repo_id, first_line, hub_id, is_reader, reading

__all__ = ["PATIENCE", "check_place", "check_repo_id", "first_line", "hub_id", "is_reader", "reading"]
