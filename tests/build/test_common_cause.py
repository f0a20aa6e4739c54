"""Consecutive failures with a common cause end a build."""

import pytest

from data_pipelines.build import common_cause
from data_pipelines.build.ingest import FileResult
from data_pipelines.errors import UnreachableError, UserError

FINE = FileResult((b"record",))
LATE = FileResult(reason="timed out", detail="no progress for 5 s")


def _failed(reason="failed", detail="RuntimeError: cannot cache function") -> FileResult:
    return FileResult(reason=reason, detail=detail)


@pytest.mark.parametrize(
    "result",
    [
        _failed(),
        _failed(detail="ImportError: libsndfile.so.1: cannot open shared object file"),
        _failed("crashed", "it crashed the decoder twice (exit code 1)"),
    ],
)
def test_same_exception_for_every_file_is_named_once(result):
    with pytest.raises(UserError) as error:
        list(common_cause.checked([FINE, *[result] * 300]))
    assert error.value.status == 2
    assert str(error.value).count(result.detail) == 1
    assert "not the files" in str(error.value)


@pytest.mark.parametrize(
    "results",
    [
        [_failed()] * 15 + [FINE] + [_failed()] * 15,
        [_failed(detail=f"ValueError: {i}") for i in range(100)],
        [FileResult(reason="no audio", detail="it has no audio stream")] * 1000,
        [FileResult(reason="unreadable", detail="it is empty")] * 1000,
        [LATE, LATE, FINE] * 10,
    ],
)
def test_faults_of_files_do_not_stop_build(results):
    assert list(common_cause.checked(results)) == results


def test_consecutive_time_outs_stop_build():
    with pytest.raises(UnreachableError, match="3 files in a row timed out") as error:
        list(common_cause.checked([FINE, LATE, LATE, LATE, FINE]))
    assert error.value.status == 1
