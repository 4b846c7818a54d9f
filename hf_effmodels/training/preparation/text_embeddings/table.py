"""The command, and the table it writes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from ....hub.ids import check_place
from ...data.fingerprints import fingerprint, weights_fingerprint
from ...data.splits import find_column, load_splits, pick_split
from ...data.stored_tables import TableWriter, check_output
from ...data.text_embeddings import EMBEDDING, ID, SETTINGS_FILE
from ...run.arguments import ArgumentReader, SourceArguments
from ...run.values import check_fields
from .encoder import POOLINGS, TextEncoder, load_encoder

#: Ending of a file -> what `datasets` reads it as.
_FORMATS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


@dataclass
class TextEmbeddingArguments(SourceArguments):
    """Which texts, by what, and where to write their embeddings."""

    dataset: str | None = field(
        default=None,
        metadata={
            "missing": "name a .csv, .json, .jsonl or .parquet file, or a data set on the Hub.",
            "help": "The texts: a .csv, .json, .jsonl or .parquet file with a column of ids and one of texts, or such "
            "a data set on the Hub or in a folder.",
        },
    )
    split: str = field(default="train", metadata={"help": "Split of the data set."})
    id_column: str = field(default="id", metadata={"help": "Column of the ids, each of them once."})
    text_column: str | None = field(
        default=None, metadata={"help": "Column of the texts; by default text or caption."}
    )
    encoder: str | None = field(
        default=None,
        metadata={
            "missing": "name a text encoder in a folder or on the Hub, such as openai/clip-vit-large-patch14.",
            "help": "A text encoder of transformers: CLIP, SigLIP, one of their text towers, BERT, T5, ...",
        },
    )
    encoder_revision: str | None = field(
        default=None, metadata={"help": "Branch, tag or commit of the encoder on the Hub."}
    )
    encoder_dtype: Literal["auto", "float32", "bfloat16", "float16"] = field(
        default="auto", metadata={"help": "Type of its weights; auto is the one they are stored in."}
    )
    pooling: str = field(
        default="auto",
        metadata={
            "choices": [*POOLINGS],
            "help": "What of the encoder is kept: its projection into the space of images and texts, the first token, "
            "the mean of all, or the last; auto: the projection where there is one, else the mean.",
        },
    )
    normalize: bool = field(default=True, metadata={"help": "Store unit vectors, which the losses expect."})
    max_length: int | None = field(
        default=None, metadata={"accepts": "[1, inf)", "help": "Tokens of a text; the encoder's own by default."}
    )
    output: str | None = field(
        default=None,
        metadata={"missing": "name a folder for the table.", "help": "Folder; --text_embeddings takes it."},
    )
    precision: Literal["float16", "float32"] = field(default="float16", metadata={"help": "Of the embeddings."})
    batch_size: int = field(default=64, metadata={"accepts": "[1, inf)", "help": "Texts at a time."})
    shard_size: int = field(
        default=16384, metadata={"accepts": "[1, inf)", "help": "Texts in a file; a kill loses at most so many."}
    )
    token: str | None = field(default=None, metadata={"help": "Token for gated or private repositories on the Hub."})
    trust_remote_code: bool = field(default=False, metadata={"help": "Run model code that lies on the Hub."})

    def __post_init__(self):
        check_fields(self)
        super().__post_init__()


#: What the command line is read into.
ARGUMENTS = (TextEmbeddingArguments,)


def main(argv: Sequence[str]) -> Path:
    """Write the table as the arguments say.

    Returns:
        The folder of the table.

    Raises:
        ValueError, OSError, ImportError: wrong input, before anything is written.
    """
    (args,) = ArgumentReader(list(argv)).read(*ARGUMENTS)
    check_place("--encoder", args.encoder, revision=("--encoder_revision", args.encoder_revision))
    ids, texts = _read_texts(args)
    encoder = load_encoder(
        args.encoder,
        revision=args.encoder_revision,
        pooling=args.pooling,
        max_length=args.max_length,
        dtype=args.encoder_dtype,
        token=args.token,
        trust_remote_code=args.trust_remote_code,
    )
    settings = {
        "encoder": args.encoder,
        "revision": args.encoder_revision,
        **weights_fingerprint(encoder.model),
        "pooling": encoder.pooling,
        "max_length": encoder.max_length,
        "normalize": args.normalize,
        "precision": args.precision,
        "shard_size": args.shard_size,
        "texts": len(texts),
        "content": fingerprint(list(zip(ids, texts, strict=True)))[:16],
    }
    check_output(Path(args.output), settings, SETTINGS_FILE)
    return _write(args, ids, texts, encoder, settings)


def _read_texts(args: TextEmbeddingArguments) -> tuple[list[str], list[str]]:
    """Ids and texts, checked."""
    path = Path(args.dataset)
    options = {}
    if path.suffix.lower() in _FORMATS:
        if not path.is_file():
            raise OSError(f"--dataset: there is no file {args.dataset!r}.")
        options = {"name": _FORMATS[path.suffix.lower()], "data_files": args.dataset}
    rows = pick_split(load_splits(args, args.token, **options), "--split", args.split)
    id_column = find_column("id_column", args.id_column, [], (), rows.column_names)
    text_column = find_column("text_column", args.text_column, [], ("text", "caption"), rows.column_names)
    ids, texts = rows[id_column][:], rows[text_column][:]
    for row, (name, text) in enumerate(zip(ids, texts, strict=True)):
        if name is None or not isinstance(text, str) or not text.strip():
            column, value = (id_column, name) if name is None else (text_column, text)
            raise ValueError(f"row {row} of {args.dataset}: column {column!r} holds {value!r}, accepted is a text.")
    ids = [str(name) for name in ids]
    if not ids:
        raise ValueError(f"--dataset: {args.dataset}/{args.split} is empty.")
    seen: dict[str, int] = {}
    for row, name in enumerate(ids):
        if seen.setdefault(name, row) != row:
            raise ValueError(f"--id_column: rows {seen[name]} and {row} of {args.dataset} have the same id, {name!r}.")
    return ids, texts


def _write(args: TextEmbeddingArguments, ids: list, texts: list, encoder: TextEncoder, settings: dict) -> Path:
    import pyarrow as pa

    if torch.accelerator.is_available():
        encoder.model.to(torch.accelerator.current_accelerator())
    table = TableWriter(Path(args.output), len(ids), args.shard_size, settings, SETTINGS_FILE)
    missing = table.missing()
    with tqdm(total=len(ids), unit="text", disable=None) as progress:
        progress.update(len(ids) - sum(map(len, missing.values())))
        for name, rows in missing.items():
            found = []
            for start in range(rows.start, rows.stop, args.batch_size):
                batch = texts[start : min(start + args.batch_size, rows.stop)]
                vectors = encoder(batch).float()
                found.append((F.normalize(vectors, dim=-1) if args.normalize else vectors).cpu())
                progress.update(len(batch))
            vectors = torch.cat(found).numpy().astype(args.precision)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])
            table.write(name, {ID: pa.array(ids[rows.start : rows.stop]), EMBEDDING: flat})
    return table.finish()
