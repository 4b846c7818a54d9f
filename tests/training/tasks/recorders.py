"""Arguments that are known by their names, and recorders in the place of what a preparation calls."""

from contextlib import nullcontext
from types import SimpleNamespace

from .test_rare_preparations import patched


class Named:
    """Whatever is asked of it is the text `<name>.<what>`, unless it is given."""

    def __init__(self, name: str, **given):
        self.__dict__.update(given)
        self._name = name

    def __getattr__(self, attribute: str) -> str:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        return f"{self._name}.{attribute}"


class Calls(dict):
    """Functions that note by their names what they were given: positional ones and keywords."""

    def of(self, name: str, answer=None):
        def call(*given, **options):
            self.setdefault(name, []).append((given, options))
            return answer(*given, **options) if callable(answer) else answer

        return call


class Pictures(list):
    """A data set by the name of what it is for."""

    names, numbers, has_structure = ("a", "b"), None, True

    def __init__(self, split: str, content=(0,)):
        super().__init__(content)
        self.split = split

    def facts(self):
        return f"facts of {self.split}"

    def read(self, number):
        return self[number]


class Model:
    """A network by its parts."""

    def __init__(self, **given):
        config = {"model_type": "gold_yolo", "reparameterized": False, "num_labels": 2, "id2label": {0: "a", 1: "b"}}
        self.config = SimpleNamespace(**{**config, **given})

    def eval(self):
        return self

    def to(self, device):
        return self

    def __call__(self, **inputs):
        return inputs


def begun(monkeypatch, module, calls: Calls, **more) -> None:
    """Put recorders in the place of what every preparation calls, as far as this one does, and of what is its own."""
    common = {
        "open_run": calls.of("open_run", ("config", "checkpoint")),
        "open_results": calls.of("open_results", "call"),
        "set_seed": calls.of("set_seed"),
        "blaming_model_config": lambda *_, **__: nullcontext(),
        "usable": calls.of("usable", lambda source, read, args: source),
        "weights_fingerprint": lambda model: ("weights", model),
        "check_contents": calls.of("check_contents"),
        "data_seed": lambda args: f"seed of the data of {args._name}",
        "Run": calls.of("Run", lambda *given, **options: SimpleNamespace(report=given[3], **options)),
    }
    known = {name: value for name, value in common.items() if hasattr(module, name)}
    patched(monkeypatch, module, **{**known, **more})
