"""Requests of S3 are told apart, and bodies of both framings are read as they came."""

from __future__ import annotations

import asyncio

import pytest

from tests.s3_wire import Answer, Operation, Request, answer_body, request_body, with_other_etags


def _request(line: str, *headers: str) -> Request:
    return Request("\r\n".join([f"{line} HTTP/1.1", *headers, "", ""]).encode())


@pytest.mark.parametrize(
    ("line", "operation"),
    [
        ("GET /", "ListBuckets"),
        ("PUT /bucket", "CreateBucket"),
        ("HEAD /bucket/", "HeadBucket"),
        ("GET /bucket?list-type=2&prefix=a%2Fb", "ListObjectsV2"),
        ("GET /bucket?prefix=a", "ListObjects"),
        ("GET /bucket?uploads", "ListMultipartUploads"),
        ("GET /bucket?location", "Other"),
        ("POST /bucket?delete", "DeleteObjects"),
        ("POST /bucket/a/b?uploads", "CreateMultipartUpload"),
        ("PUT /bucket/a/b?partNumber=1&uploadId=x", "UploadPart"),
        ("POST /bucket/a/b?uploadId=x", "CompleteMultipartUpload"),
        ("DELETE /bucket/a/b?uploadId=x", "AbortMultipartUpload"),
        ("GET /bucket/a/b?uploadId=x&max-parts=5", "ListParts"),
        ("PUT /bucket/a/b?x-id=PutObject", "PutObject"),
        ("PUT /bucket/a/b?tagging", "Other"),
        ("GET /bucket/a/b?X-Amz-Signature=0&response-content-type=a%2Fb", "GetObject"),
        ("HEAD /bucket/a/b", "HeadObject"),
        ("DELETE /bucket/a/b", "DeleteObject"),
        ("OPTIONS /bucket/a/b", "Other"),
    ],
)
def test_method_path_and_query_tell_the_operation(line: str, operation: Operation) -> None:
    assert _request(line).operation == operation


def test_a_source_makes_a_copy_of_a_put() -> None:
    source = "x-amz-copy-source: /bucket/other"
    assert _request("PUT /bucket/key", source).operation == "CopyObject"
    part = _request("PUT /bucket/key?partNumber=1&uploadId=x", source)
    assert part.operation == "UploadPartCopy"


def _read(request: Request, given: bytes) -> tuple[bytes, bytes, bytes]:
    """Return a body as it came, the content in it, and what comes after it."""

    async def main() -> tuple[bytes, bytes, bytes]:
        reader = asyncio.StreamReader()
        reader.feed_data(given)
        reader.feed_eof()
        pieces = [piece async for piece in request_body(request, reader)]
        wire = b"".join(piece.wire for piece in pieces)
        return wire, b"".join(piece.content for piece in pieces), await reader.read()

    return asyncio.run(main())


def test_a_body_of_a_known_length_ends_there() -> None:
    request = _request("PUT /bucket/key", "Content-Length: 4")
    assert _read(request, b"bodynext") == (b"body", b"body", b"next")


def test_a_body_that_ends_too_soon_is_an_error() -> None:
    with pytest.raises(EOFError):
        _read(_request("PUT /bucket/key", "content-length: 5"), b"body")


def test_a_request_without_a_length_has_no_body() -> None:
    assert _read(_request("GET /bucket/key"), b"next") == (b"", b"", b"next")


def test_chunks_and_trailers_are_kept_as_they_came() -> None:
    chunked = b"3;name=value\r\nbod\r\n1\r\ny\r\n0\r\nx-amz-checksum: a\r\n\r\n"
    request = _request("PUT /bucket/key", "Transfer-Encoding: chunked")
    assert _read(request, chunked + b"next") == (chunked, b"body", b"next")


def test_an_answer_without_a_length_goes_on_until_the_end() -> None:
    async def main() -> bytes:
        reader = asyncio.StreamReader()
        reader.feed_data(b"to the end")
        reader.feed_eof()
        answer = Answer(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        pieces = answer_body(_request("GET /bucket/key"), answer, reader)
        return b"".join([piece.wire async for piece in pieces])

    assert asyncio.run(main()) == b"to the end"


def test_every_etag_becomes_another_and_nothing_else_does() -> None:
    head = b'HTTP/1.1 200 OK\r\nDate: today\r\nETag: "09af-2"\r\nVia: abc\r\n\r\n'
    assert with_other_etags(head) == head.replace(b"09af-2", b"1ab0-3")
    body = b"<a><Key>abc</Key><ETag>&#34;ff&#34;</ETag><ETag>0</ETag></a>"
    assert with_other_etags(body) == body.replace(b"ff", b"00").replace(b">0<", b">1<")
