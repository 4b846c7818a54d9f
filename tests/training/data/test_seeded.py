"""The epoch contract: a sample's random numbers depend on seed, epoch and index, and plain data sets work as well."""

import pickle
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from transformers import ConvNextConfig, ConvNextForImageClassification

from hf_effmodels.training.data.seeded import SeededDataset, data_seed
from hf_effmodels.training.run.recipe_arguments import RecipeArguments
from hf_effmodels.training.run.sampling import EpochSampler
from hf_effmodels.training.run.trainer import RecipeTrainer


class Draws(SeededDataset):
    """Sample i is its index and two random numbers."""

    def __init__(self, length, seed):
        super().__init__(seed)
        self.length = length

    def __len__(self):
        return self.length

    def sample(self, index, rng):
        return (index, *([] if rng is None else rng.random(2).tolist()))


def test_sample_i_of_epoch_e_has_the_numbers_of_seed_epoch_and_index():
    dataset = Draws(5, seed=7)
    for epoch, index in ((0, 0), (0, 4), (1, 0), (3, 2)):
        expected = np.random.default_rng((7, epoch, index)).random(2).tolist()
        assert dataset[epoch * 5 + index] == (index, *expected)
        assert dataset[np.int64(epoch * 5 + index)] == (index, *expected)
    assert [sample[0] for sample in dataset] == [0, 1, 2, 3, 4]
    assert pickle.loads(pickle.dumps(dataset))[7] == dataset[7]
    with pytest.raises(IndexError):
        dataset[-1]


def test_without_a_seed_there_are_no_epochs():
    dataset = Draws(3, seed=None)
    assert list(dataset) == [(0,), (1,), (2,)]
    with pytest.raises(IndexError, match="number 3 of a data set with 3 samples"):
        dataset[3]


def test_the_order_depends_on_seed_and_epoch_and_workers_change_nothing():
    dataset = Draws(10, seed=3)
    sampler, orders = EpochSampler(len(dataset), seed=3), []
    for epoch in range(3):
        sampler.epoch = epoch
        numbers = list(sampler)
        assert [n // 10 for n in numbers] == [epoch] * 10
        assert [n % 10 for n in numbers] == np.random.default_rng((3, epoch)).permutation(10).tolist()
        orders.append(numbers)
    plain = EpochSampler(len(dataset), seed=3, count_epochs=False)
    plain.epoch = 2
    assert list(plain) == [n % 10 for n in orders[2]]
    assert list(EpochSampler(5, seed=0, shuffle=False)) == [0, 1, 2, 3, 4]
    loaded = [
        [
            sample
            for batch in DataLoader(dataset, sampler=orders[1], batch_size=4, collate_fn=list, num_workers=w)
            for sample in batch
        ]
        for w in (0, 2)
    ]
    assert loaded[0] == loaded[1] == [dataset[n] for n in orders[1]]


def test_the_data_seed_counts_where_it_is_given():
    assert data_seed(SimpleNamespace(seed=1, data_seed=None)) == 1
    assert data_seed(SimpleNamespace(seed=1, data_seed=0)) == 0


class Plain(Dataset):
    """Labelled noise, as any user's map-style data set; remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 6

    def __getitem__(self, number):
        if not 0 <= number < 6:
            raise IndexError(number)
        self.asked.append(number)
        return {"pixel_values": torch.full((3, 8, 8), float(number)), "labels": number % 2}


def table():
    rows = [{"pixel_values": np.full((3, 8, 8), n, np.float32).tolist(), "labels": n % 2} for n in range(6)]
    return datasets.Dataset.from_list(rows).with_format("torch")


@pytest.mark.parametrize("dataset", [Plain(), table()], ids=["torch", "datasets"])
def test_the_trainer_takes_a_plain_data_set_for_several_epochs(dataset, tmp_path):
    config = ConvNextConfig(patch_size=2, hidden_sizes=[4, 8], depths=[1, 1], num_stages=2, image_size=8, num_labels=2)
    args = RecipeArguments(
        output_dir=str(tmp_path), num_train_epochs=3, per_device_train_batch_size=3, save_strategy="no", data_seed=5
    )
    trainer = RecipeTrainer(model=ConvNextForImageClassification(config), args=args, train_dataset=dataset)
    trainer.train()
    assert trainer.state.global_step == 6
    if isinstance(dataset, Plain):
        orders = [dataset.asked[start : start + 6] for start in (0, 6, 12)]
        assert orders == [np.random.default_rng((5, epoch)).permutation(6).tolist() for epoch in range(3)]
