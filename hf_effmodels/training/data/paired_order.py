"""The order of samples of TinyViT's training with mixed pairs (https://arxiv.org/abs/2207.10666)."""

import torch


def paired_order(
    length: int, *, epoch: int, replicas: int = 1, rank: int = 0, pair: bool = True, seed: int = 0
) -> list[int]:
    """Numbers of the samples that process `rank` of `replicas` reads in an epoch.

    The permutation of an epoch is filled up from its beginning until it divides, and dealt to the processes: one by
    one, or by pairs of neighbours. Pairs do not depend on the number of processes: what is mixed with what, and the
    stored labels of the mixture, stay the same.

    Args:
        length: number of samples.
        epoch, seed: their sum seeds the permutation.
    """
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
    together = 2 if pair else 1
    while len(order) % (together * replicas):
        order += order[: together * replicas - len(order) % (together * replicas)]
    groups = [order[start : start + together] for start in range(0, len(order), together)]
    return [number for group in groups[rank::replicas] for number in group]
