"""A classifier in two halves, on two machines."""

from .client import SplitClassifier, SplitOutput
from .halves import SplitHead, SplitTail, split
from .points import SplitPoint, split_points

__all__ = ["SplitClassifier", "SplitHead", "SplitOutput", "SplitPoint", "SplitTail", "split", "split_points"]
