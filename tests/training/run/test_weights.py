"""What a checkpoint gives back is what was in memory, whatever names the model's weights have on disk."""

import json
import logging
import sys

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedModel,
    SwinConfig,
    SwinForImageClassification,
    TimmWrapperConfig,
    TrainerCallback,
    ViTConfig,
    ViTForImageClassification,
)
from transformers.models.timm_wrapper.modeling_timm_wrapper import TimmWrapperForImageClassification
from transformers.utils import is_timm_available

import hf_effmodels
from hf_effmodels.training.run import weights
from hf_effmodels.training.run.output_folder import WEIGHTS_WITHOUT_EMA
from hf_effmodels.training.run.recipe_arguments import RecipeArguments
from hf_effmodels.training.run.trainer import RecipeTrainer
from hf_effmodels.training.run.weights import WeightsError, is_peft_model, load_state, load_weights

TEXT = {"vocab_size": 20, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
PATCHES = {"image_size": 16, "patch_size": 4, "num_labels": 3, "hidden_size": 16, "num_hidden_layers": 2}


class Pixels(nn.Module):
    """A module that is no model of transformers."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3 * 16 * 16, 3)

    def forward(self, pixel_values, labels):
        return {"loss": nn.functional.cross_entropy(self.layer(pixel_values.flatten(1)), labels)}


class StandInForImageClassification(TimmWrapperForImageClassification):
    """transformers' wrapper, which adds a prefix to the names on disk, around a network that needs no timm."""

    def __init__(self, config):
        PreTrainedModel.__init__(self, config)
        self.num_labels = config.num_labels
        self.timm_model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, self.num_labels)
        )
        self.post_init()


KINDS = {
    "vit": lambda: ViTForImageClassification(ViTConfig(**PATCHES, num_attention_heads=2, intermediate_size=24)),
    "swin": lambda: SwinForImageClassification(
        SwinConfig(
            image_size=16, patch_size=2, num_labels=3, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2
        )
    ),
    "mixtral": lambda: MixtralForCausalLM(MixtralConfig(**TEXT, num_key_value_heads=2, num_local_experts=3)),
    "tied llama": lambda: LlamaForCausalLM(LlamaConfig(**TEXT, tie_word_embeddings=True)),
    "one of ours": lambda: hf_effmodels.create_model("vanillanet-5", num_labels=3, hidden_sizes=[8, 12], strides=[2]),
    "a wrapper of timm": lambda: StandInForImageClassification(TimmWrapperConfig(architecture="none", num_labels=3)),
    "a plain module": Pixels,
}
if is_timm_available():
    KINDS["timm"] = lambda: TimmWrapperForImageClassification(
        TimmWrapperConfig(architecture="resnet10t", num_labels=3)
    )


class Samples(torch.utils.data.Dataset):
    def __init__(self, text: bool):
        self.text = text

    def __len__(self):
        return 8

    def __getitem__(self, number):
        generator = torch.Generator().manual_seed(number % 8)
        if self.text:
            ids = torch.randint(20, (6,), generator=generator)
            return {"input_ids": ids, "labels": ids}
        return {"pixel_values": torch.randn(3, 16, 16, generator=generator), "labels": number % 3}


def state_of(model):
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def make(kind, folder, seed=0, **arguments):
    """A trainer of four steps, of a model with the random weights of `seed`."""
    torch.manual_seed(seed)
    model = KINDS[kind]()
    settings = {"per_device_train_batch_size": 4, "learning_rate": 0.01, "max_steps": 4, "save_strategy": "steps"}
    settings |= {"save_steps": 2, "logging_strategy": "no", "report_to": ["none"]}
    args = RecipeArguments(output_dir=str(folder), **{**settings, **arguments})
    data = Samples(kind in ("mixtral", "tied llama"))
    return RecipeTrainer(model=model, args=args, train_dataset=data, eval_dataset=data)


def assert_same(first, second):
    assert first.keys() == second.keys()
    different = [name for name in first if not torch.equal(first[name], second[name])]
    assert not different, different


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_goes_on_from_a_checkpoint_to_the_same_weights(kind, ema, tmp_path):
    whole = make(kind, tmp_path / "whole", ema_decay=ema)
    whole.train()
    resumed = make(kind, tmp_path / "resumed", seed=1, ema_decay=ema)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert_same(state_of(whole.model), state_of(resumed.model))


@pytest.mark.parametrize("ema", [None, 0.5])
def test_a_run_ends_with_the_weights_of_its_best_evaluation(kind, ema, tmp_path):
    best = {"load_best_model_at_end": True, "metric_for_best_model": "score", "greater_is_better": True}
    trainer = make(kind, tmp_path, ema_decay=ema, eval_strategy="steps", eval_steps=2, **best)
    scores = iter([2.0, 1.0])
    evaluate = trainer.evaluate

    class Watch(TrainerCallback):
        states = {}

        def on_evaluate(self, args, state, control, **kwargs):
            with trainer.evaluated_weights():
                self.states[state.global_step] = state_of(trainer.model)

    trainer.add_callback(Watch())
    trainer.evaluate = lambda *args, **kwargs: {**evaluate(*args, **kwargs), "eval_score": next(scores)}
    trainer.train()
    assert trainer.state.best_global_step == 2
    with pytest.raises(AssertionError):
        assert_same(Watch.states[2], Watch.states[4])
    assert_same(state_of(trainer.model), Watch.states[2])
    trainer.save_model(str(tmp_path / "saved"))
    if hasattr(trainer.model, "from_pretrained"):
        assert_same(state_of(type(trainer.model).from_pretrained(tmp_path / "saved")), Watch.states[2])


def test_weights_that_lack_or_add_something_are_refused_by_name(kind, tmp_path):
    trainer = make(kind, tmp_path, max_steps=2)
    trainer.train()
    file = tmp_path / "checkpoint-2" / "model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[-1]
    filters = [*logging.getLogger("transformers.modeling_utils").filters]
    taken = weights.pop(name)
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="checkpoint-2.*lacks"):
        make(kind, tmp_path / "more").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    save_file({**weights, name: taken, "something.else": taken.clone()}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match="checkpoint-2.*something.else"):
        make(kind, tmp_path / "more").train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    save_file({**weights, name: taken[None].clone()}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="shape"):
        load_weights(KINDS[kind](), tmp_path / "checkpoint-2")
    assert logging.getLogger("transformers.modeling_utils").filters == filters  # its reports are said again


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "timm" in kind])
def test_weights_as_timm_publishes_them_lack_the_prefix_of_the_wrapper(kind, tmp_path):
    model = KINDS[kind]()
    model.save_pretrained(tmp_path)
    before = state_of(model)
    as_published = {name.removeprefix("timm_model."): tensor for name, tensor in before.items()}
    assert not as_published.keys() & before.keys()
    save_file(as_published, tmp_path / "model.safetensors", metadata={"format": "pt"})
    for tensor in model.state_dict().values():
        tensor.zero_()
    load_weights(model, tmp_path)
    assert_same(before, state_of(model))


@pytest.mark.parametrize(
    "dtype, of_head",
    [(torch.bfloat16, torch.bfloat16), (torch.float64, torch.float64), (torch.float32, torch.float64)],
)
def test_weights_of_any_precision_come_back_bit_for_bit(dtype, of_head, tmp_path):
    model, other = (KINDS["vit"]().to(dtype) for _ in range(2))
    for each in (model, other):
        each.classifier.to(of_head)
    for tensor in model.state_dict().values():
        tensor.copy_(torch.rand(tensor.shape, dtype=torch.float64))  # with all digits that the precision has
    model.save_pretrained(tmp_path)
    load_weights(other, tmp_path)
    assert_same(state_of(model), state_of(other))
    assert {tensor.dtype for tensor in other.state_dict().values()} == {dtype, of_head}


def test_a_mixture_with_an_expert_too_few_is_refused(tmp_path):
    trainer = make("mixtral", tmp_path, max_steps=2)
    trainer.train()
    file = tmp_path / "checkpoint-2" / "model.safetensors"
    weights = load_file(file)
    name = next(name for name in weights if ".experts." in name)
    save_file({other: t for other, t in weights.items() if other != name}, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="checkpoint-2: these are not the weights of this model"):
        load_weights(trainer.model, tmp_path / "checkpoint-2")


def test_training_weights_that_lack_or_add_something_are_refused_by_name(tmp_path):
    trainer = make("tied llama", tmp_path, max_steps=2, ema_decay=0.5)
    trainer.train()
    file = tmp_path / "checkpoint-2" / WEIGHTS_WITHOUT_EMA
    weights = load_file(file)
    name = sorted(weights)[0]
    for changed in ({n: t for n, t in weights.items() if n != name}, {**weights, "something.else": torch.ones(1)}):
        save_file(changed, file, metadata={"format": "pt"})
        with pytest.raises(ValueError, match=f"{WEIGHTS_WITHOUT_EMA}.*({name}|something.else)"):
            make("tied llama", tmp_path / "more", ema_decay=0.5).train(
                resume_from_checkpoint=str(tmp_path / "checkpoint-2")
            )


def test_weights_of_a_plain_module_come_from_all_files_of_the_index(tmp_path):
    layer = nn.Linear(2, 3)
    with pytest.raises(WeightsError, match=f"^{tmp_path}: it lacks the file model.safetensors.$"):
        load_weights(layer, tmp_path)
    index = {"weight_map": {"weight": "a.safetensors", "bias": "b.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    save_file({"weight": torch.ones(3, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=f"^{tmp_path}: it lacks the file b.safetensors.$"):
        load_weights(layer, tmp_path)
    save_file({"bias": torch.ones(3)}, tmp_path / "b.safetensors")
    load_weights(layer, tmp_path)
    assert layer.weight.eq(1).all() and layer.bias.eq(1).all()


def test_of_what_is_wrong_five_are_named_and_the_rest_counted():
    layers = nn.Sequential(*(nn.Linear(1, 1) for _ in range(3)))
    with pytest.raises(WeightsError) as caught:
        load_state(layers, {"0.weight": torch.ones(1, 1), "z": torch.ones(1), "2.bias": torch.ones(2)}, "there")
    assert str(caught.value) == (
        "there: these are not the weights of this model: it lacks 0.bias; lacks 1.bias; lacks 1.weight; "
        "lacks 2.weight; has z beside, and 1 more."
    )
    load_state(layers, {"1.bias": torch.full((1,), 7.0)}, "there", only=lambda name: name == "1.bias")
    with pytest.raises(WeightsError, match="^there: .*: it lacks 1.weight.$"):  # of the part that is there
        load_state(layers, {"1.bias": torch.ones(1)}, "there", only=lambda name: name.startswith("1."))
    assert layers[1].bias == 7
    with pytest.raises(WeightsError, match="it has 1.bias of shape .2,., not .1,..$"):
        load_state(layers, {"1.bias": torch.ones(2)}, "there", only=lambda name: name == "1.bias")


def test_adapters_are_known_where_peft_is_installed(monkeypatch):
    assert not is_peft_model(nn.Linear(1, 1))
    for mixed in (False, True):
        wrapped = get_peft_model(KINDS["tied llama"](), LoraConfig(r=1, target_modules=["q_proj"]), mixed=mixed)
        assert is_peft_model(wrapped)
    monkeypatch.setattr(weights, "is_peft_available", lambda: False)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert not is_peft_model(nn.Linear(1, 1))
