"""Label maps for ReLabel: what a strong classifier says of each place of every training picture.

    hf-effmodels prepare label-maps --config relabel/imagenet --teacher org/strong --output outputs/maps
    hf-effmodels train --config relabel/imagenet --label_maps outputs/maps

What a kill has left goes on where it was.
"""

from .table import main

__all__ = ["main"]
