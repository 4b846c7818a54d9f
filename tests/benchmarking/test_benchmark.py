"""The benchmark runs what it says, counts what the papers count, and writes its table. Nothing here is timed."""

import csv
import json
from importlib.metadata import version

import pytest
import torch

import hf_effmodels
from hf_effmodels.benchmarking import main
from hf_effmodels.benchmarking.arguments import make_parser
from hf_effmodels.benchmarking.bare_convolutions import BareConvolutions
from hf_effmodels.benchmarking.command import plan, references
from hf_effmodels.benchmarking.counting import count_preset
from hf_effmodels.benchmarking.official_denoiser import DenoisingStep, OfficialDenoiser
from hf_effmodels.benchmarking.official_ghostnet import OfficialGhostNet
from hf_effmodels.benchmarking.official_vig import naive_vig
from hf_effmodels.benchmarking.peers import PEERS, ghostnet_width, timm_name
from hf_effmodels.benchmarking.tables import COLUMNS
from hf_effmodels.benchmarking.worker import peak_allocation
from hf_effmodels.benchmarking.workloads import make_call
from hf_effmodels.models import find_preset
from hf_effmodels.quantization.stored import count_parameters

GHOSTNETS = hf_effmodels.list_models("ghostnet*")
IMAGES = hf_effmodels.list_models(task="image-classification")


def by_architecture(names):
    """By default the smallest preset of each architecture: they are followed layer by layer, by the same code.

    Of CDFKD, whose smallest has the same numbers folded, the smallest where neither is the same.
    """
    names, least = list(names), {"cdfkd_mfs": "mhwrn4x162"}
    for name in sorted(names, key=lambda name: hf_effmodels.model_info(name).macs):
        least.setdefault(find_preset(name)[0].model_type, name)
    return [pytest.param(n, marks=[pytest.mark.thorough] * (n not in least.values())) for n in names]


@pytest.mark.parametrize("name", by_architecture(IMAGES))
def test_parameters_and_macs_are_the_printed_ones(name):
    info, cost = hf_effmodels.model_info(name), count_preset(name)
    assert cost.parameters / 1e6 == pytest.approx(info.parameters, abs=5.01e-4)
    assert cost.macs / 1e6 == pytest.approx(info.macs, abs=5.01e-2)


@pytest.mark.parametrize("name", by_architecture(n for n in IMAGES if hf_effmodels.model_info(n).folded_macs))
def test_folded_parameters_and_macs_are_the_printed_ones(name):
    info, cost = hf_effmodels.model_info(name), count_preset(name, folded=True)
    assert cost.parameters / 1e6 == pytest.approx(info.folded_parameters, abs=5.01e-4)
    assert cost.macs / 1e6 == pytest.approx(info.folded_macs, abs=5.01e-2)


# Sheet of GhostNetV3, section 4: parameters of the official training form and of its fused form, in millions.
@pytest.mark.parametrize(
    "name, trained, fused",
    [
        ("ghostnetv3-0.5x", 3.395, 2.853),
        ("ghostnetv3-1.0x", 8.129, 6.148),
        ("ghostnetv3-1.3x", 12.218, 8.948),
        ("ghostnetv3-1.6x", 17.276, 12.378),
    ],
)
def test_official_like_has_the_official_parameters_and_ours_fewer_by_the_kept_norms(name, trained, fused):
    config = hf_effmodels.get_config(name)
    with torch.device("meta"):
        networks = [OfficialGhostNet(config, fused=form) for form in (False, True)]
    counts = [sum(p.numel() for p in network.parameters()) for network in networks]
    assert [f"{number / 1e6:.3f}" for number in counts] == [f"{trained:.3f}", f"{fused:.3f}"]
    # γ and β of every norm left become one bias: one number per channel less.
    kept = sum(m.num_features for m in networks[1].modules() if isinstance(m, torch.nn.BatchNorm2d))
    assert counts[1] - count_preset(name, folded=True).parameters == kept


@pytest.mark.parametrize("name", ["ghostnet-0.5x", "ghostnetv2-1.0x", "ghostnetv3-0.5x"])
def test_official_like_computes_what_ours_does(name):
    model = hf_effmodels.create_model(name).double()
    peer = OfficialGhostNet(model.config).double().eval()
    for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5)
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    # Both run their layers in the same order: that says which weights belong to which.
    for source, target in zip(layers_as_run(model, pixels), layers_as_run(peer, pixels), strict=True):
        shapes = {key: value.shape for key, value in target.state_dict().items()}
        target.load_state_dict({key: value.view(shapes[key]) for key, value in source.state_dict().items()})
    with torch.no_grad():
        torch.testing.assert_close(peer(pixels), model(pixels).logits, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vig-ti", "pyramidvig-ti"])
def test_naive_graphs_compute_what_ours_do(name):
    model = hf_effmodels.create_model(name).double()
    pixels = torch.randn(1, 3, 224, 224, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(naive_vig(model)(pixels).logits, model(pixels).logits, rtol=1e-9, atol=1e-9)


def test_a_language_model_is_set_beside_itself_in_bfloat16_and_in_four_bits():
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 2}
    dense, packed = (PEERS[peer].build("pangu-pi-15m", False, sizes) for peer in ("bfloat16", "int4"))
    assert dense.dtype == packed.dtype == torch.bfloat16
    layers = [name for name, module in packed.named_modules() if type(module).__name__ == "PackedLinear"]
    # The shortcuts' inner layers have fewer inputs than a group.
    assert "model.layers.0.mlp.down_proj" in layers and 7 <= len(layers) < 11 and "lm_head" not in layers
    row = {"preset": "pangu-pi-15m", "batch": 1, "length": 4, "new_tokens": 2, "mode": "generate", "backend": "eager"}
    assert make_call(packed, row)().shape == (1, 6)
    real = sum(parameter.numel() for parameter in dense.parameters())
    assert count_parameters(packed) == count_parameters(dense) == real > sum(p.numel() for p in packed.parameters())


@pytest.mark.parametrize("peer", ["official-like", "convolutions-per-image"])
def test_plain_dynamic_convolutions_compute_what_ours_do(peer):
    torch.manual_seed(0)
    model = hf_effmodels.create_model("parameternet-300m").double()
    torch.manual_seed(0)
    plain = PEERS[peer].build("parameternet-300m", False, {}).double()
    pixels = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(plain(pixels).logits, model(pixels).logits, rtol=1e-9, atol=1e-9)


def test_the_plain_denoiser_computes_what_ours_does_at_every_step():
    settings = {"encoder": {"hidden_size": 8, "num_blocks": 3, "growth": 4}}
    settings["unet"] = {"hidden_size": 8, "condition_channels": 8, "num_conditions": 1}
    unet = hf_effmodels.create_model("sam-diffsr-x4", **settings).unet.double()
    step, maps = DenoisingStep(unet), [torch.randn(2, 8, 8, 8, dtype=torch.float64)]
    with torch.no_grad():
        for timestep in (90, 40):
            sample = torch.randn(2, 3, 32, 32, dtype=torch.float64)
            timesteps = torch.full((2,), timestep)
            expected = OfficialDenoiser(unet)(sample, timesteps, maps)
            torch.testing.assert_close(step(sample, timesteps, maps), expected, rtol=1e-9, atol=1e-9)


def test_bare_convolutions_run_every_convolution_of_the_folded_network_once():
    model = hf_effmodels.create_model("vanillanet-5").reparameterize()
    bare = BareConvolutions(model)
    with torch.no_grad():
        output = bare(torch.randn(2, 3, 64, 64))
    assert [conv for conv, _ in bare.calls] == [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert output.shape == (2, 1000, 1, 1)


@pytest.mark.parametrize(
    "preset, width",
    [("parameternet-300m", 1.5), pytest.param("parameternet-600m", 2.15, marks=pytest.mark.thorough)],
)
def test_the_ghostnet_beside_parameternet_has_its_multiply_adds(preset, width):
    macs = count_preset(preset).macs
    assert ghostnet_width(macs) == width
    assert count_preset("ghostnet-1.0x", overrides={"width_multiplier": width}).macs == pytest.approx(macs, rel=0.03)


def test_the_llama_beside_pangu_pi_has_its_weights_but_the_two_modules():
    overrides = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    overrides |= {"num_attention_heads": 2}
    names = [set(PEERS[peer].build("pangu-pi-15m", False, overrides).state_dict()) for peer in ("llama", "ours")]
    assert names[0] < names[1]
    assert all("augmented_shortcut" in name or "act_fn" in name for name in names[1] - names[0])


TEXT = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 99}
SEEING = {
    "text_config": {"model_type": "llama", **TEXT},
    "vision_config": {
        **{"model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 2, "patch_size": 14, "image_size": 224},
    },
    "image_token_id": 99,
}


def test_each_peer_stands_beside_the_presets_it_has_something_for_and_is_their_reference():
    command = ["--presets", "vanillanet-5,pyramidvig-ti", "--against", "bare-convolutions,official-like"]
    (rows,) = plan(make_parser().parse_args(command))
    assert [(row.preset, row.peer) for row in rows] == [
        *(("vanillanet-5", "bare-convolutions"), ("vanillanet-5", "ours")),
        *(("pyramidvig-ti", "official-like"), ("pyramidvig-ti", "ours")),
    ]
    assert [references(rows, None)[row] for row in rows] == [rows[0], rows[0], rows[2], rows[2]]
    assert set(references(rows, "pyramidvig-ti ours eager").values()) == {rows[3]}
    alone = plan(make_parser().parse_args(["--presets", "vanillanet-5,vanillanet-6"]))[0]
    assert set(references(alone, None).values()) == {alone[0]}


@pytest.mark.parametrize("mode", ["infer", "train", "generate"])
@pytest.mark.parametrize(
    "preset, peer, config",
    [
        ("pangu-pi-15m", "llama", TEXT),
        ("adem_vl-7b-caption", "visual-tokens", SEEING),
        ("adem_vl-7b-caption", "llava-pyramid-drop", SEEING),
    ],
)
def test_a_model_with_text_and_its_peer_do_one_call_in_every_mode(preset, peer, config, mode):
    row = {"preset": preset, "mode": mode, "batch": 2, "length": 8, "new_tokens": 3, "overrides": config}
    for name in (peer, "ours"):
        call = make_call(PEERS[name].build(preset, False, config), {**row, "peer": name, "backend": "eager"})
        output = call()
        if mode == "infer":
            # LLaVA's 256 tokens of an image take the place of the one that stands for it.
            visual = {"visual-tokens": 320, "llava-pyramid-drop": 256 - 1}.get(name, 0)
            assert output.past_key_values.get_seq_length() == 8 + visual
            if name == "llava-pyramid-drop":
                assert output.past_key_values.layers[-1].get_seq_length() < 8 + 256 / 2
        if mode == "generate":
            # Generation from embeddings returns the new tokens only, LLaVA's also those of the image.
            assert output.shape[-1] in (3, 8 + 3, 8 + 255 + 3)


def test_allocation_is_the_most_that_is_alive_at_once():
    def call():
        first = torch.ones(1 << 20)  # 4 MB
        second = first + 1  # 8 MB
        del first
        return (second + 1).sum()  # 8 MB

    call()
    assert peak_allocation(call) == pytest.approx(8 << 20, rel=0.01)


def layers_as_run(network, pixels):
    calls = []
    for module in network.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d, torch.nn.Linear)):
            module.register_forward_hook(lambda layer, *_: calls.append(layer))
    with torch.no_grad():
        network(pixels)
    return list(calls)


@pytest.mark.draws
@pytest.mark.parametrize("backends", ["eager", pytest.param("eager,onnx", marks=pytest.mark.thorough)])
def test_a_run_prints_and_writes_its_table(backends, tmp_path, capsys):
    command = ["--presets", "ghostnetv3-0.5x", "--against", "official-like", "--backends", backends]
    main([*command, "--image-size", "64", "--rounds", "2", "--output", str(tmp_path / "out")])
    table = capsys.readouterr().out.splitlines()
    assert table[0] == f"| {' | '.join(COLUMNS[:-2])} |", "there are no tokens, and without a data set no accuracy"
    ours = [["ours", backend] for backend in backends.split(",")]
    assert [line.split(" | ")[1:3] for line in table[2 : 3 + len(ours)]] == [["official-like", "eager"], *ours]
    with open(tmp_path / "out" / "benchmark.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["times faster"] == "1.00"
    assert float(rows[1]["params M"]) < float(rows[0]["params M"]), "ours folds more than the official code"
    written = json.loads((tmp_path / "out" / "benchmark.json").read_text(encoding="utf-8"))
    assert written["machine"]["versions"]["torch"] == version("torch")
    assert all(result["peak_mb"] > 50 and result["rounds"] == 2 for result in written["results"])
    assert (tmp_path / "out" / "benchmark.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.thorough
def test_a_training_step_runs(capsys):
    command = ["--presets", "ghostnetv3-0.5x", "--against", "official-like", "--mode", "train", "--batch", "2"]
    main([*command, "--image-size", "64", "--rounds", "1"])
    assert capsys.readouterr().out.count("| 3.395 |") == 2


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--presets", "ghostnetv9"], "unknown preset 'ghostnetv9'"),
        (["--presets", "ghostnet-1.0x", "--against", "keras"], "against: got 'keras', accepted are timm"),
        (["--presets", "ghostnet-1.0x", "--backends", "tvm"], "backends: got 'tvm', accepted are eager"),
        (["--presets", "ghostnet-1.0x", "--batch", "0"], "batch: got"),
        (["--presets", "ghostnet-1.0x", "--mode", "train", "--folded"], "folded: a folded model cannot be trained"),
        (["--presets", "ghostnet-1.0x", "--reference", "caffe eager"], "reference: got 'caffe eager'"),
        (["--presets", "vanillanet-5", "--against", "official-like"], "official-like has no vanillanet-5"),
        (["--presets", "ghostnet-1.0x", "--mode", "generate"], "mode: ghostnet-1.0x has no generate"),
        (
            ["--presets", "light_clip-resnet-18", "--backends", "onnx"],
            "backends: got 'onnx', accepted are eager",
        ),
        (["--presets", "ghostnet-1.0x", "--model-config", "{"], "model-config: got '{', which is not valid JSON"),
    ],
)
def test_what_cannot_be_measured_is_said(arguments, message):
    with pytest.raises(ValueError, match=message):
        main([*arguments, "--image-size", "64", "--rounds", "1"])


def test_every_ghostnet_has_its_name_in_timm():
    names = [timm_name(name) for name in GHOSTNETS]
    assert names[:2] == ["ghostnet_050", "ghostnet_100"]
    assert "ghostnetv3_160" in names
    assert find_preset("tinynet-a")
    with pytest.raises(ValueError, match="timm has no vanillanet-5"):
        timm_name("vanillanet-5")


def test_a_distilled_step_runs_its_teacher_and_adds_its_losses():
    overrides = {
        "image_size": 32,
        "num_labels": 10,
        "embed_dims": [8, 16, 24],
        "depths": [1, 1, 1],
        "num_heads": [1, 1],
    }
    overrides |= {"window_sizes": [4, 2], "downsample_strides": [2, 2]}
    row = {"preset": "tinyvit-5m", "mode": "train", "batch": 2, "image_size": 32, "channels": 3, "backend": "eager"}
    losses = {}
    for peer in ("teacher-beside", "distilled-kd"):
        torch.manual_seed(0)
        model = PEERS[peer].build("tinyvit-5m", False, overrides)
        calls = []
        teacher = model._teacher[0].model
        teacher.register_forward_hook(lambda *args, calls=calls: calls.append(1))
        assert not {*map(id, teacher.parameters())} & {*map(id, model.parameters())}
        make_call(model, {**row, "peer": peer, "overrides": overrides})()
        assert calls == [1]
        losses[peer] = len(getattr(model(torch.randn(2, 3, 32, 32)), "distillation", {}))
    assert losses == {"teacher-beside": 0, "distilled-kd": 1}
    # What was stored beforehand, in its place: read for each batch, without a network.
    model = PEERS["distilled-stored"].build("tinyvit-5m", False, overrides)
    assert {*map(id, model.parameters())} == {*map(id, model.distilled.student.parameters())}
    make_call(model, {**row, "peer": "distilled-stored", "overrides": overrides})()
    outputs = model(torch.randn(2, 3, 32, 32))
    expected = model._labels.logits(0, torch.arange(2), torch.arange(2)).softmax(1)
    divergence = (expected * (expected.log() - outputs.logits.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(outputs.distillation["kd"], divergence)
    model.eval()
    assert not getattr(model(torch.randn(2, 3, 32, 32)), "distillation", {})


def test_a_turn_without_data_and_its_parts_run_each_network_as_often():
    overrides = {"hidden_sizes": [4, 8, 16], "depths": [1, 1], "num_heads": 2, "num_labels": 5, "image_size": 8}
    runs, sizes = {}, []
    for peer in ("data-free-turn", "data-free-parts"):
        model = PEERS[peer].build("mhwrn4x161", False, overrides)
        networks = {"student": model.student, "generator": model._generator[0]}
        networks |= {"teacher": model._teachers[0].model, "other": model._teachers[1].model}
        calls, before = [], {name: [p.clone() for p in network.parameters()] for name, network in networks.items()}
        for name, network in networks.items():
            network.register_forward_hook(lambda *args, name=name, calls=calls: calls.append(name))
        model._generator[0].register_forward_hook(lambda net, given, made: sizes.append(tuple(made.shape)))
        row = {"preset": "mhwrn4x161", "mode": "infer", "batch": 2, "image_size": 8, "channels": 3}
        make_call(model, {**row, "backend": "eager", "peer": peer, "overrides": overrides})()
        runs[peer] = {name: calls.count(name) for name in networks}
        for name, network in networks.items():
            moved = any(not torch.equal(*pair) for pair in zip(before[name], network.parameters(), strict=True))
            assert moved == (name in ("student", "generator")), f"{peer}: {name}"
            # The next turn does not add its gradients to those of this one.
            assert all(p.grad is None or not p.grad.any() for p in network.parameters()), f"{peer}: {name}"
    assert runs["data-free-turn"] == runs["data-free-parts"] == dict.fromkeys(networks, 6)
    assert sizes == [(2, 3, 8, 8)] * 12, "as many images as the batch has"


def test_a_turn_is_the_trainings_own_and_its_parts_are_computed_by_hand(monkeypatch):
    overrides = {"hidden_sizes": [4, 8, 16], "depths": [1, 1], "num_heads": 2, "num_labels": 5, "image_size": 8}
    for peer in ("data-free-turn", "data-free-parts"):
        model, ran = PEERS[peer].build("mhwrn4x161", False, overrides), []
        monkeypatch.setattr(type(model), "_turn", lambda self, batch, ran=ran: ran.append(batch))
        monkeypatch.setattr(type(model), "_parts", lambda self, pixels, ran=ran: ran.append(tuple(pixels.shape)))
        model(torch.zeros(3, 3, 8, 8))
        assert ran == [3 if peer == "data-free-turn" else (3, 3, 8, 8)]


def test_an_estimate_of_the_source_is_one_pass_of_its_network():
    overrides = {"num_labels": 3, "image_size": 32}
    model, calls = PEERS["source-estimate"].build("tinynet-e", False, overrides), []
    model.model.register_forward_hook(lambda *args: calls.append(1))
    model.eval()(torch.randn(9, 3, 32, 32))
    assert calls == [1]
