"""Notations of XLA's text, and refusal of all others."""

import pytest

from xkd_jax.planning.hlo_text.arrays import UnknownTextError, arrays
from xkd_jax.planning.hlo_text.exhausted import missing_memory
from xkd_jax.planning.hlo_text.groups import between_slices, first_group
from xkd_jax.planning.hlo_text.operation import Operation
from xkd_jax.planning.hlo_text.program import Module


@pytest.mark.parametrize("text,elements", [
    ("f32[100,200]{1,0:T(8,128)}", 104 * 256),
    ("f32[100,200]{0,1:T(8,128)}", 200 * 128),
    ("bf16[3,9,130]{2,1,0:T(8,128)(2,1)}", 3 * 16 * 256),
    ("bf16[3,9,130]{2,1,0:T(4,128)(2,1)S(1)}", 3 * 12 * 256),
    ("bf16[9]{0:T(256)}", 256),
    ("s32[]{:T(128)}", 128),
    ("f32[5]{0:T(2,128)}", 2 * 128),
    ("f32[3,5]{1,0}", 15),
    ("f32[3,5]", 15),
])  # fmt: skip
def test_bytes_include_padding_of_tiles(text, elements):
    (found,) = arrays(text, "tpu")
    assert found.bytes == elements * {"f32": 4, "s32": 4, "bf16": 2}[found.dtype]


def test_memory_on_a_tpu_is_main_memory_on_a_gpu():
    text = "(f32[8]{0:S(1)}, f32[8]{0}, token[])"
    assert [a.fast for a in arrays(text, "tpu")] == [True, False, False]
    assert [a.fast for a in arrays(text, "gpu")] == [False, False, False]


@pytest.mark.parametrize("text,platform,part", [
    ("f4e2m1fn[8]{0}", "gpu", "the array f4e2m1fn"),
    ("f32[<=8]{0}", "tpu", "the array f32"),
    ("f32[8]{0:S(5)}", "tpu", r"the memory S\(5\)"),
    ("f32[8]{0:S(2)}", "gpu", r"the memory S\(2\)"),
    ("f32[8,8]{1,0:T(*,128)}", "tpu", "the tiles"),
])  # fmt: skip
def test_unknown_arrays_are_refused(text, platform, part):
    with pytest.raises(UnknownTextError, match=part):
        list(arrays(text, platform))


@pytest.mark.parametrize(
    "text,group",
    [
        ("replica_groups={{0,1},{2,3}}, x", (0, 1)),
        ("replica_groups=[2,4]<=[8]", (0, 1, 2, 3)),
        ("replica_groups=[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("replica_groups=mesh['data'=2,'fsdp'=4,'tensor'=1] {'fsdp'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['data'=2,'fsdp'=4] {'data'}", (0, 4)),
        ("replica_groups=mesh['data'=2,'fsdp'=2] {'data','fsdp'}", (0, 1, 2, 3)),
        ("replica_groups=mesh['a'=2,'b'=4], device_ids=([4,2]T(1,0)) {'b'}, x", (0, 2, 4, 6)),
        ("source_target_pairs={{0,2},{2,0}}", (0, 2)),
    ],
)
def test_device_groups_in_each_notation(text, group):
    assert first_group(text) == group


def test_unknown_device_groups_are_refused():
    with pytest.raises(UnknownTextError, match="devices of a collective"):
        first_group("replica_groups=everyone")


@pytest.mark.parametrize("target,group", [
    ("{1,2}x{0:7}", (0, 8)), ("{1:4}x{0:3}", (0, 4, 8, 12)), ("{1}x{0}", (0,)),
])  # fmt: skip
def test_transfers_between_slices_have_one_device_of_each(target, group):
    text = (
        f'_xla_megascale_target="{target}",_xla_megascale_transfer_type="ALL_REDUCE",'
        'is_spmd_generated="true"'
    )
    assert between_slices(text) == ("all-reduce", group)
    assert between_slices("is_host_transfer=true") is None
    with pytest.raises(UnknownTextError, match="between slices"):
        between_slices(text.replace("_type", "_form"))


@pytest.mark.parametrize("line,outputs", [
    ("%a = (f32[2]{0}, f32[2]{0:S(1)}, u32[]) copy-start(%x)", [(2,)]),
    ("%a = ((f32[8]{0}, s32[]), f32[2]{0}, u32[]) fusion-start(%x, %i), calls=%f", [(2,)]),
    ("%a = ((f32[8]{0}), (f32[2]{0}, f32[3]{0}), u32[]) fusion-start(%x), calls=%f", [(2,), (3,)]),
    ("%a = ((f32[2]{0}), f32[8]{0}) all-gather-start(%x), dimensions={0}", [(8,)]),
    ("%a = f32[2]{0} all-reduce-start(%x), to_apply=%add", [(2,)]),
    ("%a = ((f32[2]{0}), f32[2]{0}) all-reduce-start(%x), to_apply=%add", [(2,)]),
    ("%a = (f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(%x)", [(2,)]),
    ("%a = (f32[2]{0}, f32[3]{0}) fusion(%x), calls=%f", [(2,), (3,)]),
])  # fmt: skip
def test_outputs_of_asynchronous_operations_are_not_their_operands(line, outputs):
    assert [a.shape for a in Operation.parse(line, "gpu").outputs] == outputs


def test_attributes_that_the_compiler_writes_in_another_way_are_refused():
    def parsed(attributes):
        return Operation.parse(f"%a = f32[2]{{0}} custom-call(%x), {attributes}", "tpu")

    costs = '"cost_estimate":{"flops":"640","transcendentals":"9","bytes_accessed":"128"'
    assert parsed(costs).estimated_flops == 640
    assert parsed('frontend_attributes={flops="640"}').estimated_flops == 640
    assert parsed('"window_config":{"estimated_cycles":"2036"}').cycles == 2036
    assert parsed("").cycles is parsed("").estimated_flops is None
    with pytest.raises(UnknownTextError, match="cost estimate of a"):
        _ = parsed(costs.replace('"640"', "{}")).estimated_flops
    with pytest.raises(UnknownTextError, match="cycles of a"):
        _ = parsed('"window_config":{"estimated_cycles":2036}').cycles
    with pytest.raises(UnknownTextError, match="custom_call_target"):
        _ = parsed("").target


@pytest.mark.parametrize("text,part", [
    ("", "without ENTRY"),
    ("ENTRY %main (x: f32[2]) -> f32[2] {\n  %x = f32[2]{0} parameter(0)\n  what is this\n}",
     "the line 'what is this'"),
])  # fmt: skip
def test_programs_that_cannot_be_read_are_refused(text, part):
    with pytest.raises(UnknownTextError, match=part):
        Module.parse(text, "cpu")


def test_missing_memory_is_that_of_the_message():
    message = "total memory required for HLO temporaries (90.50G) exceeds available HBM (15.75G)."
    assert missing_memory(message) == 90.5 * 2**30
    assert missing_memory("INTERNAL: something else") is None
