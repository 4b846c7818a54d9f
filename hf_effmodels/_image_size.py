"""What a network says of pixels, told of the size of the images that somebody asked for."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blaming_image_size(size: int | tuple[int, int] | None) -> Iterator[None]:
    """Within it a network is tried with images of a size: what it says of pixels is said of `image_size`.

    Args:
        size: side, or (height, width); None for the model's own.
    """
    try:
        yield
    except ValueError as error:
        argument, colon, said = str(error).partition(": ")
        if not colon or argument != "pixel_values":
            raise
        given = "" if size is None else f"got {'×'.join(map(str, [size] * 2 if isinstance(size, int) else size))}; "
        raise ValueError(f"image_size: {given}{said}") from error
