"""What a trained model answers: pictures by each task's prompt, and whether the prompt decides what is done."""

from collections.abc import Sequence

import numpy as np
import torch

from ....pipelines.delvm.pipeline_delvm import DelvmPipeline
from ...data.token_pairs import DrawnSentences


@torch.no_grad()
def answer(pipe: DelvmPipeline, sentences: DrawnSentences, count: int) -> tuple[dict[str, float], list[list]]:
    """Answer `count` pictures of each task, the likeliest token at each place.

    Against the right answer as the tokenizer decodes it: `<task>_answer_accuracy`, the share of its tokens;
    `<task>_psnr` in dB; `<task>_iou` of the pixels that are brighter than one half in a colour, the mean over
    pictures. And `prompt_followed`: the share of answers, of pictures that every task has, that are nearer to what
    the task of the prompt asks for than to what the others do, each picture with the prompt of each task.

    Returns:
        The measures, and rows of images to show: the picture, and for each task the answer to its prompt and the right
        one.
    """
    tasks, tokenizer = sentences.tasks, pipe.image_tokenizer
    measured, answers = {}, {}
    for number, task in enumerate(tasks):
        chosen = np.linspace(0, len(task) - 1, min(count, len(task))).round().astype(int)
        first = int(sentences.ends[number] - len(task))
        ids = _answers(pipe, sentences, first + chosen, number, task.images[chosen])
        right = torch.from_numpy(task.answers[chosen]).to(ids)
        found, expected = (tokenizer.decode(part, "pt").float() for part in (ids, right))
        errors = (found - expected).square().flatten(1).mean(1)
        masks = [image.amax(1) > 0.5 for image in (found, expected)]  # in any colour
        union = (masks[0] | masks[1]).flatten(1).sum(1)
        shared = (masks[0] & masks[1]).flatten(1).sum(1)
        measured[f"{task.task}_answer_accuracy"] = float((ids == right).float().mean())
        measured[f"{task.task}_psnr"] = float((-10 * errors.clamp_min(1e-10).log10()).mean())
        measured[f"{task.task}_iou"] = float(torch.where(union > 0, shared / union.clamp_min(1), 1.0).mean())
    shared_names = [n for n in tasks[0].names if all(n in set(task.names) for task in tasks[1:])][:count]
    rows: list[list] = []
    if len(tasks) > 1 and shared_names:
        places = [[list(task.names).index(name) for name in shared_names] for task in tasks]
        images = tasks[0].images[places[0]]
        right = [
            tokenizer.decode(torch.from_numpy(t.answers[p]).long().to(pipe.device), "pt").float()
            for t, p in zip(tasks, places, strict=True)
        ]
        followed = []
        for number in range(len(tasks)):
            answers[number] = tokenizer.decode(
                _answers(pipe, sentences, np.array(places[0]), number, images), "pt"
            ).float()
            distances = torch.stack([(answers[number] - other).square().flatten(1).mean(1) for other in right])
            followed.append(distances.argmin(0) == number)
        measured["prompt_followed"] = float(torch.cat(followed).float().mean())
        pictures = tokenizer.decode(torch.from_numpy(images).long().to(pipe.device), "pt").float()
        for row in range(len(images)):
            shown = [pictures[row]]
            for number in range(len(tasks)):
                shown += [answers[number][row], right[number][row]]
            rows.append([part.clamp(0, 1).permute(1, 2, 0).cpu().numpy() for part in shown])
    return measured, rows


def _answers(
    pipe: DelvmPipeline, sentences: DrawnSentences, places: Sequence[int], task: int, images: np.ndarray
) -> torch.Tensor:
    """Ids of the answers to `images`, by prompts of `task`."""
    parts = []
    for first in range(0, len(images), 16):
        prompts = np.stack([sentences.prompt(int(place), task=task) for place in places[first : first + 16]])
        prompts, queries = (
            torch.from_numpy(part.astype(np.int64)).to(pipe.device) for part in (prompts, images[first : first + 16])
        )
        parts.append(pipe.generate_ids(prompts, queries, pipe.image_tokenizer.tokens_per_image))
    return torch.cat(parts)
