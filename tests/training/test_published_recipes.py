"""Recipes "as published" do what is published: their resolved arguments, beside what papers and official code state.

`PUBLISHED` is written down from the sources alone. A value that is not in it is not published; the recipe states it
all the same (no default decides about a published result) and marks it as ours.
"""

from pathlib import Path

import pytest
import yaml

from hf_effmodels.training import load_task
from hf_effmodels.training.run.arguments import ArgumentReader
from hf_effmodels.training.run.recipe_arguments import resolved
from hf_effmodels.training.run.recipes import find_recipe, list_recipes

# Eight processes of a batch each, for the images; the total of the other tasks is in their tables.
IMAGENET = {"dataset": "ILSVRC/imagenet-1k", "gradient_accumulation_steps": 1}
# timm's training transforms, which the official scripts are built on. Colour jitter (0.4) is among the commands'
# arguments and is left out by timm where there is RandAugment.
TIMM_IMAGES = {
    "train_crop": "random_resized",
    "crop_scale": [0.08, 1.0],
    "crop_ratio": [3 / 4, 4 / 3],
    "horizontal_flip": 0.5,
    "color_jitter": None,
    "random_erasing": 0.25,
    "random_erasing_mode": "pixel",
    "random_erasing_count": 1,
    "label_smoothing_factor": 0.1,
}
ADAMW = {"optim": "adamw_torch", "adam_beta1": 0.9, "adam_beta2": 0.999, "adam_epsilon": 1e-8}
ADEM = {
    "per_device_train_batch_size": 2,  # by 8 devices and 2 steps: 32
    "gradient_accumulation_steps": 2,
    "optim": "adamw_torch",
    "learning_rate": 9e-3 * 32 / 256,
    "lr_scheduler_type": "cosine",
    "min_lr": 0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "weight_decay": 0.02,
    "max_grad_norm": 0,
    "ema_decay": None,
    "seed": 42,
    "train": "adapters",
}
SAM_DIFFSR = {
    "per_device_train_batch_size": 64,
    "gradient_accumulation_steps": 1,
    "patch_size": 160,
    "augment": False,
    "loss": "l1",
    "optim": "adamw_torch",  # Adam, where nothing decays
    "learning_rate": 2e-4,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "lr_scheduler_type": "constant",
    "warmup_steps": 0,
    "ema_decay": None,
    "bf16": False,
    "fp16": False,
    "seed": 1234,
}
DIFFUSION = {
    **SAM_DIFFSR,
    "stage": "diffusion",
    "max_steps": 400_000,
    "lr_decay_steps": 200_000,
    "lr_decay_rate": 0.5,
    "legacy_256": True,
}

MASKED = {
    "dataset": "ILSVRC/imagenet-1k",
    "gradient_accumulation_steps": 1,
    "crop_ratio": [3 / 4, 4 / 3],
    "interpolation": "bicubic",
    "horizontal_flip": 0.5,
    "optim": "adamw_torch",
    "weight_decay": 0.05,
    "adam_beta1": 0.9,
    "lr_scheduler_type": "cosine",
}
FASTMIM = {**MASKED, "adam_beta2": 0.95, "crop_scale": [0.2, 1.0], "min_lr": 0, "encoder_image_size": 224}
LOCALMIM = {**MASKED, "adam_beta2": 0.95, "crop_scale": [0.2, 1.0]}
SPARK = {
    **MASKED,
    "crop_scale": [0.67, 1.0],
    "num_train_epochs": 1600,
    "per_device_train_batch_size": 4096 // 32,
    "optim": "lamb",
    "weight_decay": 0.04,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-6,
    "learning_rate": 2e-4 * 4096 / 256,
    "max_grad_norm": 5.0,
    "lr_scheduler_type": "cosine_with_min_lr",
    "min_lr": 2e-4 * 4096 / 256 / 1000,
    "warmup_steps": 40 / 1600,
}
FINE_TUNED = {
    **TIMM_IMAGES,
    **ADAMW,
    "dataset": "ILSVRC/imagenet-1k",
    "randaugment": "rand-m9-mstd0.5-inc1",
    "mixup": 0.8,
    "cutmix": 1.0,
    "num_train_epochs": 100,
    "weight_decay": 0.05,
}

ADE20K = {
    "per_device_train_batch_size": 16 // 8,
    "scale_range": [0.5, 2.0],
    "max_class_share": 0.75,
    "horizontal_flip": 0.5,
    "optim": "adamw_torch",
    "weight_decay": 0.01,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "lr_scheduler_type": "polynomial",
    "warmup_steps": 1500,
    "eval_mode": "slide",
    "eval_stride": 341,
    "reduce_labels": True,
}

ENTROPIC = {
    "dataset": "ILSVRC/imagenet-1k",
    "train_crop": "random_resized",
    "horizontal_flip": 0.5,
    "color_jitter": None,
    "label_smoothing_factor": 0,
    "num_train_epochs": 10,
    "learning_rate": 1e-3,
    "max_grad_norm": 0,
    "lr_scheduler_type": "step",
}
ENTROPIC_FEATURES = {
    **ENTROPIC,
    "labels_weight": 0,
    "per_device_train_batch_size": 64,
    "optim": "adamw_torch",  # Adam, where nothing decays
    "weight_decay": 0,
    "lr_scheduler_kwargs": {"decay_epochs": [5, 8], "decay_rate": 0.1, "warmup_epochs": 0},
}
MAHPPO = {
    "horizontal_flip": 0.5,
    "color_jitter": None,
    "label_smoothing_factor": 0,
    "per_device_train_batch_size": 64,
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=False",
    "weight_decay": 5e-4,
    "weight_decay_on": "all",
    "max_grad_norm": 0,
}
OFA_CNN = {
    "train_crop": "random_resized",
    "horizontal_flip": 0.5,
    "color_jitter": None,
    "randaugment": None,
    "mixup": 0,
    "cutmix": 0,
    "label_smoothing_factor": 0.1,
    "optim": "sgd",
    "max_grad_norm": 0,
    "random_weights": True,
    "ema_decay": None,
}
OFA_VIT = {
    **TIMM_IMAGES,
    **ADAMW,
    "losses": {"ofa": {"weight": 1.0, "stages": [1, 2, 3, 4], "eps": 1, "temperature": 1}},
    "num_train_epochs": 300,
    "per_device_train_batch_size": 128,
    "randaugment": "rand-m9-mstd0.5-inc1",
    "mixup": 0.8,
    "cutmix": 1.0,
    "learning_rate": 5e-4,
    "weight_decay": 0.05,
    "max_grad_norm": 5.0,
    "lr_scheduler_type": "cosine_over_warmup",
    "lr_scheduler_kwargs": {"warmup_lr": 5e-7},
    "warmup_steps": 20 / 300,
    "random_weights": True,
}
OFA_CIFAR = {
    "dataset": "uoft-cs/cifar100",
    "num_train_epochs": 300,
    "per_device_train_batch_size": 128,
    "losses": {"ofa": {"weight": 1.0, "stages": [1, 2, 3, 4], "eps": 1, "temperature": 1}},
}
LSSKD = {
    "random_weights": True,
    "horizontal_flip": 0.5,
    "mixup": 0,
    "cutmix": 0,
    "label_smoothing_factor": 0,
    "optim": "sgd",
    "weight_decay_on": "all",
    "lr_scheduler_type": "step",
    "ema_decay": None,
}
GPT4IMAGE = {"kind": "clip", "projection": "mlp", "true_gradient": False, "text_mixup": "none", "weight": 0.3}
RELABEL = {
    **IMAGENET,
    "label_map_missing": "zero",
    "label_map_temperature": 1.0,
    "label_map_weight": 1.0,
    "model": "microsoft/resnet-50",
    "random_weights": True,
    "train_crop": "random_resized",
    "crop_scale": [0.08, 1.0],
    "crop_ratio": [3 / 4, 4 / 3],
    "interpolation": ["bilinear"],
    "horizontal_flip": 0.5,
    "color_jitter": [0.4],
    "lighting": 0.1,
    "mixup": 0,
    "label_smoothing_factor": 0,
    "num_train_epochs": 300,
    "per_device_train_batch_size": 1024 // 8,
    "weight_decay_on": "all",
    "lr_scheduler_type": "cosine",
    "min_lr": 0,
    "warmup_steps": 5 / 300,
}
# The objective is twice the published one: so are the largest norm of its gradient, and Adam's epsilon.
DEVIT = {
    **TIMM_IMAGES,
    **ADAMW,
    "gradient_accumulation_steps": 1,
    "randaugment": "rand-m9-mstd0.5-inc1",
    "repeated_augmentation": 3,
    "mixup": 0.8,
    "cutmix": 1.0,
    "lr_scheduler_type": "cosine_over_warmup",
    "ema_decay": None,
}
DEKD = {
    **DEVIT,
    "num_train_epochs": 100,
    "learning_rate": 8e-5 * 2048 / 512,
    "weight_decay": 0,
    "max_grad_norm": 2 * 1.0,
    "adam_epsilon": 2e-8,
    "min_lr": 1e-5,
    "warmup_steps": 5 / 100,
}
ENSEMBLE = {
    **DEVIT,
    "num_train_epochs": 50,
    "per_device_train_batch_size": 128,
    "learning_rate": 3e-4 * 1024 / 512,
    "weight_decay": 0.05,
    "adam_epsilon": 2e-8,
}
VANILLA_KD = {
    **IMAGENET,
    "losses": {"kd": {"weight": 1.0, "temperature": 1}},
    "model_config": {"model_args": {"drop_path_rate": 0.05}},
    "random_weights": True,
    "per_device_train_batch_size": 2048 // 8,
    "optim": "lamb",
    "learning_rate": 5e-3,
    "lr_scheduler_type": "cosine_over_warmup",
    "lr_scheduler_kwargs": {"warmup_lr": 1e-6},
    "min_lr": 1e-6,
    "cutmix": 1.0,
    "mix_switch_probability": 0.5,
    "randaugment": "rand-m7-mstd0.5",
    "repeated_augmentation": 3,
    "color_jitter": None,
    "loss": "binary_cross_entropy",
    "bf16": True,
}

# 2404.11202, as recalled; the official script
COMPACT = {
    **IMAGENET,
    "image_size": 224,
    "num_train_epochs": 600,
    "per_device_train_batch_size": 2048 // 8,
    "optim": "lamb",
    "learning_rate": 0.005,
    "weight_decay": 0.05,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 5 / 600,
    "ema_decay": 0.9999,
    "loss": "cross_entropy",
    "label_smoothing_factor": 0.1,
    "mixup": 0,
    "cutmix": 0,
}
TAUGHT = {
    "teacher": "timm/beitv2_base_patch16_224.in1k_ft_in22k_in1k",
    "losses": {"soft_targets": {"weight": 1}},
}
GOLD_YOLO = {
    "model": "gold-yolo-n",
    "image_size": 640,
    "num_train_epochs": 300,
    "per_device_train_batch_size": 16,
    "optim": "sgd",
    "learning_rate": 0.01,
    "final_lr_factor": 0.01,
    "momentum": 0.937,
    "warmup_momentum": 0.8,
    "warmup_bias_lr": 0.1,
    "detection_warmup_epochs": 3,
    "least_warmup_steps": 1000,
    "weight_decay": 0.001,
    "max_grad_norm": 0,
    "mosaic": 1.0,
    "close_mosaic_epochs": 15,
    "mixup": 0,
    "scale": 0.5,
    "translate": 0.1,
    "rotate": 0,
    "shear": 0,
    "hue": 0.015,
    "saturation": 0.7,
    "brightness": 0.4,
    "horizontal_flip": 0.5,
    "vertical_flip": 0,
    "atss_epochs": 0,
    "ema_decay": 0.9999,
    "ema_ramp": 2000,
    "sync_batch_norm": True,
}
# 2205.11845; the official repository's scripts
CDFKD_MFS = {
    "student_steps": 5,
    "head_weight": 1,
    "feature_weight": 0.2,
    "ensemble_weight": 5,
    "disagreement_weight": 1,
    "statistics_weight": 0.1,
    "first_norm_weight": 5,
    "latent_size": 256,
    "num_train_epochs": 300,
    "steps_per_epoch": 5 * 50,
    "per_device_train_batch_size": 64,
    "optim": "sgd",
    "optim_args": "nesterov=False",
    "learning_rate": 0.1,
    "weight_decay": 5e-4,
    "max_grad_norm": 0,
    "generator_learning_rate": 1e-3,
    "generator_schedule": "same",
    "lr_scheduler_type": "step",
    "lr_scheduler_kwargs": {"decay_epochs": 100, "decay_rate": 0.1, "warmup_epochs": 0},
}
# 2204.11257; the settings of a third-party implementation
SFDA_DE = {
    "augmented_features": True,
    "horizontal_flip": 0.5,
    "min_samples_per_class": 5,
    "cluster_tolerance": 1e-3,
    "estimate_source": True,
    "discrepancy_weight": 1,
    "optim": "sgd",
    "optim_args": "nesterov=False",
    "weight_decay": 5e-4,
    "max_grad_norm": 0,
    "lr_scheduler_type": "inverse_decay",
    "load_best_model_at_end": False,
}

# What AdderNet and AdaBin share.
RESIDUAL_SGD = {
    "optim": "sgd",
    "optim_args": "momentum=0.9,nesterov=False",
    "learning_rate": 0.1,
    "weight_decay_on": "all",
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0,
    "max_grad_norm": 0,
    "label_smoothing_factor": 0,
    "horizontal_flip": 0.5,
    "ema_decay": None,
}

PUBLISHED = {
    # the paper's section on ImageNet, as recalled
    "addernet/imagenet": {
        **RESIDUAL_SGD,
        **IMAGENET,
        "model": "addernet-resnet50",
        "num_train_epochs": 150,
        "per_device_train_batch_size": 256 // 8,
        "weight_decay": 1e-4,
    },
    # 2208.08084; imagenet/main.py
    "adabin/imagenet": {
        **RESIDUAL_SGD,
        **IMAGENET,
        "model": "adabin-resnet18",
        "model_config": {"progressive": True},
        "num_train_epochs": 120,
        "per_device_train_batch_size": 256 // 8,
        "train_crop": "random_resized",
        "weight_decay": 1e-5,
    },
    # 2212.14158, as recalled
    "bimlp/imagenet": {
        **IMAGENET,
        "model": "bimlp-s",
        "model_config": {"activation_binarizer": "sign"},
        "num_train_epochs": 300,
        "optim": "adamw_torch",
        "lr_scheduler_type": "cosine",
    },
    "cdfkd_mfs/cifar100": {
        **CDFKD_MFS,
        "model": "mhresnet8x18",
        "generator": "small",
        "image_size": 32,
        "per_device_train_batch_size": 256,
    },
    "cdfkd_mfs/caltech101": {**CDFKD_MFS, "model": "mhresnet18", "generator": "large", "image_size": 128},
    "cdfkd_mfs/mini_imagenet": {
        **CDFKD_MFS,
        "model": "mhresnet18",
        "generator": "large_normalized",
        "image_size": 224,
        "num_train_epochs": 100,
        "steps_per_epoch": 5 * 750,
        "feature_weight": 0.05,
        "ensemble_weight": 1,
        "lr_scheduler_kwargs": {"decay_epochs": 30, "decay_rate": 0.1, "warmup_epochs": 0},
    },
    "sfda_de/office31": {
        **SFDA_DE,
        "num_train_epochs": 1000,
        "steps_per_round": 50,
        "samples_per_class": 3,
        "per_device_train_batch_size": 30,
        "distance_threshold": 0.5,
        "std_factor": 1,
        "learning_rate": 1e-3,
        "norm_learning_rate_factor": 1,
        "lr_scheduler_kwargs": {"alpha": 1e-3, "beta": 0.75},
    },
    "sfda_de/visda2017": {
        **SFDA_DE,
        "num_train_epochs": 500,
        "steps_per_round": 100,
        "samples_per_class": 10,
        "per_device_train_batch_size": 60,
        "distance_threshold": 0.078,
        "std_factor": 2,
        "learning_rate": 1e-4,
        "norm_learning_rate_factor": 10,
        "lr_scheduler_kwargs": {"alpha": 5e-4, "beta": 2.25},
    },
    # Sorted LLaMA's model, data and sub-models; the rest is the README of Stanford Alpaca.
    "sortednet/alpaca_llama2_13b": {
        "model": "meta-llama/Llama-2-13b-hf",
        "dataset": "tatsu-lab/alpaca",
        "sorted_submodels": {f"layers-{n}": {"num_hidden_layers": n} for n in range(12, 40, 4)},
        "num_train_epochs": 5,
        "learning_rate": 1e-5,
        "per_device_train_batch_size": 2,  # 128 in all, on one device
        "gradient_accumulation_steps": 64,
        "block_size": 512,
        "weight_decay": 0,
        "warmup_steps": 0.03,
        "lr_scheduler_type": "cosine",
    },
    # 2305.12972; main.py, optim_factory.py
    "vanillanet/imagenet": {
        **IMAGENET,
        **TIMM_IMAGES,
        "model": "vanillanet-5",
        "num_train_epochs": 300,
        "per_device_train_batch_size": 128,
        "interpolation": ["bicubic"],
        "randaugment": "rand-m7-mstd0.5-inc1",
        "mixup": 0.1,
        "cutmix": 1.0,
        "mix_switch_probability": 0.5,
        "loss": "binary_cross_entropy",
        "optim": "lamb",
        "learning_rate": 3.5e-3,
        "weight_decay": 0.35,
        "adam_epsilon": 1e-8,
        "max_grad_norm": 1.0,  # of timm's LAMB itself
        "lr_scheduler_type": "warmup_cosine",
        "min_lr": 1e-6,
        "warmup_steps": 5 / 300,
        "layer_decay": None,
        "ema_decay": 0.99996,
        "model_config": {
            "deep_training_epochs": 100,
            "deep_training_schedule": "linear",
            "classifier_dropout": 0.05,
        },
    },
    # 2010.14819; the authors' MindSpore command
    "tinynet/imagenet": {
        **IMAGENET,
        "model": "tinynet-a",
        "num_train_epochs": 450,
        "per_device_train_batch_size": 128,
        "optim": "rmsprop_tf",
        "optim_args": "alpha=0.9,momentum=0.9,eps=0.001",
        "learning_rate": 0.048,
        "weight_decay": 1e-5,
        "max_grad_norm": 0,
        "lr_scheduler_type": "step",
        "lr_scheduler_kwargs": {"decay_epochs": 2.4, "decay_rate": 0.97, "warmup_epochs": 3, "warmup_lr": 1e-6},
        "ema_decay": 0.9999,
        "bf16": False,
        "fp16": False,
        "model_config": {"classifier_dropout": 0.2},
    },
    # 2306.14525: AdamW, cosine, timm's augmentation; nothing else
    "parameternet/imagenet": {
        **IMAGENET,
        **TIMM_IMAGES,
        "model": "parameternet-600m",
        **ADAMW,
        "lr_scheduler_type": "warmup_cosine",
        "max_grad_norm": 0,
        "interpolation": ["bilinear"],
    },
    # 2206.00272, table 3; train.py
    "vig/imagenet": {
        **IMAGENET,
        **TIMM_IMAGES,
        **ADAMW,
        "model": "pyramidvig-ti",
        "num_train_epochs": 300,
        "per_device_train_batch_size": 128,
        "interpolation": ["bicubic"],
        "randaugment": "rand-m9-mstd0.5-inc1",
        "mixup": 0.8,
        "cutmix": 1.0,
        "loss": "cross_entropy",
        "learning_rate": 2e-3,
        "weight_decay": 0.05,
        "max_grad_norm": 0,
        "lr_scheduler_type": "cosine_over_warmup",
        "lr_scheduler_kwargs": {"warmup_lr": 1e-6},
        "warmup_steps": 20 / 300,
        "ema_decay": 0.99996,
        "model_config": {"drop_path_rate": 0.1},
    },
    # 2404.11202; train.py
    "ghostnetv3/imagenet": {**COMPACT, "model": "ghostnetv3-1.0x"},
    "compact/imagenet_ghostnetv3": {**COMPACT, **TAUGHT, "model": "ghostnetv3-1.0x"},
    "compact/imagenet_ghostnetv2": {**COMPACT, **TAUGHT, "model": "ghostnetv2-1.0x", "training_branches": 3},
    "compact/imagenet_mobilenetv2": {**COMPACT, **TAUGHT, "training_branches": 3},
    "compact/imagenet_shufflenetv2": {**COMPACT, **TAUGHT, "model": "shufflenetv2-1.0x", "training_branches": 3},
    # 2312.17276; weight decay and clipping are the follow-up's
    "pangu_pi/1b": {
        "model": "pangu-pi-1b",
        "tokenizer": "train:100883",
        "optim": "adamw_torch",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "cosine_with_min_lr",
        "warmup_steps": 4000,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
    },
    # 2402.02791, and its published configuration file
    "pangu_pi/1b_pro": {
        "model": "pangu-pi-1b-pro",
        "tokenizer": "train:48000",
        "block_size": 2048,
        "optim": "adamw_torch",
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
        "learning_rate": 2e-4,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr": 1e-5},
        "min_lr": 1e-5,
        "warmup_steps": 0.03,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "bf16": True,
    },
    # 2410.17779; train.py of each task
    "adem_vl/scienceqa": {
        **ADEM,
        "num_train_epochs": 20,
        "warmup_steps": 2 / 20,
        "max_length": 512,
        "prompt_format": "CQM-A",
        "augmentation": "none",
    },
    "adem_vl/coco_caption": {
        **ADEM,
        "num_train_epochs": 5,
        "warmup_steps": 0.1 / 5,
        "max_length": 30,
        "augmentation": "captions",
    },
    "adem_vl/instruct": {
        **ADEM,
        "num_train_epochs": 15,
        "warmup_steps": 0.2 / 15,
        "max_length": 512,
        "augmentation": "none",
    },
    # configs/sam, configs/rrdb of the official repository
    "sam_diffsr/df2k": {**DIFFUSION, "model": "sam-diffsr-x4", "structure_maps": True},
    "sam_diffsr/srdiff_df2k": {**DIFFUSION, "model": "srdiff-x4", "structure_maps": False},
    "sam_diffsr/rrdb_df2k": {**SAM_DIFFSR, "stage": "rrdb", "max_steps": 100_000, "lr_decay_steps": None},
    # 2207.10666, 1k from scratch; rates scaled from batches of 512
    "tinyvit/imagenet": {
        **IMAGENET,
        **TIMM_IMAGES,
        **ADAMW,
        "model": "tinyvit-5m",
        "num_train_epochs": 300,
        "per_device_train_batch_size": 128,
        "interpolation": ["bicubic"],
        "randaugment": "rand-m9-mstd0.5-inc1",
        "mixup": 0.8,
        "cutmix": 1.0,
        "mix_switch_probability": 0.5,
        "learning_rate": 2 * 5e-4,
        "lr_scheduler_type": "cosine_over_warmup",
        "lr_scheduler_kwargs": {"warmup_lr": 2 * 5e-7},
        "min_lr": 2 * 5e-6,
        "warmup_steps": 20 / 300,
        "weight_decay": 0.05,
        "ema_decay": None,
    },
    # 2312.13789, sections 3.2 and 4.1
    "tinysam/distillation": {
        "model": "tinysam",
        "teacher": "facebook/sam-vit-huge",
        "num_train_epochs": 8,
        "prompts_per_picture": 64,
        "hard_prompt_rounds": 9,
        "weight_decay": 0,
    },
    # 2309.11331; the official configurations and commands
    "gold_yolo/coco_n_teacher": {**GOLD_YOLO, "model_config": {"head_type": "anchor_aided"}},
    "gold_yolo/coco_n": {
        **GOLD_YOLO,
        "model_config": {"head_type": "distillation"},
        "distillation_temperature": 20,
        "feature_distillation": 0,
    },
    # 2310.19444, section 4 and appendix; the official commands
    "ofa_kd/imagenet": {
        **OFA_CNN,
        **IMAGENET,
        "losses": {"ofa": {"weight": 1.0, "stages": [1, 2, 3, 4], "eps": 1.5, "temperature": 1}},
        "num_train_epochs": 100,
        "per_device_train_batch_size": 64,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "lr_scheduler_type": "step",
        "lr_scheduler_kwargs": {"decay_epochs": 30, "decay_rate": 0.1, "warmup_epochs": 3, "warmup_lr": 1e-4},
    },
    "ofa_kd/cifar100": {
        **OFA_CNN,
        **OFA_CIFAR,
        "learning_rate": 0.05,
        "weight_decay": 2e-3,
        "lr_scheduler_type": "cosine_over_warmup",
        "lr_scheduler_kwargs": {"warmup_lr": 1e-4},
        "min_lr": 1e-3,
        "warmup_steps": 3 / 300,
    },
    "ofa_kd/imagenet_vit": {**OFA_VIT, **IMAGENET, "min_lr": 1e-6, "ema_decay": 0.99996},
    "ofa_kd/cifar100_vit": {**OFA_VIT, **OFA_CIFAR, "min_lr": 1e-5, "ema_decay": None},
    # 2108.11898: the official repository and sc2bench
    "entropic_student/imagenet_resnet50_features": {
        **ENTROPIC_FEATURES,
        "codec": {"at": "resnet.encoder.stages.0", "widths": [24]},
    },
    "entropic_student/imagenet_resnet50_mshp_features": {
        **ENTROPIC_FEATURES,
        "codec": {
            "at": "resnet.encoder.stages.0",
            "widths": [24],
            "prior": "mean_scale_hyperprior",
            "hyper_channels": 16,
        },
    },
    "entropic_student/imagenet_resnet50": {
        **ENTROPIC,
        "losses": {"kd": {"temperature": 1, "weight": 0.5}},
        "labels_weight": 0.5,
        "per_device_train_batch_size": 128,
        "optim": "sgd",
        "optim_args": "momentum=0.9,nesterov=False",
        "weight_decay": 5e-4,
        "weight_decay_on": "all",
        "lr_scheduler_kwargs": {"decay_epochs": [5], "decay_rate": 0.1, "warmup_epochs": 0},
    },
    # 2205.11854: the official code
    "mahppo/caltech101_features": {
        **MAHPPO,
        "losses": {"coded_channels": {"weight": 1}},
        "labels_weight": 0.1,
        "num_train_epochs": 10,
        "learning_rate": 0.1,
        "lr_scheduler_type": "step",
        "lr_scheduler_kwargs": {"decay_epochs": [7], "decay_rate": 0.1, "warmup_epochs": 0},
    },
    "mahppo/caltech101": {
        **MAHPPO,
        "num_train_epochs": 5,
        "learning_rate": 1e-4,
        "lr_scheduler_type": "constant",
    },
    # 2309.05015: the official repository
    "devit/cifar100_teacher": {
        **DEVIT,
        "num_train_epochs": 100,
        "per_device_train_batch_size": 256,
        "learning_rate": 1e-4 * 2048 / 512,
        "weight_decay": 0,
    },
    "devit/cifar100_part": {**DEKD, "losses": {"dekd": {"weight": 2}}, "dataset": "uoft-cs/cifar100"},
    "devit/imagenet_part": {
        **DEKD,
        **IMAGENET,
        "losses": {
            "dekd": {
                "weight": 2,
                "teacher_block": "deit.layers.5.attention",
                "head": "fusion.classifiers.distillation",
            }
        },
    },
    "devit/cifar100_fusion": {
        **ENSEMBLE,
        "dataset": "uoft-cs/cifar100",
        "losses": {"deit": {"kind": "hard", "weight": 2 * 0.5}, "fused_tokens": {"weight": 2}},
    },
    "devit/imagenet_fusion": {**ENSEMBLE, **IMAGENET},
    # 2305.15781, table of strategies; the official commands
    "vanilla_kd/a1": {
        **VANILLA_KD,
        "num_train_epochs": 600,
        "warmup_steps": 5 / 600,
        "weight_decay": 0.01,
        "label_smoothing_factor": 0.1,
        "mixup": 0.2,
    },
    "vanilla_kd/a2": {
        **VANILLA_KD,
        "num_train_epochs": 300,
        "warmup_steps": 5 / 300,
        "weight_decay": 0.02,
        "label_smoothing_factor": 0,
        "mixup": 0.1,
    },
    # 2107.13715, the official repository; the losses are ours
    "lsskd/cifar100": {
        **LSSKD,
        "dataset": "uoft-cs/cifar100",
        "train_crop": "random_padded",
        "crop_padding": 4,
        "num_train_epochs": 240,
        "per_device_train_batch_size": 64,
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
        "lr_scheduler_kwargs": {"decay_epochs": [150, 180, 210], "decay_rate": 0.1}
        | {"warmup_epochs": 0, "warmup_lr": 0},
    },
    "lsskd/hsakd_cifar100_teacher": {
        **{name: value for name, value in LSSKD.items() if name != "losses"},
        "losses": {
            "lsskd": {
                **{"weight": 1.0, "stages": [1, 2, 3, 4], "heads": "copy", "keep_heads": True},
                **{"joint_weight": 1, "divergence_weight": 0, "feature_weight": 0},
            }
        },
        "num_train_epochs": 240,
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
    },
    "lsskd/hsakd_cifar100": {
        **{name: value for name, value in LSSKD.items() if name != "losses"},
        "losses": {"hsakd": {"weight": 1.0, "stages": [1, 2, 3, 4], "heads": "copy", "temperature": 3}},
        "num_train_epochs": 240,
        "learning_rate": 0.05,
        "weight_decay": 5e-4,
    },
    "lsskd/imagenet": {
        **IMAGENET,
        **LSSKD,
        "model": "microsoft/resnet-18",
        "num_train_epochs": 100,
        "per_device_train_batch_size": 256 // 8,
        "learning_rate": 0.1,
        "weight_decay": 1e-4,
        "lr_scheduler_kwargs": {"decay_epochs": [30, 60, 90], "decay_rate": 0.1}
        | {"warmup_epochs": 0, "warmup_lr": 0},
    },
    # 2306.00693, the official repository
    "gpt4image/imagenet_resnet50": {
        **IMAGENET,
        "losses": {"text_alignment": {**GPT4IMAGE, "temperature": 0.2, "norm": True}},
        "per_device_train_batch_size": 256,
        "num_train_epochs": 120,
        "train_crop": "random_resized",
        "horizontal_flip": 0.5,
        "randaugment": None,
        "mixup": 0,
        "cutmix": 0,
        "label_smoothing_factor": 0,
        "optim": "sgd",
        "learning_rate": 0.1 * 1024 / 256,
        "weight_decay": 1e-4,
        "weight_decay_on": "all",
        "min_lr": 1e-5,
        "warmup_steps": 0,
        "seed": 1,
    },
    "gpt4image/imagenet_deit_base": {
        **IMAGENET,
        **TIMM_IMAGES,
        **ADAMW,
        "losses": {"text_alignment": {**GPT4IMAGE, "temperature": 0.05, "norm": False}},
        "model_config": {"model_args": {"drop_path_rate": 0.1}},
        "per_device_train_batch_size": 128,
        "num_train_epochs": 300,
        "interpolation": ["bicubic"],
        "randaugment": "rand-m9-mstd0.5-inc1",
        "repeated_augmentation": 3,
        "mixup": 0.8,
        "cutmix": 1.0,
        "mix_switch_probability": 0.5,
        "learning_rate": 5e-4 * 1024 / 512,
        "weight_decay": 0.05,
        "lr_scheduler_kwargs": {"warmup_lr": 1e-6},
        "min_lr": 1e-5,
        "warmup_steps": 5 / 300,
        "ema_decay": 0.99996,
    },
    # 2101.05022, the official configurations
    "relabel/imagenet": {**RELABEL, "cutmix": 0, "optim": "sgd", "learning_rate": 0.1, "weight_decay": 1e-4},
    "relabel/imagenet_cutmix": {
        **RELABEL,
        "cutmix": 1.0,
        "mix_probability": 1.0,
        "mix_off_epochs": 5,
        "optim": "adamp",
        "adam_beta1": 0.9,
        "adam_beta2": 0.999,
        "learning_rate": 2e-3,
        "weight_decay": 1e-2,
    },
    # 2402.03749; the official scripts
    "weak_to_strong/cifar100": {
        "losses": {"adaptconf": {"weight": 1.0, "tau": 0.5, "temperature": 1, "warmup": 0}},
        "num_train_epochs": 240,
        "per_device_train_batch_size": 512 // 8,
        "image_size": 32,
        "train_crop": "random_resized",
        "interpolation": ["bilinear"],
        "horizontal_flip": 0.5,
        "randaugment": None,
        "mixup": 0,
        "label_smoothing_factor": 0,
        "optim": "sgd",
        "learning_rate": 0.2,
        "min_lr": 2e-3,
        "warmup_steps": 10 / 240,
        "weight_decay": 5e-4,
        "lr_scheduler_type": "cosine_over_warmup",
    },
    "weak_to_strong/imagenet": {
        **IMAGENET,
        **TIMM_IMAGES,
        **ADAMW,
        "losses": {"adaptconf": {"weight": 1.0, "tau": 4.0, "temperature": 1, "warmup": 0}},
        "model_config": {"model_args": {"drop_path_rate": 0.1}},
        "num_train_epochs": 100,
        "per_device_train_batch_size": 128,
        "randaugment": "rand-m9-mstd0.5-inc1",
        "mixup": 0.8,
        "cutmix": 1.0,
        "learning_rate": 2e-3,
        "layer_decay": 0.65,
        "weight_decay": 0.05,
        "warmup_steps": 5 / 100,
        "lr_scheduler_kwargs": {"warmup_lr": 1e-4},
        "min_lr": 1e-6,
    },
    "weak_to_strong/few_shot": {
        "losses": {"adaptconf": {"weight": 1.0, "tau": 8, "temperature": 10, "warmup": 0.25}},
        "num_train_epochs": 100,
        "per_device_train_batch_size": 128,
        "optim": "sgd",
        "learning_rate": 0.1,
        "weight_decay": 5e-4,
        "lr_scheduler_type": "step",
        "lr_scheduler_kwargs": {"decay_epochs": 90, "decay_rate": 0.1, "warmup_epochs": 0, "warmup_lr": 0},
    },
    "weak_to_strong/few_shot_episodes": {
        "losses": {"adaptconf": {"weight": 1.0, "tau": 0.25, "temperature": 10, "warmup": 0.25}},
        **{"episodes_per_epoch": 200 * 4, "way": 5, "shot": 1, "query": 15},
        "num_train_epochs": 20,
        "per_device_train_batch_size": 4 * 5 * (1 + 15),
        "optim": "sgd",
        "learning_rate": 1e-3,
    },
    "weak_to_strong/noisy_labels": {
        "losses": {"adaptconf": {"weight": 1.0, "tau": 0.5, "temperature": 20, "warmup": 0.25}},
        "num_train_epochs": 70,
    },
    # 2212.06593, the official repository's commands; rates scaled from batches of 256
    "fastmim/imagenet_vit_base": {
        **FASTMIM,
        "model": "fastmim-vit-base",
        "num_train_epochs": 800,
        "per_device_train_batch_size": 4096 // 8,
        "learning_rate": 1.5e-4 * 4096 / 256,
        "warmup_steps": 20 / 800,
    },
    "fastmim/imagenet_swin_base": {
        **FASTMIM,
        "model": "fastmim-swin-base",
        "num_train_epochs": 400,
        "per_device_train_batch_size": 2048 // 8,
        "learning_rate": 1.5e-4 * 2048 / 256,
        "warmup_steps": 10 / 400,
        "encoder_window_size": 7,
    },
    "fastmim/imagenet_vit_base_finetune": {
        **FINE_TUNED,
        "per_device_train_batch_size": 128,
        "learning_rate": 6e-4 * 1024 / 256,
        "layer_decay": 0.7,
        "warmup_steps": 5 / 100,
        "min_lr": 1e-6,
        "model_config": {"num_attention_heads": 12},
    },
    "fastmim/imagenet_swin_base_finetune": {
        **FINE_TUNED,
        "per_device_train_batch_size": 128,
        "learning_rate": 1e-3 * 1024 / 256,
        "layer_decay": 0.8,
        "warmup_steps": 5 / 100,
        "min_lr": 1e-6,
        "model_config": {"drop_path_rate": 0.1},
    },
    # 2303.05251, the official repository's commands
    "localmim/imagenet_vit_base": {
        **LOCALMIM,
        "model": "localmim-vit-base",
        "num_train_epochs": 1600,
        "per_device_train_batch_size": 2048 // 8,
        "learning_rate": 2e-4 * 2048 / 256,
        "warmup_steps": 40 / 1600,
        "lr_scheduler_type": "cosine_with_min_lr",
        "min_lr": 1e-6,
    },
    "localmim/imagenet_swin_base": {
        **LOCALMIM,
        "model": "localmim-swin-base",
        "num_train_epochs": 400,
        "per_device_train_batch_size": 2048 // 8,
        "learning_rate": 1e-4 * 2048 / 256,
        "warmup_steps": 40 / 400,
        "min_lr": 0,
    },
    "localmim/imagenet_vit_base_finetune": {
        **FINE_TUNED,
        "per_device_train_batch_size": 1024 // 8,
        "learning_rate": 2e-3,
        "layer_decay": 0.65,
        "warmup_steps": 20 / 100,
        "min_lr": 1e-5,
    },
    "localmim/imagenet_swin_base_finetune": {
        **FINE_TUNED,
        "per_device_train_batch_size": 64,
        "gradient_accumulation_steps": 2,
        "learning_rate": 4e-3,
        "layer_decay": 0.9,
        "warmup_steps": 20 / 100,
        "min_lr": 2.5e-7,
        "model_config": {"drop_path_rate": 0.1},
    },
    # 2111.09886, the official configuration file; rates scaled from batches of 512
    "simmim/imagenet_swin_base": {
        **MASKED,
        "model": "simmim-swin-base",
        "crop_scale": [0.67, 1.0],
        "num_train_epochs": 100,
        "per_device_train_batch_size": 2048 // 8,
        "adam_beta2": 0.999,
        "learning_rate": 2e-4 * 2048 / 512,
        "max_grad_norm": 5.0,
        "warmup_steps": 10 / 100,
    },
    # 2301.03580, the official repository's defaults; its weight decay grows from 0.04 to 0.2
    "spark/imagenet_resnet50": {**SPARK, "model": "spark-resnet-50"},
    # Not published: SparK's
    "gold_yolo/imagenet_spark": {**SPARK, "model": "gold-yolo-s", "method": "spark", "image_size": 224},
    # 2308.01045, the official repository's configuration
    "dtop/ade20k_base": {
        **ADE20K,
        "backbone_config": {"image_size": 512, "hidden_dropout_prob": 0.0, "layer_norm_eps": 1e-6},
        "model_config": {"thresholds": [1.0, 1.0], "drop_path_rate": 0.1, "head_num_attention_heads": 6}
        | {"head_dropout": 0.1},
        "max_steps": 160_000,
        "learning_rate": 2e-5,
        "head_learning_rate_factor": 10,
        "lr_scheduler_kwargs": {"power": 0.9, "lr_end": 0.0},
    },
    "dtop/ade20k_base_pruned": {
        **ADE20K,
        "model_config": {"thresholds": [0.9, 0.9]},
        "max_steps": 40_000,
        "learning_rate": 2e-5,
        "head_learning_rate_factor": 10,
        "lr_scheduler_kwargs": {"power": 0.9, "lr_end": 0.0},
    },
    # 2303.05251: steps, side, rate, decay and stochastic depth; the rest as Swin's release
    "localmim/ade20k_swin_base": {
        **ADE20K,
        "backbone_config": {"drop_path_rate": 0.3, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        "max_steps": 160_000,
        "learning_rate": 6e-5,
        "lr_scheduler_kwargs": {"power": 1.0, "lr_end": 0.0},
    },
    "localmim/ade20k_vit_base": {
        **ADE20K,
        "backbone_config": {"drop_path_rate": 0.1, "out_features": ["stage2", "stage4", "stage10", "stage12"]},
        "max_steps": 160_000,
        "learning_rate": 4e-4,
        "layer_decay": 0.65,
        "weight_decay": 0.05,
        "lr_scheduler_kwargs": {"power": 1.0, "lr_end": 0.0},
    },
    # 2212.06593: from the fine-tuned model
    "fastmim/ade20k_vit_base": {
        **ADE20K,
        "backbone": "outputs/fastmim_imagenet_vit_base_finetune",
        "backbone_config": {"drop_path_rate": 0.1, "out_features": ["stage2", "stage4", "stage10", "stage12"]},
        "max_steps": 160_000,
        "learning_rate": 3e-4,
        "layer_decay": 0.75,
        "weight_decay": 0.05,
        "lr_scheduler_kwargs": {"power": 1.0, "lr_end": 0.0},
    },
    # 2402.04841, the official repository's configuration of the distilled model
    "delvm/multi_task_300m": {
        "model": "delvm-300m",
        "factorized_embedding": True,
        "gt_weight": 1,
        "kd_weight": 1,
        "kd_temperature": 1,
        "kd_inverse": False,
        "kd_predicted_only": False,
        "packing": "packed",
        "packed_length": 2048,
        "pairs_per_sentence": 6,
        "max_steps": 40_000,
        "per_device_train_batch_size": 16,
        "gradient_accumulation_steps": 1,
        "optim": "adamw_torch",
        "learning_rate": 1.5e-4,
        "adam_beta1": 0.9,
        "adam_beta2": 0.95,
        "adam_epsilon": 1e-8,
        "weight_decay": 0.1,
        "max_grad_norm": 1.0,
        "min_lr": 1.5e-5,
        "warmup_steps": 0.0056,
    },
    # 2306.14525: the network alone is published
    "parameternet_moe/1b": {"model": "parameternet-moe-1b"},
}

SHARED = {
    "per_device_train_batch_size",
    "learning_rate",
    "weight_decay",
    "max_grad_norm",
    "lr_scheduler_type",
    "optim",
}
ADAM = {"adam_beta1", "adam_beta2", "adam_epsilon"}
STATED = {
    "image-classification": SHARED
    | {"num_train_epochs", "train_crop", "crop_scale", "crop_ratio", "interpolation", "horizontal_flip"}
    | {"color_jitter", "randaugment", "random_erasing", "mixup", "cutmix", "loss", "label_smoothing_factor"}
    | {"layer_decay", "ema_decay", "bf16"},
    "causal-lm": SHARED
    | ADAM
    | {"max_steps", "gradient_accumulation_steps", "block_size", "min_lr", "warmup_steps", "bf16"},
    "image-text-to-text": SHARED
    | ADAM
    | {"num_train_epochs", "gradient_accumulation_steps", "max_length", "augmentation", "train", "min_lr"}
    | {"warmup_steps", "base_precision", "bf16"},
    "super-resolution": SHARED
    | ADAM
    | {"max_steps", "patch_size", "augment", "loss", "lr_decay_steps", "lr_decay_rate", "ema_decay", "bf16"},
    "mask-generation": SHARED
    | ADAM
    | {"num_train_epochs", "prompts_per_picture", "hard_prompt_rounds", "embedding_weight", "token_weight"}
    | {"mask_weight", "focal_weight", "dice_weight", "iou_weight", "ema_decay", "bf16"},
}
STATED["semantic-segmentation"] = (
    SHARED
    | ADAM
    | {"max_steps", "scale_range", "max_class_share", "horizontal_flip", "brightness", "contrast", "saturation"}
    | {"head_learning_rate_factor", "warmup_steps", "ema_decay", "eval_mode", "lr_scheduler_kwargs"}
)
STATED["visual-sequence-modeling"] = (
    SHARED
    | ADAM
    | {"max_steps", "packing", "pairs_per_sentence", "min_lr", "warmup_steps", "ema_decay", "bf16", "gt_weight"}
    | {"kd_weight", "kd_temperature", "kd_inverse", "kd_predicted_only", "factorized_embedding"}
)
# The schedule of detectors has a name of its own.
STATED["object-detection"] = (SHARED - {"lr_scheduler_type"}) | {
    *("num_train_epochs", "image_size", "mosaic", "scale", "horizontal_flip", "ema_decay", "ema_ramp"),
}
STATED["masked-image-modeling"] = (
    SHARED
    | ADAM
    | {"num_train_epochs", "crop_scale", "crop_ratio", "interpolation", "horizontal_flip", "min_lr", "warmup_steps"}
    | {"ema_decay", "bf16"}
)
STATED["data-free-distillation"] = SHARED | {
    *("teachers", "generator", "latent_size", "num_train_epochs", "steps_per_epoch", "student_steps", "head_weight"),
    *("feature_weight", "ensemble_weight", "disagreement_weight", "statistics_weight", "first_norm_weight"),
    *("generator_learning_rate", "generator_schedule", "lr_scheduler_kwargs", "ema_decay", "bf16"),
}
STATED["source-free-adaptation"] = SHARED | {
    *("num_train_epochs", "steps_per_round", "samples_per_class", "distance_threshold", "min_samples_per_class"),
    *("cluster_tolerance", "std_factor", "estimate_source", "discrepancy_weight", "augmented_features"),
    *("norm_learning_rate_factor", "lr_scheduler_kwargs", "train_crop", "crop_scale", "crop_ratio", "interpolation"),
    *("horizontal_flip", "ema_decay", "bf16"),
}
# Where one of these is stated, the others have an effect.
STATED["distillation"] = STATED["image-classification"] | {"teacher", "losses"}
TOGETHER = {
    ("cutmix",): {"mix_probability"},
    ("cutmix", "mixup"): {"mix_switch_probability"},
    ("random_erasing",): {"random_erasing_mode", "random_erasing_count"},
}


def arguments_of(name: str) -> dict:
    reader = ArgumentReader(["--config", name])
    return resolved(*reader.read(*load_task(reader.task).TRAINING_ARGUMENTS))


def test_the_recipes_that_are_published_are_known():
    own = (
        "quickstart/",
        "sam_diffsr/small",
        "adabin/digits",
        "addernet/cifar10_small",
        "addernet/digits",
        "bimlp/digits",
        "bivit/digits",
        "tinysam/shapes_teacher",
        "cdfkd_mfs/digits",
        "dtop/digits",
        "devit/digits",
        "entropic_student/digits",
        "mahppo/digits",
        "fastmim/quickstart",
        "ghostnetv3/quickstart",
        "ghostnetv3/coco_rt_detr",
        "vig/quickstart",
        "vig/coco_rt_detr",
        "pangu_pi/ablation",
        "bitnet158/tinyshakespeare",
        "pangu_pi/tinyshakespeare",
        "parameternet_moe/pydoc",
        "sortednet/pydoc",
        "light_clip/cc12m",
    )
    others = {name for name in list_recipes() if name.startswith(own) or name.endswith("/cifar10")}
    assert others | PUBLISHED.keys() == set(list_recipes())


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_resolves_to_what_is_published(name):
    found = arguments_of(name)
    for key, value in PUBLISHED[name].items():
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            value = pytest.approx(value, rel=1e-4)  # shares of the training are written with six digits
            assert float(found[key]) == value, key
        elif isinstance(value, dict):
            assert {inner: _number(held) for inner, held in found[key].items()} == value, key
        else:
            assert found.get(key) == value, key


def _number(value):
    """What JSON writes as 1e-06 comes back from YAML as a text."""
    return float(value) if isinstance(value, str) and value[:1].isdigit() else value


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_leaves_no_value_that_matters_to_a_default(name):
    recipe = yaml.safe_load(find_recipe(name).read_text())
    wanted = set(STATED[recipe["task"]])
    if recipe.get("train_crop", "random_resized") != "random_resized":
        wanted -= {"crop_scale", "crop_ratio", "interpolation"}
    if recipe["optim"] in ("lamb", "adamw_torch"):
        wanted |= ADAM
    if "cosine" in recipe.get("lr_scheduler_type", ""):
        wanted |= {"min_lr", "warmup_steps"}
    for keys, more in TOGETHER.items():
        if all(recipe.get(key) for key in keys):
            wanted |= more
    assert wanted <= recipe.keys(), sorted(wanted - recipe.keys())
    assert Path(find_recipe(name)).read_text().startswith("#")
