"""Tar streams: what is written reads back, and what a stranger sends is taken by one rule or refused by name."""

from __future__ import annotations

import io
import os
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vectorpool.commitlog.format import check_path
from vectorpool.errors import InvalidRequest, LimitExceeded, VectorpoolError
from vectorpool.platform.tars import TarReader, tar_chunks, tar_size
from vectorpool.platform.trees import regular_files


def reader(root: Path, max_files: int = 100, max_bytes: int = 10**7) -> TarReader:
    return TarReader(root, max_files=max_files, max_bytes=max_bytes, check=check_path)


def take(root: Path, data: bytes, step: int = 10**9, **bounds: int) -> dict[str, int]:
    found = reader(root, **bounds)
    try:
        for at in range(0, len(data), step):
            found.feed(data[at : at + step])
        return found.finish()
    finally:
        found.close()


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def tar_of(*entries: tuple[str, Any], **options: Any) -> bytes:
    """Return an archive of names with bytes, or with a type (and a link's target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", **options) as tar:
        for name, what in entries:
            info = tarfile.TarInfo(name)
            if isinstance(what, bytes) and len(what) == 1 and what in b"123456":
                info.type, info.linkname = what, "/etc/passwd"
                tar.addfile(info)
            else:
                info.size = len(what)
                tar.addfile(info, io.BytesIO(what))
    return out.getvalue()


names = st.lists(
    st.text("ab.é日 -", min_size=1, max_size=60).filter(lambda s: s not in (".", "..") and s.strip()),
    min_size=1,
    max_size=3,
)


@settings(max_examples=40, deadline=None)
@given(
    files=st.dictionaries(names.map("/".join), st.binary(max_size=3000), max_size=5),
    step=st.sampled_from([1, 100, 511, 512, 513, 10_000]),
)
def test_what_is_written_reads_back(
    files: dict[str, bytes], step: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By this reader in parts of any size, and by Python's own; the size is what was told before."""
    paths = set(files)
    files = {path: data for path, data in files.items() if not any(other.startswith(path + "/") for other in paths)}
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for path, data in files.items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(data)
    sizes = regular_files(source, max_files=100, max_bytes=10**6)
    archive = b"".join(tar_chunks(source, sizes, 1_800_000_000))
    assert len(archive) == tar_size(sizes, 1_800_000_000)
    assert take(target, archive, step) == sizes and content(target) == files
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        assert {member.name: tar.extractfile(member).read() for member in tar} == files  # type: ignore[union-attr]


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_archives_of_every_form_are_taken(form: int, tmp_path: Path) -> None:
    """Also with long names, directories, and names as `tar` writes them for a directory."""
    long = "a" * 90 + "/" + "b" * 90
    data = tar_of(("./chroma.sqlite3", b"abc"), (long, b"def"), ("./deep/er/", b""), ("./", b""), format=form)
    take(tmp_path, data, 700)
    assert content(tmp_path) == {"chroma.sqlite3": b"abc", long: b"def"}


@pytest.mark.parametrize(
    ("entries", "why"),
    [
        ([("../out", b"abc")], "segment"),
        ([("/etc/passwd", b"abc")], "absolute"),
        ([("a/../../out", b"abc")], "segment"),
        ([("a\\b", b"abc")], "backslash"),
        ([("a\nb", b"abc")], "control"),
        ([("a", tarfile.SYMTYPE)], "links"),
        ([("a", tarfile.LNKTYPE)], "links"),
        ([("a", tarfile.CHRTYPE)], "devices"),
        ([("a", tarfile.FIFOTYPE)], "devices"),
        ([("a", b"abc"), ("a", b"def")], "twice"),
        ([("a", b"abc"), ("./a", b"def")], "twice"),
        ([("a", b"abc"), ("a/b", b"def")], "below a file"),
        ([("a/b", b"abc"), ("a", b"def")], "twice"),
        ([("/".join("x" * 40), b"abc")], "deeper"),
        ([("x" * 300, b"abc")], "too long"),
    ],
)
def test_what_leads_elsewhere_is_refused(entries: list[tuple[str, Any]], why: str, tmp_path: Path) -> None:
    """By name, and nothing lies outside of the directory."""
    root = tmp_path / "root"
    root.mkdir()
    with pytest.raises(InvalidRequest, match=why):
        take(root, tar_of(*entries))
    assert {path.name for path in tmp_path.iterdir()} == {"root"}


def test_bounds_come_before_bytes(tmp_path: Path) -> None:
    """A header that announces too much is refused before a byte of it comes, and so are too many files."""
    info = tarfile.TarInfo("a")
    info.size = 10**12
    with pytest.raises(LimitExceeded, match="bytes"):
        reader(tmp_path).feed(info.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(LimitExceeded, match="files"):
        take(tmp_path, tar_of(*((str(number), b"") for number in range(11))), max_files=10)
    with pytest.raises(LimitExceeded, match="files"):
        take(tmp_path, tar_of(*(("d/", b"") for _ in range(21))), max_files=10)


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_record_that_announces_much_is_refused(kind: bytes, tmp_path: Path) -> None:
    """Python's own reader would hold all of it in memory."""
    info = tarfile.TarInfo("x")
    info.type, info.size = kind, 10**9
    with pytest.raises(LimitExceeded, match="header"):
        reader(tmp_path).feed(info.tobuf(tarfile.GNU_FORMAT))


@pytest.mark.parametrize(
    "record",
    [
        b"9 path=ab",
        b"999 path=a\n",
        b"-1 path=a\n",
        b"0 path=a\n",
        b"11 path=../\n",
        b"12 path=/tmp\n",
        b"20 size=-00000000005\n",
        b"13 size=1e99\n",
        b"22 size=99999999999999\n",
        b"22 GNU.sparse.major=1\n",
        b"9 no sign\n",
        b"\xff\xfe",
    ],
)
def test_attributes_that_lie_are_refused(record: bytes, tmp_path: Path) -> None:
    """A path that leads out, a size that is none, a sparse file, a record that is none."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(record)
    data = info.tobuf(tarfile.GNU_FORMAT) + record.ljust(512, b"\0") + tar_of(("a", b"abc"))
    with pytest.raises((InvalidRequest, LimitExceeded)):
        take(tmp_path, data)
    assert content(tmp_path) == {}


def test_an_archive_needs_its_end(tmp_path: Path) -> None:
    """Cut anywhere it is refused; behind its end nothing but zeros may follow."""
    data = tar_of(("a", b"x" * 1000))
    end = len(data.rstrip(b"\0"))
    for cut in (0, 100, 512, 700, end, 1536):
        (tmp_path / str(cut)).mkdir()
        with pytest.raises(InvalidRequest, match="breaks off"):
            take(tmp_path / str(cut), data[:cut])
    with pytest.raises(InvalidRequest, match="behind its end"):
        take(tmp_path, tar_of(("b", b"y")) + data)


@pytest.mark.parametrize("data", [b"PK\x03\x04" * 400, b"\x1f\x8b" * 400, b'{"a": 1}' * 200, os.urandom(2048)])
def test_what_is_no_tar_is_refused(data: bytes, tmp_path: Path) -> None:
    """A zip, a compressed tar, JSON, noise."""
    with pytest.raises(InvalidRequest, match="cannot be read"):
        take(tmp_path, data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """An archive with any bytes changed is taken or refused, and writes nothing outside of its directory."""
    whole = bytearray(tar_of(("a/b", b"x" * 600), ("c", b"y"), ("l" * 150, b"z"), format=tarfile.GNU_FORMAT))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, 5119))
        whole[at] = data.draw(st.integers(0, 255))
        # A header whose checksum is right is looked at further.
        block = at // 512 * 512
        if data.draw(st.booleans()):
            total = sum(whole[block : block + 148]) + 256 + sum(whole[block + 156 : block + 512])
            whole[block + 148 : block + 156] = b"%06o\0 " % total
    root = tmp_path_factory.mktemp("fuzz") / "root"
    root.mkdir()
    with suppress(VectorpoolError, FileExistsError, NotADirectoryError, IsADirectoryError):
        take(root, bytes(whole), data.draw(st.sampled_from([64, 512, 10**6])))
    assert [path.name for path in root.parent.iterdir()] == ["root"]
