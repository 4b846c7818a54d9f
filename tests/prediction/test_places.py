"""Where is computed: on the device that is named, on that of a process among several, else where torch finds best."""

import io
from contextlib import nullcontext
from datetime import timedelta
from types import SimpleNamespace

import accelerate
import pytest
import torch
import transformers
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from hf_effmodels import edge_language
from hf_effmodels.cli import main
from hf_effmodels.prediction import predictor, talk
from hf_effmodels.prediction.predictor import MODULES, Options, Source, default_device, find_task, load_for_task
from hf_effmodels.prediction.processes import Processes, find_processes
from hf_effmodels.prediction.tasks import boxes, classes
from hf_effmodels.training.run.launch import WORLD_SIZES


@pytest.mark.parametrize("own", [None, "mps"])
def test_without_a_device_it_is_the_accelerator_and_without_one_the_processor(monkeypatch, own):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: own is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(own))
    assert default_device() == (own or "cpu")


def test_a_task_is_loaded_on_the_device_that_is_named_and_else_on_the_one_there_is(monkeypatch):
    seen = []
    for module in (classes, boxes):
        monkeypatch.setattr(module, "load", lambda *given, module=module: seen.append((module, *given)))
    monkeypatch.setattr(predictor, "default_device", lambda: "cuda")
    source, options = Source("a/b"), Options(top_k=2)
    load_for_task(source, "text-classification", options, None)
    load_for_task(source, "object-detection", options, "cpu")
    assert seen == [
        (classes, "text-classification", source, options, "cuda"),
        (boxes, "object-detection", source, options, "cpu"),
    ]


@pytest.fixture
def started(monkeypatch):
    """One of three processes that have been started together; what they were made with."""
    asked = []

    def state(**options):
        asked.append(options)
        return SimpleNamespace(num_processes=3, process_index=2, device=torch.device("cuda:2"), wait_for_everyone=len)

    monkeypatch.setattr(accelerate, "PartialState", state)
    for name in WORLD_SIZES:
        monkeypatch.delenv(name, raising=False)
    return asked


def test_a_process_by_itself_is_the_first_of_one_and_waits_for_nobody(started):
    alone = find_processes("cpu")
    assert (alone.index, alone.count, alone.device, alone.wait()) == (0, 1, None, None) and not started


@pytest.mark.parametrize("name", WORLD_SIZES)
def test_processes_know_their_number_their_device_and_the_others(started, monkeypatch, name):
    monkeypatch.setenv(name, "3")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert find_processes(None) == Processes(2, 3, "cuda:2", len)
    # A week: the first to be done waits for the last.
    assert started == [{"cpu": False, "timeout": timedelta(days=7)}]


@pytest.mark.parametrize(
    "device, there_is_one, on_cpu",
    [("cpu", True, True), ("cuda", True, False), ("cuda", False, True), (None, False, True)],
)
def test_processes_meet_on_the_processor_where_asked_to_or_where_there_is_nothing_else(
    started, monkeypatch, device, there_is_one, on_cpu
):
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: there_is_one)
    find_processes(device)
    assert started[0]["cpu"] is on_cpu


@pytest.mark.parametrize("count, device", [(1, None), (2, "cpu")])
def test_the_only_one_that_was_started_has_no_device_of_its_own(count, device, started, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(count))
    state = SimpleNamespace(num_processes=count, process_index=0, device=torch.device("cpu"), wait_for_everyone=len)
    monkeypatch.setattr(accelerate, "PartialState", lambda **_: state)
    assert find_processes(None) == Processes(0, count, device, len)


def test_a_preset_stands_for_its_published_weights(monkeypatch, tmp_path):
    asked = []
    (tmp_path / "model_index.json").write_text("{}")
    monkeypatch.setattr(
        "hf_effmodels.hub.pretrained", lambda name, **options: asked.append((name, options)) or tmp_path
    )
    source = Source("sam-diffsr-x4", token="mine", trust_remote_code=True)
    found = Source(str(tmp_path), token="mine", trust_remote_code=True), "super-resolution"
    assert find_task(source) == found
    assert asked == [("sam-diffsr-x4", {"token": "mine"})]


def test_a_folder_of_a_preset_s_name_is_the_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sam-diffsr-x4").mkdir()
    (tmp_path / "sam-diffsr-x4" / "model_index.json").write_text("{}")
    monkeypatch.setattr("hf_effmodels.hub.pretrained", lambda *_, **__: pytest.fail("it is not the preset"))
    assert find_task("sam-diffsr-x4") == (Source("sam-diffsr-x4"), "super-resolution")


def test_a_repository_with_an_index_of_parts_is_a_pipeline(monkeypatch):
    asked, there = [], []

    def download(*name, **options):
        asked.append((name, options))
        if there:
            raise there[0]

    class Config:
        model_type, architectures, auto_map = "llama", ["LlamaForCausalLM"], None

        @staticmethod
        def from_pretrained(name, **options):
            asked.append((name, options))
            return Config

    monkeypatch.setattr(predictor, "check_model", lambda *_, **__: None)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("transformers.AutoConfig", Config)
    source = Source("a/b", revision="v2", token="mine", trust_remote_code=True)
    assert find_task(source) == (source, "super-resolution")
    assert asked == [(("a/b", "model_index.json"), {"revision": "v2", "token": "mine"})]
    for error in (EntryNotFoundError("no"), LocalEntryNotFoundError("no")):
        asked.clear()
        there[:] = [error]
        assert find_task(source) == (source, "text-generation")
        assert asked[1:] == [("a/b", {"revision": "v2", "token": "mine", "trust_remote_code": True})]


def test_what_lies_beside_a_model_here_has_no_revision_either(tmp_path):
    with pytest.raises(ValueError, match="--revision: got 'v2', but MODEL .* lies here: it has no revisions"):
        predictor.load_part(Source(str(tmp_path), revision="v2"), "AutoTokenizer")


def test_every_task_is_one_that_models_are_for():
    from hf_effmodels.architecture import TASKS

    assert MODULES.keys() <= TASKS.keys()


def test_inputs_of_a_model_that_is_not_known_early_are_looked_at_when_it_is(monkeypatch, tmp_path, capsys):
    """Of one on the Hub nothing is known before its configuration is read."""
    monkeypatch.chdir(tmp_path)
    for takes, task, said in (
        ("image", "image-classification", "INPUT: there is no file or folder 'photo.png'"),
        ("text", "text-generation", "INPUT: here is a folder; accepted are texts"),
    ):
        (tmp_path / "here").mkdir(exist_ok=True)
        predictor_ = predictor.Predictor(task, takes, lambda items: pytest.fail("it is predicted"), str, list)
        monkeypatch.setattr("hf_effmodels.prediction.command.task_early", lambda *_: None)
        monkeypatch.setattr("hf_effmodels.prediction.command.find_task", lambda *_, task=task: (Source("a/b"), task))
        monkeypatch.setattr("hf_effmodels.prediction.command.load_for_task", lambda *_, p=predictor_: p)
        assert main(["predict", "a/b", "photo.png" if takes == "image" else "here"]) == 2
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("named, own", [("cuda:1", "cuda:1"), (None, "mps")])
def test_a_talk_is_where_it_is_told_to_be_and_else_where_torch_finds_best(named, own, monkeypatch):
    loaded = []
    monkeypatch.setattr(talk, "default_device", lambda: "mps")
    monkeypatch.setattr(talk, "find_task", lambda source, task: loaded.append(task) or (source, task))
    monkeypatch.setattr(talk, "load_part", lambda source, auto: loaded.append(auto))
    monkeypatch.setattr(talk, "load_network", lambda source, *given: loaded.append(given))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    talk.talk(Source("a/b"), named, 3, 0.0, 0)
    assert loaded == ["text-generation", "AutoTokenizer", ("AutoModelForCausalLM", own)]


@pytest.mark.parametrize("auto", ["AutoTokenizer", "AutoImageProcessor", "AutoProcessor"])
def test_parts_and_weights_are_read_as_the_source_says(auto, monkeypatch):
    """Of that revision, by that token, and with the code beside them where that is trusted."""
    asked = []

    class Any:
        @staticmethod
        def from_pretrained(name, **options):
            asked.append((name, options))
            return "part"

    class Network:
        def __getattr__(self, name):
            return lambda *given: asked.append((name, *given)) or self

    def load_whole(loader, argument, name, **options):
        asked.append((loader, argument, name, options))
        return Network()

    monkeypatch.setattr(f"transformers.{auto}", Any)
    monkeypatch.setattr("hf_effmodels.hub.ids.reading", lambda *_, **__: nullcontext())
    monkeypatch.setattr("hf_effmodels.hub.whole.load_whole", load_whole)
    source = Source("a/b", revision="v2", token="mine", trust_remote_code=True)
    how = {"revision": "v2", "token": "mine", "trust_remote_code": True}
    assert predictor.load_part(source, auto) == "part" and asked == [("a/b", how)]
    asked.clear()
    predictor.load_network(source, "AutoModelForCausalLM", "cuda:1")
    how |= {"revision": ("--revision", "v2"), "dtype": "auto"}
    own = transformers.AutoModelForCausalLM
    assert asked == [(own, "MODEL", "a/b", how), ("to", "cuda:1"), ("eval",)]


@pytest.mark.parametrize("of_language", [True, False])
def test_a_program_is_run_as_what_it_was_made_of(of_language, monkeypatch, tmp_path):
    (tmp_path / "export.json").write_text('{"export_format": "onnx"}')
    if of_language:
        (tmp_path / edge_language.FACTS).write_text("{}")
    monkeypatch.setattr("hf_effmodels.edge.load", lambda name: ("edge", name))
    monkeypatch.setattr("hf_effmodels.edge_language.load_language_model", lambda name: ("language", name))
    monkeypatch.setattr("hf_effmodels.hub.whole.load_whole", lambda *_, **__: pytest.fail("it has no weights"))
    found = predictor.load_network(Source(str(tmp_path)), "AutoModelForCausalLM", "cpu")
    assert found == ("language" if of_language else "edge", str(tmp_path))


@pytest.mark.parametrize("content", [None, "{}", '{"format": "onnx"}'])
def test_a_folder_with_a_file_of_that_name_alone_is_no_program(content, tmp_path):
    if content is not None:
        (tmp_path / "export.json").write_text(content)
    assert not predictor.is_exported(Source(str(tmp_path)))
