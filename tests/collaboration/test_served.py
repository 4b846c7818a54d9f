"""How a tail is served, and on how many pictures a part is measured."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hf_effmodels import cli
from hf_effmodels.collaboration import parts
from hf_effmodels.collaboration.splitting import command, service, split
from hf_effmodels.collaboration.splitting.service import ServiceLimits

from .test_splitting import resnet


@pytest.fixture(scope="module")
def halves():
    torch.manual_seed(0)
    return split(resnet(), "stages.0")


@pytest.mark.parametrize("listening", [True, False])
def test_a_tail_is_served_on_the_socket_it_is_given_or_on_one_of_its_own(listening, monkeypatch):
    told = []
    monkeypatch.setattr(service, "create_app", lambda tail, **how: told.append((tail, how)) or "app")
    monkeypatch.setattr(service, "listen", lambda host, port: nullcontext(f"on {host}:{port}"))
    monkeypatch.setattr(service, "server_config", lambda app, limits, **how: (app, limits, how))
    server = lambda config: SimpleNamespace(run=lambda sockets: told.append((config, sockets)))  # noqa: E731
    monkeypatch.setattr(service.uvicorn, "Server", server)
    limits = ServiceLimits(max_images=3)
    given = {"listener": nullcontext("given"), "limits": limits, "token": "secret"} if listening else {}
    service.serve("tail", host="0.0.0.0", port=81, **given)
    used = limits if listening else ServiceLimits()
    assert told == [
        ("tail", {"token": given.get("token"), "limits": used}),
        (("app", used, {"host": "0.0.0.0", "port": 81}), ["given" if listening else "on 0.0.0.0:81"]),
    ]


def test_to_serve_a_tail_takes_packages_beyond_the_own_ones(halves, tmp_path, monkeypatch, capsys):
    halves[1].save_pretrained(tmp_path)
    monkeypatch.setattr(command, "listen", lambda host, port: nullcontext())
    monkeypatch.setitem(sys.modules, "hf_effmodels.collaboration.splitting.service", None)
    capsys.readouterr()
    assert cli.main(["serve-tail", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith('serve-tail needs: pip install "hf_effmodels[serve]"\n')


def test_a_part_is_measured_on_three_pictures_of_its_classes_at_least():
    class Pictures:
        labels = np.array([0, 1, 2, 2, 0, 3])

        def select(self, rows):
            return sorted(rows.tolist())

    args = SimpleNamespace(seed=0, score_images=4, search_images=4)
    for group, count in (([0], 2), ([1], 1), ([4], 0)):
        with pytest.raises(ValueError, match=f"^--dataset: {count} pictures of a part's classes, accepted are 3 and"):
            parts._pictures_of(group, Pictures(), None, None, args)
    with pytest.raises(AttributeError):  # three are looked at
        parts._pictures_of([0, 1], Pictures(), None, None, args)
