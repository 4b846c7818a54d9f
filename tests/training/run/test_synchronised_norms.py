"""Batch norms of two processes together, beside torch's own batch norm of one."""

import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import nn

from hf_effmodels.modeling.layers.visible import only_visible, see_visible_only
from hf_effmodels.training.run import synchronised_norms
from hf_effmodels.training.run.synchronised_norms import left_out, synchronise_batch_norms

from ...processes import run_in_two

#: Samples of each process; in the second step the other one has none of its own and repeats some.
SHARES = ((slice(0, 3), slice(3, 8)), (slice(0, 4), None))


def build() -> nn.Module:
    torch.manual_seed(0)
    maps, flat = nn.BatchNorm2d(3, momentum=0.3, eps=0.01), nn.BatchNorm1d(3, momentum=None, affine=False)
    nn.init.normal_(maps.weight)
    nn.init.normal_(maps.bias)
    seen = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))  # as SparK's encoders, of visible places alone
    see_visible_only(seen)
    return nn.Sequential(nn.Conv2d(3, 3, 1), maps, nn.SiLU(), seen, nn.Flatten(2), flat).double()


def samples() -> torch.Tensor:
    return torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(1)).double() * 3 + 20


def loss_of(network: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with only_visible((inputs[:, :1] > 20).double().detach()):
        return (network(inputs) * torch.arange(1, 5)).pow(3).sum()


def train_a_share(folder: str) -> None:
    rank, network = PartialState(cpu=True).process_index, build()
    synchronise_batch_norms(network)
    for step, shares in enumerate(SHARES):
        share = shares[rank]
        inputs = samples()[share if share is not None else slice(0, 2)].requires_grad_()
        with left_out(share is None):
            loss = loss_of(network, inputs) * (share is not None)
        network.zero_grad()
        loss.backward()
        result = {name: parameter.grad for name, parameter in network.named_parameters()}
        result |= {"inputs": inputs.grad, **{name: value.clone() for name, value in network.named_buffers()}}
        save_file({name: value.contiguous() for name, value in result.items()}, f"{folder}/{step}-{rank}.safetensors")


def test_two_processes_normalise_as_one_and_one_without_samples_does_not_count(tmp_path):
    run_in_two(train_a_share, str(tmp_path))
    network = build()
    for step, shares in enumerate(SHARES):
        inputs = samples()[: 8 if step == 0 else 4].requires_grad_()
        network.zero_grad()
        loss_of(network, inputs).backward()
        found = [load_file(tmp_path / f"{step}-{rank}.safetensors") for rank in range(2)]
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(found[0][name] + found[1][name], parameter.grad)
        own = [result["inputs"] for result, share in zip(found, shares, strict=True) if share is not None]
        torch.testing.assert_close(torch.cat(own), inputs.grad)
        for name, buffer in network.named_buffers():
            assert all(torch.allclose(result[name], buffer) for result in found), name


@pytest.fixture
def two_alike(monkeypatch):
    """As if a second process had the very same samples, in this one: what is summed up is twice its own."""
    monkeypatch.setattr(synchronised_norms.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(synchronised_norms.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(synchronised_norms.distributed, "all_reduce", lambda tensor: tensor.mul_(2))


def test_two_processes_with_the_same_samples_are_one_with_all_of_them_twice(two_alike):
    network, whole = build(), build()
    synchronise_batch_norms(network)
    for _ in range(2):
        once, twice = samples()[:4].requires_grad_(), samples()[:4].repeat(2, 1, 1, 1).requires_grad_()
        for model, inputs in ((network, once), (whole, twice)):
            model.zero_grad()
            loss_of(model, inputs).backward()
        torch.testing.assert_close(once.grad, twice.grad[:4])
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(2 * parameter.grad, whole.get_parameter(name).grad)
        for name, buffer in network.named_buffers():
            torch.testing.assert_close(buffer, whole.get_buffer(name))
    network.eval()
    torch.testing.assert_close(network[1](samples()), whole[1].eval()(samples()))


def test_a_process_of_repeated_samples_gives_no_statistics_and_gets_the_others(two_alike):
    norm = nn.BatchNorm2d(3)
    synchronise_batch_norms(norm)
    inputs = samples().float().requires_grad_()
    with left_out(True):
        outputs = norm(inputs)
    # Nobody has counted: the mean and the variance of nothing.
    torch.testing.assert_close(outputs, inputs / 1e-5**0.5)
    outputs.sum().backward()
    torch.testing.assert_close(inputs.grad, torch.full_like(inputs, 1e-5**-0.5))
    assert norm.running_mean.eq(0).all() and norm.running_var.allclose(torch.tensor(0.9))
    assert norm.weight.grad is not None and norm.bias.grad.eq(inputs.numel() / 3).all()


def test_half_precision_is_normalised_in_single_and_given_back_as_it_came(two_alike):
    norm, plain = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    synchronise_batch_norms(norm)
    inputs = samples().flatten(2).to(torch.bfloat16)
    found = norm(inputs)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, plain(inputs.float()).to(torch.bfloat16))
    none = nn.BatchNorm3d(3, track_running_stats=False)
    synchronise_batch_norms(none)
    solid = samples()[..., None]
    torch.testing.assert_close(none(solid.float()), nn.BatchNorm3d(3)(solid.float()))
    assert none.running_mean is None


def test_alone_a_norm_is_torchs_own(monkeypatch):
    norm, plain = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
    synchronise_batch_norms(norm)
    monkeypatch.setattr(synchronised_norms.distributed, "all_reduce", lambda tensor: pytest.fail("nobody is there"))
    torch.testing.assert_close(norm(samples().float()), plain(samples().float()))
    monkeypatch.setattr(synchronised_norms.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(synchronised_norms.distributed, "get_world_size", lambda: 1)
    torch.testing.assert_close(norm(samples().float()), plain(samples().float()))


def test_a_norm_that_is_derived_from_torchs_is_told_what_is_normed():
    class Named(nn.BatchNorm2d):
        pass

    network = nn.Sequential(Named(2), nn.BatchNorm2d(2), nn.Linear(2, 2), Named(2))
    weights = [*network.parameters()]
    synchronise_batch_norms(network)
    assert [type(module).__name__ for module in network] == [
        "SynchronisedNamed", "_Synchronised2d", "Linear", "SynchronisedNamed"
    ]  # fmt: skip
    assert isinstance(network[0], Named) and type(network[0]) is type(network[3])
    assert all(one is other for one, other in zip(weights, network.parameters(), strict=True))
