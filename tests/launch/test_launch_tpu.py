import subprocess
import time

import pytest
from shell_scripts import shellcheck
from simulated_cloud import MAIN, SCRIPT, TYPE, WHERE, calls, dry


def test_script_parses_and_passes_shellcheck():
    subprocess.run(["bash", "-n", SCRIPT], check=True)
    shellcheck(SCRIPT)


@pytest.mark.parametrize(
    "arguments,sentence",
    [
        ((), "usage:"),
        (("launch", *WHERE), "launch is not a command"),
        (("create", "--zone=z", TYPE), "--name is missing"),
        (("create", "--name=n", TYPE), "--zone is missing"),
        (("create", *WHERE), "--type is missing"),
        (("create", *WHERE, "--type=v9-8"), "no known runtime"),
        (("create", *WHERE, TYPE, "--slices=two"), "--slices=two is not a number"),
        (("run", *WHERE, TYPE), "flags of main.py are missing"),
        (("stop", *WHERE, "--sopt"), "--sopt is not an option"),
    ],
)
def test_bad_command_lines_end_in_one_sentence(arguments, sentence):
    found = subprocess.run([SCRIPT, *arguments], capture_output=True, text=True)
    assert found.returncode == 2
    assert sentence in found.stderr


HOSTILE = ("a;touch PWNED", "$(touch PWNED)", "`touch PWNED`", "a b", "*", "--help", "-x", "a\nb",
           "\x1b[31m", "é", "a/../b", "'")  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("option", ["name", "zone", "project", "type", "version", "slices", "poll"])
def test_unsafe_names_are_refused(cloud, option, value):
    values = {"name": "xkd", "zone": "us-west4-a", "type": "v5litepod-16", option: value}
    found = cloud("run", *(f"--{key}={given}" for key, given in values.items()), *MAIN)
    assert found.returncode == 2
    assert found.stderr.startswith(f"error: --{option}=")
    assert found.stderr.count("\n") == 1
    assert found.stderr.rstrip("\n").isprintable()
    assert not (cloud.path / "calls").exists()
    assert not list(cloud.path.rglob("PWNED"))


@pytest.mark.parametrize(
    "slices", ["08", "-1", "1e3", "0x10", "9" * 30, "1+1", "a[$(touch PWNED)]"]
)
def test_arithmetic_in_numbers_is_refused(slices):
    found = subprocess.run([SCRIPT, "stop", *WHERE, f"--slices={slices}"], capture_output=True)
    assert found.returncode == 2
    assert b"is not a number: give one of 0 to 999999" in found.stderr


@pytest.mark.parametrize("variable", ["-i=x", "A B=x", "=x", "a;b=x", "$(id)=x"])
def test_malformed_variables_are_refused(variable):
    found = subprocess.run(
        [SCRIPT, "stop", *WHERE, f"--env={variable}"], capture_output=True, text=True
    )
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1


def test_valid_names_are_accepted():
    names = ["xkd", "x", "xkd-base-2", "a" * 56]
    zones = ["us-west4-a", "northamerica-northeast1-b", "us-central1-ai1a"]
    for name, zone in zip(names, [*zones, zones[0]], strict=True):
        where = (f"--name={name}", f"--zone={zone}")
        assert dry("stop", *where, "--project=example.com:my-project-1", "--dry-run")
    for type_ in ("v2-8", "v5litepod-256", "v6e-8", "tpu7x-16"):
        assert dry("create", *WHERE, f"--type={type_}", "--version=tpu-vm-tf-2.16.1", "--dry-run")


def test_flags_and_variables_reach_main_unchanged(cloud):
    flags = [f"--workdir={value}" for value in HOSTILE]
    variables = [f"--env=V{i}={value}" for i, value in enumerate(HOSTILE)]
    dump = "env -0 > ../vars"
    found = cloud("run", *WHERE, TYPE, *variables, "--poll=0", "--", *flags, main=dump)
    assert found.returncode == 0, found.stderr
    log = (cloud.path / "xkd/0/xkd_jax/run.log").read_text()
    assert f"run main.py {' '.join(flags)}" in log
    for line in (variable.removeprefix("--env=") for variable in variables):
        assert line in (cloud.path / "xkd/0/vars").read_text()
    assert not list(cloud.path.rglob("PWNED"))


def test_temporary_folder_of_archive_is_removed(cloud, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    (cloud.path / "state").write_text("ACTIVE")
    assert cloud("setup", *WHERE).returncode == 0
    (archive,) = (line.split()[4] for line in calls(cloud, "tpu-vm scp"))
    assert archive.startswith(f"{scratch}/")
    assert not list(scratch.iterdir())
    (cloud.path / "state").unlink()
    assert cloud("setup", *WHERE).returncode != 0  # no slice is reachable
    assert not list(scratch.iterdir())
    dry("setup", *WHERE, "--dry-run")
    assert not list(scratch.iterdir())


def test_invalid_answer_counts_as_lost_worker(cloud):
    """It is not used as a file name, an expression or an exit status."""
    junk = 'echo "* a[\\$(touch PWNED)] 99999" > .status; sleep 1; '
    found = cloud(
        "run", *WHERE, TYPE, "--poll=2", "--retries=0", *MAIN,
        main=f"(sleep 0.3; {junk}) > /dev/null 2>&1 & exit 0",
    )  # fmt: skip
    assert found.returncode == 2
    assert "failed 1 times in a row, last with status 1" in found.stderr
    assert not list(cloud.path.rglob("PWNED"))


def test_dry_run_prints_every_command_and_runs_none():
    lines = dry("run", *WHERE, TYPE, "--spot", "--slices=2", "--project=p", "--dry-run", *MAIN)
    create, pack, *rest = lines
    assert create == (
        "gcloud compute tpus queued-resources create xkd --zone=us-west4-a --quiet --project=p"
        " --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --node-count=2"
        " --node-prefix=xkd --spot"
    )
    assert pack.startswith("tar ")
    for verb, count in (("tpu-vm scp", 2), ("uv pip install", 2), ("main.py", 2)):
        assert sum(verb in line for line in rest) == count, verb
    for node in ("xkd-0", "xkd-1"):
        assert any(f"ssh {node} " in line and "--worker=all" in line for line in rest)
    counted = rest.index("# after status 75, to compare with the restart before:")
    for node, line in zip(("xkd-0", "xkd-1"), rest[counted + 1 :], strict=False):
        assert line == (
            f"gcloud compute tpus tpu-vm ssh {node} --zone=us-west4-a --quiet --project=p"
            " --worker=all '--command=cd xkd_jax; grep -aoE '\\''^(step|fold)"
            " +[0-9,]+(/[0-9,]+ +loss)? +[^ ]+'\\'' run.log | sort -u | wc -l'"
        )
    started = next(line for line in rest if "main.py" in line)
    assert "--config=configs/k400.py" in started


@pytest.mark.parametrize("command", ["setup", "status", "logs", "stop"])
def test_every_command_has_dry_run(command):
    lines = dry(command, *WHERE, "--dry-run")
    assert lines
    assert all(line.split()[0] in ("gcloud", "tar", "rm") for line in lines)


@pytest.mark.parametrize(
    "type_,version",
    [("v4-32", "tpu-ubuntu2204-base"), ("v5p-8", "v2-alpha-tpuv5"), ("v6e-4", "v2-alpha-tpuv6e")],
)
def test_runtime_is_derived_from_type(type_, version):
    (line,) = dry("create", *WHERE, f"--type={type_}", "--dry-run")
    assert f"--runtime-version={version}" in line
    assert "--node-id=xkd" in line
    assert "--spot" not in line


def test_run_starts_once_on_every_worker_and_ends(cloud):
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN)
    assert found.returncode == 0, found.stderr
    for worker in (0, 1):
        log = (cloud.path / f"xkd/{worker}/xkd_jax/run.log").read_text()
        assert log.count("--config=configs/k400.py --workdir=/mnt/a run") == 1
    assert len(calls(cloud, "create")) == 1


def test_run_waits_for_slices_requested_before(cloud):
    (cloud.path / "state").write_text("WAITING_FOR_RESOURCES")
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN)
    assert found.returncode == 0, found.stderr
    assert "xkd is WAITING_FOR_RESOURCES" in found.stderr
    assert (cloud.path / "xkd/1/starts").read_text() == "x"
    assert not calls(cloud, "create")


def test_failed_request_is_repeated(cloud):
    (cloud.path / "outcomes").write_text("SUSPENDED\nFAILED\nPROVISIONING\n")
    found = cloud("run", *WHERE, TYPE, "--spot", "--poll=0", *MAIN)
    assert found.returncode == 0, found.stderr
    assert len(calls(cloud, "resources create")) == 3
    assert len(calls(cloud, "resources delete")) == 2
    (cloud.path / "outcomes").write_text("FAILED\n" * 9)
    (cloud.path / "state").unlink()
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN)
    assert found.returncode == 2
    assert "xkd is FAILED, 4 times in a row" in found.stderr


def test_unanswered_request_is_repeated(cloud):
    (cloud.path / "state").write_text("ACTIVE")
    (cloud.path / "silence").write_text("x\n" * 4)  # two requests each time
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("xkd is UNREACHABLE: connection refused\n") == 2
    assert not calls(cloud, "resources create")


def test_without_login_reason_is_shown_and_three_attempts_are_made(cloud):
    (cloud.path / "silence").write_text("x\n" * 99)
    for command in (("run", *WHERE, TYPE, "--poll=0", *MAIN), ("create", *WHERE, TYPE, "--poll=0")):
        found = cloud(*command)
        assert found.returncode == 2
        *attempts, last = found.stderr.splitlines()
        assert len(attempts) == 3
        assert all(line.endswith("xkd is UNREACHABLE: connection refused") for line in attempts)
        assert last.startswith("error: gcloud did not answer 3 times, for the reason above: check")


def test_patience_is_longer_after_first_answer(cloud):
    (cloud.path / "state").write_text("WAITING_FOR_RESOURCES")
    (cloud.path / "silence").write_text("x\n" * 10)
    (cloud.path / "answers").write_text("x\n")
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN)
    assert found.returncode == 0, found.stderr
    assert found.stderr.count("xkd is UNREACHABLE") == 5


def test_preempted_run_resumes_on_same_slices(cloud):
    """Five stops in a row: one worker logs a new step before each of them."""
    main = """case $PWD in */1/*) ;; *) echo "step  $1/9  loss 2.$1  5 clips/s" ;; esac
    [[ $1 -gt 5 ]] || exit 75"""
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN, main=main)
    assert found.returncode == 0, found.stderr
    assert (cloud.path / "xkd/1/starts").read_text() == "xxxxxx"
    assert len(calls(cloud, "create")) == 1


@pytest.mark.parametrize("steps", [0, 1])
def test_stops_without_progress_end_launcher_with_reason(cloud, steps):
    """Steps that are repeated after a restart, with the same loss, are no progress."""
    step = 'echo "step  4/9  loss 2.5  $RANDOM clips/s"; ' * steps
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN, main=f"{step}exit 75")
    assert found.returncode == 2
    assert found.stderr.count("restarting after status 75") == 2 + steps
    assert "error: the run was stopped on request 3 times in a row without a" in found.stderr
    assert (cloud.path / "xkd/1/starts").read_text() == "x" * (3 + steps)


def test_preempted_slices_are_recreated(cloud):
    # the first worker that starts loses the slices, and runs until the launcher deletes them
    main = f"""cd {cloud.path}; mkdir again 2> /dev/null || exit 0
    echo SUSPENDED > state; until grep -q "queued-resources delete" calls; do sleep 0.5; done"""
    found = cloud("run", *WHERE, TYPE, "--spot", "--poll=1", *MAIN, main=main)
    assert found.returncode == 0, found.stderr
    assert "xkd is SUSPENDED" in found.stderr
    verbs = [line.split()[3] for line in calls(cloud, "queued-resources") if "describe" not in line]
    assert verbs == ["create", "delete", "create"]


def test_bad_input_is_not_retried_and_failures_three_times(cloud):
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN, main="echo error: no data; exit 2")
    assert found.returncode == 2
    assert "error: no data" in found.stdout
    assert (cloud.path / "xkd/0/starts").read_text() == "x"
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN, main="exit 134")
    assert found.returncode == 2
    assert "failed 4 times in a row, last with status 134" in found.stderr
    assert (cloud.path / "xkd/0/starts").read_text() == "xxxxx"


def test_log_of_failed_worker_is_shown_first(cloud):
    """Worker 0 starts first and ends with status 1, because it lost the other worker."""
    mixed = "[[ $1 -gt 2 ]] || case $PWD in */1/*) exit {}; ;; *) exit {} ;; esac"
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN, main=mixed.format(2, 1))
    assert found.returncode == 2
    (cloud.path / "xkd/1/starts").unlink()
    (cloud.path / "xkd/0/starts").unlink()
    found = cloud("run", *WHERE, TYPE, "--poll=0", *MAIN, main=mixed.format(1, 75))
    assert "restarting after status 1\n" in found.stderr


def test_stop_saves_run_and_deletes_slices(cloud):
    saved = cloud.path / "saved"
    (cloud.path / "state").write_text("ACTIVE")
    assert cloud("setup", *WHERE).returncode == 0
    waits = f"trap 'touch {saved}; exit 75' TERM; while true; do sleep 0.1; done"
    with cloud.started("run", *WHERE, TYPE, "--poll=1", *MAIN, main=waits) as running:
        log = cloud.path / "xkd/1/xkd_jax/run.log"
        while not (log.exists() and "run" in log.read_text()):
            time.sleep(0.05)
        time.sleep(0.3)
        running.kill()  # the run continues without the launcher
        assert "running" in cloud("status", *WHERE, main=waits).stdout
        assert cloud("stop", *WHERE, main=waits).returncode == 0
    assert saved.exists()
    assert not (cloud.path / "state").exists()
