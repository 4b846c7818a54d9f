import pytest
import torch
from torch import nn

from hf_effmodels.training.run.averaging import ExponentialMovingAverage, temporarily, unique_state


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def test_weights_and_statistics_are_averaged_and_counters_copied():
    net = model()
    average = ExponentialMovingAverage(net, 0.9)
    expected = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(5):
        net(torch.randn(8, 3, 4, 4)).square().mean().backward()
        optimizer.step()
        average.update()
        for name, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                expected[name] = 0.9 * expected[name] + (1 - 0.9) * tensor
            else:
                expected[name] = tensor.clone()
    got = average.state_dict()
    assert got.keys() == expected.keys() and got["1.num_batches_tracked"] == 5
    for name in expected:
        torch.testing.assert_close(got[name], expected[name], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(got["1.running_mean"], net[1].running_mean)


def test_a_temporary_state_leaves_no_trace():
    net = model()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weight = net[0].weight
    with temporarily(unique_state(net)) as state, torch.no_grad():
        for tensor in state.values():
            tensor.zero_()
        assert net(torch.randn(1, 3, 4, 4)).abs().max() == 0
    assert net[0].weight is weight
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def test_tied_weights_are_averaged_once():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    net[1].weight = net[0].weight
    average = ExponentialMovingAverage(net, 0.5)
    start = net[0].weight.detach().clone()
    with torch.no_grad():
        net[0].weight.add_(1.0)
    average.update()
    average.copy_to_model()
    torch.testing.assert_close(net[1].weight.detach(), start + 0.5)
    # Files of weights hold each once, too.
    assert list(unique_state(net)) == list(average.state_dict()) == ["0.weight", "0.bias", "1.bias"]


def test_an_average_of_coarse_weights_is_refused():
    with pytest.raises(ValueError, match="--ema_decay.*bfloat16.*--bf16"):
        ExponentialMovingAverage(model().bfloat16(), 0.9999)


def test_an_average_goes_on_from_where_it_was_and_leaves_that_as_it_is():
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    start = {name: torch.full_like(tensor, 2) for name, tensor in net.state_dict().items()}
    average = ExponentialMovingAverage(net, 0.75, start)
    assert all(torch.equal(tensor, start[name]) for name, tensor in average.state_dict().items())
    average.update()
    for name, tensor in net.state_dict().items():
        expected = tensor if name == "1.num_batches_tracked" else 0.75 * 2 + 0.25 * tensor
        torch.testing.assert_close(average.state_dict()[name], expected)
    assert all((tensor == 2).all() for tensor in start.values())
    average.copy_to_model()
    assert all(torch.equal(tensor, average.state_dict()[name]) for name, tensor in net.state_dict().items())
