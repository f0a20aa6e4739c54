"""Formats the results of a run as the Markdown tables of docs/performance.md."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks import markdown_table, result_file

Results = list[dict[str, Any]]


def load(path: str) -> dict[str, Any]:
    """Reads the output of `python -m benchmarks.accelerator`.

    Raises:
      UserError: the file is not such an output.
    """

    def has_sections(record: dict[str, Any]) -> bool:
        return isinstance(record.get("sections"), dict)

    return result_file.load(
        Path(path), "results of this command", has_sections, "give another --table"
    )


def tables(record: dict[str, Any]) -> str:
    """Returns all tables for which there are results, and a list of missing ones."""
    parts = [_machine(record), _steps(record), _authors(record), _kernels(record)]
    parts += [_data(record), _demo(record), _goldens(record), _attention(record), _missing(record)]
    return "\n\n".join(part for part in parts if part)


def _machine(record: dict[str, Any]) -> str:
    machine = record["machine"]
    versions = ", ".join(f"{k} {v}" for k, v in machine["versions"].items() if k != "code")
    device = next(iter(_results(record, "device")), {})
    rates = (
        f" A bfloat16 product of {device['matmul_size']}^3 ran at {device['matmul_tflops']:.0f}"
        f" TFLOP/s, a copy at {device['copy_gb_per_second']:.0f} GB/s (read and written)."
        if device
        else ""
    )
    gpu = machine.get("gpu") or device.get("device", "no accelerator")
    return f"{record['began'][:10]}: {gpu}; {machine['cores']} cores; {versions}.{rates}"


def _steps(record: dict[str, Any]) -> str:
    rows = [
        (
            r["clips"], r["attention"], r["teacher_view"], "yes" if r["augmented"] else "no",
            "timed" if r.get("timed", not r.get("library")) else "library",
            f"{r['milliseconds']:.1f}",
            f"{r['clips_per_second']:.0f}", f"{100 * r['share_of_matmul']:.0f} %",
            r["planned_gib"], f"{r['compile_seconds']:.0f}",
        )
        for r in _results(record, "step")
    ]  # fmt: skip
    head = (
        "clips", "attention", "teacher's view", "augmentation", "products", "ms a step", "clips/s",
        "of the measured product", "peak GiB", "seconds to compile",
    )  # fmt: skip
    return markdown_table.text(head, rows)


def _authors(record: dict[str, Any]) -> str:
    """Returns the table of the authors' step and ours, both with local views for the teachers."""
    ours = {
        r["clips"]: r["clips_per_second"]
        for r in _results(record, "step")
        if not r["augmented"] and r["teacher_view"] == "local"
    }
    rows = []
    for r in _results(record, "authors"):
        beside = ours.get(r["clips"])
        ratio = f"{beside / r['clips_per_second']:.2f}" if beside else ""
        rows.append(
            (
                r["clips"], "torch.compile" if r["compiled"] else "as released",
                f"{r['milliseconds']:.1f}", f"{r['clips_per_second']:.0f}", r["peak_gib"],
                f"{beside:.0f}" if beside else "", ratio,
            )
        )  # fmt: skip
    head = ("clips", "authors' code", "ms a step", "clips/s", "peak GiB", "ours, clips/s", "ratio")
    return markdown_table.text(head, rows)


def _kernels(record: dict[str, Any]) -> str:
    parts = []
    for found in _results(record, "kernels"):
        title = f"Kernels of {found['variant']}, {found['busy_milliseconds']:.1f} ms a step:"
        rows = [(f"`{k['name']}`", k["milliseconds"], k["calls"]) for k in found["kernels"]]
        parts.append(
            f"{title}\n\n{markdown_table.text(('kernel', 'ms a step', 'calls a step'), rows)}"
        )
    return "\n\n".join(parts)


def _data(record: dict[str, Any]) -> str:
    alone = {r["workers"]: r["clips_per_second"] for r in _results(record, "loader")}
    rows = [
        (
            r["clips"], r["workers"], f"{alone[r['workers']]:.0f}" if r["workers"] in alone else "",
            f"{r['clips_per_second']:.0f}", f"{100 * r['data_wait_share']:.1f} %",
        )
        for r in _results(record, "training")
    ]  # fmt: skip
    head = ("clips", "worker processes", "loader alone, clips/s", "training, clips/s", "data wait")
    return markdown_table.text(head, rows)


def _demo(record: dict[str, Any]) -> str:
    rows = [
        (
            r["steps"], f"{r['clips_per_second']:.0f}", f"{100 * r['data_wait_share']:.0f} %",
            f"{r['seconds']:.0f}", ", ".join(f"{k} {v:.1f} %" for k, v in r["knn"].items()),
        )
        for r in _results(record, "digits")
    ]  # fmt: skip
    head = ("steps of the demo", "clips/s", "data wait", "seconds in all", "nearest neighbors")
    return markdown_table.text(head, rows)


def _goldens(record: dict[str, Any]) -> str:
    rows = [
        (r["file"], r["group"], f"{r['error']:.2g}", f"{r['allowed']:g}", _passed(r["passed"]))
        for r in _results(record, "golden")
    ]
    return markdown_table.text(("golden case", "group", "error", "allowed", ""), rows)


def _attention(record: dict[str, Any]) -> str:
    rows = []
    for r in _results(record, "attention"):
        if "tokens" not in r:
            continue
        kernel = r["kernel"]
        errors = [
            f"{r[f'{k}_{what}_error']:.2g}"
            for what in ("value", "gradient")
            for k in ("xla", kernel)
        ]
        times = [f"{r[f'{k}_ms']:.2f}" for k in ("xla", kernel)]
        rows.append(
            (kernel, r["tokens"], r["heads"], r["size"], *errors, *times,
             _passed(r["within_tolerance"]))
        )  # fmt: skip
    head = (
        "kernel", "tokens", "heads", "size", "values, formula", "values, kernel",
        "gradients, formula", "gradients, kernel", "ms, formula", "ms, kernel", "",
    )  # fmt: skip
    return markdown_table.text(head, rows)


def _missing(record: dict[str, Any]) -> str:
    lines = [
        f"* {name} {section['status']}: {section.get('reason', '')}"
        for name, section in record["sections"].items()
        if section["status"] != "done"
    ]
    lines += [
        f"* {r['name']} {r.get('variant', r.get('file', ''))} failed: {r['error'].splitlines()[0]}"
        for section in record["sections"].values()
        for r in section["results"]
        if isinstance(r.get("error"), str)
    ]
    return "\n".join(lines)


def _passed(passed: bool) -> str:
    return "passed" if passed else "**failed**"


def _results(record: dict[str, Any], name: str) -> Results:
    """Returns the results with a name of all sections; `_missing` lists errors."""
    return [
        r
        for section in record["sections"].values()
        for r in section["results"]
        if r["name"] == name and not isinstance(r.get("error"), str)
    ]
