"""Rounds draw what is hard, and come out the same after a kill and with any number of processes."""

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import PartialState
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM, TrainerCallback

from hf_effmodels.compression import (
    DrawnDataset,
    LossWeightedSampler,
    compute_losses,
    draw_by_loss,
    loss_probabilities,
    train_rounds,
)
from hf_effmodels.training.run.recipe_arguments import RecipeArguments
from hf_effmodels.training.run.rounds import rounds, sample_losses
from hf_effmodels.training.run.rounds.numbers import check_rounds
from hf_effmodels.training.run.rounds.rounds import _recipe, read_drawn, write_drawn
from hf_effmodels.training.run.trainer import RecipeTrainer

from ....compression.conftest import LLAMA
from ....processes import run_in_two


class Killed(Exception):
    pass


class Blocks:
    """Random blocks of 12 tokens; number e · n + i is block i."""

    def __init__(self, size=30, seed=1):
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(0, 96, (size, 12), generator=generator)

    def __len__(self):
        return len(self.tokens)

    def __getitem__(self, number):
        tokens = self.tokens[number % len(self)]
        return {"input_ids": tokens, "labels": tokens}


def model():
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**LLAMA)).eval()


@pytest.fixture(scope="module")
def losses():
    return compute_losses(model(), Blocks(), batch_size=4)


def test_hard_samples_are_drawn_more_often():
    losses = np.array([1.0, 2.0, 4.0, 8.0])
    assert np.allclose(loss_probabilities(losses), np.exp(losses) / np.exp(losses).sum())
    assert np.allclose(loss_probabilities(losses + 2000), loss_probabilities(losses))
    drawn = np.concatenate([draw_by_loss(losses, 0.25, seed) for seed in range(400)])
    shares = np.bincount(drawn, minlength=4) / 400
    assert np.abs(shares - loss_probabilities(losses)).max() < 0.05
    assert len(set(draw_by_loss(losses, 0.75, 3).tolist())) == 3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_draw_is_the_gumbel_top_k_of_the_losses_over_the_temperature(temperature):
    losses = np.random.default_rng(0).normal(3, 1, 40)
    weights = np.exp(losses / temperature)
    np.testing.assert_allclose(loss_probabilities(losses, temperature), weights / weights.sum())
    for seed in (0, 11):
        gumbel = -np.log(-np.log(np.random.RandomState(seed).random_sample(40)))
        expected = sorted(np.argsort(losses / temperature + gumbel)[-23:].tolist())  # 0.58 · 40 = 23.2
        assert draw_by_loss(losses, 0.58, seed, temperature).tolist() == expected
    # The colder, the surer are the hardest drawn.
    assert draw_by_loss(losses, 0.1, 3, temperature=1e-4).tolist() == sorted(np.argsort(losses)[-4:].tolist())


def test_the_share_is_rounded_down_but_not_by_floating_point():
    assert len(draw_by_loss(np.zeros(50), 0.58)) == 29 == int(0.58 * 50) + 1
    assert len(draw_by_loss(np.zeros(7), 0.5)) == 3
    assert draw_by_loss(np.zeros(7), 0.25, group_size=2).size in (1, 2), "one of four groups, the last of one sample"


def test_groups_are_drawn_together_by_their_mean_loss_the_shorter_last_one_as_well():
    cold = {"rate": 0.34, "temperature": 1e-3, "group_size": 2}
    assert draw_by_loss(np.array([1, 7, 6, 6, 5.9]), **cold).tolist() == [2, 3]
    assert draw_by_loss(np.array([1, 7, 5, 5, 5.1]), **cold).tolist() == [4], "a mean of one, not half of it"
    assert draw_by_loss(np.array([1, 9, 4, 4, 4.5]), **cold).tolist() == [0, 1]


def test_numbers_of_the_recipe_trainer_lead_to_drawn_samples():
    drawn = DrawnDataset(Blocks(), [3, 7, 8])
    assert len(drawn) == 3
    for number, block in ((0, 3), (2, 8), (4, 7), (3 * 5 + 1, 7)):  # e · n + i
        assert torch.equal(drawn[number]["input_ids"], Blocks()[block]["input_ids"])
    sampler = LossWeightedSampler(np.arange(20.0), 0.5, seed=1)
    orders = []
    for epoch in range(2):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1]) == sampler.indices.tolist()


def test_losses_are_those_of_the_model(losses):
    network, blocks = model(), Blocks()
    for number in (0, 13, 29):
        sample = {name: tensor[None] for name, tensor in blocks[number].items()}
        assert losses[number] == pytest.approx(network(**sample).loss.item(), abs=1e-5)


def test_losses_are_measured_without_dropout_and_the_model_s_mode_stays(losses):
    torch.manual_seed(0)
    dropping = LlamaForCausalLM(LlamaConfig(**LLAMA, attention_dropout=0.5)).train()
    assert dropping(**{name: tensor[None] for name, tensor in Blocks()[3].items()}).loss.item() != losses[3]
    np.testing.assert_allclose(compute_losses(dropping, Blocks(), batch_size=4), losses, rtol=1e-6)
    assert dropping.training


def flip(file, place):
    """Damage a byte of a file."""
    content = bytearray(file.read_bytes())
    content[place] ^= 0xFF
    file.write_bytes(content)


def test_killed_measurements_go_on_to_the_same_losses_bit_for_bit(losses, tmp_path, monkeypatch):
    file, measure, starts = tmp_path / "losses.npz", sample_losses._sample_losses, []

    def killed(network, samples, start):
        if len(starts) == 4:
            raise Killed
        starts.append(start)
        return measure(network, samples, start)

    monkeypatch.setattr(sample_losses, "_sample_losses", killed)
    with pytest.raises(Killed):
        compute_losses(model(), Blocks(), batch_size=4, state_file=file, batches_per_save=2)
    monkeypatch.setattr(sample_losses, "_sample_losses", lambda m, s, i: starts.append(i) or measure(m, s, i))
    again = compute_losses(model(), Blocks(), batch_size=4, state_file=file, batches_per_save=2)
    assert (again == losses).all() and starts == list(range(0, 30, 4))
    assert [path.name for path in tmp_path.iterdir()] == ["losses.npz"]
    with torch.no_grad():
        (other := model()).lm_head.weight.mul_(2)
    with torch.no_grad():
        (negated := model()).lm_head.weight.neg_()
    (longer := model()).config.rope_parameters["rope_theta"] *= 2
    for network, blocks in ((other, Blocks()), (negated, Blocks()), (longer, Blocks()), (model(), Blocks(seed=2))):
        with pytest.raises(ValueError, match="another model, data set or batch_size"):
            compute_losses(network, blocks, batch_size=4, state_file=file)
    whole, arrays = file.read_bytes(), {"losses": np.zeros(4), "fingerprint": np.array("x")}
    for write in (
        lambda: file.write_bytes(whole[:-30]),
        lambda: file.write_text("no archive"),
        lambda: np.save(file.open("wb"), np.zeros(3)),
        lambda: np.savez(file, losses=np.zeros(3)),
        lambda: np.savez(file, losses=np.array([object()]), fingerprint=np.array("x")),
        lambda: (np.savez_compressed(file, **arrays), flip(file, file.read_bytes().find(b"losses.npy") + 40)),
    ):
        write()
        with pytest.raises(ValueError, match="state_file: .* holds no losses that an earlier call has measured.$"):
            compute_losses(model(), Blocks(), batch_size=4, state_file=file)


@pytest.mark.parametrize("given", [True, False])
def test_losses_are_means_over_the_labels_that_are_predicted(given):
    """Of the first tokens, of a filled end, and of all; without labels the tokens are the labels."""

    class Labelled(Blocks):
        def __getitem__(self, number):
            sample = super().__getitem__(number)
            labels = sample["labels"].clone()
            labels[: 2 * number], labels[12 - number :] = -100, -100
            return sample | {"labels": labels} if given else {"input_ids": sample["input_ids"]}

    blocks, network = Labelled(4), model()
    found = compute_losses(network, blocks, batch_size=4)
    for number in range(4):
        places = range(max(1, 2 * number), 12 - number) if given else range(1, 12)
        tokens = blocks[number]["input_ids"]
        with torch.no_grad():
            said = network(tokens[None]).logits[0].log_softmax(-1)
        expected = np.mean([-said[place - 1, tokens[place]].item() for place in places])
        assert found[number] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("order", [("0-of-2", "1-of-2"), ("1-of-2", "0-of-2"), ("1-of-3", None), (None, "2-of-3")])
def test_what_each_of_several_killed_processes_had_measured_is_not_measured_again(
    losses, tmp_path, monkeypatch, order
):
    """The parts of two, in either order; and of the whole with one part, which another number of processes left."""
    file, measure, starts = tmp_path / "losses.npz", sample_losses._sample_losses, []
    compute_losses(model(), Blocks(), batch_size=4, state_file=file)
    with np.load(file) as whole:
        fingerprint, measured = whole["fingerprint"], whole["losses"]
    file.unlink()
    for name, known in zip(order, (slice(0, 8), slice(12, 24)), strict=True):
        part = np.full(30, np.nan)
        part[known] = measured[known]
        np.savez(
            (tmp_path / (f"losses.npz.part-{name}" if name else "losses.npz")).open("wb"),
            losses=part,
            fingerprint=fingerprint,
        )
    monkeypatch.setattr(sample_losses, "_sample_losses", lambda m, s, i: starts.append(i) or measure(m, s, i))
    again = compute_losses(model(), Blocks(), batch_size=4, state_file=file)
    assert (again == losses).all() and starts == [8, 24, 28]
    assert [path.name for path in tmp_path.iterdir()] == ["losses.npz"]


def _measure(folder):
    torch.set_num_threads(1)
    PartialState(cpu=True)
    losses = compute_losses(model(), Blocks(), batch_size=4, state_file=f"{folder}/losses.npz", batches_per_save=1)
    np.save(f"{folder}/{torch.distributed.get_rank()}.npy", losses)


def test_two_processes_measure_what_one_measures(losses, tmp_path):
    run_in_two(_measure, str(tmp_path))
    for rank in range(2):
        assert (np.load(tmp_path / f"{rank}.npy") == losses).all()
    assert not [*tmp_path.glob("*part*")]


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise Killed


def run_rounds(output, kill_in_round=None, step=None, rounds=2, blocks=None, learning_rate=1e-2, **draw):
    def make_trainer(number, start, folder):
        network = model() if start is None else LlamaForCausalLM.from_pretrained(start)
        args = RecipeArguments(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            num_train_epochs=2,
            save_steps=2,
            save_strategy="steps",
            logging_steps=100,
            learning_rate=learning_rate,
            seed=3,
            disable_tqdm=True,
        )
        trainer = RecipeTrainer(model=network, args=args, train_dataset=blocks or Blocks())
        if number == kill_in_round:
            trainer.add_callback(KillAt(step))
        return trainer

    draw = {"rate": 0.5, "seed": 7, "temperature": 0.3, **draw}
    return train_rounds(make_trainer, output, rounds=rounds, loss_batch_size=4, **draw)


def killed_at_sample_8(measure):
    def killed(network, samples, start):
        if start == 8:
            raise Killed
        return measure(network, samples, start)

    return killed


def test_killed_rounds_go_on_to_the_same_weights_bit_for_bit(tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    results = run_rounds(whole)
    assert [result["samples"] for result in results] == [30, 15]
    drawn = json.loads((whole / "round-1" / "drawn.json").read_text())
    assert drawn["samples"] == 30 and len(drawn["indices"]) == 15
    with pytest.raises(Killed):
        run_rounds(killed, 1, 5)
    measure = sample_losses._sample_losses
    monkeypatch.setattr(sample_losses, "_sample_losses", killed_at_sample_8(measure))
    with pytest.raises(Killed):
        run_rounds(killed)
    monkeypatch.setattr(sample_losses, "_sample_losses", measure)
    with pytest.raises(Killed):
        run_rounds(killed, 2, 5)
    assert [result["samples"] for result in run_rounds(killed)] == [30, 15]
    for number in (1, 2):
        file = f"round-{number}/model.safetensors"
        expected, got = load_file(whole / file), load_file(killed / file)
        assert all(torch.equal(expected[name], got[name]) for name in expected)
    assert json.loads((killed / "round-1" / "drawn.json").read_text())["indices"] == drawn["indices"]
    # Each round draws by the losses of its own model, computed here anew, with a seed of its own.
    results = run_rounds(killed, rounds=3)
    assert len(results) == 3, "a further round is added to what is there"
    assert ["mean_drawn_loss" in result for result in results] == [True, True, False]
    tokens = Blocks().tokens
    for number in (1, 2):
        trained = LlamaForCausalLM.from_pretrained(killed / f"round-{number}").eval()
        with torch.no_grad():
            logits = trained(tokens).logits[:, :-1]
        losses = torch.nn.functional.cross_entropy(logits.mT, tokens[:, 1:], reduction="none").mean(1).double()
        drawn = json.loads((killed / f"round-{number}" / "drawn.json").read_text())
        assert drawn["indices"] == draw_by_loss(losses.numpy(), 0.5, 7 + number, 0.3).tolist()
        assert drawn["mean_drawn_loss"] == pytest.approx(losses[drawn["indices"]].mean().item(), rel=1e-5)


def test_each_round_begins_with_the_model_and_the_draw_of_the_one_before(tmp_path, monkeypatch):
    """The second and the third are of other samples: what they are trained on says whose losses have drawn them."""
    begun, trained_on, measured = [], [], []
    monkeypatch.setattr(
        rounds, "compute_losses", lambda *given, **how: measured.append(how) or compute_losses(*given, **how)
    )

    class Told(RecipeTrainer):
        def train(self, *given, **options):
            trained_on.append(list(getattr(self.train_dataset, "indices", [])))
            return super().train(*given, **options)

    def make_trainer(number, start, folder):
        begun.append(start)
        args = RecipeArguments(
            output_dir=str(folder), max_steps=1, learning_rate=1e-2, save_steps=1, disable_tqdm=True
        )
        network = model() if start is None else LlamaForCausalLM.from_pretrained(start)
        return Told(model=network, args=args, train_dataset=Blocks())

    train_rounds(make_trainer, tmp_path, rounds=3, rate=0.5, seed=7, temperature=0.3, loss_batch_size=4)
    assert begun == [None, tmp_path / "round-1", tmp_path / "round-2"]
    drawn = [json.loads((tmp_path / f"round-{n}" / "drawn.json").read_text())["indices"] for n in (1, 2)]
    assert drawn[0] != drawn[1] and trained_on[1:] == drawn
    files = [tmp_path / f"round-{number}" / "losses.npz" for number in (1, 2)]
    assert measured == [{"batch_size": 4, "state_file": file, "progress": False} for file in files]


def test_a_round_on_other_samples_than_the_one_before_has_drawn_from_is_refused(tmp_path):
    def make_trainer(number, start, folder):
        args = RecipeArguments(output_dir=str(folder), max_steps=1, save_strategy="no", disable_tqdm=True)
        return RecipeTrainer(model=model(), args=args, train_dataset=Blocks(seed=number))

    with pytest.raises(ValueError, match=r"round-1/drawn.json: drawn from another data set of as many samples\.$"):
        train_rounds(make_trainer, tmp_path, rounds=2, rate=0.5, seed=7, temperature=0.3, loss_batch_size=4)
    assert not (tmp_path / "round-2" / "model.safetensors").exists()


def test_a_folder_of_rounds_is_that_of_one_recipe_one_data_set_and_one_draw(tmp_path):
    first = run_rounds(tmp_path)
    weights = (tmp_path / "round-2" / "model.safetensors").read_bytes()
    for changed, message in (
        ({"learning_rate": 2e-2}, "round-1 is a round .* other arguments: learning_rate: 0.01 -> 0.02"),
        ({"blocks": Blocks(seed=2)}, "round-1 is a round that was trained on other data"),
        ({"temperature": 1.0}, "round-1 is a round with .*'temperature': 0.3"),
        ({"seed": 8}, "round-1 is a round with .*'seed': 7"),
    ):
        with pytest.raises(ValueError, match=message):
            run_rounds(tmp_path, **changed)
    assert run_rounds(tmp_path) == first
    assert (tmp_path / "round-2" / "model.safetensors").read_bytes() == weights


@pytest.mark.parametrize(
    "losses, options, message",
    [
        ([], {"rate": 0.5}, "at least one loss"),
        ([1.0, float("nan")], {"rate": 0.5}, "number 1 is nan"),
        ([1.0, 2.0], {"rate": 0.0}, "rate: got 0.0"),
        ([1.0, 2.0], {"rate": 0.3}, "draws none of 2 groups"),
        ([1.0, 2.0], {"rate": 1.1}, "rate: got 1.1, accepted are shares above 0 and up to 1"),
        ([1.0, 2.0], {"rate": 0.5, "temperature": 0}, "temperature: got 0, accepted are numbers from 1e-06"),
        ([1.0, 2.0], {"rate": 0.5, "temperature": 9e-7}, "temperature: got 9e-07"),
        ([1.0, 2.0], {"rate": 0.5, "group_size": 0}, "group_size: got 0, accepted are whole numbers from 1"),
        ([1.0, 2.0], {"rate": 0.5, "seed": -1}, "seed: got -1, accepted are whole numbers from 0 to 4294967295"),
        ([1.0, 2.0], {"rate": 0.5, "seed": 2**32}, "seed: got 4294967296"),
        ([[1.0, 2.0]], {"rate": 0.5}, r"losses: got an array of shape \(1, 2\), accepted are vectors"),
    ],
)
def test_wrong_input_is_named(losses, options, message):
    with pytest.raises(ValueError, match=message):
        draw_by_loss(np.array(losses), **options)


def test_the_numbers_of_rounds_are_checked_up_to_the_last_rounds_seed():
    check_rounds(1, 1.0, 1e-6, 1, seed=2**32 - 2)
    for numbers, message in (
        ((0, 0.5, 1.0, 1), "rounds: got 0, accepted are whole numbers from 1"),
        ((2, 0.0, 1.0, 1), "rate: got 0.0"),
        ((1, 0.5, 1.0, 1, 2**32 - 1), "seed: got 4294967296"),
    ):
        with pytest.raises(ValueError, match=message):
            check_rounds(*numbers)
    with pytest.raises(ValueError, match="^temperature: got 0, accepted are numbers above 0"):
        loss_probabilities(np.ones(2), temperature=0)


def test_a_draw_is_written_with_what_it_was_drawn_by_and_read_for_its_data_set_alone(tmp_path):
    losses, file = np.array([1.0, 5.0, 2.0, 7.0]), tmp_path / "drawn.json"
    options = {"rate": 0.5, "temperature": 0.01, "seed": 3, "data": "ab"}
    written = write_drawn(file, losses, **options, group_size=1)
    assert written == json.loads(file.read_text())
    assert {name: written[name] for name in options} == options and written["group_size"] == 1
    assert (written["samples"], written["indices"]) == (4, [1, 3])
    assert (written["mean_loss"], written["mean_drawn_loss"]) == (15 / 4, 6.0)
    assert written["largest_probability"] == pytest.approx(1)
    for data in (None, "ab"):
        assert read_drawn(file, 4, data).tolist() == [1, 3]
    with pytest.raises(ValueError, match="drawn.json: drawn from 4 samples, the data set has 5"):
        read_drawn(file, 5)
    with pytest.raises(ValueError, match="drawn.json: drawn from another data set of as many samples"):
        read_drawn(file, 4, "cd")
    for content in ("{}", "[]", "null", '{"samples": 4}', '{"samples": 4, "indices": ["a"]}', '{"samples":'):
        file.write_text(content)
        with pytest.raises(ValueError, match="drawn.json: it holds no drawn samples"):
            read_drawn(file, 4)
    file.unlink()
    with pytest.raises(ValueError, match="drawn.json: it holds no drawn samples"):
        read_drawn(file, 4)
    (tmp_path / "round-1").mkdir()
    (tmp_path / "round-1" / "round.json").write_text('{"round": 1')
    with pytest.raises(ValueError, match="round.json: it is no JSON"):
        run_rounds(tmp_path)


@pytest.mark.parametrize(
    "indices, message",
    [
        ([], "indices: there are none"),
        ([0, 30], "indices: got 0 to 30, the data set has 30 samples"),
        ([-1, 3], "indices: got -1 to 3"),
    ],
)
def test_samples_that_a_data_set_does_not_have_are_not_drawn_from_it(indices, message):
    with pytest.raises(ValueError, match=message):
        DrawnDataset(Blocks(), indices)


def test_drawn_samples_tell_what_their_data_set_tells_even_after_a_trip_to_another_process():
    drawn = DrawnDataset(Blocks(), [29])
    for each in (drawn, pickle.loads(pickle.dumps(drawn))):
        assert each.tokens.shape == (30, 12) and len(each) == 1
        with pytest.raises(AttributeError, match="words"):
            each.words  # noqa: B018


class Ragged(list):
    """Samples of the lengths given; -100 in all labels where they are to be none."""

    def __init__(self, *lengths, labels=True):
        super().__init__(
            {"input_ids": torch.arange(n), "labels": torch.full((n,), 1 if labels else -100)} for n in lengths
        )


@pytest.mark.parametrize(
    "samples, options, message",
    [
        (Ragged(), {}, "dataset: it has no samples"),
        (Ragged(4), {"batch_size": 0}, "batch_size: got 0, accepted are whole numbers from 1"),
        (Ragged(4, 4, 4, 6), {"batch_size": 2}, r"dataset: input_ids of samples 2 ... has the lengths \[4, 6\]"),
        (Ragged(4, 4, labels=False), {}, "dataset: sample 0 has no label to predict"),
        ([*Ragged(4, 4), *Ragged(4, labels=False)], {"batch_size": 1}, "dataset: sample 2 has no label"),
    ],
)
def test_samples_whose_losses_cannot_be_measured_are_named(samples, options, message):
    with pytest.raises(ValueError, match=message):
        compute_losses(model(), samples, **options)


def test_samples_without_labels_of_their_own_are_measured_by_their_tokens(losses):
    plain = [{"input_ids": tokens.tolist()} for tokens in Blocks().tokens[:3]]
    np.testing.assert_allclose(compute_losses(model(), plain), losses[:3], rtol=1e-5)


def test_rounds_that_could_draw_nothing_are_refused_before_the_first_and_leave_no_folder(tmp_path):
    with pytest.raises(ValueError, match="rate: got 0.01, which draws none of 30 groups of 1 samples"):
        run_rounds(tmp_path / "rounds", rate=0.01)
    assert not [*tmp_path.iterdir()]


def test_a_later_round_is_of_the_same_recipe_wherever_the_model_before_lies():
    arguments = {"model": "a/round-1", "tokenizer": "a/round-1", "learning_rate": 0.5, "folder": Path("x")}
    made = SimpleNamespace(args=SimpleNamespace(to_dict=lambda: dict(arguments)))
    rest = {"learning_rate": 0.5, "folder": "x"}
    assert _recipe(made, 1) == {"model": "a/round-1", "tokenizer": "a/round-1", **rest}
    assert _recipe(made, 2) == _recipe(made, 3) == rest


def test_how_likely_the_likeliest_sample_is_is_told_at_the_temperature_of_the_draw(tmp_path):
    losses = 2 * np.log([1.0, 2.0, 4.0, 1.0])
    for temperature, likeliest in ((2.0, 4 / 8), (1.0, 16 / 22), (4.0, 2 / (1 + 2**0.5 + 2 + 1))):
        written = write_drawn(tmp_path / "drawn.json", losses, rate=0.5, temperature=temperature)
        assert written["largest_probability"] == pytest.approx(likeliest)
        assert (written["temperature"], written["group_size"], written["seed"], written["data"]) == (
            temperature,
            1,
            0,
            None,
        )
    assert write_drawn(tmp_path / "drawn.json", losses, rate=0.5)["largest_probability"] == pytest.approx(16 / 22)


def test_numbers_that_were_drawn_from_data_that_nobody_named_fit_all_of_as_many_samples(tmp_path):
    file = tmp_path / "drawn.json"
    written = write_drawn(file, np.arange(6.0), rate=0.5, seed=5)
    for data in (None, "ab"):
        assert read_drawn(file, 6, data).tolist() == written["indices"]
    old = {name: value for name, value in written.items() if name != "data"}
    file.write_text(json.dumps(old))
    assert read_drawn(file, 6, "ab").dtype == np.int64
