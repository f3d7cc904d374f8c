"""Contents of The Stack v2, which holds only the names of blobs: fetched from a directory, a bucket or over HTTP."""

from __future__ import annotations

import gzip
import io
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from http.client import HTTPException

from etils import epath

ATTEMPTS = 5
TIMEOUT = 60.0  # seconds
_GZIP_OVERHEAD = 1 << 16  # bytes by which gzip can make a file longer, for files of a few MB


def fetch(store: str, blob: str, max_bytes: int) -> tuple[bytes | None, str | None]:
    """(content, None), or (None, reason) for a blob that the store does not have or that is damaged.

    Args:
      store: a directory or URL to which /<blob> is appended, or a template with {blob_id} in it.
      blob: the blob's name.
      max_bytes: of a larger content, only slightly more than this is read. Gzip data count as what they hold.

    Raises:
      ConnectionError: the store fails time and again.
    """
    name = urllib.parse.quote(blob, safe="")
    place = store.replace("{blob_id}", name) if "{blob_id}" in store else f"{store.rstrip('/')}/{name}"
    get = _download if place.startswith(("http://", "https://")) else _open
    data = get(place, max_bytes + _GZIP_OVERHEAD)
    if data is None:
        return None, "blob_missing"
    if not data.startswith(b"\x1f\x8b"):
        return data, None
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read(max_bytes + 1), None
    except (OSError, EOFError, zlib.error):
        return None, "blob_damaged"


def _open(place: str, length: int) -> bytes | None:
    try:
        with epath.Path(place).open("rb") as file:
            return file.read(length)
    except (FileNotFoundError, IsADirectoryError):
        return None


def _download(url: str, length: int) -> bytes | None:
    for attempt in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
                return response.read(length)
        except urllib.error.HTTPError as error:
            if error.code in (403, 404, 410):
                return None
            problem: Exception = error
        except (OSError, HTTPException) as error:
            problem = error
        if attempt + 1 < ATTEMPTS:
            time.sleep(2**attempt)
    raise ConnectionError(f"{url}: {problem}; run again to go on where it stopped")
