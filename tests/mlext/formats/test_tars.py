"""Tar layers: every member at its offset, whoever wrote the archive, and none that lies."""

from __future__ import annotations

import asyncio
import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlext.formats.description import KIB, MIB, Limits
from mlext.formats.reading import Budget, Unreadable
from mlext.formats.tars import Member, members
from tests.mlext.formats.packing import Blobs, tar

quick = settings(derandomize=True, deadline=None, max_examples=100)

LONG = "/".join(["a folder with a name"] * 30) + "/weights.bin"


def listed(
    archive: bytes, limits: Limits | None = None, blobs: Blobs | None = None
) -> list[Member]:
    used = limits or Limits()
    reader = (blobs or Blobs()).reader(archive, used)

    async def main() -> list[Member]:
        return [member async for member, _ in members(reader, Budget(used))]

    return asyncio.run(main())


def as_tarfile_has_it(archive: bytes) -> list[Member]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
        return [
            Member(
                path=member.name,
                kind="file" if member.isreg() else "link" if member.issym() else "other",
                size=member.size,
                offset=member.offset_data,
            )
            for member in opened
        ]


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_are_where_tarfile_finds_them(kind: int) -> None:
    archive = tar({"a": b"1" * 511, LONG: b"2" * 513, "ünï": b"", "z" * 99: bytes(1024)}, kind)

    assert listed(archive) == as_tarfile_has_it(archive)


def test_ustar_prefixes_are_joined() -> None:
    archive = tar({"f" * 90 + "/" + "g" * 90: b"x"}, tarfile.USTAR_FORMAT)

    assert [member.path for member in listed(archive)] == ["f" * 90 + "/" + "g" * 90]


def test_links_and_folders_are_told_apart_from_files() -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, kind in [("d", tarfile.DIRTYPE), ("s", tarfile.SYMTYPE), ("p", tarfile.FIFOTYPE)]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "elsewhere"
            archive.addfile(member)

    kinds = [member.kind for member in listed(packed.getvalue())]

    assert kinds == ["other", "link", "other"]


@quick
@given(
    sizes=st.lists(st.integers(0, 2_000), max_size=8),
    kind=st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]),
    width=st.integers(1, 300),
)
def test_any_archive_is_listed_as_tarfile_lists_it(sizes: list[int], kind: int, width: int) -> None:
    archive = tar({f"{n}{'x' * width}": bytes(size) for n, size in enumerate(sizes)}, kind)

    assert listed(archive) == as_tarfile_has_it(archive)


@quick
@given(at=st.integers(0, 3_071), byte=st.integers(0, 255), cut=st.integers(0, 10_240))
def test_a_damaged_archive_is_listed_or_unreadable(at: int, byte: int, cut: int) -> None:
    archive = bytearray(tar({"a": b"1" * 600, LONG: b"2"}))
    archive[at] = byte

    try:
        listed(bytes(archive[:cut]) or b"\0")
    except Unreadable as error:
        assert str(error)  # noqa: PT017 - it may also be listed


def test_weights_in_a_tar_are_not_fetched() -> None:
    blobs = Blobs()
    archive = tar({"a.bin": bytes(20 * MIB), "b.bin": bytes(20 * MIB)})

    assert len(listed(archive, blobs=blobs)) == 2
    assert blobs.bytes_read <= 3 * 64 * KIB


def sparse(**headers: str) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("weights.bin")
        member.pax_headers = headers
        archive.addfile(member)
    return packed.getvalue()


def test_a_sparse_member_of_pax_is_refused() -> None:
    archive = sparse(**{"GNU.sparse.major": "1", "GNU.sparse.realsize": str(2**42)})

    with pytest.raises(Unreadable, match="sparse"):
        listed(archive)


def test_a_sparse_member_of_gnu_is_refused() -> None:
    with pytest.raises(Unreadable, match="sparse"):
        listed(tar({"weights.bin": b""}, tarfile.GNU_FORMAT, type=tarfile.GNUTYPE_SPARSE))


def test_a_member_longer_than_its_layer_is_refused() -> None:
    archive = sparse(size=str(2**50))

    with pytest.raises(Unreadable, match="ends early"):
        listed(archive)


@pytest.mark.parametrize("size", ["-1", "1_0", "9" * 30, "", "²"])
def test_a_pax_size_that_is_none_is_refused(size: str) -> None:
    with pytest.raises(Unreadable, match=r"impossible size|damaged pax"):
        listed(sparse(size=size))


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(Unreadable, match="impossible number"):
        listed(patched(b"\xff" * 12, 124))


def patched(field: bytes, at: int) -> bytes:
    """Return an archive of one empty file with other bytes in its header."""
    archive = bytearray(tar({"a": b""}, tarfile.GNU_FORMAT))
    archive[at : at + len(field)] = field
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % sum(archive[:512])
    return bytes(archive)


def test_a_size_that_octal_has_no_room_for_is_read() -> None:
    with pytest.raises(Unreadable, match="ends early"):
        listed(patched((2**40 | 0x80 << 88).to_bytes(12, "big"), 124))

    (member,) = listed(patched((0x80 << 88).to_bytes(12, "big"), 124))
    assert member.size == 0


def test_a_size_that_is_no_number_is_refused() -> None:
    with pytest.raises(Unreadable, match="impossible number"):
        listed(patched(b"0000000009x\0", 124))


def test_a_checksum_of_signed_bytes_is_accepted() -> None:
    archive = bytearray(tar({"a": b""}, tarfile.GNU_FORMAT))
    archive[:2] = b"\xc3\xbc"
    archive[148:156] = b" " * 8
    archive[148:156] = b"%06o\0 " % (sum(archive[:512]) - 2 * 256)

    assert [member.path for member in listed(bytes(archive))] == ["ü"]


def test_a_name_that_ends_as_a_folder_is_one() -> None:
    assert [member.kind for member in listed(patched(b"a/", 0))] == ["other"]


def test_a_pax_header_counts_by_its_size() -> None:
    archive = sparse(comment="c" * 20_000)

    assert len(listed(archive, Limits(entries=160))) == 1
    with pytest.raises(Unreadable, match="more than the 150 tar entries"):
        listed(archive, Limits(entries=150))


@pytest.mark.parametrize(
    "record", [b"99 path=a\n", b"path=a\n", b"9 path=ab", b"0 path=a\n", b"9 path a\n", b" "]
)
def test_a_damaged_pax_header_is_refused(record: bytes) -> None:
    archive = bytearray(sparse(comment="c" * 20))
    archive[512:1024] = record.ljust(512, b"\0")

    with pytest.raises(Unreadable, match="damaged pax"):
        listed(bytes(archive))


def test_a_long_link_is_passed_over() -> None:
    archive = tar({"a": b""}, tarfile.GNU_FORMAT, type=tarfile.SYMTYPE, linkname="l" * 200)

    assert [(member.path, member.kind) for member in listed(archive)] == [("a", "link")]


def test_more_entries_than_the_limit_are_refused() -> None:
    archive = tar({f"{n}": b"" for n in range(20)}, tarfile.USTAR_FORMAT)

    assert len(listed(archive, Limits(entries=20))) == 20
    with pytest.raises(Unreadable, match="more than the 19 tar entries"):
        listed(archive, Limits(entries=19))


def test_a_long_header_is_refused() -> None:
    with pytest.raises(Unreadable, match="has a tar header of"):
        listed(sparse(comment="c" * (65 * KIB)))
