"""Manifests of public data: complete, and every copy verified before use. Nothing is fetched."""

import re

import pytest
import yaml

from lmaps_science import manifests
from lmaps_science.io import DataError, sha256
from lmaps_science.manifests import fetch, find, list_data

ENTRY = {
    "file": "a.txt",
    "url": "https://example.org/a.txt",
    "sha256": "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb",  # of "a"
    "what": "the letter a",
    "shape": "1 byte",
    "units": "1",
}
COLLECTION = {
    "title": "letters",
    "source": "https://example.org",
    "licence": "CC0",
    "citation": "none",
    "folder": "letters",
}


@pytest.fixture
def letters(tmp_path, monkeypatch):
    """Manifests of one collection, an empty cache, and no network."""
    folder = tmp_path / "manifests"
    folder.mkdir()

    def write(**changes):
        content = {**COLLECTION, "files": {"letter_a": {**ENTRY, **changes}}}
        (folder / "letters.yaml").write_text(yaml.safe_dump(content))
        manifests._read.cache_clear()

    write()
    monkeypatch.setattr(manifests, "shipped_folder", lambda name: folder)
    monkeypatch.setattr(manifests, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.delenv("LMAPS_DATA", raising=False)
    yield write
    manifests._read.cache_clear()


def no_network(monkeypatch, error):
    import pooch

    def retrieve(*args, **kwargs):
        raise error

    monkeypatch.setattr(pooch, "retrieve", retrieve)


def test_shipped_manifests_are_complete():
    files = list_data()
    assert {"m87_2017_095_lo", "m87_2017_095_hi", "grmhd_mad"} <= set(files)
    for name, file in files.items():
        assert file.licence, name
        assert file.citation, name
        assert file.source.startswith("https://"), name
        assert file.url is None or file.url.startswith("https://"), name
        assert file.sha256 is None or re.fullmatch("[0-9a-f]{64}", file.sha256), name
        assert file.sha256 or "cannot be verified" in file.notes, name


def test_data_behind_a_registration_are_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(manifests, "cache_folder", lambda: tmp_path / "cache")
    with pytest.raises(DataError, match=r"https://fastmri.med.nyu.edu/ and put it .*LMAPS_DATA"):
        fetch("fastmri_knee_val", tmp_path)
    assert "Register" in list_data()["fastmri_knee_val"].notes
    (tmp_path / "fastmri").mkdir()
    (tmp_path / "fastmri" / "file1000000.h5").write_bytes(b"not looked into here")
    assert fetch("fastmri_knee_val", tmp_path).name == "file1000000.h5"


def test_measured_copies_are_those_of_the_manifests(data_dir):
    found = {name: find(name, data_dir) for name in list_data()}
    assert found["m87_2017_095_lo"]
    for name, path in found.items():
        if path is not None:
            assert path.stat().st_size == list_data()[name].bytes, name


@pytest.mark.parametrize("place", ["letters/a.txt", "a.txt"])
def test_a_copy_at_hand_is_used(letters, tmp_path, monkeypatch, place):
    path = tmp_path / "data" / place
    path.parent.mkdir(parents=True)
    path.write_text("a")
    assert fetch("letter_a", tmp_path / "data") == path
    monkeypatch.setenv("LMAPS_DATA", str(tmp_path / "data"))
    assert fetch("letter_a") == path


def test_a_copy_that_differs_is_refused(letters, tmp_path):
    (tmp_path / "a.txt").write_text("b")
    with pytest.raises(DataError, match="is not the file that the manifest describes"):
        fetch("letter_a", tmp_path)


def test_a_download_is_verified_by_pooch(letters, tmp_path, monkeypatch):
    import pooch

    def retrieve(url, known_hash, fname, path):
        assert (url, known_hash) == (ENTRY["url"], f"sha256:{ENTRY['sha256']}")
        path.mkdir(parents=True)
        (path / fname).write_text("a")

    monkeypatch.setattr(pooch, "retrieve", retrieve)
    path = fetch("letter_a")
    assert sha256(path) == ENTRY["sha256"]
    no_network(monkeypatch, AssertionError("fetched twice"))
    assert fetch("letter_a") == path


def test_offline_says_where_to_get_and_put_the_file(letters, monkeypatch):
    no_network(monkeypatch, ConnectionError("no route"))
    with pytest.raises(DataError, match=r"https://example.org.*LMAPS_DATA"):
        fetch("letter_a")


def test_a_wrong_download_is_refused(letters, monkeypatch):
    no_network(monkeypatch, ValueError("SHA256 hash of downloaded file does not match"))
    with pytest.raises(DataError, match="another checksum"):
        fetch("letter_a")


def test_files_without_a_link_are_got_by_hand(letters):
    letters(url=None)
    with pytest.raises(DataError, match="no direct link"):
        fetch("letter_a")


def test_unknown_names_are_suggested(letters):
    with pytest.raises(DataError, match="Did you mean 'letter_a'"):
        fetch("leter_a")


def test_a_broken_manifest_is_named(letters):
    letters(colour="red")
    with pytest.raises(DataError, match=r"letters.yaml is not a manifest"):
        list_data()
