"""Networks that hold smaller ones: sub-networks whose weights are the leading part of the larger one's."""
