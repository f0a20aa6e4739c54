"""The fsspec file system of a URL, which needs the package of the storage (gcsfs, s3fs)."""

from __future__ import annotations

from typing import Any

from data_pipelines.errors import UserError

_PACKAGES = {
    "gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs", "s3a": "s3fs", "http": "aiohttp",
    "https": "aiohttp",
}  # fmt: skip
STALL = 60.0  # seconds without a byte, after which an answer is given up


def of(path: str) -> Any:
    """Returns the fsspec file system of a URL.

    Raises:
      UserError: the scheme is unknown, or its package is not installed.
    """
    import fsspec

    scheme = path.split("://", 1)[0]
    try:
        # A cached listing would hide what other processes write and remove.
        return fsspec.filesystem(scheme, use_listings_cache=False, **_timeout(scheme))
    except ImportError as error:
        package = _PACKAGES.get(scheme)
        remedy = f"pip install {package}" if package else str(error).rstrip(".")
        raise UserError(
            f"{path} can't be opened without the package for {scheme}://: {remedy}."
        ) from None
    except ValueError as error:
        raise UserError(f"{path} can't be opened: {str(error).rstrip('.')}.") from None


def _timeout(scheme: str) -> dict[str, Any]:
    """Returns the option by which a store's package gives up a stalled answer.

    gcsfs would wait without limit; s3fs does not.
    """
    if scheme not in ("gs", "gcs"):
        return {}
    import aiohttp  # of gcsfs

    limits = aiohttp.ClientTimeout(total=None, sock_connect=STALL, sock_read=STALL)
    return {"requests_timeout": limits}
