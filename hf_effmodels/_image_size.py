"""What a network says of pixels, told of the size of the images that somebody asked for."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def blaming_image_size(
    size: int | tuple[int, int] | None, *, is_asked_for: bool = False, argument: str = "image_size"
) -> Iterator[None]:
    """Within it a network is tried with images of a size: what it says of pixels is said of `image_size`.

    Args:
        size: side, or (height, width); None for the model's own.
        is_asked_for: it is another than the network's own, of which then all is said that goes wrong: networks of
            others have words of their own.
        argument: what asks for it.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        of, colon, said = str(error).partition(": ")
        if not colon or of != "pixel_values":
            if not is_asked_for:
                raise
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        given = "" if size is None else f"got {'×'.join(map(str, [size] * 2 if isinstance(size, int) else size))}; "
        raise ValueError(f"{argument}: {given}{said}") from error
