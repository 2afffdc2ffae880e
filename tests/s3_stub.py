"""The part of S3 that the store uses, in memory: conditional puts, parts, listings, checksums."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from local_web import Asked, Reply


@dataclass
class S3Stub:
    """One bucket; `fail` may answer a request in its stead."""

    bucket: str = "lake"
    objects: dict[str, bytes] = field(default_factory=dict)
    metadata: dict[str, dict[str, str]] = field(default_factory=dict)
    uploads: dict[str, dict[int, bytes]] = field(default_factory=dict)
    upload_keys: dict[str, str] = field(default_factory=dict)
    written: str = "2020-01-01T00:00:00Z"
    """written is when everything was."""
    fail: Callable[[Asked], Reply | None] = lambda asked: None
    page: int = 2
    """page is the number of keys in one answer of a listing."""

    def __call__(self, asked: Asked) -> Reply:
        refused = self.fail(asked)
        if refused is not None:
            return refused
        parts = urlsplit(asked.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        if bucket != self.bucket:
            return _error(404, "NoSuchBucket")
        if not key:
            return self._listing(query)
        methods = {"PUT": self._put, "POST": self._post, "DELETE": self._delete}
        return methods.get(asked.method, self._get)(asked, key, query)

    def _put(self, asked: Asked, key: str, query: dict[str, list[str]]) -> Reply:
        content = _plain(asked)
        checksum = base64.b64encode(hashlib.sha256(content).digest()).decode()
        if asked.headers.get("x-amz-checksum-sha256") != checksum:
            return _error(400, "BadDigest")
        etag = {"ETag": f'"{hashlib.md5(content).hexdigest()}"'}
        if "uploadId" in query:
            self.uploads[query["uploadId"][0]][int(query["partNumber"][0])] = content
            return Reply(headers=etag)
        if asked.headers.get("if-none-match") == "*" and key in self.objects:
            return _error(412, "PreconditionFailed")
        self._store(key, content, asked.headers)
        return Reply(headers=etag)

    def _post(self, asked: Asked, key: str, query: dict[str, list[str]]) -> Reply:
        if "uploads" in query:
            upload = f"upload-{len(self.uploads)}"
            self.uploads[upload], self.upload_keys[upload] = {}, key
            self.metadata[upload] = _metadata(asked.headers)
            return _xml(
                f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId>"
                "</InitiateMultipartUploadResult>"
            )
        if asked.headers.get("if-none-match") == "*" and key in self.objects:
            return _error(412, "PreconditionFailed")
        upload = query["uploadId"][0]
        pieces = self.uploads.pop(upload)
        self.objects[key] = b"".join(pieces[number] for number in sorted(pieces))
        self.metadata[key] = self.metadata.pop(upload)
        return _xml("<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")

    def _get(self, asked: Asked, key: str, _query: dict[str, list[str]]) -> Reply:
        if key not in self.objects:
            return Reply(404) if asked.method == "HEAD" else _error(404, "NoSuchKey")
        content = self.objects[key]
        headers = {f"x-amz-meta-{name}": value for name, value in self.metadata[key].items()}
        return Reply(body=content, headers={**headers, "Content-Length": str(len(content))})

    def _delete(self, _asked: Asked, key: str, query: dict[str, list[str]]) -> Reply:
        if "uploadId" in query:
            self.uploads.pop(query["uploadId"][0], None)
        else:
            self.objects.pop(key, None)
        return Reply(204)

    def _open_uploads(self, prefix: str) -> Reply:
        items = "".join(
            f"<Upload><Key>{escape(key)}</Key><UploadId>{upload}</UploadId>"
            f"<Initiated>{self.written}</Initiated></Upload>"
            for upload, key in self.upload_keys.items()
            if upload in self.uploads and key.startswith(prefix)
        )
        return _xml(f"<ListMultipartUploadsResult>{items}</ListMultipartUploadsResult>")

    def _listing(self, query: dict[str, list[str]]) -> Reply:
        if "uploads" in query:
            return self._open_uploads(query.get("prefix", [""])[0])
        prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
        keys = sorted(key for key in self.objects if key.startswith(prefix) and key > after)
        shown, more = keys[: self.page], len(keys) > self.page
        items = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{self.written}</LastModified>"
            "</Contents>"
            for key in shown
        )
        token = (
            f"<NextContinuationToken>{escape(shown[-1])}</NextContinuationToken>" if more else ""
        )
        truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
        return _xml(f"<ListBucketResult>{truncated}{token}{items}</ListBucketResult>")

    def _store(self, key: str, content: bytes, headers: dict[str, str]) -> None:
        self.objects[key] = content
        self.metadata[key] = _metadata(headers)


def _metadata(headers: dict[str, str]) -> dict[str, str]:
    start = "x-amz-meta-"
    return {name[len(start) :]: value for name, value in headers.items() if name.startswith(start)}


def _plain(asked: Asked) -> bytes:
    """Return the body without the chunk headers of a signed stream."""
    if "aws-chunked" not in asked.headers.get("content-encoding", ""):
        return asked.body
    content, rest = b"", asked.body
    while (found := re.match(rb"([0-9a-f]+)[^\r]*\r\n", rest)) and int(found[1], 16):
        size = int(found[1], 16)
        content += rest[found.end() : found.end() + size]
        rest = rest[found.end() + size + 2 :]
    return content


def _error(status: int, code: str) -> Reply:
    return Reply(status, f"<Error><Code>{code}</Code><Message>x</Message></Error>".encode())


def _xml(text: str) -> Reply:
    return Reply(body=text.encode(), headers={"Content-Type": "application/xml"})
