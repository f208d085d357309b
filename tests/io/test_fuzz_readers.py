"""Damage of any kind: every reader gives a valid result or one error of our own, and soon.

Whole files of every format (`readers.READERS`) get bits flipped, parts cut, doubled or overwritten,
and numbers of their text changed. What is drawn is the same in every run.
"""

import shutil
import time
from importlib.util import find_spec

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import EXTRAS, READERS

from lmaps_science.io import DataError

# What readers of numbers and sizes stumble over.
WORDS = [b"\xff" * 8, bytes(8), bytes(7) + b"\x80", b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f"]
NUMBERS = [b"-1", b"0", b"999999999999", b"1e30", b"nan", b"inf", b"1e-300", b"[1]"]
EXAMPLES = {"uvfits": 8, "ISMRMRD": 12, "NetCDF": 15}


@st.composite
def damage(draw, raw: bytes) -> bytes:
    """The bytes of a file, damaged; its beginning, where headers are, more often."""
    region = draw(st.sampled_from([len(raw), min(len(raw), 4096), min(len(raw), 256)]))
    position = st.integers(0, region - 1)
    content = bytearray(raw)
    kind = draw(st.sampled_from(["flip", "cut", "word", "zero", "double", "number"]))
    at = draw(position)
    if kind == "flip":
        for place in draw(st.lists(position, min_size=1, max_size=5)):
            content[place] ^= 1 << draw(st.integers(0, 7))
    elif kind == "cut":
        del content[at:]
    elif kind == "word":
        word = draw(st.sampled_from(WORDS))
        content[at : at + len(word)] = word
    elif kind == "zero":
        length = draw(st.integers(1, 200))
        content[at : at + length] = bytes(len(content[at : at + length]))
    elif kind == "double":
        content[at:at] = content[at : at + draw(st.integers(1, 300))]
    else:
        digits = [k for k in range(region) if 48 <= raw[k] < 58]
        if digits:
            k = draw(st.sampled_from(digits))
            content[k : k + 1] = draw(st.sampled_from(NUMBERS))
    return bytes(content)


@pytest.mark.parametrize("name", READERS)
def test_whole_files_are_read(name, tmp_path):
    if find_spec(EXTRAS.get(name, "numpy")) is None:
        pytest.skip(f"{EXTRAS[name]} is not installed")
    write, read = READERS[name]
    read(write(tmp_path))


@pytest.mark.parametrize("name", READERS)
@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_or_refused(name, tmp_path):
    if find_spec(EXTRAS.get(name, "numpy")) is None:
        pytest.skip(f"{EXTRAS[name]} is not installed")
    write, read = READERS[name]
    path = write(tmp_path)
    raw = path.read_bytes()
    kept = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p != path}

    @settings(
        max_examples=EXAMPLES.get(name, 25),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(content=damage(raw))
    def check(content):
        path.write_bytes(content)
        start = time.process_time()
        complaint = ""
        try:
            read(path)
        except DataError as error:
            complaint = str(error)
        assert complaint == "" or 20 < len(complaint) < 1500
        assert time.process_time() - start < 5  # seconds; some 0.01 on an idle machine
        assert path.read_bytes() == content

    check()
    others = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p != path}
    assert others == kept
    shutil.rmtree(tmp_path)
