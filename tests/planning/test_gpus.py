import importlib.util
from types import SimpleNamespace

import pytest

from data_pipelines.errors import UserError
from xkd_jax.planning import targets
from xkd_jax.planning.costs import Collective
from xkd_jax.planning.gpus import GPUS, Gpus


@pytest.mark.parametrize("text,gpus,hosts,cores", [
    ("h100:8", 8, 1, 208), ("h100:1", 1, 1, 26), ("h200:4x8", 32, 4, 224), ("a100:2x4", 8, 2, 48),
])  # fmt: skip
def test_request_names_hosts_and_gpus(text, gpus, hosts, cores):
    found = targets.parse(text)
    assert (found.chips, found.hosts, found.host_cores) == (gpus, hosts, cores)
    assert str(found) == text


@pytest.mark.parametrize("text", [
    "h100", "h100:0", "h100:16", "h100:2x16", "h100:4x4x4", "a100:x8"
])  # fmt: skip
def test_invalid_requests_are_refused(text):
    with pytest.raises(UserError, match=r"give one, for example .100:8, or .100:4x8 for four"):
        targets.parse(text)


@pytest.mark.parametrize("devices,package", [
    ("h100:8", r"pip install -e '\.\[plan-gpu\]'"), ("v5e:2x2", "libtpu, which"),
])  # fmt: skip
def test_plan_without_compiler_names_its_installation(monkeypatch, devices, package):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=package):
        targets.parse(devices).devices()


def test_rates_are_plausible():
    for gpu in GPUS.values():
        assert 150 < gpu.flops / gpu.bandwidth < 600
        assert gpu.network < gpu.link < gpu.bandwidth
        assert gpu.passes["default"] == pytest.approx(2)
        assert gpu.passes["highest"] > gpu.passes["high"]
        # what JAX allocates is three quarters of the memory
        assert gpu.hbm * 2**30 == 0.75 * gpu.memory


def test_next_command_is_for_one_host_or_each():
    assert Gpus.parse("h100:8").launch(["--a=b c"]) == "python main.py '--a=b c'"
    assert "on each host" in Gpus.parse("h100:2x8").launch([])


def test_collectives_take_nvlink_in_a_host_and_the_network_between_hosts():
    where = Gpus.parse("h100:2x8")
    devices = [SimpleNamespace(process_index=i // 8) for i in range(16)]
    mesh = SimpleNamespace(devices=SimpleNamespace(flat=devices))
    link, network = where.chip.link, where.chip.network

    def seconds(kind, group):
        return where.collective_seconds(Collective(kind, 1e9, tuple(group), False, 1), mesh)

    host, pair, everyone = range(8), (0, 8), range(16)
    assert seconds("all-gather", host) == pytest.approx(1e9 * 7 / 8 / link)
    assert seconds("all-reduce", host) == pytest.approx(2 * 1e9 * 7 / 8 / link)
    assert seconds("all-reduce", pair) == pytest.approx(1e9 / network)
    # a host receives the other half with eight cards
    assert seconds("all-gather", everyone) == pytest.approx(
        max(1e9 * 7 / 8 / link, 0.5e9 / (8 * network))
    )
    assert seconds("all-to-all", everyone) == pytest.approx(0.5e9 / network)
    assert seconds("all-to-all", host) == pytest.approx(1e9 * 7 / 8 / link)
    assert seconds("collective-permute", (0, 1)) == pytest.approx(1e9 / link)
    assert seconds("collective-permute", pair) == pytest.approx(1e9 / network)
