"""The rows of a data set as inputs: whatever `datasets` reads, and what comes with libraries."""

from .inputs import Input, Numbered


def load_rows(arguments, takes: str) -> Numbered:
    """All rows of one split of a data set, called `split:row`.

    Args:
        arguments: with `dataset`, `dataset_config`, `dataset_revision`, `data_files`, `data_dir`, `split` (None for
            the only one), `column` (None for the only one of its type) and `token`.
        takes: "image" or "text".

    Raises:
        ValueError: there is no such split or column, or it is not clear which is meant, or there are no rows.
        OSError: a data set that cannot be found, reached or read. ImportError: without the library datasets.
    """
    names = ("dataset", "dataset_config", "dataset_revision", "data_files", "data_dir")
    source = {name: getattr(arguments, name) for name in names}
    try:
        return (_of_images if takes == "image" else _of_texts)(source, arguments)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}. --dataset needs an extra: pip install 'hf_effmodels[train]'.") from error


def _of_images(source: dict, arguments) -> Numbered:
    from ..training.data.pictures import PictureArguments, load_picture_split

    args = PictureArguments(**source, image_column=arguments.column)
    pictures = load_picture_split(args, arguments.split, arguments.token)
    split, width = pictures.split.removeprefix(f"{args.dataset}/"), len(str(len(pictures) - 1))

    def stem(row: int) -> str:
        return f"{split}-{row:0{width}d}"

    def get(row: int) -> Input:
        return Input(f"{split}:{row}", pictures.images[row], stem(row))

    return Numbered(len(pictures), get, stem, pictures.facts)


def _of_texts(source: dict, arguments) -> Numbered:
    from ..training.data.fingerprints import facts
    from ..training.data.text.arguments import TextArguments
    from ..training.data.text.documents import load_text_split

    args = TextArguments(**source, text_column=arguments.column, text_unit="line")
    split, texts = load_text_split(args, arguments.split, arguments.token)

    def get(row: int) -> Input:
        return Input(f"{split}:{row}", texts[row]["text"])

    return Numbered(len(texts), get, str, lambda: facts(len(texts), texts=lambda row: texts[row]["text"]))
