"""What surrounds the computation of a call: hooks, bars, precisions, forms of images, and whose error it is."""

import base64
import io
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import PipelineCallback
from PIL import Image

from hf_effmodels.pipelines import DelvmPipeline, HierarchicalMaskGenerationPipeline, SamDiffSRPipeline
from hf_effmodels.pipelines.delvm import pipeline_delvm
from hf_effmodels.pipelines.delvm.image_tokenizer_delvm import DelvmImageTokenizer
from hf_effmodels.pipelines.delvm.llama_steps import is_plain
from hf_effmodels.pipelines.hierarchical_mask_generation.pipeline_hierarchical_mask_generation import DEFAULTS
from hf_effmodels.pipelines.sam_diffsr.pipeline_sam_diffsr import _check_thresholding, _settings

from ..progress import Bars
from .delvm.tiny import tiny_language_model, tiny_vqvae
from .hierarchical_mask_generation.models import SIDE, build
from .sam_diffsr.tiny import photo, seeded, tiny_pipeline


@pytest.fixture(scope="module")
def delvm():
    return quiet(DelvmPipeline(tiny_vqvae(), tiny_language_model()))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


CALLS = {
    "delvm": lambda pipe: pipe([], photo(4, 4)),
    "sam-diffsr": lambda pipe: pipe(photo(4, 4), num_inference_steps=3, generator=seeded()),
}


@pytest.fixture(params=CALLS)
def any_pipe(request, delvm):
    return (tiny_pipeline() if request.param == "sam-diffsr" else delvm), CALLS[request.param]


def test_the_memory_of_offloaded_networks_is_given_back_after_a_call(any_pipe, monkeypatch):
    pipe, call = any_pipe
    freed = []
    monkeypatch.setattr(type(pipe), "maybe_free_model_hooks", lambda self: freed.append(self))
    call(pipe)
    assert freed == [pipe]


def test_a_bar_goes_on_with_each_step_to_its_end(any_pipe, monkeypatch):
    """64 tokens of an image, or the steps that were asked for."""
    pipe, call = any_pipe
    bars, asked = Bars(), []

    def progress_bar(self, iterable=None, total=None):
        asked.append(total)
        return bars(total=total)

    monkeypatch.setattr(type(pipe), "progress_bar", progress_bar)
    call(pipe)
    steps = 64 if isinstance(pipe, DelvmPipeline) else 3
    assert asked == [steps] and bars.moved == [1] * steps


@pytest.mark.parametrize("places, pairs", [(1024, 7), (960, 6), (300, 1), (255, 0), (128, 0), (64, 0), (10, 0)])
def test_as_many_pairs_as_fit_with_the_query_and_one_answer(places, pairs, delvm):
    """An image has 64 tokens: of 960 places fifteen images, two of which are the query and its answer."""
    pipe = quiet(DelvmPipeline(delvm.vqvae, tiny_language_model(max_position_embeddings=places)))
    assert pipe.most_pairs == pairs


@pytest.mark.parametrize("kind", ["np", "pt", "pil"])
def test_answers_of_more_images_than_go_through_at_once_are_all_there_in_order(kind, delvm, monkeypatch):
    monkeypatch.setattr(pipeline_delvm, "_IMAGES_AT_ONCE", 2)
    monkeypatch.setattr(type(delvm), "generate_ids", lambda self, pairs, asked, *_, **__: asked)
    queries = np.stack([np.asarray(photo(16, 16, seed=number)) for number in range(5)])
    # A batch in one array is as many images.
    found = delvm([], queries, output_type=kind).images
    tokenizer = delvm.image_tokenizer
    assert len(found) == 5
    for one, query in zip(found, queries, strict=True):
        expected = tokenizer.decode(tokenizer.encode(Image.fromarray(query)), kind)[0]
        np.testing.assert_allclose(np.asarray(one), np.asarray(expected), atol=1e-5 if kind != "pil" else 1)


def test_each_image_of_a_batch_in_one_array_may_have_its_own_pairs(delvm, monkeypatch):
    monkeypatch.setattr(type(delvm), "generate_ids", lambda self, pairs, asked, *_, **__: pairs[:, -64:])
    pictures = [photo(16, 16, seed=number) for number in range(4)]
    queries = torch.stack([torch.from_numpy(np.array(each)).permute(2, 0, 1) for each in pictures[:2]])
    ids = delvm([[pictures[:2]], [pictures[2:]]], queries).token_ids
    assert torch.equal(ids, delvm.image_tokenizer.encode([pictures[1], pictures[3]]))


def _scaled(model):
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_type": "linear", "factor": 2.0}


def _other_head(model):
    model.lm_head = torch.nn.Sequential(model.lm_head)


def _other_norm(model):
    model.model.norm = torch.nn.Identity()


def _wrapped(module):
    module.forward = module.forward


@pytest.mark.parametrize(
    "change",
    [
        _scaled,
        _other_head,
        _other_norm,
        _wrapped,
        lambda model: _wrapped(model.model),
        lambda model: _wrapped(model.model.layers[1].self_attn.q_proj),
        lambda model: model.register_forward_hook(print),
        lambda model: model.model.register_forward_pre_hook(print),
        lambda model: model.lm_head.register_forward_hook(print),
    ],
    ids=["positions", "head", "norm", "model", "base", "projection", "hook", "hook of the base", "hook of the head"],
)
def test_only_a_model_whose_every_part_is_plain_is_stepped_through_in_the_short_way(change):
    model = tiny_language_model()
    assert is_plain(model)
    change(model)
    assert not is_plain(model)


def test_a_tokenizer_is_read_as_it_is_asked_for_and_sees_pixels_in_its_precision(tmp_path):
    tiny_vqvae().save_pretrained(tmp_path / "vqvae")
    tokenizer = DelvmImageTokenizer.from_pretrained(str(tmp_path), subfolder="vqvae", torch_dtype=torch.float64)
    assert tokenizer.vqvae.dtype == torch.float64 == tokenizer.pixels(photo(16, 16)).dtype
    assert not tokenizer.vqvae.training
    tokenizer.vqvae.encoder.conv_in.weight.data[0] = torch.inf
    for compute in (tokenizer.encode, tokenizer.soft_codes):
        with pytest.raises(ValueError, match="^vqvae: what it computes is not finite, in torch.float64.$"):
            compute(photo(16, 16))


def test_networks_of_double_precision_sample_in_it():
    pipe = tiny_pipeline()
    pipe.unet.double()
    pipe.condition_encoder.double()
    seen = set()
    found = pipe(
        photo(4, 4),
        num_inference_steps=2,
        generator=seeded(),
        output_type="np",
        callback_on_step_end=lambda p, i, t, tensors: seen.add(tensors["sample"].dtype),
    ).images
    assert seen == {torch.float64} and found.dtype == np.float64


def test_a_callback_of_diffusers_says_itself_what_it_wants_to_see():
    seen = []

    class Watch(PipelineCallback):
        tensor_inputs = ["noise_prediction"]

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            seen.append(sorted(callback_kwargs))
            return callback_kwargs

    how = {"callback_on_step_end": Watch(), "callback_on_step_end_tensor_inputs": ["sample"]}
    tiny_pipeline()(photo(4, 4), num_inference_steps=1, generator=seeded(), **how)
    assert seen == [["noise_prediction"]]


def test_an_error_of_our_own_scheduler_is_told_as_it_is_and_of_others_by_the_number_of_their_steps():
    pipe = tiny_pipeline()
    with pytest.raises(ValueError, match="^num_inference_steps: got 1000, accepted are whole numbers from 1 to 100.$"):
        pipe(photo(4, 4), num_inference_steps=1000)
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match=r"^scheduler: DDPMScheduler cannot sample in 2 steps with .*\(ValueError: "):
        pipe(photo(4, 4), timesteps=[3, 5])


@pytest.mark.parametrize("chosen", [{"num_inference_steps": 3}, {"timesteps": [50, 20, 5]}])
@pytest.mark.parametrize("step", [0, 1])
def test_whose_numbers_are_none_is_told_by_when_they_come(step, chosen, monkeypatch):
    """At the first step it is the network, later the sampler has led it astray."""
    pipe = tiny_pipeline()
    predict, count = SamDiffSRPipeline.predict_noise, []

    def torn(self, *given):
        count.append(1)
        return predict(self, *given) * (torch.nan if len(count) == step + 1 else 1)

    monkeypatch.setattr(SamDiffSRPipeline, "predict_noise", torn)
    said = (
        "^unet: what it predicts is not finite, in torch.float32.$"
        if step == 0
        else "^scheduler: SamDiffSRScheduler in 3 steps with .* ends in values that are not finite. Take another"
    )
    with pytest.raises(ValueError, match=said):
        pipe(photo(4, 4), **chosen)


def test_of_a_samplers_settings_those_are_told_that_are_on():
    config = {"solver_order": 2, "use_karras_sigmas": False, "rho": 0.0, "name": "x", "beta_start": 1e-4, "_own": 3}
    config |= {"trained_betas": [0.5], "thresholding": True, "nothing": None, "steps_offset": 1}
    assert _settings(SimpleNamespace(config=config)) == "solver_order=2, name=x, thresholding=True"


def test_thresholding_takes_all_that_torch_does_and_is_no_matter_where_it_is_off():
    class Stock:
        config = SimpleNamespace(thresholding=True)

        def _threshold_sample(self):
            pass

    most = torch.empty(2**24, device="meta")
    _check_thresholding(Stock(), most)
    more = torch.empty(2**24 + 1, device="meta")
    with pytest.raises(ValueError, match="takes up to 16,777,216 values, the images will have 16,777,217"):
        _check_thresholding(Stock(), more)
    off = Stock()
    off.config = SimpleNamespace(thresholding=False)
    _check_thresholding(off, more)
    _check_thresholding(SimpleNamespace(config=SimpleNamespace(thresholding=True)), more)


@pytest.mark.parametrize("mults, scale, unit", [([1, 2], 2, 1), ([1, 2], 8, 1), ([1, 2, 2, 3], 4, 2), ([1] * 5, 4, 4)])
def test_images_are_filled_up_to_what_the_levels_of_the_network_halve(mults, scale, unit):
    pipe = tiny_pipeline(scale, dim_mults=mults)
    assert pipe.size_unit == unit
    low, upsampled = pipe.prepare_images(torch.rand(1, 3, 1, 5))
    sides = (2 * unit, max(2 * unit, -(-5 // unit) * unit))
    assert low.shape[-2:] == sides and upsampled.shape[-2:] == (sides[0] * scale, sides[1] * scale)


@pytest.mark.parametrize("timeout", [None, 2.5])
def test_whoever_waits_for_a_picture_waits_as_long_as_told(timeout, monkeypatch):
    model, processor = build("sam")
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    waited = []
    stream = io.BytesIO()
    photo(9, 9).save(stream, "PNG")
    address = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
    monkeypatch.setattr(
        "transformers.image_utils.load_image",
        lambda image, timeout: waited.append((image[:8], timeout)) or photo(9, 9),
    )
    monkeypatch.setattr(pipe, "_forward", lambda inputs, **_: (_ for _ in ()).throw(ValueError("it is enough")))
    with pytest.raises(ValueError, match="it is enough"):
        pipe(address, **({} if timeout is None else {"timeout": timeout}))
    assert waited == [("data:ima", timeout)] and DEFAULTS["timeout"] is None


def test_points_of_crops_are_told_in_pixels_of_the_whole_image(monkeypatch):
    """Two points per side: a quarter and three quarters of each crop's sides."""
    from hf_effmodels.pipelines.hierarchical_mask_generation.embedding import Embedded

    def ask(self, points):
        logits = torch.full((len(points), 1, SIDE, SIDE), -9.0)
        logits[:, :, 30:34, 30:34] = 9.0  # in the midst of the crop
        return logits, torch.full((len(points), 1), 0.95)

    model, processor = build("sam2")  # which asks by itself, once for all tests
    monkeypatch.setattr(Embedded, "ask_points", ask)
    pipe = HierarchicalMaskGenerationPipeline(model=model, image_processor=processor)
    boxes = torch.tensor([[0, 0, 200, 160], [100, 40, 200, 160]])
    own = torch.tensor([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]) * SIDE

    def crops(image, *_):
        parts = [image.crop(box.tolist()) for box in boxes]
        return boxes, own[None, :, None].expand(1, 4, 2, 2), parts, None

    monkeypatch.setattr(processor, "generate_crop_boxes", crops, raising=False)
    found = pipe(
        Image.new("RGB", (200, 160)),
        hierarchical=False,
        crops_n_layers=1,
        points_per_crop=2,
        crops_nms_thresh=1.0,
        stability_score_thresh=0.1,
        crop_overlap_ratio=0.0,
    )
    expected = [
        [left + x * (right - left), top + y * (bottom - top)]
        for left, top, right, bottom in boxes.tolist()
        for x, y in ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
    ]
    np.testing.assert_allclose(sorted(found["points"].tolist()), sorted(expected), atol=1e-4)
    assert (found["prompts"], found["decoder_calls"]) == (8, 2)
