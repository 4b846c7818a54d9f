"""Official checkpoints: SAM-DiffSR and SRDiff, the RRDB pre-training; whatever does not fit is refused."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from hf_effmodels.hub import convert
from hf_effmodels.hub.convert import ConversionError
from hf_effmodels.pipelines import SamDiffSRPipeline
from hf_effmodels.pipelines.sam_diffsr import convert_sam_diffsr as conversion
from hf_effmodels.pipelines.sam_diffsr.configuration_sam_diffsr import PRESETS
from hf_effmodels.pipelines.sam_diffsr.create import create_pipeline
from hf_effmodels.pipelines.sam_diffsr.scheduling_sam_diffsr import SamDiffSRScheduler, cosine_betas

from .tiny import ENCODER, UNET, photo, seeded, tiny_pipeline

#: Ours -> official, written down independently of the converter's rules.
NAMES = (
    (r"^trunk\.", "RRDB_trunk."),
    (r"\.dense_blocks\.(\d)\.convs\.(\d)", lambda m: f".RDB{1 + int(m[1])}.conv{1 + int(m[2])}"),
    (r"^upsample_convs\.(\d)", lambda m: f"upconv{1 + int(m[1])}"),
    (r"^high_resolution_conv", "HRconv"),
    (r"^time_embedding\.linear_1", "mlp.0"),
    (r"^time_embedding\.linear_2", "mlp.2"),
    (r"^condition_proj", "cond_proj"),
    (r"^upsampled_proj", "up_proj.1"),
    (r"^down_blocks\.(\d)\.downsample", r"downs.\1.2.conv.1"),
    (r"^up_blocks\.(\d)\.upsample", r"ups.\1.2.conv.0"),
    (r"^mid_block\.resnets\.(\d)", lambda m: f"mid_block{1 + int(m[1])}"),
    (r"^mid_block\.attention\.gate", "mid_attn.fn.g"),
    (r"^mid_block\.attention", "mid_attn.fn.fn"),
    (r"^down_blocks\.(\d)\.resnets", r"downs.\1"),
    (r"^up_blocks\.(\d)\.resnets", r"ups.\1"),
    (r"conv([12])\.(weight|bias)$", r"block\1.block.1.\2"),
    (r"time_emb_proj", "mlp.1"),
    (r"conv_shortcut", "res_conv"),
    (r"^conv_features", "final_conv.0.block.1"),
    (r"^conv_out", "final_conv.1"),
)  # fmt: skip


def official(model, prefix: str = "") -> dict[str, torch.Tensor]:
    weights = {}
    for name, value in model.state_dict().items():
        rules = NAMES[:4] if "RRDB" in type(model).__name__ else NAMES[4:]
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        weights[prefix + name] = value.clone()
    return weights


def official_pipeline(pipe, **options) -> dict[str, torch.Tensor]:
    tables = {name: torch.from_numpy(values) for name, values in pipe.scheduler._training_tables.items()}
    return tables | official(pipe.unet, "denoise_fn.") | official(pipe.condition_encoder, "rrdb.")


def as_checkpoint(weights: dict, path, prefix: str = "") -> str:
    model = {prefix + name: value for name, value in weights.items()}
    content = {
        "global_step": 400_000,
        "optimizer_states": [{"state": {0: {"step": 3}}}],
        "state_dict": {"model": model},
    }
    torch.save(content, path)
    return str(path)


@pytest.fixture
def preset(monkeypatch):
    """A preset of the tiny size."""
    known = PRESETS["sam-diffsr-x4"]
    config = {**known.config, "encoder": {**ENCODER, "scale": 4}, "unet": {**UNET, "scale": 4}}
    monkeypatch.setitem(PRESETS, "tiny-x4", replace(known, config=config))
    return "tiny-x4"


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_official_checkpoint_becomes_a_pipeline_with_its_outputs(preset, prefix, tmp_path):
    pipe = tiny_pipeline()
    checkpoint = as_checkpoint(official_pipeline(pipe), tmp_path / "model.ckpt", prefix)
    report = conversion.convert(preset, checkpoint, tmp_path / "model", license="other", license_name="none",
                                license_link="https://example.org")  # fmt: skip
    weights = sum(len(part.state_dict()) for part in (pipe.unet, pipe.condition_encoder))
    assert (report.converted, len(report.ignored), report.entry) == (weights, 12, "state_dict.model")
    again = SamDiffSRPipeline.from_pretrained(tmp_path / "model")
    assert again.config.legacy_256 is True
    again.set_progress_bar_config(disable=True)
    results = [p(photo(6, 4), num_inference_steps=3, generator=seeded()).images[0] for p in (pipe, again)]
    assert np.array_equal(*map(np.array, results))
    assert report.sha256 in (tmp_path / "model" / "README.md").read_text()


@pytest.mark.parametrize("legacy_256", [True, False])
def test_a_converted_pipeline_divides_as_it_is_told_to(preset, legacy_256, tmp_path):
    checkpoint = as_checkpoint(official_pipeline(tiny_pipeline()), tmp_path / "model.ckpt")
    conversion.convert(preset, checkpoint, tmp_path / "model", legacy_256=legacy_256)
    again = SamDiffSRPipeline.from_pretrained(tmp_path / "model")
    assert (again.config.legacy_256, again.config.residual_scale) == (legacy_256, 2.0)


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("scale", "given", "read"), [(4, None, 4), (8, None, 8), (2, 2, 2), (4, 4, 4), (8, 8, 8)])
def test_the_scale_of_an_encoder_is_read_from_its_convolutions_or_as_given(scale, given, read, whole, tmp_path):
    pipe = tiny_pipeline(scale)
    weights = official_pipeline(pipe) if whole else official(pipe.condition_encoder)
    encoder = conversion.load_encoder(as_checkpoint(weights, tmp_path / "rrdb.ckpt"), given)
    assert encoder.config.scale == read
    low = torch.rand(1, 3, 4, 5)
    assert torch.equal(encoder(low).sample, pipe.condition_encoder(low).sample)


@pytest.mark.parametrize("scale", [2, 8])
def test_sizes_and_options_are_read_from_the_shapes(scale):
    pipe = tiny_pipeline(scale, use_attention=True, upsampled_input=True)
    again = conversion.pipeline_of(official_pipeline(pipe))
    for part in ("unet", "condition_encoder"):
        ours, theirs = getattr(again, part), getattr(pipe, part)
        assert {k: v for k, v in ours.config.items() if k[0] != "_"} == {
            k: v for k, v in theirs.config.items() if k[0] != "_"
        }
        assert all(torch.equal(value, theirs.state_dict()[name]) for name, value in ours.state_dict().items())


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_train_timesteps": 20},
        {"beta_schedule": "linear"},
        {"beta_schedule": "linear", "num_train_timesteps": 30},
        {"trained_betas": cosine_betas(100, offset=0.02).tolist()},
    ],
)
def test_the_schedule_is_read_from_the_buffers(settings):
    expected = SamDiffSRScheduler(**settings)
    buffers = {name: torch.from_numpy(values) for name, values in expected._training_tables.items()}
    found = conversion.scheduler_of(buffers)
    for name, values in expected._tables.items():
        np.testing.assert_allclose(found._tables[name], values, rtol=2e-4, atol=1e-7, err_msg=name)
    assert (found.config.trained_betas is None) == (settings in ({}, {"num_train_timesteps": 20}))
    # A schedule that has a name goes by it, whatever its length: overrides of it follow.
    names = ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps", "timestep_spacing")
    assert {name: found.config[name] for name in names} == {name: expected.config[name] for name in names}
    assert found.config.beta_schedule == settings.get("beta_schedule", "squaredcos_cap_v2")


def test_a_schedule_that_is_given_has_to_be_that_of_the_buffers_where_there_are_some():
    weights = official_pipeline(tiny_pipeline())
    own = conversion.scheduler_of({name: weights[name] for name in weights if name in conversion._SCHEDULE})
    assert conversion.pipeline_of(weights, scheduler=own).scheduler is own
    other = SamDiffSRScheduler.from_config(own.config, num_train_timesteps=own.config.num_train_timesteps + 1)
    with pytest.raises(ConversionError, match="The entry '.*' is not what its betas imply"):
        conversion.pipeline_of(weights, scheduler=other)
    without = {name: value for name, value in weights.items() if name not in conversion._SCHEDULE}
    pipe = conversion.pipeline_of(without, scheduler=other, legacy_256=False, residual_scale=1.5)
    assert pipe.scheduler is other and (pipe.config.legacy_256, pipe.config.residual_scale) == (False, 1.5)


def test_the_pretrained_encoder_is_read_alone_or_out_of_the_whole(tmp_path):
    pipe = tiny_pipeline()
    alone = as_checkpoint(official(pipe.condition_encoder), tmp_path / "rrdb.ckpt")
    whole = as_checkpoint(official_pipeline(pipe), tmp_path / "model.ckpt")
    low = torch.rand(1, 3, 6, 5)
    for checkpoint in (alone, whole):
        model = conversion.load_encoder(checkpoint)
        assert torch.equal(model(low).sample, pipe.condition_encoder(low).sample)
    with pytest.raises(ConversionError, match="has no denoiser: it is the RRDB pre-training"):
        conversion.convert("sam-diffsr-x4", alone, tmp_path / "model")
    other = as_checkpoint({"conv_stem.weight": torch.ones(1)}, tmp_path / "other.ckpt")
    with pytest.raises(ConversionError, match="has no denoiser: its names are such as conv_stem.weight"):
        conversion.convert("sam-diffsr-x4", other, tmp_path / "model")
    for option in ({"entry": "ema"}, {"num_labels": 3}, {"tokenizer": "gpt2"}, {"text_model": "a/b"}):
        with pytest.raises(ValueError, match=f"{next(iter(option))}: got .*, but sam-diffsr-x4 is a pipeline"):
            convert("sam-diffsr-x4", whole, tmp_path / "model", **option)


def spoil(weights: dict, how: str) -> dict:
    if how == "missing":
        del weights["denoise_fn.downs.1.0.mlp.1.weight"]
    elif how == "unexpected":
        weights["denoise_fn.sam_conv.0.weight"] = torch.zeros(8, 9, 1, 1)
    elif how == "foreign":
        weights["ema.something"] = torch.zeros(1)
    elif how == "shape":
        weights["rrdb.RRDB_trunk.1.RDB2.conv3.bias"] = torch.zeros(5)
    elif how == "schedule":
        weights["posterior_mean_coef1"] = weights["posterior_mean_coef1"] * 1.1
    elif how == "no schedule":
        del weights["betas"]
    elif how == "other names":
        weights["rrdb.RRDB_trunk.x.RDB2.conv3.bias"] = weights.pop("rrdb.RRDB_trunk.1.RDB2.conv3.bias")
    return weights


@pytest.mark.parametrize(
    "how, message",
    [
        ("missing", "1 missing: down_blocks.1.resnets.0.time_emb_proj.weight"),
        ("unexpected", "1 unexpected: denoise_fn.sam_conv.0.weight"),
        ("foreign", "1 unexpected: ema.something"),
        ("shape", r"rrdb.RRDB_trunk.1.RDB2.conv3.bias is \(5,\), expected \(4,\)"),
        ("schedule", "'posterior_mean_coef1' is not what its betas imply"),
        ("no schedule", "1 missing: betas"),
        ("other names", r"1 missing: trunk.1.dense_blocks.1.convs.2.bias.* 1 unexpected: rrdb.RRDB_trunk.x"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused_and_nothing_is_written(preset, how, message, tmp_path):
    weights = spoil(official_pipeline(tiny_pipeline()), how)
    checkpoint = as_checkpoint(weights, tmp_path / "model.ckpt")
    with pytest.raises(ConversionError, match=message):
        conversion.convert(preset, checkpoint, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]


@pytest.mark.parametrize(
    "name, ours",
    [("denoise_fn.final_conv.1.bias", "conv_out.bias"), ("rrdb.conv_first.bias", "conv_first.bias")],
)
def test_broken_weights_of_either_network_are_converted_only_if_wanted(name, ours, preset, tmp_path):
    weights = official_pipeline(tiny_pipeline())
    checkpoint = as_checkpoint({**weights, name: weights[name] * torch.nan}, tmp_path / "model.ckpt")
    with pytest.raises(
        ValueError,
        match=rf"^checkpoint: .*/model.ckpt has 1 broken weights: {name} \((\d+) of \1 values .* --allow-broken-",
    ):
        conversion.convert(preset, checkpoint, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    conversion.convert(preset, checkpoint, tmp_path / "model", allow_broken_weights=True)
    pipe = SamDiffSRPipeline.from_pretrained(tmp_path / "model")
    parts = (pipe.unet, pipe.condition_encoder)
    assert [n for part in parts for n, value in part.state_dict().items() if value.isnan().any()] == [ours]


#: Weights that sizes are read from before the rest is compared.
READ = ["denoise_fn.cond_proj.weight", "denoise_fn.final_conv.1.weight", "denoise_fn.downs.1.0.block1.block.1.weight"]
READ += ["rrdb.conv_first.weight", "rrdb.RRDB_trunk.0.RDB1.conv1.weight", "betas"]


@pytest.mark.parametrize("name", READ)
def test_a_weight_of_another_shape_or_kind_is_refused_wherever_it_is_used_first(name):
    weights = official_pipeline(tiny_pipeline())
    value = weights[name]
    for wrong in (value.flatten()[0], value[None], value.long(), value[:0], value.flatten()[None]):
        with pytest.raises(ConversionError, match="1 of another (shape|kind): "):
            conversion.pipeline_of({**weights, name: wrong})


def test_a_checkpoint_of_another_size_is_not_the_preset(tmp_path):
    checkpoint = as_checkpoint(official_pipeline(tiny_pipeline()), tmp_path / "model.ckpt")
    with pytest.raises(ConversionError, match="its encoder has hidden_size=8, expected 64"):
        conversion.convert("sam-diffsr-x4", checkpoint, tmp_path / "model")


class Evil:
    def __reduce__(self):
        return print, ("code in a checkpoint ran",)


def test_files_that_are_no_checkpoints_are_refused(tmp_path):
    torch.save({"state_dict": {"model": {"betas": Evil()}}}, tmp_path / "evil.ckpt")
    with pytest.raises(ValueError, match="would run code"):
        conversion.load_encoder(tmp_path / "evil.ckpt")
    whole = as_checkpoint(official(tiny_pipeline().condition_encoder), tmp_path / "whole.ckpt")
    (tmp_path / "half.ckpt").write_bytes(open(whole, "rb").read()[:1000])
    with pytest.raises(OSError, match="truncated"):
        conversion.load_encoder(tmp_path / "half.ckpt")
    with pytest.raises(FileNotFoundError, match="there is no file"):
        conversion.load_encoder(tmp_path / "none.ckpt")
    torch.save({"state_dict": {"model": {"betas": 1.0}}}, tmp_path / "numbers.ckpt")
    with pytest.raises(ValueError, match="other things than tensors"):
        conversion.load_encoder(tmp_path / "numbers.ckpt")
    for content in (torch.ones(2), {}, {"state_dict": {}}):
        torch.save(content, tmp_path / "none.ckpt")
        with pytest.raises(ValueError, match="none.ckpt holds no dictionary of tensors"):
            conversion.load_encoder(tmp_path / "none.ckpt")
    torch.save({"module.a": torch.ones(1), "a": torch.ones(1)}, tmp_path / "twice.ckpt")
    with pytest.raises(ConversionError, match="twice.ckpt has weights with and without `module.` of the same name"):
        conversion.load_encoder(tmp_path / "twice.ckpt")
    with pytest.raises(ValueError, match="preset: got 'srdiff', accepted are 'sam-diffsr-x4', 'srdiff-x4'"):
        conversion.convert("srdiff", tmp_path / "whole.ckpt", tmp_path / "out")
    with pytest.raises(ValueError, match="preset: got 'srdiff', accepted are 'sam-diffsr-x4', 'srdiff-x4'"):
        create_pipeline("srdiff")


def test_weights_of_no_network_are_refused():
    weights = official_pipeline(tiny_pipeline())
    names = [name for name in weights if name.startswith("rrdb.RRDB_trunk.0.RDB1.conv1.")]
    both = {**weights, names[0].replace("RDB1.conv1", "RDB1.convs.0"): weights[names[0]]}
    with pytest.raises(ConversionError, match="are meant for the same weight|1 unexpected"):
        conversion.pipeline_of(both)
    with pytest.raises(ConversionError, match="The shapes stand for no RRDBModel: scale: got 3"):
        conversion.encoder_of({n.removeprefix("rrdb."): v for n, v in weights.items() if n.startswith("rrdb.")}, 3)
