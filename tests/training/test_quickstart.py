"""`hf-effmodels quickstart`: what it runs one after the other, and with what it ends."""

import pytest

from hf_effmodels import cli
from hf_effmodels.training import quickstart


@pytest.mark.parametrize("codes, asked", [((0, 0), 2), ((2, 0), 1), ((0, 3), 2)])
def test_it_ends_with_the_first_command_that_fails(codes, asked, monkeypatch, tmp_path, capsys):
    told, left = [], list(codes)
    shown = [["hf-effmodels", name, "--model", "out"] for name in ("evaluate", "publish", "predict")]

    class Run:
        def __call__(self):
            told.append("trained")

        def next_commands(self):
            return shown

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "prepare", lambda function, words: told.append((function, words)) or Run())
    monkeypatch.setattr(quickstart, "set_up_logging", lambda: None)
    monkeypatch.setattr(cli, "main", lambda words: told.append(words) or left.pop(0))
    assert quickstart.main(["image-classification", "--max_steps", "2"]) == next((code for code in codes if code), 0)
    words = ["--config", "quickstart/image-classification", "--max_steps", "2"]
    words += ["--output_dir", "outputs/quickstart-image-classification-1"]
    measured = [shown[0][1:], shown[2][1:]]
    assert told == [("prepare_training", words), "trained", *measured[:asked]]
    printed = capsys.readouterr().err.splitlines()
    assert printed[0].startswith("$ hf-effmodels train --config quickstart/image-classification --max_steps 2")
    assert printed[1:] == [f"$ {' '.join(['hf-effmodels', *words])}" for words in measured[:asked]]


@pytest.mark.parametrize("given", [["--output_dir", "mine"], ["--output_dir=mine"], []])
def test_it_writes_where_it_is_told_or_beside_what_is_there(given, monkeypatch, tmp_path):
    class Stopped(Exception):
        pass

    def prepare(function, words):
        raise Stopped(words)

    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs" / "quickstart-image-classification-1").mkdir(parents=True)
    monkeypatch.setattr(quickstart, "prepare", prepare)
    monkeypatch.setattr(quickstart, "set_up_logging", lambda: None)
    with pytest.raises(Stopped) as stopped:
        quickstart.main(given)
    beside = given or ["--output_dir", "outputs/quickstart-image-classification-2"]
    assert stopped.value.args == (["--config", "quickstart/image-classification", *beside],)
