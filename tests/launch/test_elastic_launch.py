"""`launch_tpu.sh --elastic`: runs whose slices are lost and return."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time

import noise_shards
import pytest
from coordinator import free_port
from simulated_cloud import MAIN, ROOT, TYPE, WHERE, dry

ELASTIC = ("run", *WHERE, TYPE, "--slices=2", "--elastic")


def test_dry_run_of_elastic_run_has_loss_and_return_of_a_slice():
    lines = dry(*ELASTIC, "--dry-run", *MAIN)
    lost, back = (lines.index(f"# when xkd-1 is {event}:") for event in ("lost", "back"))
    where = "--zone=us-west4-a --quiet"
    ask = "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --node-id="
    create = [
        f"gcloud compute tpus queued-resources create {node} {where} {ask}{node}"
        for node in ("xkd-0", "xkd-1")
    ]
    find = (
        f"gcloud compute tpus tpu-vm describe xkd-0 {where}"
        " '--format=value(networkEndpoints[0].ipAddress)'"
    )
    assert lines[:2] == create
    assert lines[lost + 1 : lost + 3] == [
        f"gcloud compute tpus queued-resources delete xkd-1 {where} --force", create[1]
    ]  # fmt: skip

    def starts(part):
        found = [line for line in part if "main.py" in line]
        assert part[part.index(found[0]) - 1] == find
        return found

    def variables(index):
        return (
            "env\\ MEGASCALE_COORDINATOR_ADDRESS=ADDRESS:8080\\ MEGASCALE_PORT=8080\\"
            f" MEGASCALE_NUM_SLICES=2\\ MEGASCALE_SLICE_ID={index}\\ .venv/bin/python"
        )

    for part in (lines[:lost], lines[back:]):
        for index, line in enumerate(starts(part)):
            assert f"tpu-vm ssh xkd-{index} {where} --worker=all" in line
            assert variables(index) in line
    (alone,) = starts(lines[lost:back])
    assert f"tpu-vm ssh xkd-0 {where} --worker=all" in alone
    assert "MEGASCALE" not in alone
    for part, seconds in ((lines[lost:back], 150), (lines[back:], 300)):
        end = next(line for line in part if "kill -TERM" in line)
        assert f"tpu-vm ssh xkd-0 {where}" in end
        assert f"seq {seconds})" in end


def test_dry_run_has_start_on_fewer_slices_than_are_left():
    lines = dry("run", *WHERE, TYPE, "--slices=4", "--elastic", "--dry-run", *MAIN)
    begin = lines.index("# if main.py then ends with status 3:")
    part = lines[begin + 1 : lines.index("# when xkd-3 is back:")]
    starts = [line for line in part if "main.py" in line]
    assert len(starts) == 2
    assert all("MEGASCALE_NUM_SLICES=2" in line for line in starts)


def test_elastic_run_of_one_slice_is_refused(cloud):
    found = cloud("run", *WHERE, TYPE, "--elastic", *MAIN)
    assert found.returncode == 2
    assert found.stderr == "error: --elastic is for several slices: give --slices=2 or more.\n"


# The process of a worker. The first start loses slice 1, and the second one gets it back; both end
# by the launcher's SIGTERM.
COMES_AND_GOES = """cd "$CLOUD"
worker=$(basename "$(dirname "$OLDPWD")") slice=${MEGASCALE_SLICE_ID:-0}
echo "${MEGASCALE_NUM_SLICES:-1} $slice $worker" >> started
trap 'echo "$slice $worker" >> ended; exit 75' TERM
case $(sort -u started | wc -l) in
  4) [[ -e lost ]] || { touch lost; echo SUSPENDED > state-xkd-1; } ;;
  5 | 6) [[ $slice$worker != 01 ]] || { rm -f lost; echo ACTIVE > state-xkd-1; } ;;
esac
[[ $(grep -c "^2 1 1" started) -lt 2 ]] || touch over
until [[ -e over ]]; do sleep 0.1; done
"""


def test_elastic_run_continues_on_slices_left_and_grows_back(cloud):
    (cloud.path / "elastic").touch()
    found = cloud(*ELASTIC, "--poll=1", *MAIN, main=COMES_AND_GOES)
    assert found.returncode == 0, found.stderr
    events = [line.partition(" ")[2] for line in found.stderr.splitlines()]
    wanted = [
        "running on xkd-0 xkd-1", "slices xkd-0 xkd-1 -> xkd-0", "running on xkd-0",
        "slices xkd-0 -> xkd-0 xkd-1", "running on xkd-0 xkd-1", "the run has ended",
    ]  # fmt: skip
    assert [event for event in events if event in wanted] == wanted
    cloud("stop", *WHERE, "--slices=2", "--elastic")
    assert not [*cloud.path.glob("state*")]


def test_run_that_does_not_start_on_fewer_slices_waits(cloud):
    (cloud.path / "elastic").touch()
    (cloud.path / "state-xkd-0").write_text("ACTIVE")
    (cloud.path / "state-xkd-1").write_text("CREATING")
    main = """[[ -z ${MEGASCALE_NUM_SLICES:-} ]] || exit 0
    echo "error: too large"; cd "$CLOUD"
    exec > /dev/null 2>&1
    (until grep -q "tail -n 3" calls; do sleep 0.1; done; sleep 2; echo ACTIVE > state-xkd-1) &
    exit 3"""
    found = cloud(*ELASTIC, "--poll=1", *MAIN, main=main)
    assert found.returncode == 0, found.stderr
    assert "does not start on 1 of 2 slices, for the reason above: waiting" in found.stderr
    assert "error: too large" in found.stdout


# The process of a worker whose batch divides over 3 slices and 1. The first start loses slice 2.
# The one on slice 0 loses that one, slice 1 takes its place, and then all are back.
DIVIDES = """slices=${MEGASCALE_NUM_SLICES:-1} slice=$(basename "$(dirname "$(dirname "$PWD")")")
cd "$CLOUD"
exec 9> lock; flock 9
echo "$slices $slice" >> started
trap 'exit 75' TERM
count=$(grep -c "^$slices " started)
case $slices-$count in
  2-*) echo "error: 2 does not divide"; exit 3 ;;
  3-6) touch lost; echo SUSPENDED > state-xkd-2 ;;
  1-2) echo SUSPENDED > state-xkd-0 ;;
  1-4) rm lost; echo ACTIVE > state-xkd-0; echo ACTIVE > state-xkd-2 ;;
  3-12) touch over ;;
esac
flock -u 9
until [[ -e over ]]; do sleep 0.1; done
"""


def test_run_continues_on_most_slices_over_which_its_batch_divides(cloud):
    (cloud.path / "elastic").touch()
    found = cloud("run", *WHERE, TYPE, "--slices=3", "--elastic", "--poll=1", *MAIN, main=DIVIDES)
    assert found.returncode == 0, found.stderr
    events = [
        event
        for line in found.stderr.splitlines()
        if (event := line.partition(" ")[2]).startswith(("running", "the run"))
    ]
    assert events == [
        "running on xkd-0 xkd-1 xkd-2",
        "running on xkd-0 xkd-1",
        "the run does not start on 2 of 3 slices, for the reason above: trying 1",
        "running on xkd-0",
        "running on xkd-1",
        "running on xkd-0 xkd-1 xkd-2",
        "the run has ended",
    ]
    assert "error: 2 does not divide" in found.stdout


@pytest.mark.parametrize("status,present", [(2, 1), (3, 2)])
def test_bad_input_ends_elastic_run(cloud, status, present):
    """Status 2 ends it on any number of slices, and status 3 if fewer slices do not help."""
    (cloud.path / "elastic").touch()
    for i in range(2):
        (cloud.path / f"state-xkd-{i}").write_text("ACTIVE" if i < present else "CREATING")
    found = cloud(*ELASTIC, "--poll=1", *MAIN, main=f"echo 'error: bad'; exit {status}")
    assert found.returncode == status
    assert "error: bad" in found.stdout


def test_restarted_script_ends_run_on_other_slices_first(cloud):
    (cloud.path / "elastic").touch()
    main = """cd "$CLOUD"
    [[ ${MEGASCALE_NUM_SLICES:-1} == 1 ]] || exit 0
    trap 'echo 75 >> saved; exit 75' TERM
    touch alone
    until [[ -e over ]]; do sleep 0.1; done"""
    (cloud.path / "state-xkd-0").write_text("ACTIVE")
    (cloud.path / "state-xkd-1").write_text("CREATING")

    with cloud.started(*ELASTIC, "--poll=1", *MAIN, main=main) as earlier:
        while not (cloud.path / "alone").exists():
            time.sleep(0.05)
        earlier.kill()  # the run continues without the launcher
    (cloud.path / "state-xkd-1").write_text("ACTIVE")
    found = cloud(*ELASTIC, "--poll=1", *MAIN, main=main)
    assert found.returncode == 0, found.stderr
    assert (cloud.path / "saved").read_text() == "75\n75\n"
    assert "running already" not in found.stdout


REAL = """worker=$(basename "$(dirname "$PWD")") slices=${{MEGASCALE_NUM_SLICES:-1}}
export NOTES="$CLOUD/notes" TINY=yes PACE=0.5 PYTHONPATH={root}
export XLA_FLAGS="--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
exec {python} {root}/tests/one_process.py {flags} --workdir="$CLOUD/run" \\
  --coordinator=localhost:{port} --num_processes=$((2 * slices)) \\
  --process_id=$((2 * ${{MEGASCALE_SLICE_ID:-0}} + worker))
"""


def noted(folder, key):
    """{step: values that the processes of all starts recorded}."""
    found = {}
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            if key in (entry := json.loads(line)):
                found.setdefault(entry["step"], []).append(entry[key])
    return found


@pytest.mark.slow
@pytest.mark.heavy
def test_training_on_slices_that_come_and_go_has_same_data_and_losses(cloud, tmp_path):
    """Each slice has two real processes; one slice is killed, and returns later."""
    shards, whole = noise_shards.write(str(tmp_path / "shards"), 24, 13), tmp_path / "whole"
    flags = [
        f"--config={ROOT}/tests/several_run.py", f"--config.data.dir={shards}",
        "--config.max_steps=30", "--config.checkpoint.every_steps=2",
    ]  # fmt: skip
    port = free_port()
    whole.mkdir()
    alone = (f"--coordinator=localhost:{port}", "--num_processes=1", "--process_id=0")
    subprocess.run(
        [sys.executable, ROOT / "tests/one_process.py", *flags, f"--workdir={whole}/run", *alone],
        env=os.environ | {"NOTES": str(whole), "TINY": "yes", "PYTHONPATH": str(ROOT)},
        check=True, capture_output=True,
    )  # fmt: skip
    real = REAL.format(root=ROOT, python=sys.executable, flags=" ".join(flags), port=port)
    (tmp_path / "notes").mkdir()
    (tmp_path / "elastic").touch()
    log = tmp_path / "xkd-0/0/xkd_jax/run.log"

    def await_steps(pattern):
        end = time.monotonic() + 60
        while not (log.exists() and re.search(pattern, log.read_text(), re.DOTALL)):
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.05)

    def come_and_go():
        await_steps("step +4/")
        (tmp_path / "lost").touch()
        (tmp_path / "state-xkd-1").write_text("SUSPENDED")
        for pid in tmp_path.glob("xkd-1/*/xkd_jax/.pid"):
            os.killpg(int(pid.read_text()), signal.SIGKILL)
        await_steps("resume    from step.*step ")
        (tmp_path / "state-xkd-1").write_text("ACTIVE")

    events = threading.Thread(target=come_and_go)
    events.start()
    found = cloud(*ELASTIC, "--poll=1", *MAIN, main=real)
    events.join()
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("running on xkd-0 xkd-1") == 2
    assert " running on xkd-0\n" in found.stderr
    losses = noted(whole, "loss")
    for step, values in noted(tmp_path / "notes", "loss").items():
        assert values == pytest.approx(losses[step] * len(values), rel=1e-4)
    records = noted(whole, "records")
    read = noted(tmp_path / "notes", "records")
    assert read.keys() == records.keys() == set(range(1, 31))
    for step, parts in read.items():  # of several starts, if the step was repeated
        assert {*itertools.chain(*parts)} == {*records[step][0]}
