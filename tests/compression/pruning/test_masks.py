"""Learned masks step by step: what is drawn, what flows back, what pulls the size; and what calibration measures."""

import copy
from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_effmodels.compression.pruning import masks
from hf_effmodels.compression.pruning.calibration import (
    channel_energies,
    layer_importance,
    mean_gradients,
    read_batches,
)
from hf_effmodels.compression.pruning.inheritance import take_layers
from hf_effmodels.compression.pruning.structures import Axis, Sizes

from ..conftest import LLAMA


@pytest.fixture
def batches():
    return read_batches([torch.randint(0, 96, (2, 12)) for _ in range(3)], "these tests")


def test_a_mask_is_the_top_of_noisy_logits_and_its_gradient_that_of_the_relaxed_one():
    logit = torch.linspace(-1, 1, 9, requires_grad=True)
    weights = torch.randn(9)
    mask, size = masks._sample(logit, 4, 0.3, torch.Generator().manual_seed(3))
    uniform = torch.rand(9, generator=torch.Generator().manual_seed(3))
    noisy = logit.detach() + torch.log(uniform / (1 - uniform))
    assert mask.detach().nonzero().flatten().tolist() == sorted(noisy.argsort(descending=True)[:4].tolist())
    assert torch.isin(mask.detach(), torch.tensor([0.0, 1.0])).all()
    (mask * weights).sum().backward()
    soft = torch.sigmoid(noisy / 0.3)
    torch.testing.assert_close(logit.grad, weights * soft * (1 - soft) / 0.3)
    torch.testing.assert_close(size, torch.sigmoid(logit / 0.3).sum())


def test_logits_start_at_the_ranks_of_the_scores():
    assert masks._from_ranks(torch.tensor([5.0, 1.0, 3.0])).tolist() == [1, -1, 0]
    assert masks._from_ranks(torch.tensor([5.0])).tolist() == [-1]


def test_the_temperature_falls_geometrically_and_batches_take_turns(llama, batches, monkeypatch):
    temperatures, used = [], []
    sample, loss_of = masks._sample, masks.loss_of

    def watched(logit, count, temperature, generator):
        temperatures.append(temperature)
        return sample(logit, count, temperature, generator)

    monkeypatch.setattr(masks, "_sample", watched)
    monkeypatch.setattr(masks, "loss_of", lambda model, batch: used.append(batch) or loss_of(model, batch))
    axis = Axis("ffn", 0)
    target = Sizes.of(LlamaConfig(**{**LLAMA, "intermediate_size": 20}))
    learned = masks.learn_masks(llama, target, batches, {axis: torch.rand(48)}, steps=5)
    assert temperatures == pytest.approx([1, 10**-0.25, 10**-0.5, 10**-0.75, 0.1])
    assert [id(batch) for batch in used] == [id(batches[step % 3]) for step in range(5)]
    assert list(learned) == [axis] and all(weight.requires_grad for weight in llama.parameters())
    assert not any(weight.grad is not None for weight in llama.parameters())


def test_the_expected_size_is_pulled_to_the_size_that_stays(llama, batches, monkeypatch):
    monkeypatch.setattr(masks, "loss_of", lambda model, batch: torch.zeros((), requires_grad=True))
    axis, target = Axis("ffn", 1), Sizes.of(LlamaConfig(**{**LLAMA, "intermediate_size": 8}))

    def size(logits: torch.Tensor) -> float:
        return torch.sigmoid(logits / 0.1).sum().item()

    start = {axis: torch.arange(48.0)}
    before = masks._from_ranks(start[axis])
    pulled = masks.learn_masks(llama, target, batches, start, steps=60)[axis]
    left = masks.learn_masks(llama, target, batches, start, steps=60, penalty=0.0)[axis]
    assert abs(size(pulled) - 8) < abs(size(before) - 8) - 2 and torch.equal(left, before)


def test_gradients_are_the_mean_over_the_batches(llama, batches):
    got = mean_gradients(llama, batches)
    (sum(llama(**batch).loss for batch in batches) / 3).backward()
    for name, weight in llama.named_parameters():
        torch.testing.assert_close(got[name], weight.grad, msg=name)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_of_a_model_in_half_precision_are_those_of_its_weights_in_single(batches, dtype):
    """Those that are too small for float16 too; and a mask learns from them what it learns in single precision."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).to(dtype).eval()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight *= 1e-4
    exact = copy.deepcopy(model).float()
    got = mean_gradients(model, batches)
    target, start = replace(Sizes.of(model.config), intermediate_size=20), {Axis("ffn", 1): torch.arange(48.0)}
    learned, expected = (masks.learn_masks(each, target, batches, start, steps=3) for each in (model, exact))
    assert torch.equal(learned[Axis("ffn", 1)], expected[Axis("ffn", 1)])
    (sum(exact(**batch).loss for batch in batches) / 3).backward()
    for name, weight in exact.named_parameters():
        assert (got[name] - weight.grad).norm() <= 1e-4 * weight.grad.norm(), name
    assert model.dtype == dtype and not any(weight.grad is not None for weight in model.parameters())


def test_weights_that_are_frozen_stay_so_and_have_a_gradient_all_the_same(batches):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).train()
    expected = mean_gradients(model, batches)
    frozen = model.model.layers[1].mlp.up_proj.weight.requires_grad_(False)
    found = mean_gradients(model, batches)
    assert all(torch.equal(found[name], expected[name]) for name in expected) and model.training
    assert [weight for weight in model.parameters() if not weight.requires_grad] == [frozen]
    assert not any(weight.grad is not None for weight in model.parameters())


def test_the_importance_of_a_layer_is_what_the_loss_rises_by_without_it(batches):
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()
    rises = layer_importance(model, batches)

    def loss(network) -> float:
        with torch.no_grad():
            return sum(network(**batch).loss.item() for batch in batches) / 3

    for left_out in range(4):
        without = take_layers(model, [number for number in range(4) if number != left_out])
        assert rises[left_out].item() == pytest.approx(loss(without) - loss(model), abs=1e-5)


def test_energies_are_the_mean_squares_before_each_norm(llama, batches):
    energies = channel_energies(llama, batches)
    with torch.no_grad():
        embedded = torch.cat([llama.model.embed_tokens(batch["input_ids"]).flatten(0, 1) for batch in batches])
    torch.testing.assert_close(
        energies["model.layers.0.input_layernorm"], embedded.double().square().mean(0), rtol=1e-5, atol=0
    )
    assert len(energies) == 2 * 4 + 1


def test_batches_are_labelled_by_their_ids_unless_they_have_labels():
    ids, labels = torch.tensor([[1, 2]]), torch.tensor([[-100, 2]])
    plain, own = read_batches([ids, {"input_ids": ids, "labels": labels}], "this test")
    assert plain["labels"] is ids and own["labels"] is labels


def test_masks_are_not_learned_from_a_loss_that_is_no_number(llama, batches):
    with torch.no_grad():
        llama.model.layers[2].mlp.up_proj.weight[5, 3] = float("nan")
    target = Sizes.of(LlamaConfig(**{**LLAMA, "intermediate_size": 20}))
    with pytest.raises(ValueError, match="loss on these batches is not finite, no mask can be learned"):
        masks.learn_masks(llama, target, batches, {Axis("ffn", 0): torch.rand(48)}, steps=2)
    assert all(weight.requires_grad for weight in llama.parameters())


def test_what_is_trained_of_a_model_stays_so_while_its_masks_are_learned(llama, batches):
    frozen = llama.model.layers[1].mlp.up_proj.weight.requires_grad_(False)
    target = Sizes.of(LlamaConfig(**{**LLAMA, "intermediate_size": 20}))
    llama.train()
    masks.learn_masks(llama, target, batches, {Axis("ffn", 0): torch.rand(48)}, steps=1)
    assert [weight for weight in llama.parameters() if not weight.requires_grad] == [frozen] and llama.training


def test_masks_are_drawn_from_the_seed(llama, batches):
    target = Sizes.of(LlamaConfig(**{**LLAMA, "intermediate_size": 20}))
    start = {Axis("ffn", 0): torch.rand(48)}
    first, again, other = (
        masks.learn_masks(llama, target, batches, start, steps=2, seed=seed)[Axis("ffn", 0)] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    # Adam's first steps are as long as its rate, whatever the gradient.
    far = masks.learn_masks(llama, target, batches, start, steps=1, learning_rate=0.3)[Axis("ffn", 0)]
    moved = (far - masks._from_ranks(start[Axis("ffn", 0)])).abs()
    assert moved.max().item() == pytest.approx(0.3, rel=1e-3)
