"""The flat code bundle: what is rewritten, and what is refused because it would fail on another machine."""

import sys
from pathlib import Path

import pytest

from hf_effmodels import quantization
from hf_effmodels.hub.bundle import bundle_code, is_bundled
from hf_effmodels.hub.export import PORTABLE, architecture_code, auto_map
from hf_effmodels.registry import ARCHITECTURES

BASE = {"models/settings.py": "class Settings: ...\n", "layers/conv.py": "Conv = pad = same = 1\n"}


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Writes a package `toy` of the given files and bundles its module `toy.models.net` (header lines left out)."""
    monkeypatch.syspath_prepend(tmp_path)

    def bundle(net: str, **more: str) -> dict[str, str]:
        files = BASE | {"models/net.py": net} | {name.replace("__", "/") + ".py": text for name, text in more.items()}
        for name, text in files.items():
            path = tmp_path / "toy" / name.replace("/init.py", "/__init__.py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text.encode())
        for folder in (tmp_path / "toy", *(p for p in (tmp_path / "toy").rglob("*") if p.is_dir())):
            (folder / "__init__.py").touch()
        made = bundle_code(["toy.models.net"], package="toy")
        assert all(map(is_bundled, made.values()))
        return {name: content.decode().split("\n", 1)[1] for name, content in made.items()}

    yield bundle
    for name in [name for name in sys.modules if name.split(".")[0] == "toy"]:
        del sys.modules[name]


def test_every_form_of_import_becomes_a_flat_sibling_and_nothing_else_changes(toy):
    net = '''"""Größen: uses toy.layers.conv, see also `from toy.layers import conv`."""
import math  # standard library

from toy.layers.conv import (  # the first
    Conv,  # its reason
    pad as padding,
)
from ..layers.gate import *
from .settings import Settings
from   toy.layers.conv   import same

def build(größe=Conv):
    if True:
        from ..layers.late import Late  # on demand
    try:
        import einops
    except ImportError:
        einops = None
    return Late,   math
'''
    made = toy(
        net,
        layers__gate="from ..deep.down.core import core\r\nGate = 1\r\n",
        layers__late="Late = 2\n",
        deep__down__core="core = 3\n",
    )
    expected = net
    for written, flat in (
        ("from toy.layers.conv import (", "from .conv import ("),
        ("from ..layers.gate import *", "from .gate import *"),
        ("from   toy.layers.conv   import same", "from .conv import same"),
        ("from ..layers.late import Late", "from .late import Late"),
    ):
        assert written in expected
        expected = expected.replace(written, flat)
    assert made == {
        "conv.py": BASE["layers/conv.py"],
        "core.py": "core = 3\n",
        "gate.py": "from .core import core\nGate = 1\n",
        "late.py": "Late = 2\n",
        "net.py": expected,
        "settings.py": BASE["models/settings.py"],
    }


def test_names_that_a_package_re_exports_are_followed_to_their_modules(toy):
    made = toy(
        "def build():\n    from ..layers import Conv, Gate as G, Same  # both\n    return Conv, G, Same\n",
        layers__init="from .conv import Conv\nfrom toy.layers.gate import Gate\nfrom .conv import same as Same\n",
        layers__gate="Gate = 1\n",
    )
    assert made["net.py"] == (
        "def build():\n    from .conv import Conv, same as Same\n    from .gate import Gate as G  # both\n"
        "    return Conv, G, Same\n"
    )
    assert "__init__.py" not in made


@pytest.mark.parametrize(
    "net, more, message",
    [
        ("from ..layers.settings import x\nfrom .settings import y\n", {"layers__settings": "x = 1\n"}, "rename one"),
        ("from ..layers.SETTINGS import x\nfrom .settings import y\n", {"layers__SETTINGS": "x = 1\n"}, "rename one"),
        ("import toy.layers.conv\n", {}, r"net\.py:1: `import toy\.layers\.conv` cannot"),
        ("\nfrom ..layers import conv\n", {}, r"net\.py:2: toy\.layers\.conv is a module"),
        ("from ..layers import Lazy\n", {}, "Lazy is not imported by name"),
        ("from ..layers import *\n", {}, "name what is needed"),
        ("from ..nowhere import x\n", {}, r"toy\.nowhere does not exist"),
        ("from .settings import a; from ..layers.conv import Conv\n", {}, "conv must stand at the start of a line"),
        ('"""Example:\n\n    from .helpers import x\n"""\n', {}, r"docstring or string.*from \.helpers import"),
        ("import einops\n", {}, "net.py: imports einops"),
        ("def f():\n    from torchvision.ops import nms\n", {}, "net.py: imports torchvision"),
    ],
)
def test_what_a_flat_folder_cannot_express_is_refused_with_its_place(toy, net, more, message):
    with pytest.raises(ValueError, match=message):
        toy(net, **more)


def test_optional_dependencies_pass_behind_a_guard(toy):
    net = "from transformers.utils import is_scipy_available\nif is_scipy_available():\n    import scipy\n"
    assert toy(net)["net.py"] == net


@pytest.mark.parametrize("model_type", ARCHITECTURES)
def test_every_architecture_bundles_the_modules_its_auto_map_names(model_type):
    code = architecture_code(ARCHITECTURES[model_type])
    mapping = auto_map(ARCHITECTURES[model_type])
    processor = {"AutoProcessor"} if ARCHITECTURES[model_type].processor else set()
    assert set(mapping) == {"AutoConfig", *ARCHITECTURES[model_type].auto_classes} | processor
    for reference in mapping.values():
        module, name = reference.split(".")
        assert f"class {name}(".encode() in code[f"{module}.py"]
    # transformers refuses remote code whose model class was made for another configuration.
    for auto_class in ARCHITECTURES[model_type].auto_classes:
        model_class = ARCHITECTURES[model_type].model_class(auto_class)
        assert model_class.config_class is ARCHITECTURES[model_type].config_class, model_class
    assert not any(b"import hf_effmodels" in content or b"from hf_effmodels" in content for content in code.values())


@pytest.mark.parametrize("method", ["packed_binary", "adder", "twin_uniform", "cbq", "bitnet158", "bivit"])
def test_every_quantiser_of_this_package_goes_with_a_folder(method):
    assert f"quantizer_{method}.py" in architecture_code(
        ARCHITECTURES["devit"], {"quantization_config": {"quant_method": method}}
    )
    assert {*PORTABLE} == {path.parent.name for path in Path(quantization.__path__[0]).glob("*/quantizer_*.py")}


@pytest.mark.thorough
@pytest.mark.parametrize("method", PORTABLE)
def test_every_architecture_takes_the_code_of_every_quantiser_with_it(method):
    """A file of the flat folder is one module's: two of the same name would be refused."""
    for architecture in ARCHITECTURES.values():
        code = architecture_code(architecture, {"quantization_config": {"quant_method": method}})
        assert f"quantizer_{method}.py" in code


@pytest.mark.parametrize(
    "module, message",
    [
        ("toy.models", r"toy\.models is a package \(.*\); a flat folder holds modules only"),
        ("toy.models.nowhere", r"module toy\.models\.nowhere does not exist"),
        ("nowhere.at.all", r"module nowhere\.at\.all does not exist"),
        ("_json", r"module _json has no Python source file"),
    ],
)
def test_what_is_no_module_of_a_file_is_not_bundled(toy, module, message):
    toy("x = 1\n")
    with pytest.raises(ValueError, match=message):
        bundle_code([module], package="toy")


def test_an_import_in_another_form_is_refused_with_its_place(toy):
    with pytest.raises(ValueError, match=r"net\.py:2: cannot rewrite `from \.\. layers\.conv import Conv`; write"):
        toy("\nfrom .. layers.conv import Conv\n")


def test_modules_are_told_to_import_others_and_may_be_made_on_the_spot(toy):
    toy("from .settings import Settings\n")
    also, made = {"toy.models.net": "toy.inside"}, {"toy.inside": b"from .conv import Conv\n"}
    files = bundle_code(["toy.models.net", "toy.layers.conv"], package="toy", also=also, made=made)
    assert [*files] == ["conv.py", "inside.py", "net.py", "settings.py"]
    assert b"\nfrom .inside import __name__ as _" in files["net.py"] and b"from .inside" not in files["conv.py"]
    assert files["inside.py"].endswith(made["toy.inside"]) and is_bundled(files["inside.py"])
    assert not is_bundled(files["inside.py"] + b"#") and not is_bundled(made["toy.inside"])
