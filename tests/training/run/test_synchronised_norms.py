"""Batch norms of two processes together, beside torch's own batch norm of one."""

import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import nn

from hf_effmodels.modeling.layers.visible import only_visible, see_visible_only
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
