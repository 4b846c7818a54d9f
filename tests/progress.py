"""A stand-in for `tqdm` that tells what its bars were made with and how they moved."""


class Bars:
    def __init__(self):
        self.made: list[dict] = []
        self.moved: list[int] = []

    def __call__(self, **options):
        self.made.append(options)
        return self

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    def update(self, count: int = 1) -> None:
        self.moved.append(count)
