"""What a run looks at before it begins, what its evaluations show and write, and what is saved at its end."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import nn

from hf_effmodels.training.tasks.super_resolution import reports, task
from hf_effmodels.training.tasks.super_resolution.models import is_encoder, trained_encoder
from hf_effmodels.training.tasks.super_resolution.patches import PatchOptions
from hf_effmodels.training.tasks.super_resolution.trainer import RecipeTrainer, SuperResolutionTrainer, image_loss

from ....pipelines.sam_diffsr.tiny import tiny_pipeline
from ..recorders import Calls
from ..test_rare_preparations import patched
from .test_measured import enlarged
from .test_patches import images

OPTIONS = PatchOptions(scale=4, patch_size=16)


def checked(train, evaluation, **data) -> tuple[list[int], list[int]]:
    args = SimpleNamespace(structure_maps=False, seed=0, eval_size=None, crop_border=0)
    data_args = SimpleNamespace(**{"skip_bad_images": False, "check_images": False, **data})
    found = task._checked_data(train, evaluation, OPTIONS, args, data_args)
    return tuple(source.rows.tolist() for source in found)


def source(number: int, bad: int | None):
    """So many pictures, of which one is too small for a patch and for a window of SSIM."""
    return images(*[Image.new("RGB", (8, 8) if n == bad else (24, 20), (n, n, n)) for n in range(number)])


@pytest.mark.parametrize("which", ["training", "evaluation"])
@pytest.mark.parametrize(
    ("number", "bad", "found"),
    [(1, 0, True), (16, 0, True), (16, 7, True), (16, 15, True), (17, 0, True), (17, 16, True), (17, 7, False)],
)
def test_few_images_are_all_looked_at_and_of_many_the_first_and_the_last(which, number, bad, found):
    sources = [source(2, None), source(2, None)]
    sources[which == "evaluation"] = source(number, bad)
    if not found:
        assert [len(rows) for rows in checked(*sources)] == [len(each) for each in sources]
        return
    with pytest.raises(ValueError, match=rf"row {bad} \(picture {bad}\)"):
        checked(*sources)


def test_maps_that_are_asked_for_have_to_be_there():
    args = SimpleNamespace(structure_maps=True, seed=0, eval_size=None, crop_border=0)
    with pytest.raises(ValueError, match="--structure_maps: test has none"):
        task._checked_data(source(2, None), source(2, None), OPTIONS, args, SimpleNamespace(skip_bad_images=False))


@pytest.mark.parametrize(
    ("grid", "saves", "rows"), [(4, True, 3), (2, True, 2), (1, True, 1), (0, True, 0), (2, False, 0)]
)
def test_an_evaluation_in_training_shows_as_many_images_as_asked_for_and_measures_all(
    grid, saves, rows, tmp_path, monkeypatch
):
    results, asked = [enlarged("a", 1), enlarged("b", 4), enlarged("c", 16)], []

    def measure(*given, **options):
        asked.append((given, options))
        return results

    monkeypatch.setattr(task, "enlarge_and_measure", measure)
    args = SimpleNamespace(
        seed=5, eval_size=32, crop_border=3, should_save=saves, grid_images=grid, output_dir=str(tmp_path)
    )
    found = task._evaluate_and_show("enlarge", "images", 4, args, 70)
    assert found == task.averages(results) and found != task.averages(results[:1])
    assert asked == [(("enlarge", "images", 4), {"seed": 5, "size": 32, "crop_border": 3})]
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.png")]
    assert files == (["validation/step-0000070.png"] if rows else [])
    if rows:
        assert Image.open(tmp_path / files[0]).height == 4 + rows * (20 + 16 + 4)


@pytest.mark.parametrize("main", [True, False])
@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("metrics", [[], ["lpips", "fid"]])
def test_one_process_alone_writes_an_evaluation_and_images_stay_where_they_are_asked_for(
    main, keep, metrics, tmp_path, monkeypatch
):
    results, seen = [enlarged("a", 1), enlarged("b", 4)], []

    def perceptual(names, folder, device):
        seen.append((names, folder, device, sorted(path.name for path in (folder / "sr").iterdir())))
        return dict.fromkeys(names, 0.5)

    monkeypatch.setattr(task, "enlarge_and_measure", lambda *given, **options: results)
    monkeypatch.setattr(task, "PartialState", lambda: SimpleNamespace(is_main_process=main))
    monkeypatch.setattr(task, "perceptual", perceptual)
    folder, file = tmp_path / "images", tmp_path / "e.json"
    args = SimpleNamespace(
        seed=0, eval_size=None, crop_border=0, metrics=metrics, save_images=str(folder) if keep else None,
        output=str(file),
    )  # fmt: skip
    found = task._evaluate("enlarge", "images", 4, args, {"model": "m"}, "cuda", {"task": "super-resolution"})
    assert found["psnr_y"] == task.averages(results)["psnr_y"]
    if not main:
        assert found == task.averages(results) and not seen and not [*tmp_path.iterdir()]
        return
    written = json.loads(file.read_text())
    assert written.get("perceptual") == (dict.fromkeys(metrics, 0.5) if metrics else None)
    assert written["model"] == "m" and written["samples"] == 2
    assert folder.exists() == keep and (not keep or (folder / "sr" / "b.png").exists())
    if metrics:
        ((names, where, device, shown),) = seen
        assert (names, device, shown) == (metrics, "cuda", ["a.png", "b.png"])
        assert (where == folder) == keep and where.exists() == keep


@pytest.mark.parametrize("given", [None, "elsewhere"])
@pytest.mark.parametrize("saves", [True, False])
@pytest.mark.parametrize("training", [True, False])
def test_the_whole_pipeline_is_saved_after_a_training_and_the_network_alone_within(
    given, saves, training, tmp_path, monkeypatch
):
    whole, network = [], []
    monkeypatch.setattr(RecipeTrainer, "save_model", lambda self, *given: network.append(given))
    trainer = SuperResolutionTrainer.__new__(SuperResolutionTrainer)
    trainer.is_in_train = training
    trainer.args = SimpleNamespace(should_save=saves, output_dir=str(tmp_path / "run"))
    trainer.complete = SimpleNamespace(save_pretrained=lambda folder: whole.append(Path(folder)))
    place = None if given is None else str(tmp_path / given)
    trainer.save_model(place)
    assert network == ([(place, False)] if training else [])
    assert whole == ([tmp_path / (given or "run")] if saves and not training else [])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_error_of_an_encoder_is_taken_in_full_precision(dtype):
    """Of values that half precision cannot tell apart once they are subtracted and summed."""

    class Encoder(nn.Module):
        def forward(self, low):
            return SimpleNamespace(sample=low.repeat(1, 1, 4, 4).to(dtype))

    low = torch.full((2, 3, 16, 16), 0.5)
    high = torch.full((2, 3, 64, 64), 0.5 + 1e-4)
    loss = image_loss(Encoder(), {"low": low, "high": high})
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(1e-4, rel=1e-3)


def test_an_encoder_is_taken_from_a_folder_of_its_own_or_out_of_a_pipeline(tmp_path):
    pipe = tiny_pipeline(seed=3)
    pipe.save_pretrained(tmp_path / "pipeline")
    pipe.condition_encoder.save_pretrained(tmp_path / "encoder")
    args = SimpleNamespace(revision=None, token=None)
    for name, alone in (("pipeline", False), ("encoder", True)):
        assert is_encoder(str(tmp_path / name)) == alone
        found = trained_encoder("--encoder", str(tmp_path / name), args).state_dict()
        for key, value in pipe.condition_encoder.state_dict().items():
            assert torch.equal(found[key], value)
    # A configuration beside those of a pipeline makes it no encoder.
    (tmp_path / "pipeline" / "config.json").write_text("{}")
    assert not is_encoder(str(tmp_path / "pipeline")) and not is_encoder(str(tmp_path / "nowhere"))


def test_a_denoiser_is_trained_and_measured_as_its_arguments_say(monkeypatch):
    pipe, calls = tiny_pipeline(scheduler={"num_train_timesteps": 10}), Calls()
    pipe.register_to_config(residual_scale=3.5)
    pipe.condition_encoder.train()
    patched(
        monkeypatch, task, load_pipeline_to_train=lambda args: pipe, by_pipeline=calls.of("by", "enlarge"),
        _check_sampling=calls.of("check"),
    )  # fmt: skip
    args = SimpleNamespace(scheduler="ddim", num_inference_steps=None, timesteps=[7, 3], loss="ssim", device="cpu")
    network, complete, objective, enlarge = task._what_is_trained(SimpleNamespace(stage="diffusion"), args)
    assert network is pipe.unet and complete is pipe and enlarge == "enlarge"
    assert calls == {"check": [((args, pipe), {})], "by": [((pipe, "ddim", None), {"timesteps": [7, 3]})]}
    encoder = pipe.condition_encoder
    assert objective.keywords == {
        "encoder": encoder, "scheduler": pipe.scheduler, "residual_scale": 3.5, "kind": "ssim",
    }  # fmt: skip
    assert not encoder.training and not any(parameter.requires_grad for parameter in encoder.parameters())


@pytest.mark.parametrize("plots", [True, False])
@pytest.mark.parametrize("stage", ["rrdb", "diffusion"])
def test_a_card_says_what_was_trained_how_long_and_how_good_it_is(stage, plots, monkeypatch, tmp_path):
    calls = Calls()

    def export(pipe, folder, **facts):
        calls.of("export")(pipe, folder, **facts)
        folder.mkdir()
        (folder / "README.md").write_text("the card", encoding="utf-8")

    patched(
        monkeypatch, reports, save_results=calls.of("save", "all results"), has_matplotlib=lambda: plots,
        plot_curves=calls.of("curves"), training_summary=calls.of("summary", {"seed": 5}),
        what_was_saved=lambda trainer: {"trained": "7 steps"}, card_results=calls.of("results", "the results"),
        write_card=calls.of("card", "the card"), export=export,
    )  # fmt: skip
    names = [f"{prefix}{name}" for prefix in ("", "bicubic_") for name in ("psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb")]
    metrics = {f"eval_{name}": float(number) for number, name in enumerate(names)} | {"eval_runtime": 9.0}

    class Data(list):
        split = "mine/test"

    trainer = SimpleNamespace(
        args=SimpleNamespace(output_dir=str(tmp_path), should_save=True, license="mit"), eval_dataset=Data([1, 2]),
        complete="the pipeline", state=SimpleNamespace(log_history="the history"),
        get_total_train_batch_size=lambda args: 96,
    )  # fmt: skip
    model_args, data_args = SimpleNamespace(stage=stage), SimpleNamespace(dataset="some/where")
    found = reports.write_results(trainer, "train metrics", metrics, "config", model_args, data_args)
    assert found == "all results" and calls["save"] == [((trainer, "train metrics", metrics), {})]
    assert calls["summary"] == [(("config", reports.HYPER_PARAMETERS, 96), {})]
    measured = {name: float(number) for number, name in enumerate(names)}
    assert calls["results"] == [((trainer, measured, "2 images of mine/test"), {})]
    facts = {
        "license": "mit", "dataset": "some/where", "results": "the results",
        "training": {"trained": "7 steps", "seed": 5},
    }  # fmt: skip
    if stage == "rrdb":
        [(given, told)] = calls["card"]
        assert told == facts and given[0].title == "RRDB condition encoder"
    else:
        assert calls["export"] == [(("the pipeline", tmp_path / "hub"), {"overwrite": True, **facts})]
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "the card"
    panels = {
        "loss": {"loss": "training"},
        "PSNR-Y (dB)": {"eval_psnr_y": "enlarged", "eval_bicubic_psnr_y": "bicubic"},
    }
    curves = [(("the history", tmp_path / "training_curve.png", panels), {"x": "step"})]
    assert calls.get("curves", []) == curves * plots
