"""Runs: masks off is SRDiff, what comes out loads, the rate falls in steps, wrong input costs nothing."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from hf_effmodels.pipelines import RRDBModel, SamDiffSRPipeline
from hf_effmodels.training import evaluate, main, prepare

from ....pipelines.sam_diffsr.test_pipeline import calls_and_cost
from .conftest import TINY, picture


def unet(folder) -> dict[str, torch.Tensor]:
    return load_file(Path(folder) / "unet" / "diffusion_pytorch_model.safetensors")


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def history(folder, key: str) -> list[float]:
    state = json.loads((Path(folder) / "trainer_state.json").read_text())
    return [entry[key] for entry in state["log_history"] if key in entry]


@pytest.mark.thorough
def test_with_the_mask_switched_off_it_is_srdiff(short_run, table, pictures, tmp_path):
    """The same patches, noise and timesteps: the maps are the only difference, and off means they are not there."""
    short_run += ["--num_train_epochs", "1", "--eval_strategy", "no", "--save_strategy", "no"]
    for name, data, maps in (("with", table, "true"), ("off", table, "false"), ("srdiff", pictures, "false")):
        main([*short_run, "--dataset", str(data), "--structure_maps", maps, "--output_dir", str(tmp_path / name)])
    assert same(unet(tmp_path / "off"), unet(tmp_path / "srdiff"))
    assert not same(unet(tmp_path / "with"), unet(tmp_path / "off"))
    first = [history(tmp_path / name, "loss")[0] for name in ("with", "off")]
    assert first[0] == pytest.approx(first[1], rel=0.2) and first[0] != first[1]
    pipes = [SamDiffSRPipeline.from_pretrained(tmp_path / name) for name in ("with", "off")]
    with_masks, without = (calls_and_cost(pipe, picture(8, 6, 0)) for pipe in pipes)
    assert with_masks == without, "trained with masks, it enlarges by the same network calls at the same cost"
    assert with_masks[0].count("unet.") == 10


def test_an_encoder_and_a_pipeline_are_trained_and_load_and_measure_as_trained(short_run, pictures, tmp_path):
    encoder, output = tmp_path / "encoder", tmp_path / "pipeline"
    rrdb = ["--task", "super-resolution", *TINY["rrdb"], *short_run[short_run.index("--eval_holdout") :]]
    main([*rrdb, "--dataset", str(pictures), "--output_dir", str(encoder)])
    assert RRDBModel.from_pretrained(encoder).config.hidden_size == 8
    assert "RRDB condition encoder" in (encoder / "README.md").read_text()

    held_out = tmp_path / "held_out"
    held_out.mkdir()
    for name in ("0", "5"):
        (held_out / f"{name}.png").write_bytes((pictures / f"{name}.png").read_bytes())
    chosen = [*short_run, "--encoder", str(encoder), "--output_dir", str(output), "--license", "mit"]
    results = main([*chosen, "--dataset", str(pictures)])
    pipe = SamDiffSRPipeline.from_pretrained(output)
    assert same(pipe.condition_encoder.state_dict(), RRDBModel.from_pretrained(encoder).state_dict())
    again = ["--task", "super-resolution", "--model", str(output), "--dataset", str(held_out), "--eval_size", "32"]
    again += ["--num_inference_steps", "2", "--seed", "42", "--output", str(tmp_path / "e.json")]
    measured = evaluate(again)
    for name in ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "bicubic_psnr_y"):
        assert measured[name] == pytest.approx(results[f"eval_{name}"], rel=1e-6), name
    grid = Image.open(sorted((output / "validation").glob("*.png"))[-1])
    assert grid.width > 4 * 32 and grid.height > 2 * 32
    card = (output / "README.md").read_text()
    assert "license: mit" in card and "| psnr_y, " in card and card == (output / "hub" / "README.md").read_text()
    assert not list((output / "hub").rglob("*.pt")) and (output / "hub" / "model_index.json").exists()

    # On from a trained pipeline, and a second time into the same folder.
    more = [*short_run[:2], "--model", str(output), *short_run[short_run.index("--eval_holdout") :]]
    more += ["--dataset", str(pictures), "--overwrite_output_dir", "true", "--output_dir", str(tmp_path / "more")]
    main(more)
    main(more)
    assert not same(unet(output), unet(tmp_path / "more"))


@pytest.mark.parametrize(
    "changed, message",
    [
        (["--structure_maps", "true"], "--structure_maps: .* has none .*prepare super-resolution-masks"),
        (["--patch_size", "18"], "--patch_size: got 18, accepted are multiples of 4 from 8"),
        (["--patch_size", "64"], r"row 1 \(1\) of .* is 41×36: --patch_size 64 needs"),
        (["--crop_border", "12"], "a border of 12 are less than the 11×11 window of SSIM"),
        (["--model", "sam-diffsr-x5"], "--model: unknown preset 'sam-diffsr-x5', and no such folder; nearest: sam-d"),
        (["--model_config", "{unet: {scale: 3}}"], "scale: got 3, accepted are 2, 4, 8"),
        (["--model_config", "{unet: {hiden_size: 3}}"], "unknown 'hiden_size'; nearest: hidden_size"),
        (["--model_config", "{unet: {num_conditions: 2}}"], "num_conditions: got 2, the encoder .* has 1"),
        (["--encoder", "nowhere/at-all"], "--encoder: 'nowhere/at-all' cannot be found or reached"),
        (["--eval_holdout", "6"], "--eval_holdout: 6 of the 6 samples of .*train leave none"),
        (["--low_folder", "nowhere"], "--low_folder: nowhere is not a folder"),
        (["--stage", "rrdb"], "--encoder: stage rrdb trains the encoder"),
        (["--loss", "l3"], "--loss: got 'l3', accepted are "),
        (["--structure_constant_to_zero", "true"], "--structure_constant_to_zero: .*goes with --structure_maps"),
        (["--structure_normalization", "z_score"], "--structure_normalization: .*goes with --structure_maps"),
        (["--legacy_mask_crop", "true"], "--legacy_mask_crop: .*goes with --structure_maps"),
        (["--stage", "rrdb", "--legacy_256", "true"], "--legacy_256: .*goes with --stage diffusion"),
        (["--stage", "rrdb", "--residual_scale", "3"], "--residual_scale: .*goes with --stage diffusion"),
        (["--lr_decay_rate", "0.1"], "--lr_decay_rate: .*goes with --lr_decay_steps"),
    ],
)
def test_wrong_input_is_refused_before_anything_is_written(short_run, pictures, tmp_path, changed, message):
    output = tmp_path / "run"
    with pytest.raises((ValueError, OSError), match=message):
        main([*short_run, "--dataset", str(pictures), "--output_dir", str(output), *changed])
    assert not output.exists()


def test_what_an_encoder_cannot_do_is_named(short_run, encoder, pictures, tmp_path):
    words = ["--task", "super-resolution", "--model", str(encoder), "--dataset", str(pictures)]
    for name, value in (("num_inference_steps", "2"), ("tile_size", "8"), ("timesteps", "3")):
        with pytest.raises(ValueError, match=f"--{name}: .* is an encoder, which samples nothing"):
            evaluate([*words, f"--{name}", value, "--output", str(tmp_path / "e.json")])
    rrdb = [*short_run[:2], *TINY["rrdb"], "--dataset", str(pictures), "--eval_holdout", "2", "--patch_size", "16"]
    with pytest.raises(ValueError, match="--structure_maps shift the noise of the diffusion: they do not go with"):
        main([*rrdb, "--structure_maps", "true", "--output_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()


def test_checkpointed_layers_have_the_gradient_of_the_others(short_run, pictures, tmp_path):
    gradients = []
    for checkpointed in ("false", "true"):
        words = ["--dataset", str(pictures), "--gradient_checkpointing", checkpointed]
        trainer = prepare("prepare_training", [*short_run, *words, "--output_dir", str(tmp_path / "run")]).trainer
        network = trainer.model.train()
        assert network.is_gradient_checkpointing == (checkpointed == "true")
        assert not trainer.args.gradient_checkpointing  # the Trainer would ask as it asks models of transformers
        batch = trainer.data_collator([trainer.train_dataset[number] for number in range(2)])
        torch.manual_seed(0)
        trainer.compute_loss(network, batch).backward()
        gradients.append([parameter.grad.clone() for parameter in network.parameters()])
    for plain, again in zip(*gradients, strict=True):
        torch.testing.assert_close(again, plain)


def test_the_learning_rate_falls_every_so_many_steps(short_run, pictures, tmp_path):
    short_run += ["--dataset", str(pictures), "--eval_strategy", "no", "--save_strategy", "no"]
    steps = ["--lr_decay_steps", "2", "--lr_decay_rate", "0.1", "--max_steps", "5"]
    main([*short_run, *steps, "--output_dir", str(tmp_path / "run")])
    assert history(tmp_path / "run", "learning_rate") == pytest.approx([3e-3, 3e-3, 3e-4, 3e-4, 3e-5])


def test_the_learning_rate_falls_by_the_rate_asked_for_after_so_many_steps(short_run, pictures, tmp_path):
    arguments = [*short_run, "--dataset", str(pictures), "--output_dir", str(tmp_path / "run")]
    arguments += ["--learning_rate", "0.8", "--lr_decay_steps", "2", "--lr_decay_rate", "0.3"]
    trainer = prepare("prepare_training", arguments).trainer
    optimizer, schedule = trainer.create_optimizer(), trainer.create_scheduler(6)
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.8 * 0.3 ** (step // 2) for step in range(6)])


def test_somebody_elses_pipeline_is_not_overwritten(short_run, pictures, tmp_path):
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="already holds a run or a model .*model_index.json"):
        main([*short_run, "--dataset", str(pictures), "--output_dir", str(tmp_path)])


def test_images_that_cannot_be_used_are_named_or_left_out(short_run, encoder, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(20):
        picture(40, 36, number).save(folder / f"{number:02}.png")
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:90])
    picture(40, 12, 0).save(folder / "08.png")
    run = [*short_run, "--encoder", str(encoder), "--dataset", str(folder), "--output_dir", str(tmp_path / "run")]
    with pytest.raises(ValueError, match="--check_images: 2 of the 18 .*row 7 .*07.png.*; row 8 .*is 40×12"):
        prepare("prepare_training", [*run, "--check_images", "true"])
    work = prepare("prepare_training", [*run, "--skip_bad_images", "true"])
    rows = [row for row in range(1, 19) if row not in (7, 8)]
    assert work.trainer.train_dataset.source.rows.tolist() == rows
    (folder / "19.png").write_bytes(b"")  # held out
    with pytest.raises(OSError, match=r"row 19 .*19\.png"):
        prepare("prepare_training", run)
    work = prepare("prepare_training", [*run, "--skip_bad_images", "true"])
    assert work.trainer.eval_dataset.rows.tolist() == [0]
