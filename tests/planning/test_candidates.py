import dataclasses
from unittest.mock import Mock

import fake_terminal
import jax
import pytest
from method_inputs import change

from data_pipelines.errors import UserError
from xkd_jax.config.length import Length
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.planning import command, targets
from xkd_jax.planning.candidates import flags, meshes, ranked, rate, search, what_would_fit
from xkd_jax.planning.chips import GIB
from xkd_jax.planning.costs import Costs
from xkd_jax.planning.plan import Memory, Plan
from xkd_jax.planning.roofline import Compiled, Step
from xkd_jax.planning.slices import Slice

WHERE = Slice.parse("v5e:2x4")


@pytest.fixture
def config(small):
    """A batch of 32 on 8 chips."""
    return dataclasses.replace(change(small, data={"records": 100}), batch_size=32)


def planner(gib):
    """Returns a planner with simple rules in place of the compiler."""

    def make(config, where):
        if config.mesh.tensor == 2 and config.mesh.fsdp == 2:
            raise UserError("no such mesh.")
        remat = {"none": 1.0, "products": 0.5, "all": 0.25}[config.model.remat]
        peak = gib * GIB * (remat * config.batch_size / 32 + 0.1 / config.mesh.fsdp)
        seconds = config.batch_size / 32 + 0.1 * (1 - remat) + 0.01 * config.mesh.tensor
        fits = peak <= where.chip.hbm * GIB
        mesh = mesh_lib.make_mesh(config.mesh, jax.devices())
        return Plan(
            config, where, mesh, Length(10, 5), Memory(0, 0, 0, 0, peak), 1e9,
            compiles=fits,
            costs=Costs((), ()) if fits else None,
            step=Step(seconds, 0, seconds, 0, 0) if fits else None,
        )  # fmt: skip

    return make


@pytest.mark.parametrize(
    "gib,change_,tries",
    [
        (20, "remat=products", 1),
        (40, "remat=all", 2),
        (50, "fsdp=8", 3),
        (100, "batch_size=16", 4),
        (200, "batch_size=8", 5),
    ],
)
def test_what_would_fit_stops_at_first_change_that_fits(config, gib, change_, tries):
    make = planner(gib)
    config = dataclasses.replace(config, mesh=MeshConfig(-1, 1, 1))
    lines = list(what_would_fit(make(config, WHERE), make))
    assert len(lines) == tries
    assert all(line.startswith("too large") for line in lines[:-1])
    assert lines[-1].startswith("would fit")
    assert change_ in lines[-1]


def test_model_that_never_fits_is_reported(config):
    make = planner(10_000)
    lines = list(what_would_fit(make(config, WHERE), make))
    assert "take more or larger ones" in lines[-1]


def test_search_ranks_fitting_plans_by_clips_per_second(config):
    found = list(search(config, WHERE, planner(14)))
    plans = [f for f in found if isinstance(f, Plan)]
    assert any("no such mesh" in f for f in found if isinstance(f, str))
    assert len({p.config for p in plans}) == len(plans)
    assert {p.config.model.remat for p in plans} == {"none", "products", "all"}
    assert {p.config.batch_size for p in plans} == {16, 32, 64}
    split = {p.config.mesh.fsdp for p in plans if p.config.mesh.optimizer == "split"}
    assert split == {1}
    header, first, *rest = ranked(plans)
    assert "clips/s" in header
    best = max((p for p in plans if p.fits), key=rate)
    assert flags(best.config) in first
    places = [line.split()[0] for line in rest]
    ranks = [place for place in places if place != "-"]
    assert places == [str(2 + i) for i in range(len(ranks))] + ["-"] * (len(places) - len(ranks))


def test_search_prefers_the_compilers_cycles_to_the_roofline(config):
    """Divided parameters are gathered fast, but multiplied slowly."""

    def make(config, where):
        plan = planner(14)(config, where)
        if plan.step is None:
            return plan
        cycles = Compiled(operations=config.mesh.fsdp * plan.step.chip, kernels=0.0, rest=0.0)
        return dataclasses.replace(plan, step=dataclasses.replace(plan.step, compiled=cycles))

    plans = [p for p in search(config, WHERE, make) if isinstance(p, Plan) and p.fits]
    best = max(plans, key=rate)
    assert best.config.mesh.fsdp == 1
    assert next(line for line in ranked(plans) if line.split()[0] == "1").endswith(
        flags(best.config)
    )


@pytest.mark.parametrize("where,sizes", [
    ("v5e:2x4", {1, 2, 4, 8}),
    ("v5e:2x4,slices=2", {1, 2, 4, 8}),
    ("h100:4", {1, 2, 4}),
    ("h100:2x8", {1, 8, 16}),
])  # fmt: skip
def test_meshes_split_parameters_over_devices_that_are_close(config, where, sizes):
    found = meshes(config, targets.parse(where))
    assert {c.mesh.fsdp for c in found} <= sizes
    assert max(c.mesh.fsdp for c in meshes(config, targets.parse(where))) == max(sizes)


@pytest.mark.parametrize("axes", [(8, 1, 1), (1, -1, 1), (1, 4, -1)])
def test_what_would_fit_prints_flags_that_replace_mesh(config, axes):
    make = planner(40)
    config = dataclasses.replace(config, mesh=MeshConfig(*axes))
    tried, found = what_would_fit(make(config, WHERE), make)
    assert tried.startswith("too large --config.mesh.data=-1 --config.mesh.fsdp=")
    assert found.startswith("would fit --config.mesh.data=-1 ")


def test_search_without_plan_is_refused(config, monkeypatch, capsys):
    refuse = Mock(side_effect=UserError("no such mesh."))
    monkeypatch.setattr(command, "search", lambda c, w: search(c, w, refuse))
    with pytest.raises(UserError, match="No mesh or batch fits, for the reasons above"):
        command.plan(config, "search:v5e:2x4", [])
    assert "no such mesh" in capsys.readouterr().out


@pytest.mark.parametrize("memory,request_,following", [
    (1, "v5e:2x4", "next      ./launch_tpu.sh run --name=NAME --zone=ZONE --type=v5litepod-8 --"
     " --config=configs/k400.py '--config.data.dir=a b'"),
    (20, "v5e:2x4", "next      the same with the flags that would fit, or on other devices"),
    (14, "search:v5e:2x4", "next      the same with --plan=v5e:2x4 and the flags of rank 1"),
    (1, "h100:8", "next      python main.py --config=configs/k400.py '--config.data.dir=a b'"),
    (14, "search:h100:8", "next      the same with --plan=h100:8 and the flags of rank 1"),
])  # fmt: skip
def test_on_a_terminal_a_plan_prints_the_next_command(
    config, monkeypatch, memory, request_, following
):
    out, make = fake_terminal.use(monkeypatch), planner(memory)
    monkeypatch.setattr(command, "search", lambda c, w: search(c, w, make))
    monkeypatch.setattr(command, "make_plan", make)
    monkeypatch.setattr(command, "what_would_fit", lambda p: what_would_fit(p, make))
    command.plan(config, request_, ["--config=configs/k400.py", "--config.data.dir=a b"])
    *_, verdict, last = out.screen()
    assert verdict.startswith("fits: ")
    assert last == following
    where = request_.removeprefix("search:")
    assert any(text.startswith(f"compiling for {where} ... 00:0") for text in out.in_place())


def test_command_prints_table_and_ends_with_verdict(config, monkeypatch, capsys):
    monkeypatch.setattr(command, "search", lambda c, w: search(c, w, planner(14)))
    command.plan(config, "search:v5e:2x4", [])
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("tried") for line in lines) >= 6
    assert lines[-1].startswith("fits: yes")


def test_command_prints_what_would_fit_before_verdict(config, monkeypatch, capsys):
    make = planner(20)
    monkeypatch.setattr(command, "make_plan", make)
    monkeypatch.setattr(command, "what_would_fit", lambda p: what_would_fit(p, make))
    command.plan(config, "v5e:2x4", ["--config=configs/k400.py", "--config.data.dir=a b"])
    *_, remedy, last = capsys.readouterr().out.splitlines()
    assert remedy.startswith("would fit --config.mesh.data=-1 --config.mesh.fsdp")
    assert last.startswith("fits: no, peak 22.00 of 15.75 GiB")
