"""What is wrong with one sample."""


class SampleError(ValueError):
    """A sample that cannot be used: somebody's data, and no mistake in the code. Its text says where the sample is."""


def of_sample(error: Exception, where: str) -> Exception:
    """The error with the sample's place before it: an OSError stays one, any other becomes a `SampleError`."""
    kind = type(error) if isinstance(error, OSError) else SampleError
    return kind(f"{where}: {error}")
