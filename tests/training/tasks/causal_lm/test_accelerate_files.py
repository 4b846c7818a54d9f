import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import DistributedType

from hf_effmodels.training import main
from hf_effmodels.training.run.recipes import RECIPES

FOLDER = RECIPES / "accelerate"
EXPECTED = {
    "fsdp2": (DistributedType.FSDP, "fsdp_config", {"fsdp_version": 2, "fsdp_state_dict_type": "SHARDED_STATE_DICT"}),
    "deepspeed_zero2": (DistributedType.DEEPSPEED, "deepspeed_config", {"zero_stage": 2}),
    "deepspeed_zero3": (DistributedType.DEEPSPEED, "deepspeed_config", {"zero_stage": 3}),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_accelerate_reads_the_file_and_knows_all_its_keys(name):
    distributed_type, section, values = EXPECTED[name]
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert config.distributed_type == distributed_type
    assert getattr(config, section).items() >= values.items()
    command = f"accelerate launch --config_file recipes/accelerate/{name}.yaml"
    assert command in (FOLDER / f"{name}.yaml").read_text()


def test_deepspeed_on_a_cpu_is_refused_and_not_replaced(text_run, tmp_path, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises((ValueError, ImportError), match="(?i)deepspeed"):
        main([*text_run, "--output_dir", str(tmp_path / "run")])
