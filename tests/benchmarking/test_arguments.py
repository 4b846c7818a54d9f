"""What the benchmark's parser takes, and what is said of names and modes before anything that runs them is loaded."""

import pytest

from hf_effmodels.benchmarking.arguments import check, check_modes, check_names, make_parser


def parsed(*arguments):
    return make_parser().parse_args(["--presets", "vanillanet-5", *arguments])


def test_what_is_not_said_is_one_thread_one_image_and_twenty_forward_passes_of_the_folded_preset_alone():
    given = {"presets": ["vanillanet-5"], "batch": [1], "threads": [1], "backends": ["eager"], "mode": ["infer"]}
    given |= {"against": [], "rounds": 20, "length": 256, "new_tokens": 64, "model_config": "{}", "overwrite": False}
    found = vars(parsed())
    assert {name: value for name, value in found.items() if value is not None} == given
    assert {"image_size", "folded", "reference", "dataset", "eval_fraction", "eval_holdout", "output"} <= found.keys()
    assert check(parsed()) == {} and check(parsed("--model-config", '{"num_labels": 2}')) == {"num_labels": 2}


def test_an_option_of_data_is_spelt_as_train_does_and_as_this_command_does():
    for spelling in ("--max_eval_samples", "--max-eval-samples"):
        assert parsed(spelling, "4").max_eval_samples == 4
    assert parsed("--data-dir", "photos").data_dir == parsed("--data_dir", "photos").data_dir == "photos"


@pytest.mark.parametrize(
    "given, said",
    [
        (["--mode", "infer,fly"], "--mode: got 'infer,fly', accepted are infer, train, generate, detect"),
        (["--mode", ","], "--mode: got ',', accepted are infer"),
        (["--batch", "1,x"], "--batch: invalid list of int value: '1,x'"),
    ],
)
def test_a_list_with_what_is_not_accepted_is_told_with_what_is(given, said, capsys):
    with pytest.raises(SystemExit):
        parsed(*given)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    "given, said",
    [
        (
            ["--mode", "detect", "--backends", "eager,onnx"],
            "--backends: got eager,onnx, accepted is eager when mode is ",
        ),
        (["--mode", "train,infer", "--folded"], "--folded: a folded model cannot be trained"),
        (["--model-config", '"a"'], """--model-config: got '"a"', accepted is a mapping"""),
        (["--batch", "0,1"], r"--batch: got \[0, 1\], accepted are whole numbers from 1 to 65536"),
        (["--new-tokens", "1048577"], "--new-tokens: got 1048577, accepted are whole numbers from 1 to 1048576"),
        (["--image-size", "65537"], "--image-size: got 65537"),
        (["--batch", "1,65537"], r"--batch: got \[1, 65537\], accepted are whole numbers from 1 to 65536"),
        (["--threads", "1025,1"], r"--threads: got \[1025, 1\], accepted are whole numbers from 1 to 1024"),
        (["--length", "1048577"], "--length: got 1048577, accepted are whole numbers from 1 to 1048576"),
        (["--rounds", "1000001"], "--rounds: got 1000001, accepted are whole numbers from 1 to 1000000"),
    ],
)
def test_what_cannot_go_together_is_told(given, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        check(parsed(*given))


def test_the_largest_numbers_are_taken_and_training_without_folding():
    check(parsed("--batch", "65536", "--threads", "1024", "--rounds", "1000000", "--image-size", "65536"))
    check(parsed("--mode", "train", "--no-folded"))


def test_a_mode_is_one_of_those_that_there_are():
    check_modes("edge", ["infer", "train"], ("train", "infer", "detect"))
    with pytest.raises(ValueError, match="^--mode: edge has no generate; accepted are infer, train.$"):
        check_modes("edge", ["infer", "generate"], ("infer", "train"))


def test_names_are_layers_presets_and_what_can_be_places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_names(["binary-128x28", "vanillanet-5", "someone/a-network"], ["infer"])
    (tmp_path / "a" / "folder").mkdir(parents=True)
    with pytest.raises((ValueError, OSError), match="^--presets: "):
        check_names(["a/folder"], ["infer"])
    for names, said in (
        (["binary-128x28", "vanillanet-55"], "unknown preset 'vanillanet-55'"),
        (["someone/a network"], "^--presets: "),
        (["vanillanet-5"], "^--mode: vanillanet-5 has no generate; accepted are infer, train"),
    ):
        with pytest.raises((ValueError, OSError), match=said):
            check_names(names, ["infer", "generate"])


def test_the_parser_names_its_peers_and_layers():
    text = make_parser("hf-effmodels benchmark").format_help()
    words = " ".join(text.split())
    assert text.startswith("usage: hf-effmodels benchmark ") and "official-like, bare-convolutions" in words
    assert "binary-128x28" in words and "ours," not in words


def test_all_modes_may_be_named_at_once():
    parsed = make_parser().parse_args(["--presets", "a", "--mode", " infer,train, generate,detect,infer"])
    assert parsed.mode == ["infer", "train", "generate", "detect"]
