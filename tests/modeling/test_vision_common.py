"""What every registered vision architecture promises, at a size that runs in milliseconds."""

import copy
import logging
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoBackbone,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    DetrConfig,
    DetrForObjectDetection,
    UperNetConfig,
    UperNetForSemanticSegmentation,
    pipeline,
)

from hf_effmodels.hub import export
from hf_effmodels.modeling.layers.reparameterization import ReparameterizationMixin
from hf_effmodels.models import create_image_processor
from hf_effmodels.registry import ARCHITECTURES

from .tiny import tiny_config

#: Classifiers that are backbones, too. DeViT is several networks whose hidden states are sequences of their own: what
#: it has in common with these is in its own tests.
VISION = [
    a
    for a in ARCHITECTURES.values()
    if {"AutoModelForImageClassification", "AutoBackbone"} <= a.auto_classes.keys() and a.model_type != "devit"
]
CLASSIFIER, BACKBONE, BASE = "AutoModelForImageClassification", "AutoBackbone", "AutoModel"


@pytest.fixture(params=VISION, ids=lambda a: a.model_type)
def architecture(request):
    return request.param


def config_of(architecture, **overrides):
    return tiny_config(architecture, **{"num_labels": 5, **overrides})


def build(architecture, auto_class=CLASSIFIER, **overrides):
    """A tiny network whose batch norms have seen data, so that folding has something to fold."""
    torch.manual_seed(1)
    model = architecture.model_class(auto_class)(config_of(architecture, **overrides)).eval()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return model


def images(model, batch=2, dtype=torch.float32):
    config = model.config
    size = config.image_size if isinstance(config.image_size, int) else config.image_size[0]
    generator = torch.Generator().manual_seed(7)
    return torch.randn(batch, config.num_channels, size, size, generator=generator).to(dtype)


def close(a, b, tolerance=1e-5):
    scale = max(b.double().std().item(), 1e-6)
    assert (a.double() - b.double()).abs().max().item() <= tolerance * scale


@torch.no_grad()
def test_saved_model_loads_with_the_same_outputs(architecture, tmp_path):
    model = build(architecture)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(loaded) is type(model)
    # Not to the bit: loaded weights may lie in memory where another kernel is chosen.
    close(loaded(images(model)).logits, model(images(model)).logits)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        assert torch.equal({**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}[name], tensor), name
    half = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    close(half(images(model, dtype=torch.bfloat16)).logits, model(images(model)).logits, tolerance=0.3)


@torch.no_grad()
def test_auto_classes_find_every_head(architecture, tmp_path):
    model = build(architecture)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is architecture.config_class
    base = AutoModel.from_pretrained(tmp_path)
    assert type(base) is architecture.model_class(BASE) is type(model.base_model)
    expected = model.base_model(images(model))
    assert torch.equal(base(images(model)).pooler_output, expected.pooler_output)
    names = model.config.stage_names
    # AutoBackbone.from_pretrained of transformers 5.23 takes ids of the Hub only: tests/hub does that.
    backbone = architecture.model_class(BACKBONE).from_pretrained(tmp_path, out_features=names[-2:])
    assert type(AutoBackbone.from_config(backbone.config)) is type(backbone)
    maps = backbone(images(model)).feature_maps
    assert [m.shape[1] for m in maps] == backbone.channels
    hidden = model(images(model), output_hidden_states=True).hidden_states
    assert torch.equal(maps[-1], hidden[-1])


@torch.no_grad()
def test_backbone_round_trips_with_any_selection(architecture, tmp_path):
    names = config_of(architecture).stage_names
    for selection in ({"out_features": names}, {"out_indices": [0, 2]}, {"out_indices": [-1]}, {}):
        backbone = build(architecture, BACKBONE, **selection)
        backbone.save_pretrained(tmp_path)
        loaded = type(backbone).from_pretrained(tmp_path)
        assert loaded.out_features == backbone.out_features
        for map_loaded, map_own in zip(
            loaded(images(backbone)).feature_maps, backbone(images(backbone)).feature_maps, strict=True
        ):
            assert torch.equal(map_loaded, map_own)


@torch.no_grad()
def test_feature_maps_are_the_hidden_states_of_their_names_in_order(architecture):
    names = config_of(architecture).stage_names
    backbone = build(architecture, BACKBONE, out_features=[names[0], names[-1]])
    outputs = backbone(images(backbone), output_hidden_states=True)
    assert len(outputs.hidden_states) == len(names)
    for got, expected in zip(outputs.feature_maps, (outputs.hidden_states[0], outputs.hidden_states[-1]), strict=True):
        assert torch.equal(got, expected)
    assert backbone.channels == [m.shape[1] for m in outputs.feature_maps]
    as_tuple = backbone(images(backbone), return_dict=False)
    assert torch.equal(as_tuple[0][1], outputs.feature_maps[1])


@torch.no_grad()
def test_hidden_states_and_tuples_are_transformers_own(architecture):
    model = build(architecture)
    assert model(images(model)).hidden_states is None
    outputs = model(images(model), output_hidden_states=True)
    assert len(outputs.hidden_states) == len(model.config.stage_names) == model.config.num_hidden_layers + 1
    assert [h.shape[1] for h in outputs.hidden_states] == list(model.config.hidden_sizes)
    as_tuple = model(images(model), output_hidden_states=True, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], outputs.logits)
    labelled = model(images(model), labels=torch.tensor([0, 1]), return_dict=False)
    assert labelled[0].ndim == 0


@pytest.mark.parametrize(
    "num_labels, problem_type, labels",
    [
        (5, None, torch.tensor([0, 4])),
        (5, "multi_label_classification", torch.tensor([[0.0, 1, 0, 1, 0], [1.0, 0, 0, 0, 0]])),
        (1, "regression", torch.tensor([0.5, -1.0])),
    ],
)
def test_losses_by_problem_type(architecture, num_labels, problem_type, labels):
    model = build(architecture, num_labels=num_labels, problem_type=problem_type)
    logits = model(images(model)).logits
    loss = model(images(model), labels=labels).loss
    functional = torch.nn.functional
    expected = {
        None: lambda: functional.cross_entropy(logits, labels),
        "multi_label_classification": lambda: functional.binary_cross_entropy_with_logits(logits, labels),
        "regression": lambda: functional.mse_loss(logits.squeeze(), labels),
    }[problem_type]()
    torch.testing.assert_close(loss, expected)


def test_loss_decreases_and_every_parameter_learns(architecture):
    model = build(architecture).train()
    pixels, labels = images(model, batch=4), torch.tensor([0, 1, 2, 3])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        loss = model(pixels, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    without = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert losses[-1] < 0.7 * losses[0]


def test_gradient_checkpointing_changes_nothing(architecture):
    plain = build(architecture).double().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.activation_checkpointing_enable()
    for model in (plain, checkpointed):
        torch.manual_seed(3)
        model(images(model, batch=4).double(), labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    for (name, a), b in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-9, atol=1e-12, msg=f"gradient of {name}")
    for (name, a), b in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        assert torch.equal(a, b), f"buffer {name}: the recomputation moved it a second time"
    checkpointed.activation_checkpointing_disable()
    assert not checkpointed.is_activation_checkpointing


def test_settings_of_norms_and_dropout_reach_every_layer(architecture):
    config = config_of(architecture, batch_norm_eps=0.03, batch_norm_momentum=0.2)
    assert {"classifier_dropout", "drop_path_rate"} & set(config.to_dict())
    if "classifier_dropout" in config.to_dict():
        config.classifier_dropout = 0.37
    model = architecture.model_class(CLASSIFIER)(config).train()
    norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    assert norms and {(norm.eps, norm.momentum) for norm in norms} == {(0.03, 0.2)}
    if "classifier_dropout" in config.to_dict():
        seen = []
        model.classifier.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        model.dropout.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        model(images(model, batch=8))
        before, after = (tensor.flatten(1).detach() for tensor in seen)
        kept = after != 0
        torch.testing.assert_close(after[kept], (before / (1 - 0.37))[kept])
        assert 0.15 < 1 - (kept.sum() / (before != 0).sum()).item() < 0.6


@torch.no_grad()
def test_an_image_does_not_depend_on_its_batch(architecture):
    model = build(architecture).double()
    batch = images(model, batch=3).double()
    together = model(batch).logits
    alone = torch.cat([model(image[None]).logits for image in batch])
    assert alone.shape == (3, 5)
    close(alone, together, tolerance=1e-9)


@torch.no_grad()
def test_other_channels_labels_and_sizes(architecture):
    for num_channels, num_labels in ((1, 10), (4, 1)):
        model = build(architecture, num_channels=num_channels, num_labels=num_labels)
        assert model(images(model)).logits.shape == (2, num_labels)
    size = images(model).shape[-1]
    other = torch.randn(1, 4, size + 7, 2 * size - 3)
    assert model(other).logits.shape == (1, num_labels)
    with pytest.raises(ValueError, match=r"pixel_values: got shape \(2, 3, .*expected \(batch, 4"):
        model(torch.randn(2, 3, size, size))


def test_heads_of_other_sizes_are_made_anew(architecture, tmp_path):
    model = build(architecture)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=7, ignore_mismatched_sizes=True)
    assert loaded(images(model)).logits.shape == (2, 7)
    assert all(torch.isfinite(p).all() for p in loaded.parameters())
    close(loaded.base_model(images(model)).pooler_output, model.base_model(images(model)).pooler_output)
    # A checkpoint without any head: the missing one is initialised, not left as it came from memory.
    model.base_model.save_pretrained(tmp_path / "base")
    torch.manual_seed(5)
    fresh = architecture.model_class(CLASSIFIER).from_pretrained(tmp_path / "base", num_labels=5)
    torch.manual_seed(5)
    again = architecture.model_class(CLASSIFIER).from_pretrained(tmp_path / "base", num_labels=5)
    for name, parameter in fresh.named_parameters():
        assert torch.isfinite(parameter).all()
        assert torch.equal(parameter, again.get_parameter(name))


def test_initialisation_follows_the_seed_on_meta_too(architecture, tmp_path):
    models = []
    for seed in (11, 11, 12):
        torch.manual_seed(seed)
        models.append(architecture.model_class(CLASSIFIER)(config_of(architecture)))
    weights = [torch.cat([p.flatten() for p in model.parameters()]) for model in models]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    with torch.device("meta"):
        skeleton = architecture.model_class(CLASSIFIER)(config_of(architecture))
    assert all(p.is_meta for p in skeleton.parameters())
    models[0].save_pretrained(tmp_path)
    loaded = architecture.model_class(CLASSIFIER).from_pretrained(tmp_path)
    persistent = loaded.state_dict().keys()
    for name, buffer in models[0].named_buffers():
        if name not in persistent:
            assert torch.equal(loaded.get_buffer(name), buffer), f"{name} is not rebuilt after loading"


#: Exported by default in tests/edge, or alike another one; the others' programs take seconds each.
EXPORTED_ELSEWHERE = {"ghostnetv2", "ghostnetv3", "tinyvit", "vig", "adabin", "bimlp"}


@pytest.mark.parametrize(
    "architecture",
    [pytest.param(a, marks=[pytest.mark.thorough] * (a.model_type in EXPORTED_ELSEWHERE)) for a in VISION],
    ids=[a.model_type for a in VISION],
    indirect=True,
)
@torch.no_grad()
def test_exported_program_takes_any_batch(architecture):
    model = build(architecture)
    program = torch.export.export(
        model,
        (),
        {"pixel_values": images(model)},
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=64)}},
    )
    for batch in (1, 3):
        close(program.module()(pixel_values=images(model, batch)).logits, model(images(model, batch)).logits)


@torch.no_grad()
def test_folding_keeps_outputs_and_survives_saving(architecture, tmp_path):
    model = build(architecture)
    if not isinstance(model, ReparameterizationMixin):
        pytest.skip(f"{architecture.title} has nothing to fold")
    pixels = images(model)
    exact = copy.deepcopy(model).double()
    expected = exact(pixels.double()).logits
    close(exact.reparameterize()(pixels.double()).logits, expected, tolerance=1e-9)
    assert not [m for m in exact.modules() if isinstance(m, torch.nn.BatchNorm2d)], "a batch norm is left"

    before = model(pixels)
    with pytest.raises(RuntimeError, match=r"training mode.*model\.eval\(\)"):
        copy.deepcopy(model).train().reparameterize()
    folded = model.reparameterize()
    assert folded is model
    assert model.config.reparameterized
    close(model(pixels).logits, before.logits)
    # Laid out as convolutions run fastest; built so, it is ready for evaluation and nothing else.
    kernels = [m.weight for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
    assert not architecture.model_class(CLASSIFIER)(config_of(architecture, reparameterized=True)).training
    assert not model.eval().training
    weights = copy.deepcopy(model.state_dict())
    model.reparameterize()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert loaded.config.reparameterized
    close(loaded(pixels).logits, model(pixels).logits)
    for attempt in (model, loaded):
        with pytest.raises(RuntimeError, match="cannot be trained"):
            attempt.train()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_folding_keeps_half_precision(architecture, dtype):
    model = build(architecture).to(dtype)
    if not isinstance(model, ReparameterizationMixin):
        pytest.skip(f"{architecture.title} has nothing to fold")
    before = model(images(model, dtype=dtype)).logits
    model.reparameterize()
    assert {p.dtype for p in model.parameters()} == {dtype}
    close(model(images(model, dtype=dtype)).logits, before, tolerance=0.3)


@pytest.mark.parametrize("form", ["trained", "in training", "folded"])
def test_hooks_run_on_every_module(architecture, form):
    """Calibration, offloading, statistics for pruning: whoever watches a module sees its inputs and its gradients."""
    model = build(architecture)
    if form == "folded":
        model.reparameterize()
    model.train(form == "in training")
    pixels = images(model).requires_grad_()
    torch.manual_seed(3)
    expected = model(pixels).logits.detach()
    modules = {name: m for name, m in model.named_modules() if not isinstance(m, torch.nn.ModuleList)}
    forward, backward = set(), set()
    for name, module in modules.items():
        module.register_forward_hook(lambda module, args, output, name=name: forward.add(name))
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear | torch.nn.BatchNorm2d):
            module.register_full_backward_hook(lambda module, *gradients, name=name: backward.add(name))
    torch.manual_seed(3)
    logits = model(pixels).logits
    logits.sum().backward()
    close(logits.detach(), expected)
    assert not modules.keys() - forward
    weights = {name for name, m in modules.items() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)}
    assert not weights - backward


def test_an_adapter_keeps_the_statistics_of_the_batch_norms_it_was_trained_with(architecture, tmp_path):
    # Wherever the architecture has its linear layers and 1×1 convolutions.
    targets = [
        name
        for name, m in build(architecture).named_modules()
        if isinstance(m, torch.nn.Linear)
        or isinstance(m, torch.nn.Conv2d)
        and m.kernel_size == (1, 1)
        and m.groups == 1
    ]
    assert targets
    differences = {}
    for saved in ("named", "forgotten"):
        model = build(architecture)
        names = model.batch_norm_names()
        assert names and all(isinstance(model.get_submodule(n), torch.nn.modules.batchnorm._BatchNorm) for n in names)
        adapted = get_peft_model(
            model, LoraConfig(r=2, target_modules=targets, modules_to_save=names if saved == "named" else None)
        )
        optimizer = torch.optim.SGD((p for p in adapted.parameters() if p.requires_grad), lr=0.01)
        for _ in range(3):
            adapted.train()(pixel_values=3 + images(model, batch=4)).logits.square().mean().backward()
            optimizer.step()
        with torch.no_grad():
            trained = adapted.eval()(pixel_values=images(model)).logits
            adapted.save_pretrained(tmp_path / saved)
            loaded = PeftModel.from_pretrained(build(architecture), tmp_path / saved).eval()
            differences[saved] = (loaded(pixel_values=images(model)).logits - trained).abs().max().item()
    assert differences["named"] <= 1e-6
    assert differences["forgotten"] > 1e-3


def answers_of_threads(ask, inputs, threads=3, rounds=4):
    """What `ask` gives for each input while other threads ask about other ones: (number of the input, answer)."""
    answers = []

    def run(number):
        for turn in range(rounds):
            index = (number + turn) % len(inputs)
            with torch.no_grad():
                answers.append((index, ask(inputs[index])))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, range(threads)))
    return answers


@pytest.mark.parametrize("form", ["trained", "folded"])
@torch.no_grad()
def test_threads_do_not_see_each_others_images(architecture, form):
    """Logits, recorded outputs, whatever the architecture can record, and feature maps, with images of two sizes."""
    names = config_of(architecture).stage_names
    model, backbone = build(architecture), build(architecture, BACKBONE, out_features=names[-2:])
    if form == "folded":
        model, backbone = model.reparameterize(), backbone.reparameterize()
    recorded = [key for key in type(model.base_model)._can_record_outputs if key != "hidden_states"]
    options = {f"output_{key}": True for key in ("hidden_states", *recorded)}
    inputs = [images(model)[:, :, : 64 - 16 * (i % 2)] + i for i in range(5)]

    def ask(pixels):
        outputs = model(pixels, **options)
        kept = [tensor for key in ("hidden_states", *recorded) for tensor in outputs[key]]
        return [
            outputs.logits,
            *kept,
            *backbone(pixels).feature_maps,
            *model.base_model(pixels, **options).hidden_states,
        ]

    alone = [ask(pixels) for pixels in inputs]
    answers = answers_of_threads(ask, inputs)
    assert len(answers) == 12
    for index, answer in answers:
        assert len(answer) == len(alone[index])
        for got, expected in zip(answer, alone[index], strict=True):
            close(got, expected)


def test_folding_accepts_synchronised_batch_norms(architecture):
    model = build(architecture)
    if not isinstance(model, ReparameterizationMixin):
        pytest.skip(f"{architecture.title} has nothing to fold")
    with torch.no_grad():
        expected = model(images(model)).logits
        synchronised = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
        close(synchronised.reparameterize()(images(model)).logits, expected)


def test_pipelines_run_without_complaint(architecture, tmp_path, caplog):
    from PIL import Image

    model = build(architecture, id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1}, num_labels=2)
    preset = next(iter(architecture.presets))
    processor = create_image_processor(preset, image_size=images(model).shape[-1])
    export(model, processor, tmp_path / "model", license="apache-2.0")
    picture = Image.effect_noise((90, 70), 80).convert("RGB")
    transformers_logger = logging.getLogger("transformers")
    transformers_logger.addHandler(caplog.handler)
    try:
        answer = pipeline("image-classification", model=str(tmp_path / "model"))(picture)
        features = pipeline("image-feature-extraction", model=str(tmp_path / "model"), pool=True)(picture)
    finally:
        transformers_logger.removeHandler(caplog.handler)
    assert {entry["label"] for entry in answer} == {"cat", "dog"}
    assert len(features[0]) == model.base_model(images(model)).pooler_output.shape[-1]
    assert "not supported" not in caplog.text
    assert type(AutoImageProcessor.from_pretrained(tmp_path / "model")) is type(processor)


def test_it_is_the_backbone_of_a_stock_segmenter(architecture):
    backbone = config_of(architecture)
    backbone = config_of(architecture, out_features=backbone.stage_names[-3:])
    settings = {"hidden_size": 8, "pool_scales": [1, 2], "use_auxiliary_head": False, "num_labels": 3}
    model = UperNetForSemanticSegmentation(UperNetConfig(backbone_config=backbone, **settings))
    output = model(images(model.backbone), labels=torch.zeros(images(model.backbone)[:, 0].shape, dtype=torch.long))
    assert output.logits.shape == (2, 3, *images(model.backbone).shape[2:])
    output.loss.backward()
    assert all(p.grad is not None for n, p in model.backbone.named_parameters() if "stem" in n)


def test_it_is_the_backbone_of_a_stock_detector(architecture):
    settings = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    settings |= {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 5, "num_labels": 3}
    backbone = config_of(architecture)
    backbone = config_of(architecture, out_features=backbone.stage_names[-1:])
    model = DetrForObjectDetection(DetrConfig(backbone_config=backbone, **settings))
    outputs = model(pixel_values=images(model.model.backbone.model))
    assert outputs.pred_boxes.shape == (2, 5, 4)
    outputs.logits.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if "backbone" in n and "stem" in n)


def test_model_types_are_not_transformers_own():
    code = (
        "from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES as names; "
        f"taken = [t for t in {list(ARCHITECTURES)!r} if t in names]; "
        "assert not taken, taken"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
