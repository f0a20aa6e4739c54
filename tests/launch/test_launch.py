import subprocess
from pathlib import Path

import pytest
import yaml
from shell_scripts import shellcheck

LAUNCH = Path(__file__).parents[2] / "launch"


def job_of(name):
    (job,) = yaml.safe_load((LAUNCH / name).read_text())["spec"]["replicatedJobs"]
    return job["name"], job["template"]["spec"]


@pytest.mark.parametrize("name", ["jobset_tpu.yaml", "jobset_gpu.yaml"])
def test_every_host_has_pod_that_runs_main_with_time_to_save(name):
    _, job = job_of(name)
    pod = job["template"]["spec"]
    assert job["completions"] == job["parallelism"] == 4
    assert (
        job["backoffLimit"] == 0
    )  # the JobSet restarts all pods, instead of the job restarting one
    assert pod["restartPolicy"] == "Never"
    assert pod["terminationGracePeriodSeconds"] >= 300
    (container,) = pod["containers"]
    assert container["command"][:3] == ["python", "main.py", "--config=configs/k400.py"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_gpu_hosts_use_first_pod_as_coordinator():
    manifest = yaml.safe_load((LAUNCH / "jobset_gpu.yaml").read_text())
    name, job = job_of("jobset_gpu.yaml")
    command = job["template"]["spec"]["containers"][0]["command"]
    jobset = manifest["metadata"]["name"]
    assert f"--coordinator={jobset}-{name}-0-0.{jobset}:8476" in command
    assert f"--num_processes={job['completions']}" in command
    assert manifest["spec"]["network"]["enableDNSHostnames"]


def test_batch_script_passes_shellcheck():
    shellcheck(LAUNCH / "slurm.sbatch")


def test_batch_script_is_requeued(tmp_path):
    script = LAUNCH / "slurm.sbatch"
    for tool, text in (("srun", 'exit "$STATUS"'), ("scontrol", f"echo $* > {tmp_path}/queue")):
        (tmp_path / tool).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / tool).chmod(0o755)
    for status in (0, 1, 75):
        environment = {
            "PATH": f"{tmp_path}:/usr/bin:/bin", "STATUS": str(status), "SLURM_JOB_ID": "7",
            "SLURM_SUBMIT_DIR": str(tmp_path),
        }  # fmt: skip
        found = subprocess.run(["bash", script, "--config=x"], env=environment)
        assert found.returncode == status
        assert (tmp_path / "queue").exists() == (status == 75)
    assert (tmp_path / "queue").read_text() == "requeue 7\n"
