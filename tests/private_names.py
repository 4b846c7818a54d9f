"""The one list of other libraries' private names that the package uses.

They may change in any release. `PRIVATE_NAMES` says where each lives, `TRIALS` do with them what the package does;
`test_private_names.py` runs both against the installed versions, and finds uses that are not on the list.
"""

from unittest import mock

import pytest
import torch
from torch import nn

_TRAINER = "transformers.trainer:Trainer"
_MODEL = "transformers.modeling_utils:PreTrainedModel"
_PIPELINE = "transformers.pipelines.base:Pipeline"
_TUNER = "peft.tuners.tuners_utils:BaseTuner"
_MODULE = "torch.nn.modules.module:Module"
_DIFFUSERS = "diffusers.configuration_utils:ConfigMixin"
_FOREACH = "torch"

#: Private name -> its owner(s), `module:attribute`, separated by spaces.
PRIVATE_NAMES = {
    # torch: layers
    "_conv_forward": "torch.nn:Conv2d",
    # transformers: the Auto classes
    "_extra_content": "transformers.models.auto.auto_factory:_LazyAutoMapping",
    "_model_mapping": "transformers.models.auto.auto_factory:_BaseAutoModelClass",
    # transformers: models and configurations
    "_attn_implementation": "transformers.configuration_utils:PreTrainedConfig",
    "_can_record_outputs": _MODEL,
    "_from_config": _MODEL,
    "_get_candidate_generator": "transformers.generation.utils:GenerationMixin",
    "_gradient_checkpointing_func": "transformers.modeling_layers:GradientCheckpointingLayer",
    "_init_weights": _MODEL,
    "_is_hf_initialized": _MODEL,
    "_keep_in_fp32_modules_strict": _MODEL,
    "_keys_to_ignore_on_load_unexpected": _MODEL,
    "_merge_kwargs": "transformers.processing_utils:ProcessorMixin",
    "_name_or_path": "transformers.configuration_utils:PreTrainedConfig",
    "_no_split_modules": f"{_MODEL} diffusers.models.modeling_utils:ModelMixin",
    "_out_features": "transformers.backbone_utils:BackboneConfigMixin",
    "_out_indices": "transformers.backbone_utils:BackboneConfigMixin",
    "_set_gradient_checkpointing": _MODEL,
    "_skip_keys_device_placement": _MODEL,
    "_supports_attention_backend": _MODEL,
    "_supports_flash_attn": _MODEL,
    "_supports_flex_attn": _MODEL,
    "_supports_sdpa": _MODEL,
    "_tied_weights_keys": _MODEL,
    "_tp_plan": _MODEL,
    "_preprocess": "transformers.image_processing_backends:PilBackend",
    "_rle_to_mask": "transformers.models.sam.image_processing_pil_sam:",
    # transformers: quantisers
    "_dequantize": "transformers.quantizers.base:HfQuantizer",
    "_process_model_after_weight_loading": "transformers.quantizers.base:HfQuantizer",
    "_process_model_before_weight_loading": "transformers.quantizers.base:HfQuantizer",
    # transformers: pipelines
    "_forward": _PIPELINE,
    "_load_feature_extractor": _PIPELINE,
    "_load_image_processor": _PIPELINE,
    "_load_processor": _PIPELINE,
    "_load_tokenizer": _PIPELINE,
    "_sanitize_parameters": _PIPELINE,
    # transformers: the Trainer
    "_created_lr_scheduler": _TRAINER,
    "_get_grad_norm": _TRAINER,
    "_get_learning_rate": _TRAINER,
    "_get_output_dir": _TRAINER,
    "_get_train_sampler": _TRAINER,
    "_init_training_state": _TRAINER,
    "_initial_global_step": _TRAINER,
    "_internal_call": _TRAINER,
    "_issue_warnings_after_load": _TRAINER,
    "_load_best_model": _TRAINER,
    "_load_from_checkpoint": _TRAINER,
    "_load_rng_state": _TRAINER,
    "_prepare_inputs": _TRAINER,
    "_run_epoch": _TRAINER,
    "_save": _TRAINER,
    "_save_checkpoint": _TRAINER,
    "_train_batch_size": _TRAINER,
    # datasets
    "_fingerprint": "datasets:Dataset",
    # peft
    "_cast_adapter_dtype": _TUNER,
    "_check_merge_allowed": _TUNER,
    "_create_and_replace": _TUNER,
    "_disable_adapters": "peft.tuners.tuners_utils:BaseTunerLayer",
    "_post_injection_hook": _TUNER,
    "_pre_injection_hook": _TUNER,
    "_prepare_adapter_config": _TUNER,
    "_replace_module": _TUNER,
    "_unload_and_optionally_merge": _TUNER,
    # Python's enumerations: peft's table of methods is one
    "_member_map_": "peft:PeftType",
    "_member_names_": "peft:PeftType",
    "_name_": "peft:PeftType.LORA",
    "_sort_order_": "peft:PeftType.LORA",
    "_value2member_map_": "peft:PeftType",
    "_value_": "peft:PeftType.LORA",
    # diffusers
    "_available_processors": "diffusers.models.attention:AttentionModuleMixin",
    "_class_name": _DIFFUSERS,
    "_compatibles": "diffusers.schedulers.scheduling_utils:SchedulerMixin",
    "_default_processor_cls": "diffusers.models.attention:AttentionModuleMixin",
    "_dict_from_json_file": _DIFFUSERS,
    "_execution_device": "diffusers:DiffusionPipeline",
    "_supports_gradient_checkpointing": "diffusers.models.modeling_utils:ModelMixin",
    "_supports_qkv_fusion": "diffusers.models.attention:AttentionModuleMixin",
    "_threshold_sample": "diffusers:DPMSolverMultistepScheduler",
    "_use_default_values": _DIFFUSERS,
    # evaluate
    "_compute": "evaluate:EvaluationModule",
    "_info": "evaluate:EvaluationModule",
    # torch
    "_BatchNorm": "torch.nn.modules.batchnorm:",
    "_assert_async": "torch",
    "_convert_weight_to_int4pack_for_cpu": "torch",
    "_weight_int4pack_mm_for_cpu": "torch:ops.aten",
    "_backward_hooks": _MODULE,
    "_backward_pre_hooks": _MODULE,
    "_buffers": _MODULE,
    "_foreach_add": _FOREACH,
    "_foreach_add_": _FOREACH,
    "_foreach_addcmul_": _FOREACH,
    "_foreach_div": _FOREACH,
    "_foreach_div_": _FOREACH,
    "_foreach_lerp_": _FOREACH,
    "_foreach_mul": _FOREACH,
    "_foreach_mul_": _FOREACH,
    "_foreach_norm": _FOREACH,
    "_foreach_sqrt": _FOREACH,
    "_foreach_sub_": _FOREACH,
    "_forward_hooks": _MODULE,
    "_forward_pre_hooks": _MODULE,
    "_has_any_global_hook": "torch.nn.modules.module:",
    "_orig_mod": "torch._dynamo.eval_frame:OptimizedModule",
    "_version": "torch:Tensor",
}

#: Words that only look like private names, and what they are.
NOT_PRIVATE = {
    "_betas_filled_in_from": "an entry of our scheduler's configuration",
    "_hf_effmodels_hf_argparser": "the name of a module of our own, made when it is needed",
    "_structure_coefficient": "an entry of our scheduler's configuration",
    "_weight": "an argument of torch.nn.Embedding",
}


def _tiny_llama(**settings):
    from transformers import LlamaConfig

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return LlamaConfig(vocab_size=32, max_position_embeddings=64, **sizes, **settings)


# Trials: what we count on, done once


def _auto_classes(folder):
    from transformers import AutoModelForCausalLM
    from transformers.models.auto import CONFIG_MAPPING

    import hf_effmodels

    assert "pangu_pi" in CONFIG_MAPPING._extra_content
    assert hf_effmodels.PanguPiConfig in AutoModelForCausalLM._model_mapping._extra_content
    assert AutoModelForCausalLM._model_mapping[hf_effmodels.PanguPiConfig] is hf_effmodels.PanguPiForCausalLM


def _building_models(folder):
    from transformers import LlamaModel

    class Watched(LlamaModel):
        initialised = ()

        def _init_weights(self, module):
            type(self).initialised += (type(module).__name__,)
            super()._init_weights(module)

    config = _tiny_llama()
    config._attn_implementation = "eager"
    model = Watched._from_config(config, dtype=torch.bfloat16)
    assert (model.dtype, model.config._attn_implementation) == (torch.bfloat16, "eager")
    assert {"Linear", "Embedding"} <= set(Watched.initialised)
    model.save_pretrained(folder)
    Watched.initialised = ()
    loaded = Watched.from_pretrained(folder)
    assert loaded.config._name_or_path == str(folder)
    # Loaded weights are marked, and what is marked is left alone.
    assert all(parameter._is_hf_initialized for parameter in loaded.parameters())


def _recording_outputs(folder):
    from transformers import LlamaModel

    class Recording(LlamaModel):
        _can_record_outputs = {"norms": type(LlamaModel(_tiny_llama()).norm)}

    outputs = Recording(_tiny_llama())(torch.tensor([[1, 2]]), output_norms=True)
    assert len(outputs["norms"]) == 3


def _checkpointing(folder):
    from transformers import LlamaModel

    with mock.patch.object(LlamaModel, "_set_gradient_checkpointing", autospec=True) as chosen:
        LlamaModel(_tiny_llama()).activation_checkpointing_enable()
    assert callable(chosen.call_args.kwargs["gradient_checkpointing_func"])
    model = LlamaModel(_tiny_llama()).train()
    model.activation_checkpointing_enable()
    layer = model.layers[0]
    with mock.patch.object(layer, "_gradient_checkpointing_func", wraps=layer._gradient_checkpointing_func) as ran:
        model(inputs_embeds=torch.zeros(1, 2, 8, requires_grad=True))
    assert ran.call_count == 1


def _candidates(folder):
    from transformers import GenerationMixin, LlamaForCausalLM

    model = LlamaForCausalLM(_tiny_llama())
    original = GenerationMixin._get_candidate_generator
    with mock.patch.object(GenerationMixin, "_get_candidate_generator", autospec=True, side_effect=original) as asked:
        model.generate(torch.tensor([[1, 2, 1, 2]]), prompt_lookup_num_tokens=2, max_new_tokens=3, do_sample=False)
    assert asked.call_count == 1
    assert {"input_ids", "model_kwargs", "assistant_model"} <= asked.call_args.kwargs.keys()


def _merging_arguments(folder):
    import inspect

    from transformers.processing_utils import ProcessingKwargs, ProcessorMixin

    class Texts(ProcessorMixin):
        def __init__(self):
            pass

    merged = Texts()._merge_kwargs(ProcessingKwargs, tokenizer_init_kwargs={}, padding=True)
    assert merged["text_kwargs"]["padding"] is True
    assert "tokenizer_init_kwargs" in inspect.signature(ProcessorMixin._merge_kwargs).parameters


def _segmentation_masks(folder):
    from transformers.models.sam.image_processing_pil_sam import _rle_to_mask

    # Column by column, zeros first: 1 off, 2 on, 3 off of a map of height 2 and width 3.
    assert _rle_to_mask({"size": [2, 3], "counts": [1, 2, 3]}).tolist() == [[False, True, False], [True, False, False]]


def _training(folder):
    from transformers import Trainer, TrainingArguments

    calls = []

    def watched(name):
        def method(self, *args, **kwargs):
            calls.append(name)
            return getattr(Trainer, name)(self, *args, **kwargs)

        return method

    hooks = ("_save_checkpoint", "_load_from_checkpoint", "_load_best_model", "_get_train_sampler", "_save")
    hooks += ("_prepare_inputs", "_get_output_dir", "_get_learning_rate", "_get_grad_norm")
    hooks += ("_init_training_state", "_run_epoch")
    Watched = type("Watched", (Trainer,), {name: watched(name) for name in hooks})

    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(2, 1)

        def forward(self, values, labels):
            return {"loss": (self.linear(values).squeeze(-1) - labels).square().mean()}

    def trainer():
        arguments = TrainingArguments(
            output_dir=str(folder),
            max_steps=2,
            per_device_train_batch_size=2,
            save_steps=1,
            eval_strategy="steps",
            eval_steps=1,
            load_best_model_at_end=True,
            report_to="none",
            use_cpu=True,
            disable_tqdm=True,
        )
        rows = [{"values": torch.randn(2), "labels": torch.zeros(())} for _ in range(4)]
        return Watched(Sums(), arguments, train_dataset=rows, eval_dataset=rows)

    first = trainer()
    first.train()
    assert (first._train_batch_size, first._get_learning_rate()) == (2, 0)
    second = trainer()
    second.train(resume_from_checkpoint=str(folder / "checkpoint-1"))
    assert second._initial_global_step == 1
    assert set(hooks) == set(calls)
    second.save_model(str(folder / "own"), _internal_call=True)
    assert (folder / "own").is_dir()
    # A scheduler of one's own is kept, and made anew by the next train() only if it was the Trainer's.
    third = trainer()
    third.create_scheduler(2, third.create_optimizer())
    third._created_lr_scheduler = True
    third.train()
    with mock.patch.object(Trainer, "_issue_warnings_after_load", autospec=True) as told:
        third._load_best_model()
    assert told.call_count == 1


def _adapters(folder):
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraModel
    from transformers import LlamaModel

    names = "_create_and_replace _replace_module _prepare_adapter_config _cast_adapter_dtype _check_merge_allowed"
    names += " _pre_injection_hook _post_injection_hook _unload_and_optionally_merge"
    calls = set()

    def watched(name):
        original = getattr(LoraModel, name)

        def method(self, *args, **kwargs):
            calls.add(name)
            return original(self, *args, **kwargs)

        return method

    with mock.patch.multiple(LoraModel, **{name: watched(name) for name in names.split()}):
        model = get_peft_model(LlamaModel(_tiny_llama()), LoraConfig(target_modules=["q_proj"]))
        layer = next(m for m in model.modules() if hasattr(m, "_disable_adapters"))
        with model.disable_adapter():
            assert layer._disable_adapters
        assert not layer._disable_adapters
        model.merge_and_unload()
    assert calls == set(names.split())


def _table_of_methods(folder):
    from peft import PeftType

    import hf_effmodels.adapters  # noqa: F401  (registers its methods)

    member = PeftType("ADEM")
    assert member in list(PeftType) and PeftType["ADEM"] is member
    assert (member._name_, member._value_) == ("ADEM", "ADEM")
    assert PeftType._member_map_["ADEM"] is PeftType._value2member_map_["ADEM"] is member
    assert PeftType._member_names_[member._sort_order_] == "ADEM"


def _schedulers(folder):
    from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler

    scheduler = DDPMScheduler(num_train_timesteps=7)
    scheduler.save_pretrained(folder)
    stored = DDPMScheduler._dict_from_json_file(folder / "scheduler_config.json")
    assert (stored["_class_name"], stored["num_train_timesteps"]) == ("DDPMScheduler", 7)
    # What was not given is marked, so that another class takes its own default for it.
    assert "beta_start" in scheduler.config["_use_default_values"]
    assert "num_train_timesteps" not in scheduler.config["_use_default_values"]
    assert DDIMScheduler in scheduler.compatibles and "DDIMScheduler" in DDPMScheduler._compatibles
    sampler = DPMSolverMultistepScheduler(thresholding=True, algorithm_type="dpmsolver++")
    assert sampler._threshold_sample(torch.full((1, 1, 2, 2), 3.0)).abs().max() <= 1


def _diffusion_models(folder):
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    assert UNet2DModel._supports_gradient_checkpointing
    sizes = {"block_out_channels": (4, 4), "norm_num_groups": 2, "layers_per_block": 1, "sample_size": 8}
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    model = UNet2DModel(**sizes, **blocks, add_attention=False)
    assert DDPMPipeline(model, DDPMScheduler())._execution_device == torch.device("cpu")
    model.enable_gradient_checkpointing()
    assert callable(model.down_blocks[0]._gradient_checkpointing_func)


def _metrics(folder):
    import datasets
    import evaluate

    class Largest(evaluate.Metric):
        def _info(self):
            features = datasets.Features({"predictions": datasets.Value("float32")})
            return evaluate.MetricInfo(description="", citation="", features=features)

        def _compute(self, predictions):
            return {"largest": max(predictions)}

    assert Largest(cache_dir=str(folder)).compute(predictions=[1.0, 3.0]) == {"largest": 3.0}


def _versions(folder):
    values = torch.zeros(2)
    before = values._version
    values.add_(1)
    assert values._version != before


def _tables(folder):
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    assert rows._fingerprint != rows.select([0])._fingerprint


def _hooks(folder):
    from torch.nn.modules.module import _has_any_global_hook, register_module_forward_hook

    module = nn.Linear(1, 1)
    tables = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    assert not any(tables) and not _has_any_global_hook()
    module.register_forward_hook(print)
    module.register_forward_pre_hook(print)
    module.register_full_backward_hook(print)
    module.register_full_backward_pre_hook(print)
    assert all(tables)
    with register_module_forward_hook(print):
        assert _has_any_global_hook()


def _modules(folder):
    from torch.nn.modules.batchnorm import _BatchNorm

    assert all(issubclass(norm, _BatchNorm) for norm in (nn.BatchNorm1d, nn.BatchNorm2d, nn.SyncBatchNorm))
    norm = nn.BatchNorm1d(2)
    norm._buffers["running_mean"] = torch.ones(2)
    assert norm.running_mean.sum() == 2
    assert torch.compile(norm)._orig_mod is norm


def _images(folder):
    from transformers.image_processing_backends import PilBackend

    class Processor(PilBackend):
        size = {"height": 4, "width": 4}
        model_input_names = ["pixel_values"]

        def preprocess(self, images, annotations=None, **kwargs):
            return super().preprocess(images, annotations, **kwargs)

        def _preprocess(self, images, annotations, *, size, return_tensors=None, **options):
            return [image.shape for image in images], annotations, size.height

    found = Processor()(torch.zeros(3, 5, 6).numpy(), annotations="theirs")
    assert found == ([(3, 5, 6)], "theirs", 4)


def _assertions(folder):
    torch._assert_async(torch.tensor(True), "fine")
    with pytest.raises(RuntimeError, match="not fine"):
        torch._assert_async(torch.tensor(False), "not fine")


def _int4_product(folder):
    integers = torch.randint(0, 16, (32, 64), dtype=torch.int32)
    packed = torch._convert_weight_to_int4pack_for_cpu(integers, 2)
    x, steps = torch.randint(-2, 3, (2, 64)).bfloat16(), torch.tensor([2.0, 1.0]).expand(1, 32, 2).bfloat16()
    y = torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, 64, steps.contiguous())
    torch.testing.assert_close(y.float(), x.float() @ ((integers - 8.0) * 2 + 1).T, atol=2, rtol=0.01)


def _loading_quantised(folder):
    from transformers import LlamaForCausalLM

    from hf_effmodels.quantization import CbqConfig
    from hf_effmodels.quantization.cbq.packed_linear import PackedLinear

    LlamaForCausalLM(_tiny_llama()).save_pretrained(folder / "dense")
    config = CbqConfig(method="rtn", group_size=8)
    model = LlamaForCausalLM.from_pretrained(folder / "dense", quantization_config=config)  # after the weights
    assert isinstance(model.model.layers[0].mlp.up_proj, PackedLinear)
    model.save_pretrained(folder / "packed")
    again = LlamaForCausalLM.from_pretrained(folder / "packed")  # before them
    assert isinstance(again.model.layers[0].mlp.up_proj, PackedLinear)
    assert type(again.dequantize().model.layers[0].mlp.up_proj) is torch.nn.Linear


def _lists_of_tensors(folder):
    values, other = [torch.tensor([4.0]), torch.tensor([9.0])], [torch.tensor([2.0]), torch.tensor([3.0])]

    def plain(tensors):
        return [tensor.item() for tensor in tensors]

    assert plain(torch._foreach_add(values, 1.0)) == [5, 10]
    assert plain(torch._foreach_mul(values, 2.0)) == [8, 18]
    assert plain(torch._foreach_div(values, other)) == [2, 3]
    assert plain(torch._foreach_sqrt(values)) == [2, 3]
    assert plain(torch._foreach_norm(values)) == [4, 9]
    torch._foreach_lerp_(values, other, 0.5)
    assert plain(values) == [3, 6]
    torch._foreach_add_(values, other, alpha=2.0)
    torch._foreach_mul_(values, 2.0)
    assert plain(values) == [14, 24]
    torch._foreach_addcmul_(values, other, other, value=1.0)
    torch._foreach_sub_(values, other)
    torch._foreach_div_(values, other)
    assert plain(values) == [8, 10]


#: Private names that are called or counted on by value -> a function of a folder that does so.
TRIALS = {
    "_extra_content _model_mapping": _auto_classes,
    "_from_config _attn_implementation _init_weights _is_hf_initialized _name_or_path": _building_models,
    "_can_record_outputs": _recording_outputs,
    "_set_gradient_checkpointing _gradient_checkpointing_func": _checkpointing,
    "_get_candidate_generator": _candidates,
    "_merge_kwargs": _merging_arguments,
    "_rle_to_mask": _segmentation_masks,
    "_save_checkpoint _load_from_checkpoint _load_best_model _issue_warnings_after_load _get_train_sampler _save "
    "_prepare_inputs _get_learning_rate _get_grad_norm _get_output_dir _train_batch_size _initial_global_step "
    "_created_lr_scheduler _internal_call": _training,
    "_create_and_replace _replace_module _prepare_adapter_config _cast_adapter_dtype _check_merge_allowed "
    "_pre_injection_hook _post_injection_hook _unload_and_optionally_merge _disable_adapters": _adapters,
    "_member_map_ _member_names_ _value2member_map_ _name_ _value_ _sort_order_": _table_of_methods,
    "_class_name _compatibles _dict_from_json_file _threshold_sample _use_default_values": _schedulers,
    "_execution_device _supports_gradient_checkpointing": _diffusion_models,
    "_compute _info": _metrics,
    "_fingerprint": _tables,
    "_forward_hooks _forward_pre_hooks _backward_hooks _backward_pre_hooks _has_any_global_hook": _hooks,
    "_BatchNorm _buffers _orig_mod": _modules,
    "_version": _versions,
    "_assert_async": _assertions,
    "_dequantize _process_model_after_weight_loading _process_model_before_weight_loading": _loading_quantised,
    "_convert_weight_to_int4pack_for_cpu _weight_int4pack_mm_for_cpu": _int4_product,
    "_preprocess": _images,
    " ".join(name for name in PRIVATE_NAMES if name.startswith("_foreach")): _lists_of_tensors,
}


def _pangu_pi(name: str):
    import hf_effmodels
    import hf_effmodels.modeling.pangu_pi.modeling_pangu_pi as modeling

    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1}
    return getattr(modeling, name)(hf_effmodels.PanguPiConfig(vocab_size=32, **sizes))


def _sam_models():
    from transformers import SamConfig, SamModel

    from hf_effmodels.modeling.tinysam.modeling_tinysam import TinySamModel
    from hf_effmodels.registry import ARCHITECTURES

    from .modeling.tiny import tiny_config

    ours = TinySamModel(tiny_config(ARCHITECTURES["tinysam"]))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "output_channels": 16}
    vision = {**sizes, "image_size": 64, "num_pos_feats": 8, "global_attn_indexes": [0]}
    parts = {name: getattr(ours.config, name).to_dict() for name in ("prompt_encoder_config", "mask_decoder_config")}
    return SamModel(SamConfig(vision_config=vision, **parts)), ours


def _pair(theirs: str, ours: str):
    import transformers

    return lambda: (getattr(transformers, theirs)(_tiny_llama()), _pangu_pi(ours))


#: Classes whose constructor ours pass by (`super(LlamaModel, self).__init__`) -> (one of theirs, one of ours): what
#: theirs sets ours must set, too.
SKIPPED_INITS = {
    "SamModel": _sam_models,
    "LlamaModel": _pair("LlamaModel", "PanguPiModel"),
    "LlamaForCausalLM": _pair("LlamaForCausalLM", "PanguPiForCausalLM"),
    "GenericForSequenceClassification": _pair("LlamaForSequenceClassification", "PanguPiForSequenceClassification"),
    "GenericForTokenClassification": _pair("LlamaForTokenClassification", "PanguPiForTokenClassification"),
    "GenericForQuestionAnswering": _pair("LlamaForQuestionAnswering", "PanguPiForQuestionAnswering"),
}
