"""Licences: identifiers of the Hub, and "other" with its name and its place."""

import pytest

from hf_effmodels._licenses import LICENSES, check_license, one_line


def test_identifiers_of_the_hub_are_taken_and_none_is_no_mistake():
    check_license(None)
    for license in LICENSES - {"other"}:
        check_license(license)
    # https://huggingface.co/docs/hub/repositories-licenses
    assert {"mit", "apache-2.0", "cc-by-nc-4.0", "openrail++", "llama3.2", "bsl-1.0", "other"} <= LICENSES
    assert "unknown" not in LICENSES and len(LICENSES) == len({name.lower() for name in LICENSES})


@pytest.mark.parametrize(
    "license, hint",
    [
        ("MIT", "did you mean mit"),
        ("Apache 2.0", "did you mean apache-2.0"),
        ("mitt", "did you mean mit"),
        ("proprietary and secret", "for any other licence give 'other' with its name and link"),
        (["mit"], "did you mean mit"),
        (3, "for any other licence give 'other'"),
    ],
)
def test_what_is_no_identifier_is_told_with_what_is_near(license, hint):
    with pytest.raises(ValueError) as said:
        check_license(license)
    with pytest.raises(
        ValueError, match="^license: LICENSE stands for the licence of your weights, such as apache-2.0"
    ):
        check_license("LICENSE")  # as the commands that are shown have it
    with pytest.raises(ValueError, match="^license: license stands for the licence of your weights"):
        check_license("license")
    start = f"license: got {license!r}, which is not a licence identifier of the Hub; "
    assert str(said.value).startswith(start + hint) and str(said.value).count(", ") <= 3


LINK = "https://example.org/licence"


@pytest.mark.parametrize("link", [LINK, "http://a.b", "LICENSE", "LICENSE.md", "LICENSE.txt"])
def test_another_licence_has_a_name_and_an_address_or_a_file(link):
    check_license("other", "My licence 1.0", link)


@pytest.mark.parametrize(
    "license, name, link, message",
    [
        ("other", None, None, "license='other' needs license_name and license_link, got None and None"),
        ("other", "x", None, "license='other' needs license_name and license_link, got 'x' and None"),
        ("other", "", LINK, "license='other' needs license_name and license_link"),
        ("mit", "x", None, "license_name and license_link go with license='other', got license='mit'"),
        ("mit", None, LINK, "license_name and license_link go with license='other', got license='mit'"),
        (None, "x", LINK, "license_name and license_link go with license='other', got license=None"),
        ("other", "two\nlines", LINK, "license_name: got 'two\\nlines', accepted is a text of one line"),
        ("other", "x" * 201, LINK, "license_name: got "),
        ("other", ["x"], LINK, "license_name: got ['x'], accepted is a text of one line"),
        ("other", "x", "ftp://a", "license_link: got 'ftp://a', accepted is an address"),
        ("other", "x", "https://a b", "license_link: got 'https://a b'"),
        ("other", "x", "https://a)", "license_link: got 'https://a)'"),
        ("other", "x", "COPYING", "license_link: got 'COPYING'"),
        ("other", "x", "LICENSE.rst", "license_link: got 'LICENSE.rst'"),
        ("other", "x", "see https://a", "license_link: got 'see https://a'"),
    ],
)
def test_what_does_not_go_together_is_refused(license, name, link, message):
    with pytest.raises(ValueError) as said:
        check_license(license, name, link)
    assert str(said.value).startswith(message)


@pytest.mark.parametrize(
    "text, line",
    [
        ("a\n  b\tc", "a b c"),
        ("a\x1b[31mb\x00", "a[31mb"),
        ("read /home/me/data/x.csv, then", "read (a local path), then"),
        ("in ~/secret/x and C:\\Users\\me\\x", "in (a local path) and (a local path)"),
        ("(/a/b)", "((a local path))"),
        ("https://a.b/c/d and org/name and 3/4", "https://a.b/c/d and org/name and 3/4"),
        (17, "17"),
        ("x" * 200, "x" * 200),
        ("x" * 201, "x" * 199 + "…"),
    ],
)
def test_one_line_has_no_breaks_and_no_places_of_this_machine(text, line):
    assert one_line(text) == line
    assert one_line(line, limit=3) == (line if len(line) <= 3 else line[:2] + "…")
