"""The package gives the numbers of the official implementations."""

import importlib
import pkgutil
from pathlib import Path

import pytest

from hf_effmodels.registry import all_entries

from . import families, golden


def _families() -> dict:
    """A case's "system" -> the module of `families/` that runs it, as the modules declare in `SYSTEMS`.

    A case of a system that is declared must be understood and compared in full; others are counted.
    """
    found = {}
    for module in pkgutil.iter_modules(families.__path__):
        family = importlib.import_module(f"{families.__name__}.{module.name}")
        for system in family.SYSTEMS:
            if found.setdefault(system, family) is not family:
                raise pytest.UsageError(f"{system} is declared by {found[system].__name__} and {family.__name__}")
    return found


FAMILIES = _families()

#: float64 must agree to rounding. In float32 single gradients below the last stage may be off by up to 5 % of their
#: deviation (nearly dead channels pass through batch norm); everything else agrees to 1e-4.
FLOAT64, FLOAT32, FLOAT32_GRADIENT = 1e-9, 1e-4, 5e-2


def _cases(config) -> list[Path]:
    folder = config.getoption("--cases")
    folder = Path(folder) if folder else Path(__file__).parent / "cases"
    paths = sorted(folder.rglob("*.json"))
    if not paths:
        raise pytest.UsageError(f"--cases: there are no cases in {folder}")
    return paths


def pytest_generate_tests(metafunc):
    if "path" not in metafunc.fixturenames:
        return
    paths = [path for path in _cases(metafunc.config) if golden.load(path)["system"] in FAMILIES]
    metafunc.parametrize("path", paths, ids=[f"{p.parent.name}-{p.stem}" for p in paths])


@pytest.mark.parametrize("dtype", golden.DTYPES)
def test_outputs_are_those_of_the_official_implementation(path, dtype):
    case = golden.load(path)
    family = FAMILIES[case["system"]]
    outputs = family.run(case, golden.DTYPES[dtype])

    # A family may state that single outputs are known less exactly (a case's note says so) or are ill-conditioned in
    # float32; its module gives the reason.
    of_family = getattr(family, "tolerance", lambda case, name, dtype: None)

    def tolerance(name: str) -> float:
        if (special := of_family(case, name, dtype)) is not None:
            return special
        if dtype == "float64":
            return FLOAT64
        return FLOAT32_GRADIENT if name.startswith(("grad/", "grad.", "grad:")) else FLOAT32

    golden.check(case, outputs, tolerance)


def test_families_not_implemented_are_counted(request):
    waiting = {}
    for path in _cases(request.config):
        system = golden.load(path)["system"]
        if system not in FAMILIES:
            waiting[system] = waiting.get(system, 0) + 1
    if waiting:
        pytest.skip(f"{sum(waiting.values())} cases of {len(waiting)} families that the package does not have yet")


def test_every_system_of_the_package_has_a_family_and_cases_of_its_own():
    families_by_folder = {family.__name__.rpartition(".")[2] for family in FAMILIES.values()}
    families_by_folder |= {name for family in FAMILIES.values() for name in getattr(family, "ALSO", ())}
    assert {entry.name for entry in all_entries()} <= families_by_folder
    own = {golden.load(path)["system"] for path in (Path(__file__).parent / "cases").rglob("*.json")}
    assert set(FAMILIES) <= own
