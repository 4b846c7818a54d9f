"""What losses gather from other processes, whose part is stood in for here by known numbers."""

from types import SimpleNamespace

import pytest
import torch

from hf_effmodels.training.losses import contrastive_representation as module
from hf_effmodels.training.losses import text_alignment
from hf_effmodels.training.losses.contrastive_representation import ContrastiveRepresentationLoss, CrdLoss
from hf_effmodels.training.losses.interface import Batch, FeatureSpec, Networks
from hf_effmodels.training.losses.text_alignment import TextAlignmentLoss


class Others:
    """`torch.distributed` of two processes, of which this one is the first."""

    def __init__(self, theirs, rank=0, size=2):
        self.theirs, self.rank, self.size, self.sent = theirs, rank, size, []

    def is_available(self):
        return True

    def is_initialized(self):
        return True

    def get_world_size(self):
        return self.size

    def get_rank(self):
        return self.rank

    def all_reduce(self, tensor):
        self.sent.append(tensor.clone())
        tensor += self.theirs

    def all_gather_object(self, everyone, own):
        assert everyone == [None, None]
        self.sent.append(own)
        everyone[:] = [own, self.theirs]

    def all_gather(self, parts, own):
        """What the others say, in the order of the calls, padded to the size of one's own."""
        said = self.theirs[len(self.sent)]
        self.sent.append(own)
        for rank, part in enumerate(parts):
            part.copy_(own if rank == self.rank else said)


def embeddings(rows):
    return torch.nn.functional.normalize(torch.randn(rows, 2), dim=1)


@pytest.mark.parametrize("training", [True, False])
def test_normalizers_are_those_of_the_first_batch_of_all_processes(training, monkeypatch):
    """The mean of a score times the number of samples; a process in evaluation mode has none to count."""
    loss = ContrastiveRepresentationLoss(3, 4, 10, embed_dim=2).train(training)
    # The other process: 6 scores that sum to 3 and to 12.
    others = Others(torch.tensor([3.0, 12.0, 6.0, 6.0], dtype=torch.float64))
    monkeypatch.setattr(module, "dist", others)
    loss._set_normalizers(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 5.0]]))
    expected = [10 * (3 + 3) / 8, 10 * (8 + 12) / 8] if training else [10 * 3 / 6, 10 * 12 / 6]
    assert loss.normalizers.tolist() == pytest.approx(expected)
    assert others.sent[0].tolist() == ([3, 8, 2, 2] if training else [0] * 4)
    loss._set_normalizers(torch.tensor([[100.0]]), torch.tensor([[100.0]]))
    assert loss.normalizers.tolist() == pytest.approx(expected) and len(others.sent) == 1, "they stay"


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("theirs", [True, False])
def test_memories_take_the_embeddings_of_all_processes(own, theirs, monkeypatch):
    loss = CrdLoss(embed_dim=2)
    moved = []
    loss.contrast = SimpleNamespace(student_memory=torch.zeros(5, 2), move=lambda *given: moved.append(given))
    here = [(torch.tensor([n]), embeddings(1), embeddings(1)) for n in (4, 1)] if own else []
    there = [torch.tensor([0, 3]), embeddings(2), embeddings(2)] if theirs else None
    loss._moves = list(here)
    monkeypatch.setattr(module, "dist", Others(there))
    loss.end_step()
    whole = [*here, *([there] if theirs else [])]
    if not whole:
        assert not moved
    else:
        ((index, student, teacher),) = moved
        assert index.tolist() == [4, 1] * own + [0, 3] * theirs
        assert torch.equal(student, torch.cat([part[1] for part in whole]))
        assert torch.equal(teacher, torch.cat([part[2] for part in whole]))
    assert not loss._moves
    loss.end_step()  # a step without samples of one's own
    assert len(moved) == theirs + bool(whole)


@pytest.mark.parametrize("training", [True, False])
def test_a_sample_that_is_repeated_for_want_of_others_moves_no_memory(training):
    """A process that has none left takes part with one that was there before, in evaluation mode."""
    loss = CrdLoss(num_negatives=3, embed_dim=2)
    widths = {"pooled": FeatureSpec((4,), "vector")}
    loss.build(Networks(widths, widths, 2, labels=torch.tensor([0, 0, 1, 1, 1])))
    before = loss.contrast.student_memory.clone()
    batch = Batch(index=torch.tensor([3]), seeds=torch.tensor([5]))
    loss.train(training)(*({"pooled": torch.randn(1, 4)} for _ in "ab"), batch)
    loss.end_step()
    moved = (loss.contrast.student_memory != before).any(1)
    assert moved.tolist() == [False, False, False, training, False]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("true_gradient", [True, False])
def test_rows_of_batches_of_several_sizes_are_gathered_in_the_order_of_the_processes(rank, true_gradient, monkeypatch):
    """Two rows here, one there, filled up for the way. The gradient reaches the own ones, for three rows of which two
    are here with a factor of 3/2."""
    own, there = torch.randn(2, 2, requires_grad=True), torch.tensor([[7.0, 8.0]])
    others = Others([torch.tensor([1]), torch.cat([there, torch.zeros(1, 2)])], rank)
    monkeypatch.setattr(text_alignment, "dist", others)
    found = text_alignment.gather_rows(own, true_gradient=true_gradient)
    assert [value.tolist() for value in others.sent] == [[2], own.tolist()]
    assert torch.equal(found, torch.cat([own, there] if rank == 0 else [there, own]))
    found.sum().backward()
    assert own.grad.tolist() == [[1.5 if true_gradient else 1.0] * 2] * 2


@pytest.mark.parametrize("true_gradient", [True, False])
def test_a_recipe_says_which_gradient_gathered_pictures_have(true_gradient, monkeypatch):
    """Two pictures here, one there: by the true gradient the own ones count 3/2 times."""
    torch.manual_seed(0)
    own, there = torch.nn.functional.normalize(torch.randn(2, 2, 4), dim=-1).requires_grad_(), torch.randn(2, 1, 4)
    loss = TextAlignmentLoss(projection="linear", true_gradient=true_gradient)
    loss.build(Networks({"pooled": FeatureSpec((4,), "vector")}, {}, 5, columns={"text_embeds": (4,)}))
    filled = [torch.cat([rows, torch.zeros(1, 4)]) for rows in there]
    said = [torch.tensor([1]), filled[0], torch.tensor([1]), filled[1]]
    monkeypatch.setattr(text_alignment, "dist", Others(said))
    images = loss.projection(own[0])
    loss({"pooled": own[0]}, {}, Batch(extra={"text_embeds": own[1].detach()})).backward()
    found = own.grad[0].clone()
    rows = torch.cat([images, there[0]])
    alone = text_alignment.text_alignment_loss(rows, torch.cat([own[1], there[1]]), temperature=0.2)
    (expected,) = torch.autograd.grad(alone, own)
    torch.testing.assert_close(found, expected[0] * (1.5 if true_gradient else 1.0))


def test_rows_of_one_process_are_what_they_are(monkeypatch):
    rows = torch.randn(2, 2)
    monkeypatch.setattr(text_alignment, "dist", Others([], size=1))
    assert text_alignment.gather_rows(rows) is rows
