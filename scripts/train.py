"""Train a model as a recipe says; each key of the recipe can be overridden.

    accelerate launch scripts/train.py --config quickstart/image-classification
    accelerate launch --num_processes 2 --cpu scripts/train.py --config quickstart/image-classification \
        --learning_rate 0.005 --output_dir outputs/two_processes

A killed run goes on with `--resume_from_checkpoint true`. `-h` shows the usual keys, `--help-all` all.
"""

from hf_effmodels.training import main

if __name__ == "__main__":
    main()
