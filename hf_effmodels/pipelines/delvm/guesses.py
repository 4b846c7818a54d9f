"""Guesses of an answer's ids: a step of the transformer checks several of them, where it would compute one id.

What is done to an image is mostly what was done to the images of the prompt: where an image has an id, the answer has
the id that stood beside it there. A guess that the transformer would not have chosen is dropped, so the answer stays
what it is. The file stands alone: it is copied beside the weights when a pipeline is saved.
"""

from collections.abc import Callable, Sequence

import torch

#: Guesses in a step at first, and at most: each costs little beside reading the weights.
_FIRST, _MOST = 4, 32


class Guesses:
    """What an answer will be, by the pairs of the prompt and by what there is of it so far.

    Args:
        pairs: ids of images and their answers, as many of each.
        query: those of the image that is answered.
    """

    def __init__(self, pairs: Sequence[tuple[Sequence[int], Sequence[int]]], query: Sequence[int]):
        self.query, self._seen = list(query), {}
        for image, answer in pairs:
            for place in range(len(answer)):
                self._learn(image[place], answer, place)

    def _learn(self, of_image: int, answer: Sequence[int], place: int) -> None:
        """Remember the id at a place: after the one before it, and wherever the image has this id."""
        before = answer[place - 1] if place else None
        for context in ((of_image, before), of_image):
            self._seen[context] = answer[place]

    def learn(self, answer: Sequence[int], place: int) -> None:
        """Remember the id at a place of the answer itself."""
        if place < len(self.query):
            self._learn(self.query[place], answer, place)

    def after(self, answer: Sequence[int], count: int) -> list[int]:
        """At most `count` ids that may follow; fewer where nothing is known, or at the end of the image."""
        found: list[int] = []
        before = answer[-1] if answer else None
        for of_image in self.query[len(answer) : len(answer) + count]:
            guess = self._seen.get((of_image, before), self._seen.get(of_image))
            if guess is None:
                break
            found.append(guess)
            before = guess
        return found


def likeliest_ids(
    first: int,
    number: int,
    likeliest: Callable[[torch.Tensor, int], torch.Tensor],
    guesses: Guesses,
    found_more: Callable[[int], object] = lambda count: None,
) -> list[int]:
    """`number` ids, each the likeliest after those before it.

    Args:
        first: the first of them.
        likeliest: (1, count) ids and how many of the answer stand before them -> (count,), for each the one after it.
        guesses: which ids to try.
        found_more: told after each step how many more there are.
    """
    found, ahead = [first], _FIRST
    guesses.learn(found, 0)
    while len(found) < number:
        tried = guesses.after(found, min(ahead, number - len(found) - 1))
        ids = likeliest(torch.tensor([[found[-1], *tried]]), len(found) - 1).tolist()
        right = next((n for n, guess in enumerate(tried) if guess != ids[n]), len(tried))
        # Where none was tried, whether the next one would have been right says if it is worth trying again.
        would_be = tried or guesses.after(found, 1)
        ahead = min(2 * max(ahead, 1), _MOST) if would_be[:1] == ids[:1] and right == len(tried) else right
        for each in ids[: right + 1]:
            found.append(each)
            guesses.learn(found, len(found) - 1)
        found_more(right + 1)
    return found
