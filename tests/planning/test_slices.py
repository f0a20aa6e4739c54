import pytest

from data_pipelines.errors import UserError
from xkd_jax.config.pretraining import MeshConfig
from xkd_jax.parallel import mesh as mesh_lib
from xkd_jax.planning import targets
from xkd_jax.planning.slices import CHIPS, Slice


@pytest.mark.parametrize(
    "text,sentence",
    [
        ("v9:4x4", "v9:4x4 names no known TPU or GPU: give one of v4, v5e"),
        ("v5e", "has 2 dimensions"),
        ("v5e:4x4x4", "has 2 dimensions"),
        ("v5p:16x16", "has 3 dimensions: give one, for example v5p:4x4x4"),
        ("v5e:0x4", "has 2 dimensions"),
        ("v5e:4x4,slices=0", "v5e:4x4,slices=2 for two slices"),
        ("v4:4x4x4,slices=2", "network between slices of v4 is not known"),
    ],
)
def test_unknown_slice_is_refused(text, sentence):
    with pytest.raises(UserError, match=sentence):
        targets.parse(text)


@pytest.mark.parametrize(
    "text,chips,hosts,rings",
    [
        ("v5e:16x16", 256, 64, (True, True)),
        ("v5e:8x16", 128, 32, (False, True)),
        ("v6e:2x2", 4, 1, (False, False)),
        ("v5p:4x4x8", 128, 32, (True, True, True)),
        ("v4:2x2x1", 4, 1, (False, False, False)),
        ("v5e:16x16,slices=2", 512, 128, (True, True)),
    ],
)
def test_slice_has_chips_hosts_and_rings(text, chips, hosts, rings):
    found = Slice.parse(text)
    assert (found.chips, found.hosts) == (chips, hosts)
    assert tuple(found.is_ring(d) for d in range(len(found.shape))) == rings
    assert str(found) == text


@pytest.mark.parametrize("text,name", [
    ("v5e:16x16", "v5litepod-256"), ("v6e:2x4", "v6e-8"), ("v4:2x2x2", "v4-16"),
    ("v5p:2x2x1", "v5p-8"),
])  # fmt: skip
def test_accelerator_types_are_those_of_google_cloud(text, name):
    assert Slice.parse(text).accelerator_type == name


def test_slices_smaller_than_a_host_are_compiled_for():
    pytest.importorskip("libtpu")
    assert [len(Slice.parse(text).devices()) for text in ("v5e:1x1", "v6e:1x1")] == [1, 1]


def test_next_command_requests_all_slices():
    assert Slice.parse("v5e:2x4").launch(["--a=b c"]).endswith("--type=v5litepod-8 -- '--a=b c'")
    several = Slice.parse("v5e:2x4,slices=2").launch(["--a=b"])
    assert several.endswith("--type=v5litepod-8 --slices=2 -- --a=b")


def test_chip_rates_are_plausible():
    for chip in CHIPS.values():
        # products of whole tiles take the peak: operations a cycle are a multiple of 2 * 128 * 128
        assert chip.flops / chip.clock / (2 * 128**2) == pytest.approx(
            round(chip.flops / chip.clock / (2 * 128**2)), rel=0.01
        )
        # operations per byte of memory traffic: between 160 and 600 on all of them
        assert 160 < chip.flops / chip.bandwidth < 600
        assert 10e9 < chip.link < chip.bandwidth


def test_slices_of_one_run_differ_along_data_axis_only():
    pytest.importorskip("libtpu")
    devices = Slice.parse("v5e:2x4,slices=2").devices()
    mesh = mesh_lib.make_mesh(MeshConfig(-1, 2, 2), devices)
    assert mesh.devices.shape == (4, 2, 2)
    assert [{d.slice_index for d in part.flat} for part in mesh.devices] == [{0}, {0}, {1}, {1}]
    with pytest.raises(UserError, match="data is 1 on 2 TPU slices"):
        mesh_lib.make_mesh(MeshConfig(1, 16, 1), devices)
