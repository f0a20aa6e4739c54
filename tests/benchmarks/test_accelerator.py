import json
import sys
import time

import jax
import pytest

from benchmarks.accelerator import __main__ as accelerator
from benchmarks.accelerator import hardware_tables, kernels, reporting, step_times
from benchmarks.accelerator.section import Process, Section
from data_pipelines.errors import UserError

# Two steps on one stream, nanoseconds in picoseconds: a product of two copies of one kernel that
# overlap a copy, and a line that sums them up and must not count again.
TRACE = """
planes {{
  name: "{plane}"
  event_metadata {{ key: 1 value {{ id: 1 name: "gemm_fusion_dot.12" }} }}
  event_metadata {{ key: 2 value {{ id: 2 name: "gemm_fusion_dot.3" }} }}
  event_metadata {{ key: 3 value {{ id: 3 name: "MemcpyD2D" }} }}
  stat_metadata {{ key: 1 value {{ id: 1 name: "hlo_op" }} }}
  stat_metadata {{ key: 2 value {{ id: 2 name: "tf_op" }} }}
  lines {{
    name: "Stream #1(Compute)"
    events {{
      metadata_id: 1 offset_ps: 0 duration_ps: 4000000000
      stats {{ metadata_id: 1 str_value: "gemm_fusion_dot.12" }}
      stats {{ metadata_id: 2 str_value: "step/encoder" }}
    }}
    events {{ metadata_id: 2 offset_ps: 6000000000 duration_ps: 2000000000 }}
  }}
  lines {{
    name: "Stream #2(MemcpyD2D)"
    events {{ metadata_id: 3 offset_ps: 3000000000 duration_ps: 2000000000 }}
  }}
  lines {{
    name: "XLA Modules"
    events {{ metadata_id: 1 offset_ps: 0 duration_ps: 9000000000 }}
  }}
}}
"""


def profile_of(plane):
    return jax.profiler.ProfileData.from_text_proto(TRACE.format(plane=plane))


def test_kernels_are_summed_by_name_without_their_numbers():
    found = kernels.summarize(profile_of("/device:GPU:0"), steps=2)
    assert found["kernels"] == [
        {"name": "gemm_fusion_dot", "milliseconds": 3.0, "calls": 1.0},
        {"name": "MemcpyD2D", "milliseconds": 1.0, "calls": 0.5},
    ]
    assert {"name": "step/encoder", "milliseconds": 2.0, "calls": 0.5} in found["places"]
    assert {"name": "none", "milliseconds": 2.0, "calls": 1.0} in found["operations"]
    assert found["busy_milliseconds"] == 3.5  # 0 to 5 ms and 6 to 8, of two steps


def test_on_cpu_only_operations_of_the_program_count():
    found = kernels.summarize(profile_of("/host:CPU"), steps=1)
    # both lines have the event of the first kernel, and only one names its operation
    assert [row["milliseconds"] for row in found["kernels"]] == [4.0]


def test_no_profile_is_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no profile"):
        kernels.read(str(tmp_path))


def test_blocks_leave_out_first_two_steps_and_are_as_long_as_asked(monkeypatch):
    clock, ran = [0.0], []
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def step():
        clock[0] += [100.0, 0.5, 0.25][min(len(ran), 2)]
        ran.append(1)

    times = reporting.block_times(step, lambda: None, blocks=3, seconds=2.0)
    assert times == [0.25, 0.25, 0.25]
    assert len(ran) == 2 + 3 * 4  # by the time of the second step, a block has four


def test_variant_sets_config_of_its_step():
    variant = step_times.Variant.parse("32:xla:local:views:trace")
    config = variant.config(tiny=False)
    assert (config.batch_size, config.model.attention) == (32, "xla")
    assert config.loss.teacher_view == "local"
    assert config.model.compute_dtype == "auto"
    assert str(variant) == "32:xla:local:trace:views"
    for wrong in ("32:xla", "many:xla:local", "32:xla:local:fast"):
        with pytest.raises(UserError, match="is no variant"):
            step_times.Variant.parse(wrong)


def script(text):
    start = "from benchmarks.accelerator import reporting; reporting.wait_for_start(True);"
    return ("-c", f"import sys; {start} {text}")


def run(chosen, tmp_path, seconds=60):
    output = tmp_path / "results.json"
    record = accelerator.run(chosen, output, tmp_path, seconds)
    assert json.loads(output.read_text()) == record
    return record["sections"]


def test_failed_section_does_not_affect_others(tmp_path, capsys):
    chosen = [
        Section("first", script("reporting.report('a', n=1); sys.exit('no memory')"), 60),
        Section("second", script("reporting.report('b', n=2)"), 60),
        Section("third", (), 60, left_out="give --shards=FOLDER of shards"),
    ]
    found = run(chosen, tmp_path)
    assert found["first"]["status"] == "failed"
    assert found["first"]["reason"] == "exit status 1: no memory"
    assert found["first"]["results"] == [{"name": "a", "n": 1}]
    assert found["second"]["status"] == "done"
    assert found["second"]["results"] == [{"name": "b", "n": 2}]
    assert found["third"] == {
        "status": "left out", "reason": "give --shards=FOLDER of shards", "results": [],
    }  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("third left out: give --shards=FOLDER of shards")
    assert any(line.endswith('{"name": "b", "n": 2}') for line in lines)


def test_section_whose_time_is_over_is_stopped(tmp_path):
    process = Process(Section("slow", script("sys.stdin.read()"), 60), tmp_path / "slow.log")
    found = process.collect(pytest.fail, deadline=time.monotonic())
    assert (found["status"], found["reason"]) == ("stopped", "its time was over")


def test_section_that_prepares_beside_another_measures_after_it(tmp_path):
    order = tmp_path / "order"
    note = f"open({str(order)!r}, 'a').write"
    _, measures = script(f"{note}('2')")
    chosen = [
        Section("first", script(f"{note}('1')"), 60),
        Section("second", ("-c", f"{note}('p'); {measures}"), 60, prepares_beside="first"),
    ]
    found = run(chosen, tmp_path)
    assert [section["status"] for section in found.values()] == ["done", "done"]
    assert order.read_text().replace("p", "") == "12"


RECORD = {
    "began": "2026-01-02T03:04:05+00:00",
    "machine": {"cores": 16, "versions": {"jax": "0.12", "code": "abc"}, "gpu": "H100"},
    "sections": {
        "step": {
            "status": "done",
            "results": [
                {"name": "device", "matmul_size": 8192, "matmul_tflops": 700.4,
                 "copy_gb_per_second": 2900.0},
                {"name": "step", "clips": 64, "attention": "auto", "teacher_view": "local",
                 "augmented": False, "timed": False, "milliseconds": 80.0,
                 "clips_per_second": 800.0, "share_of_matmul": 0.31, "planned_gib": 12.5,
                 "compile_seconds": 61.2},
                {"name": "step", "variant": "128:xla:global", "error": "OutOfMemory: 80 GB\nx"},
            ],
        },
        "authors": {
            "status": "done",
            "results": [
                {"name": "authors", "clips": 64, "compiled": False, "milliseconds": 200.0,
                 "clips_per_second": 320.0, "peak_gib": 40.0},
                {"name": "authors", "clips": 16, "compiled": False, "milliseconds": 50.0,
                 "clips_per_second": 320.0, "peak_gib": 10.0},
            ],
        },
        "demo": {"status": "stopped", "reason": "its time was over", "results": []},
    },
}  # fmt: skip


def test_tables_show_measurements_and_list_missing_ones(tmp_path, capsys, monkeypatch):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(RECORD))
    monkeypatch.setattr(sys, "argv", ["accelerator", f"--table={file}"])
    assert accelerator.main() == 0
    text = capsys.readouterr().out
    assert "2026-01-02: H100; 16 cores; jax 0.12. A bfloat16 product of 8192^3 ran at 700" in text
    assert "| 64 | auto | local | no | library | 80.0 | 800 | 31 % | 12.5 | 61 |" in text
    # ours beside theirs only where both were measured
    assert "| 64 | as released | 200.0 | 320 | 40.0 | 800 | 2.50 |" in text
    assert "| 16 | as released | 50.0 | 320 | 10.0 |  |  |" in text
    assert "* demo stopped: its time was over" in text
    assert "* step 128:xla:global failed: OutOfMemory: 80 GB" in text


@pytest.mark.parametrize("content", ["", "[]", '{"sections": 1}'])
def test_file_that_holds_no_results_is_bad_input(tmp_path, content):
    file = tmp_path / "results.json"
    file.write_text(content)
    with pytest.raises(UserError, match="--table"):
        hardware_tables.load(str(file))


def test_unknown_section_is_refused_with_known_names(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["accelerator", "--sections=steps"])
    with pytest.raises(SystemExit, match="2"):
        accelerator.main()
    assert "'steps': give names of goldens, step, authors" in capsys.readouterr().err
