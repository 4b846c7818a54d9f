"""What may be published, and under which licence, told by names and files alone."""

import json
import re

import pytest

from hf_effmodels._exported import HEADER, check_export, check_request, check_unless_export, is_codeless, is_export
from hf_effmodels._licenses import LICENSES, check_license, one_line
from hf_effmodels._places import (
    check_apart,
    check_folder_or_id,
    check_repo_id,
    check_whole,
    hub_id,
    is_program,
    reading,
)


def write_export(folder, header=HEADER, auto_map=None):
    folder.mkdir(parents=True, exist_ok=True)
    config = {"auto_map": {"AutoModel": "own.Own"} if auto_map is None else auto_map}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"{header}1\n")
    return folder


def test_an_export_is_known_by_the_header_of_all_code_that_its_configuration_points_to(tmp_path):
    assert is_export(write_export(tmp_path / "own"))
    assert not is_export(write_export(tmp_path / "others", header="# "))
    assert not is_export(write_export(tmp_path / "none", auto_map={}))
    more = write_export(tmp_path / "more", auto_map={"AutoModel": "own.Own", "AutoConfig": "other.Config"})
    assert not is_export(more)
    (more / "other.py").write_text("# somebody else's\n")
    assert not is_export(more)
    (more / "other.py").write_text(HEADER)
    assert is_export(more) and not is_export(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "files, said",
    [
        ({"hub/config.json": {"auto_map": {"AutoModel": "own.Own"}}, "hub/own.py": None}, "FOLDER/hub is one"),
        ({"split.json": {}}, "it holds a half of a split model, which uploads itself: SplitHead and SplitTail"),
        ({"head/split.json": {}}, "it holds a half of a split model"),
        (
            {"export.json": {}, "config.json": {"model_type": "vit"}},
            "it holds a program, which needs no code: `hf upload your-name/name FOLDER` uploads",
        ),
        (
            {"config.json": {"model_type": "vit", "auto_map": {"AutoModel": "theirs.Net"}}},
            "write one with hf_effmodels.hub.export(model, processor, folder)",
        ),
        (
            {"config.json": {"model_type": "ghostnet"}},
            "write one with hf_effmodels.hub.export(model, processor, folder)",
        ),
        ({"config.json": {"model_type": 3}}, "write one with hf_effmodels.hub.export"),
        ({"config.json": []}, "write one with hf_effmodels.hub.export"),
        ({}, "write one with hf_effmodels.hub.export"),
    ],
)
def test_of_a_folder_that_is_no_export_it_is_said_what_to_do(files, said, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(HEADER if content is None else json.dumps(content))
    with pytest.raises(ValueError) as refused:
        check_export(tmp_path)
    expected = f"folder_or_model: {tmp_path} is not an exported model (its config.json must have an auto_map with"
    assert str(refused.value).startswith(expected) and said.replace("FOLDER", str(tmp_path)) in str(refused.value)
    (tmp_path / "model_index.json").touch()
    check_export(tmp_path)
    with pytest.raises(ValueError, match="folder_or_model: .*model_index.json is not a folder"):
        check_export(tmp_path / "model_index.json")


@pytest.mark.parametrize(
    "files, codeless",
    [
        ({"config.json": {"model_type": "vit"}}, True),
        ({"config.json": {"model_type": "somebodys", "auto_map": {"AutoModel": "org/net--code.Net"}}}, True),
        ({"config.json": {"model_type": "vit", "auto_map": {"AutoModel": "code.Net"}}}, False),
        ({"config.json": {"model_type": "vit", "auto_map": {"AutoTokenizer": ["org/a--b.C", "c.D"]}}}, False),
        ({"config.json": {"model_type": "vit", "auto_map": {"AutoTokenizer": ["org/a--b.C", None]}}}, True),
        ({"config.json": {"model_type": "vit", "auto_map": {}}}, False),
        ({"config.json": {"model_type": "vit", "auto_map": 3}}, False),
        ({"config.json": {"model_type": "coded_classifier"}}, True),
        ({"config.json": {"model_type": "ghostnet"}}, False),
        ({"config.json": {"model_type": 3}}, False),
        ({"config.json": []}, False),
        ({}, False),
        ({"config.json": {"model_type": "vit"}, "export.json": {}}, False),
        ({"config.json": {"model_type": "vit"}, "split.json": {}}, False),
        (
            {
                "config.json": {"model_type": "coded_classifier"},
                "hub/config.json": {"auto_map": {"AutoModel": "own.Own"}},
                "hub/own.py": None,
            },
            False,
        ),
    ],
)
def test_models_that_no_code_of_ours_lies_beside_are_known_by_their_configuration(files, codeless, tmp_path):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(HEADER if content is None else json.dumps(content))
    assert is_codeless(tmp_path) == codeless
    if codeless:
        with pytest.raises(ValueError, match="has no README.md, which says what it is and under which licence"):
            check_export(tmp_path)
        (tmp_path / "README.md").touch()
        check_export(tmp_path)


def test_the_advice_for_what_uploads_as_a_whole_has_the_name_that_was_typed(tmp_path):
    (tmp_path / "export.json").touch()
    with pytest.raises(ValueError, match=f"`hf upload me/x {tmp_path}` uploads all that is there"):
        check_export(tmp_path, "me/x")


def test_requests_that_do_not_go_together_are_named():
    plain = {"revision": None, "create_pr": False, "refresh_code": False}
    check_request("folder", "org/net", **plain)
    check_request(None, "org/net", **{**plain, "refresh_code": True})
    check_request("folder", "org/net", **{**plain, "create_pr": True})
    check_request("folder", "org/net", **{**plain, "revision": "dev"})
    for folder, changed, said in (
        (
            "folder",
            {"revision": "dev", "create_pr": True},
            "revision: got 'dev' with create_pr=True, but pull requests",
        ),
        ("folder", {"revision": "", "create_pr": True}, "revision: got '' with create_pr=True, but pull requests"),
        (None, {}, "folder_or_model: got None, which only refresh_code=True accepts"),
    ):
        with pytest.raises(ValueError, match=said):
            check_request(folder, "org/net", **{**plain, **changed})
    for wrong in ("net", "a/b/c", "org/n t", "", "org/-net"):
        with pytest.raises(ValueError, match=f"repo_id: got '{wrong}', accepted is 'namespace/name'"):
            check_repo_id(wrong)
    with pytest.raises(ValueError, match="repo_id: got 3"):
        check_repo_id(3)


def test_a_folder_that_an_export_would_not_write_into_is_named(tmp_path):
    check_unless_export(tmp_path)
    check_unless_export(write_export(tmp_path / "own"))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "thesis.tex").touch()
    with pytest.raises(
        FileExistsError, match="folder: .*taken holds thesis.tex, which is not part of an earlier export"
    ):
        check_unless_export(tmp_path / "taken")
    with pytest.raises(FileExistsError, match="folder: .*thesis.tex is a file"):
        check_unless_export(tmp_path / "taken" / "thesis.tex")


@pytest.mark.parametrize(
    "given, said",
    [
        ({"license": "mitt"}, "license: got 'mitt', which is not a licence identifier of the Hub; did you mean mit"),
        ({"license": "Apache 2.0"}, "did you mean apache-2.0"),
        ({"license": "qqqqqqqq"}, "for any other licence give 'other' with its name and link"),
        ({"license": 3}, "license: got 3"),
        ({"license": "unknown"}, "license: got 'unknown'"),
        *(({"license": "other", **part}, "license='other' needs license_name and license_link") for part in (
            {}, {"name": "mine"}, {"link": "LICENSE"},
        )),
        ({"license": "mit", "name": "mine"}, "license_name and license_link go with license='other', got"),
        ({"link": "LICENSE"}, "license_name and license_link go with license='other', got license=None"),
        ({"license": "other", "name": "two\nlines", "link": "LICENSE"}, "license_name: got 'two.*lines'"),
        ({"license": "other", "name": "mine", "link": "ftp://a"}, "license_link: got 'ftp://a', accepted is an add"),
        ({"license": "other", "name": "mine", "link": "https://a b"}, "license_link: got"),
        ({"license": "other", "name": "mine", "link": "LICENSE.pdf"}, "license_link: got"),
    ],
)  # fmt: skip
def test_licences_that_the_hub_does_not_know_are_named(given, said):
    with pytest.raises(ValueError, match=re.compile(said, re.DOTALL)):
        check_license(**{"license": None, **given})


def test_licences_of_the_hub_and_ones_own_are_taken():
    check_license(None)
    for name in LICENSES - {"other"}:
        check_license(name)
    for link in ("https://host/terms?x=1#y", "http://host", "LICENSE", "LICENSE.md", "LICENSE.txt"):
        check_license("other", "My terms, 2nd", link)
    assert {"mit", "apache-2.0", "cc-by-nc-4.0", "gemma"} <= LICENSES and "unknown" not in LICENSES


def test_a_text_for_others_has_one_line_and_no_paths_of_this_machine():
    assert one_line(" a\n b\t\u200bc\x07 ") == "a b c"
    for path in ("/home/me/x.txt", "~/data/x", r"C:\Users\me\x", "/a/b"):
        assert one_line(f"see {path}, or so") == "see (a local path), or so"
    for kept in ("https://host/a/b", "a/b", "org/net", "/x", "1/2 and 3/4/5"):
        assert one_line(kept) == kept
    assert one_line("x" * 200) == "x" * 200 and one_line("x" * 201) == "x" * 199 + "…"
    assert one_line("abcdef", limit=3) == "ab…" and one_line(3) == "3"


def test_what_is_read_and_what_is_written_lie_apart(tmp_path):
    source = tmp_path / "model"
    check_apart("OUT", tmp_path / "other", "MODEL", source, inside=False)
    check_apart("OUT", source / "smaller", "MODEL", source)
    check_apart("OUT", tmp_path, "MODEL", source, inside=False)
    with pytest.raises(
        ValueError, match="^OUT: .*x/../model is the folder of MODEL itself, and would be both; name another"
    ):
        check_apart("OUT", tmp_path / "x" / ".." / "model", "MODEL", source)
    for deep in ("smaller", "a/b"):
        with pytest.raises(
            ValueError, match=f"^OUT: .*{deep} lies in the folder .*model of MODEL; name one beside it"
        ):
            check_apart("OUT", source / deep, "MODEL", source, inside=False)


@pytest.mark.parametrize(
    "files, said",
    [
        (["split.json"], "holds a half of a split model; accepted are whole models"),
        (["head/split.json", "tail/split.json"], "holds both halves of a split model; accepted are whole models"),
        (["halves.json"], "holds exported halves, which edge_halves.load_halves runs"),
        (["parts.json"], "holds the parts of a model, a folder each: name one of them, such as part0"),
        (["head/split.json"], None),
        (["config.json"], None),
    ],
)
def test_folders_with_a_part_of_a_model_are_told(files, said, tmp_path):
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    if said is None:
        check_whole("MODEL", str(tmp_path))
        return
    with pytest.raises(OSError, match=f"^MODEL: {tmp_path} {said}.*Or so.$"):
        check_whole("MODEL", str(tmp_path), hint="Or so.")


def test_what_a_library_says_of_a_place_is_said_of_its_argument(tmp_path):
    place = str(tmp_path)

    def read(error):
        with reading("--model", place, hint="Or so."):
            raise error

    for error, kind, said in (
        (OSError("it is gone.\nmore"), OSError, f"--model: '{place}' cannot be found or reached (it is gone)."),
        (KeyError("x"), OSError, f"--model: '{place}' cannot be found or read (KeyError: 'x')."),
        (ImportError("no module"), ImportError, "no module"),
    ):
        with pytest.raises(kind) as told:
            read(error)
        assert str(told.value) == said
    no_weights = OSError("Error no file named model.safetensors found in directory x")
    with pytest.raises(OSError, match="there are no weights in it"):
        read(no_weights)
    assert not is_program(place)
    (tmp_path / "export.json").touch()
    assert is_program(place)
    with pytest.raises(OSError, match="^--model: .* holds an exported program, no weights; name .* made of. Or so.$"):
        read(no_weights)
    (tmp_path / "parts.json").touch()
    with pytest.raises(OSError, match="holds the parts of a model.* Or so.$"):
        read(KeyError("x"))
    with pytest.raises(
        OSError, match="^--model: .*export.json is a file; accepted are a folder and an id of the Hub. So"
    ):
        check_folder_or_id("--model", str(tmp_path / "export.json"), hint="So it is.")


def test_ids_are_told_from_places_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "photos").mkdir()
    assert hub_id("org/net") == "org/net" == hub_id("org/net")
    for other in (None, "", "digits", "data/photos", "./photos", "a/b/c", "org/n t"):
        assert hub_id(other) is None
