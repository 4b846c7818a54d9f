"""Embeddings of texts, such as descriptions of pictures, by any text encoder: a table that is looked up by ids.

    hf-effmodels prepare text-embeddings --dataset captions.csv --id_column file --text_column caption \\
        --encoder openai/clip-vit-large-patch14 --output outputs/captions

What a kill has left goes on where it was.
"""

from .table import main

__all__ = ["main"]
