"""How often a file is asked for."""

import pytest

from hf_effmodels.hub import download


def test_what_breaks_off_is_asked_for_again_as_often_as_said(monkeypatch, tmp_path):
    asked = []

    def fetch(url, part):
        asked.append(url)
        if len(asked) < fails:
            raise OSError("the line is broken")
        part.write_bytes(b"whole")

    monkeypatch.setattr(download, "_fetch_once", fetch)
    monkeypatch.setattr(download.constants, "HF_HUB_OFFLINE", False)
    fails = download.ATTEMPTS
    assert download.download("http://x/y", tmp_path / "file").read_bytes() == b"whole"
    assert asked == ["http://x/y"] * download.ATTEMPTS
    asked.clear()
    fails = download.ATTEMPTS + 1
    with pytest.raises(OSError, match=rf"^http://x/z cannot be downloaded \({download.ATTEMPTS} attempts\): the line"):
        download.download("http://x/z", tmp_path / "other")
    assert len(asked) == download.ATTEMPTS and not (tmp_path / "other").exists()
