import dataclasses
import importlib.util
from types import SimpleNamespace

import jax
import plans_made_up
import pytest
from method_inputs import change, with_weights

from data_pipelines.errors import UserError
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.parallel.mesh import device_bytes
from xkd_jax.planning import plan as planning
from xkd_jax.planning import plan_text, targets
from xkd_jax.planning.chips import GIB
from xkd_jax.planning.costs import Collective, Costs, Work
from xkd_jax.planning.plan import abstract_batch, make_plan
from xkd_jax.planning.roofline import axes_of, predict
from xkd_jax.planning.slices import Slice
from xkd_jax.training.compiled_run import run_of

needs_compiler = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler, libtpu, is not installed: pip install -e '.[plan]'",
)


@pytest.fixture(scope="module")
def planned(small):
    """One loss, so that compilation takes seconds; video encoder and decoder have full size."""
    config = change(with_weights(small, reconstruct_video=1.0), data={"records": 8000})
    return dataclasses.replace(config, max_steps=0, epochs=2.0, mesh=MeshConfig(-1, 2, 1))


@pytest.fixture(scope="module")
def pod(planned):
    return make_plan(dataclasses.replace(planned, batch_size=512), Slice.parse("v5e:16x16"))


@needs_compiler
def test_pod_is_planned_without_hardware(pod):
    assert dict(pod.mesh.shape) == {"data": 128, "fsdp": 2, "tensor": 1}
    assert pod.fits
    assert pod.length.steps == round(2 * 8000 / 512)
    # every device computes its fraction of the model's products, and few of them twice; frames are
    # resized in another order, with a few less
    fraction = pod.flops / 256
    assert 0.97 * fraction <= pod.costs.flops < 1.1 * fraction
    # the roofline is a lower bound; the compiler's cycles include more
    step = pod.step
    assert 0 < pod.utilization(step.compiled_seconds) < pod.utilization(step.seconds) < 1
    assert pod.seconds == step.compiled_seconds
    rate = pod.clips_per_second(pod.seconds)
    assert pod.hours(pod.seconds) == pytest.approx(pod.length.steps * 512 / rate / 3600)


@needs_compiler
def test_fsdp_gathers_parameters_and_batch_reduces_gradients(pod):
    kinds = {(c.kind, axes_of(c.group, pod.mesh)) for c in pod.costs.collectives}
    assert ("all-gather", "fsdp") in kinds
    assert any(kind == "all-reduce" and "data" in axes for kind, axes in kinds)
    gathered = sum(c.received for c in pod.costs.collectives if c.kind == "all-gather")
    assert gathered < 20 * pod.memory.students


@needs_compiler
def test_report_has_every_figure_and_ends_with_verdict(pod):
    text = "\n".join(plan_text.lines(pod))
    for word in (
        "v5e:16x16, 256 chips, 64 hosts", "data 128 x fsdp 2 x tensor 1", "optimizer",
        "activations", "all-gather", "utilization", "clips/s", "chip-hours", "cores at", "of 15.75",
        "roofline", "cycles", "at 1.5 GHz", "attention xla",
    ):  # fmt: skip
        assert word in text, word
    assert plan_text.verdict(pod) == f"fits: yes, peak {pod.memory.peak / GIB:.2f} of 15.75 GiB"


@needs_compiler
def test_memory_of_plan_equals_bytes_of_its_arguments(planned, pod):
    config = dataclasses.replace(planned, batch_size=512)
    arguments = pod.memory.peak - pod.memory.activations - pod.memory.program
    run = run_of(config, pod.length, pod.mesh)
    batch = abstract_batch(config, run.batch_sharding)
    assert arguments == device_bytes(run.like) + device_bytes(batch)


class Step:
    """A step whose compilation runs out of memory."""

    def lower(self, *args):
        return self

    def compile(self):
        raise jax.errors.JaxRuntimeError(
            "RESOURCE_EXHAUSTED: the total memory required for HLO temporaries (90.50G)"
            " exceeds available HBM (15.75G)."
        )


class StepWithout(Step):
    """A step that needs a library."""

    def lower(self, *args):
        raise RuntimeError("cuDNN not found.")


class NewerStep(Step):
    """A step compiled by an XLA that writes other text."""

    def compile(self):
        return SimpleNamespace(
            as_text=lambda: "HloModule step\n",
            memory_analysis=lambda: SimpleNamespace(
                temp_size_in_bytes=GIB, output_size_in_bytes=0, alias_size_in_bytes=0,
                generated_code_size_in_bytes=0,
            ),
        )  # fmt: skip


@pytest.fixture
def without_compiler(monkeypatch):
    """Plans with the CPU's eight devices, without the TPU compiler: step -> None."""

    def use(step):
        create = planning.run_of
        monkeypatch.setattr(Slice, "devices", lambda self: jax.devices())
        monkeypatch.setattr(
            planning, "run_of", lambda *args: dataclasses.replace(create(*args), step=step)
        )

    use(Step())
    return use


def test_out_of_memory_program_reports_bytes_needed(planned, without_compiler):
    plan = make_plan(planned, Slice.parse("v5e:2x4"))
    assert not plan.fits
    assert plan.memory.activations == 90.5 * GIB
    assert plan_text.verdict(plan).startswith("fits: no, peak 90.5")
    assert "flops" in "\n".join(plan_text.lines(plan))


def test_unknown_program_text_gives_memory_and_no_times(planned, without_compiler):
    without_compiler(NewerStep())
    plan = make_plan(planned, Slice.parse("v5e:2x4"))
    assert plan.memory.activations == GIB
    assert plan.costs is plan.step is None
    lines = list(plan_text.lines(plan))
    assert lines[-1].startswith("unknown   no times: this version of XLA writes something")
    assert "a program without ENTRY" in lines[-1]
    assert not any(word in "\n".join(lines) for word in ("roofline", "clips/s", "network"))
    assert plan_text.verdict(plan).startswith("fits: yes, peak 1.")


def test_cudnn_that_is_missing_is_named_with_its_installation(planned, without_compiler):
    without_compiler(StepWithout())
    with pytest.raises(
        UserError, match=r"install nvidia-cudnn-cu12, or leave out --config\.model\.attention"
    ):
        make_plan(planned, Slice.parse("v5e:2x4"))


def test_plan_without_records_is_refused(planned, without_compiler):
    config = change(planned, data={"records": 0})
    with pytest.raises(UserError, match=r"give --config\.data\.records=N"):
        make_plan(config, Slice.parse("v5e:2x4"))


@dataclasses.dataclass(frozen=True)
class Device:
    id: int
    coords: tuple[int, ...]
    slice_index: int = 0


def torus_mesh(shape, axes):
    """A mesh in row-major order on a torus."""
    devices = [Device(i, divmod(i, shape[1])) for i in range(shape[0] * shape[1])]
    return SimpleNamespace(devices=SimpleNamespace(flat=devices), shape=axes)


def test_collective_seconds_follow_from_links_of_torus():
    where = Slice.parse("v5e:16x16")
    mesh = torus_mesh((16, 16), {"data": 16, "fsdp": 16, "tensor": 1})
    link, size = where.chip.link, 1e9

    def seconds(kind, group):
        return where.collective_seconds(Collective(kind, size, tuple(group), False, 1), mesh)

    ring, line, both = range(16), range(8), range(256)
    assert seconds("all-gather", ring) == pytest.approx(size * 15 / 16 / (2 * link), rel=1e-3)
    assert seconds("all-gather", line) == pytest.approx(size * 7 / 8 / link, rel=1e-3)
    assert seconds("all-gather", both) == pytest.approx(size * 255 / 256 / (4 * link), rel=1e-2)
    assert seconds("all-reduce", ring) == pytest.approx(2 * seconds("all-gather", ring))
    assert axes_of(ring, mesh) == "fsdp"
    assert axes_of(range(0, 256, 16), mesh) == "data"
    assert axes_of(both, mesh) == "data x fsdp"


def test_plan_of_gpus_has_one_scale_and_names_uncounted_calls(planned):
    plan = plans_made_up.plan(planned, targets.parse("h100:2x8"))
    plan = dataclasses.replace(plan, costs=Costs((), (), {"__cublas$gemm": 12}))
    lines = list(plan_text.lines(plan))
    assert lines[0] == "devices   h100:2x8, 16 GPUs, 2 hosts"
    assert "cycles    none: the compiler writes no estimate for this platform" in lines
    assert any(" GPU-hours" in line for line in lines)
    calls = "unknown   the operations of __cublas$gemm, 12 calls a step, count as 0"
    assert calls in lines
    assert plan.seconds == plan.step.seconds


def test_plan_of_tpus_has_both_scales(planned):
    plan = plans_made_up.plan(planned, targets.parse("v5e:2x4"))
    roofline, cycles = (
        line for line in plan_text.lines(plan) if line.startswith(("roofline", "cycles"))
    )
    assert roofline.startswith("roofline  50.0 ms a step at least, bound by memory: matrix unit 30")
    assert cycles.startswith("cycles    100.0 ms a step: operations by the compiler's estimate 80")
    assert "at 1.5 GHz, kernels by their instructions 20.0 ms" in cycles


def test_collectives_between_slices_take_the_network():
    where = Slice.parse("v5e:2x4,slices=2")
    devices = [Device(i, divmod(i % 8, 4), slice_index=i // 8) for i in range(16)]
    mesh = SimpleNamespace(devices=SimpleNamespace(flat=devices))

    def seconds(kind, group):
        return where.collective_seconds(Collective(kind, 1e9, group, False, 1), mesh)

    network = where.chip.network
    assert seconds("all-reduce", (0, 8)) == pytest.approx(2 * 1e9 / 2 / network)
    assert seconds("all-gather", (0, 8)) == pytest.approx(1e9 / 2 / network)
    # the chips of a slice share what the slice receives
    assert seconds("all-gather", tuple(range(16))) == pytest.approx(1e9 / 2 / (8 * network))
    assert seconds("all-gather", (0, 1)) < 1e9 / network


def test_step_takes_time_of_its_slowest_resource():
    where = Slice.parse("v5e:16x16")
    mesh = torus_mesh((16, 16), {"data": 16, "fsdp": 16, "tensor": 1})
    chip = where.chip
    work = (
        Work(chip.flops, chip.flops, 0.1 * chip.bandwidth, 2, False, cycles=3 * chip.clock),
        Work(0, 0, chip.bandwidth, times=1, asynchronous=False),
        Work(0, 0, 0.5 * chip.bandwidth, times=1, asynchronous=True),
    )
    step = predict(Costs(work, ()), where, mesh)
    assert (step.compute, step.memory) == (2.0, pytest.approx(1.7))
    assert step.seconds == step.chip == pytest.approx(3.0)
    # by the compiler's cycles; operations without them by the roofline
    assert step.compiled_seconds == pytest.approx(2 * 3 + 1)
    assert predict(Costs(work[1:], ()), where, mesh).compiled is None
    waits = Collective("all-gather", 2 * chip.link, tuple(range(16)), False, 1)
    hides = dataclasses.replace(waits, asynchronous=True)
    assert predict(Costs(work, (waits, hides)), where, mesh).seconds == pytest.approx(
        3.94, rel=1e-3
    )
