"""Measure a model on a data set: what is measured (accuracy, PSNR, ...) is printed, and written as JSON with --output.

    python scripts/eval.py --model outputs/quickstart_ghostnetv3_digits --dataset digits
    accelerate launch scripts/eval.py --model org/ghostnetv3 --dataset ILSVRC/imagenet-1k --reparameterize true \
        --output ghostnetv3_imagenet.json
    python scripts/eval.py --task super-resolution --model org/sam-diffsr-x4 --dataset path/to/Set5 \
        --scheduler ddim --num_inference_steps 10 --save_images set5
    python scripts/eval.py --task causal-lm --model outputs/quickstart_pangu_pi --dataset pydoc_topics \
        --eval_fraction 0.1 --block_size 256
    python scripts/eval.py --task image-text-to-text --model outputs/quickstart_adem_vl_digits --dataset digits
"""

from hf_effmodels.training import evaluate

if __name__ == "__main__":
    evaluate()
