"""Names of classes: of presets, and of data sets that call ImageNet's classes otherwise."""

import re

import pytest

import hf_effmodels
from hf_effmodels.classes import KNOWN, class_names, in_words
from hf_effmodels.registry import ARCHITECTURES
from hf_effmodels.training.data.classes import model_classes, same_classes

IMAGENET = class_names("imagenet-1k")


def test_the_names_stand_where_every_published_head_has_them():
    # As torchvision, timm and the models on the Hub number them.
    known = {0: "tench", 1: "goldfish", 207: "golden retriever", 281: "tabby", 388: "giant panda", 417: "balloon"}
    known |= {134: "crane", 517: "crane (machine)", 638: "maillot", 639: "maillot", 999: "toilet tissue"}
    assert len(IMAGENET) == len(set(IMAGENET)) == 1000
    assert {number: IMAGENET[number].partition(",")[0] for number in known} == known
    assert class_names("cifar-10") == "airplane automobile bird cat deer dog frog horse ship truck".split()
    fine = class_names("cifar-100")
    assert (len(fine), fine[0], fine[99]) == (100, "apple", "worm") and fine == sorted(fine)
    for dataset, count, known in (
        ("ade20k", 150, {0: "wall", 12: "person", 20: "car", 44: "chest of drawers", 127: "bicycle", 149: "flag"}),
        ("coco-stuff", 171, {0: "person", 9: "traffic light", 79: "toothbrush", 80: "banner", 170: "wood"}),
        ("pascal-context-60", 60, {0: "background", 15: "person", 59: "wood"}),
    ):
        names = class_names(dataset)
        assert len(names) == len(set(names)) == count and {n: names[n] for n in known} == known
    with pytest.raises(ValueError, match="classes: got 'mnist', accepted are 'ade20k', 'cifar-10', 'cifar-100', "):
        class_names("mnist")


def test_every_preset_with_the_classes_of_imagenet_or_cifar_10_says_words_and_no_numbers():
    for architecture in ARCHITECTURES.values():
        for name, preset in architecture.presets.items():
            names = [*hf_effmodels.get_config(name).id2label.values()]
            if preset.num_labels not in (10, 1000) and preset.classes is None:
                continue
            assert not any(re.fullmatch(r"LABEL_\d+", word) for word in names), name
            assert preset.classes is None or len(class_names(preset.classes)) == preset.num_labels, name
            assert preset.classes in (None, *KNOWN)
    config = hf_effmodels.get_config("ghostnetv3-1.0x")
    assert config.num_labels == 1000 and config.id2label[417] == "balloon" and config.label2id["balloon"] == 417
    assert hf_effmodels.get_config("adabin-resnet20-cifar10").id2label[9] == "truck"
    assert hf_effmodels.get_config("dtop-base-ade20k").id2label[2] == "sky"
    assert hf_effmodels.get_config("mhresnet8x18").id2label[0] == "apple"
    # A thousand classes of one's own are not ImageNet's.
    assert hf_effmodels.get_config("ghostnetv3-1.0x", num_labels=1000).id2label[417] == "LABEL_417"
    assert hf_effmodels.get_config("ghostnetv3-1.0x", id2label={0: "a", 1: "b"}).id2label == {0: "a", 1: "b"}


def test_other_spellings_of_imagenet_are_read_and_other_names_stay():
    assert in_words(["n01443537", "n01440764"]) == [IMAGENET[1], IMAGENET[0]]
    torchvision = [name.partition(",")[0].replace(" ", "_") for name in IMAGENET]
    torchvision[134], torchvision[517] = "crane_bird", "crane"
    assert in_words(torchvision) == IMAGENET
    assert in_words([name.title() for name in IMAGENET]) == IMAGENET
    few, more = ([f"own {n}" for n in range(count)] + IMAGENET[count:] for count in (20, 21))
    assert in_words(few) == IMAGENET and in_words(more) == more  # a list of one's own, of as many
    shuffled = IMAGENET[500:] + IMAGENET[:500]
    assert in_words(shuffled) == shuffled
    assert in_words(("cat", "dog")) == ["cat", "dog"]  # a list, whatever is given
    assert in_words(IMAGENET * 2) == IMAGENET * 2
    for names in ([], ["n01440764", "cat"], ["tench", "goldfish"], [f"LABEL_{n}" for n in range(1000)]):
        assert in_words(names) == names


def test_imagenet_is_matched_by_class_however_the_two_sides_spell_it():
    folders = ["n01443537", "n01440764"]
    assert model_classes(folders, IMAGENET) == [1, 0]
    twice = ["crane" if name.startswith("crane") else name for name in IMAGENET]  # as models on the Hub have it
    assert model_classes(folders, twice) == [1, 0]
    assert model_classes(IMAGENET, twice) == [*range(1000)]
    assert same_classes(folders, IMAGENET[:2]) and not same_classes(folders, IMAGENET[1:3])
