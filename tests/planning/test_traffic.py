"""Memory traffic of programs with known bytes."""

import pytest

from xkd_jax.planning.costs import Costs
from xkd_jax.planning.hlo_text.arrays import UnknownTextError


def read(text, platform="tpu"):
    return Costs.of(text, platform, {})


NESTED = """HloModule step, is_scheduled=true

%innermost (w: f32[12,8,8], kept: f32[12,4,8], i: s32[]) -> f32[12,4,8] {
  %w = f32[12,8,8]{2,1,0} parameter(0)
  %kept = f32[12,4,8]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %layer = f32[1,8,8]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,8,8}
  %some = f32[1,4,8]{2,1,0} slice(%layer), slice={[0:1], [0:4], [0:8]}
  ROOT %update = f32[12,4,8]{2,1,0} dynamic-update-slice(%kept, %some, %i, %zero, %zero)
}

%outer (w: f32[12,8,8], kept: f32[12,4,8], i: s32[]) -> f32[12,4,8] {
  %w = f32[12,8,8]{2,1,0} parameter(0)
  %kept = f32[12,4,8]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = f32[12,4,8]{2,1,0} fusion(%w, %kept, %i), kind=kLoop, calls=%innermost
}

ENTRY %main (w: f32[12,8,8], kept: f32[12,4,8], i: s32[]) -> f32[12,4,8] {
  %w = f32[12,8,8]{2,1,0} parameter(0)
  %kept = f32[12,4,8]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = f32[12,4,8]{2,1,0} fusion(%w, %kept, %i), kind=kLoop, calls=%outer
}
"""

STARTED = """HloModule step, is_scheduled=true

%sliced (w: f32[12,8,8], i: s32[]) -> f32[1,8,8] {
  %w = f32[12,8,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %layer = f32[1,8,8]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,8,8}
}

ENTRY %main (w: f32[12,8,8], i: s32[]) -> f32[1,8,8] {
  %w = f32[12,8,8]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %start = ((f32[12,8,8]{2,1,0}, s32[]), f32[1,8,8]{2,1,0}, u32[]) fusion-start(%w, %i), \
kind=kLoop, calls=%sliced
  ROOT %done = f32[1,8,8]{2,1,0} fusion-done(%start)
}
"""

# As compiled for a v6e, whose SparseCore gathers.
OFFLOADED = """HloModule step, is_scheduled=true

%gathered (x: f32[64,128], i: s32[8]) -> f32[8,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i = s32[8]{0:T(1024)} parameter(1)
  ROOT %rows = f32[8,128]{1,0:T(8,128)} gather(%x, %i), offset_dims={1}, \
backend_config={"window_config":{"estimated_cycles":"9223372036854775807"}}
}

ENTRY %main (x: f32[64,128], i: s32[8]) -> f32[8,128] {
  %x = f32[64,128]{1,0:T(8,128)} parameter(0)
  %i = s32[8]{0:T(1024)} parameter(1)
  %start = ((f32[64,128]{1,0:T(8,128)}, s32[8]{0:T(1024)}), f32[8,128]{1,0:T(8,128)}, \
u32[]{:S(8)}) call-start(%x, %i), async_execution_thread="sparsecore", to_apply=%gathered
  %later = ((f32[64,128]{1,0:T(8,128)}, s32[8]{0:T(1024)}), f32[8,128]{1,0:T(8,128)}) \
call-update(%start, %x, %i)
  ROOT %done = f32[8,128]{1,0:T(8,128)} call-done(%later)
}
"""

KERNEL = """HloModule step, is_scheduled=true

ENTRY %main (x: bf16[4,8]) -> bf16[4,8] {
  %x = bf16[4,8]{1,0} parameter(0)
  %room = bf16[4,8]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  ROOT %y = bf16[4,8]{1,0} custom-call(%x), custom_call_target="tpu_custom_call", \
backend_config={"custom_call_config":{"cost_estimate":{"flops":"640","transcendentals":"9","bytes_accessed":"128"}}}
}
"""


def test_fusions_within_fusions_move_only_slices():
    layer, kept, index = 4 * 8 * 8, 4 * 4 * 8, 4
    assert read(NESTED).bytes == layer + kept + index


def test_an_asynchronous_fusion_counts_once_and_by_its_slices():
    layer, index = 4 * 8 * 8, 4
    assert read(STARTED).bytes == layer + index + layer


def test_a_call_on_a_sparse_core_counts_once_beside_others_without_cycles():
    (gather,) = read(OFFLOADED).work
    assert gather.bytes == 4 * (64 * 128 + 1024 + 8 * 128)
    assert (gather.times, gather.asynchronous, gather.cycles) == (1, True, None)


def test_kernel_counts_by_its_estimate_and_reserved_memory_does_not_count():
    found = read(KERNEL)
    assert found.flops == 640
    assert found.bytes == 2 * 2 * 4 * 8


COPIES = """HloModule step, is_scheduled=true

ENTRY %main (x: f32[100,200]) -> f32[100,200] {
  %x = f32[100,200]{1,0:T(8,128)} parameter(0)
  %start = (f32[100,200]{1,0:T(8,128)S(1)}, f32[100,200]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x)
  %near = f32[100,200]{1,0:T(8,128)S(1)} copy-done(%start)
  %y = f32[100,200]{1,0:T(8,128)S(1)} negate(%near)
  ROOT %far = f32[100,200]{1,0:T(8,128)} copy(%y)
}
"""


def test_arrays_on_the_chip_have_no_traffic_and_tiles_are_whole():
    """A copy from main memory reads it once, and one to it writes it once."""
    tiles = 4 * 104 * 256
    found = read(COPIES)
    assert found.bytes == 2 * tiles
    assert [(w.bytes, w.asynchronous) for w in found.work] == [(tiles, True), (tiles, False)]


def test_an_operation_of_a_newer_xla_is_refused():
    with pytest.raises(UnknownTextError, match="the operation teleport"):
        read(COPIES.replace("negate(", "teleport("))


# As compiled for a v5e: a product beside which an all-gather proceeds, which begins and ends in
# operations of its own.
BESIDE = """HloModule step, is_scheduled=true

%begin (part: f32[2,256]) -> (f32[2,256], f32[32,256], u32[]) {
  %part = f32[2,256]{1,0:T(8,128)} parameter(0)
  %whole = f32[32,256]{1,0:T(8,128)} all-gather(%part), channel_id=1, replica_groups={{0,1}}, \
dimensions={0}, frontend_attributes={chain_id="1"}
  ROOT %started = (f32[2,256]{1,0:T(8,128)}, f32[32,256]{1,0:T(8,128)}, u32[]{:S(2)}) \
custom-call(%whole), custom_call_target="AsyncCollectiveStart"
}

%proceed (part: f32[2,256], whole: f32[32,256], flag: u32[], x: f32[8,128], y: f32[128,128]) \
-> (f32[8,128], f32[2,256], f32[32,256], f32[32,256], u32[]) {
  %x = f32[8,128]{1,0:T(8,128)} parameter(3)
  %y = f32[128,128]{1,0:T(8,128)} parameter(4)
  %product = f32[8,128]{1,0:T(8,128)} convolution(%x, %y), dim_labels=bf_io->bf
  %part = f32[2,256]{1,0:T(8,128)} parameter(0)
  %whole = f32[32,256]{1,0:T(8,128)} parameter(1)
  %more = f32[32,256]{1,0:T(8,128)} all-gather(%part), channel_id=1, replica_groups={{0,1}}, \
dimensions={0}, frontend_attributes={chain_id="1"}
  %flag = u32[]{:S(2)} parameter(2)
  ROOT %all = (f32[8,128]{1,0:T(8,128)}, f32[2,256]{1,0:T(8,128)}, f32[32,256]{1,0:T(8,128)}, \
f32[32,256]{1,0:T(8,128)}, u32[]{:S(2)}) tuple(%product, %part, %whole, %more, %flag)
}

%end (part: f32[2,256], whole: f32[32,256], flag: u32[]) -> f32[32,256] {
  %part = f32[2,256]{1,0:T(8,128)} parameter(0)
  %whole = f32[32,256]{1,0:T(8,128)} parameter(1)
  %last = f32[32,256]{1,0:T(8,128)} all-gather(%part), channel_id=1, replica_groups={{0,1}}, \
dimensions={0}, frontend_attributes={chain_id="1"}
  %flag = u32[]{:S(2)} parameter(2)
  ROOT %done = f32[32,256]{1,0:T(8,128)} custom-call(%part, %whole, %last, %flag), \
custom_call_target="AsyncCollectiveDone"
}

ENTRY %main (part: f32[2,256], x: f32[8,128], y: f32[128,128]) -> (f32[8,128], f32[32,256]) {
  %part = f32[2,256]{1,0:T(8,128)} parameter(0)
  %x = f32[8,128]{1,0:T(8,128)} parameter(1)
  %y = f32[128,128]{1,0:T(8,128)} parameter(2)
  %start = (f32[2,256]{1,0:T(8,128)}, f32[32,256]{1,0:T(8,128)}, u32[]{:S(2)}) fusion(%part), \
kind=kCustom, output_to_operand_aliasing={{0}: (0, {})}, calls=%begin
  %own = f32[2,256]{1,0:T(8,128)} get-tuple-element(%start), index=0
  %room = f32[32,256]{1,0:T(8,128)} get-tuple-element(%start), index=1
  %flag = u32[]{:S(2)} get-tuple-element(%start), index=2
  %both = (f32[8,128]{1,0:T(8,128)}, f32[2,256]{1,0:T(8,128)}, f32[32,256]{1,0:T(8,128)}, \
f32[32,256]{1,0:T(8,128)}, u32[]{:S(2)}) fusion(%own, %room, %flag, %x, %y), kind=kOutput, \
output_to_operand_aliasing={{1}: (0, {}), {2}: (1, {}), {3}: (1, {}), {4}: (2, {})}, calls=%proceed
  %z = f32[8,128]{1,0:T(8,128)} get-tuple-element(%both), index=0
  %own2 = f32[2,256]{1,0:T(8,128)} get-tuple-element(%both), index=1
  %room2 = f32[32,256]{1,0:T(8,128)} get-tuple-element(%both), index=2
  %flag2 = u32[]{:S(2)} get-tuple-element(%both), index=4
  %gathered = f32[32,256]{1,0:T(8,128)} fusion(%own2, %room2, %flag2), kind=kCustom, \
output_to_operand_aliasing={{}: (1, {})}, calls=%end
  ROOT %out = (f32[8,128]{1,0:T(8,128)}, f32[32,256]{1,0:T(8,128)}) tuple(%z, %gathered)
}
"""


def test_beside_a_collective_an_operation_moves_only_its_own_arrays():
    """The collective's buffers pass through it; their bytes count at the links, once."""
    found = read(BESIDE)
    assert found.bytes == 4 * (8 * 128 + 128 * 128 + 8 * 128)
    assert found.flops == 2 * 8 * 128 * 128
    (collective,) = found.collectives
    assert (collective.kind, collective.bytes, collective.asynchronous) == (
        "all-gather", 4 * 32 * 256, True,
    )  # fmt: skip


LIBRARY = """HloModule step, is_scheduled=true

%product (w: bf16[4,64,32], x: bf16[16,64], i: s32[]) -> ((bf16[16,32], s8[4096]), bf16[16,64]) {
  %w = bf16[4,64,32]{2,1,0} parameter(0)
  %x = bf16[16,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  %layer = bf16[1,64,32]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,64,32}
  %flat = bf16[64,32]{1,0} bitcast(%layer)
  %call = (bf16[16,32]{1,0}, s8[4096]{0}) custom-call(%x, %flat), \
custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":{\
"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %y = bf16[16,64]{1,0} negate(%x)
  ROOT %both = ((bf16[16,32]{1,0}, s8[4096]{0}), bf16[16,64]{1,0}) tuple(%call, %y)
}

ENTRY %main (w: bf16[4,64,32], x: bf16[16,64], i: s32[]) -> ((bf16[16,32], s8[4096]), bf16[16,64]) {
  %w = bf16[4,64,32]{2,1,0} parameter(0)
  %x = bf16[16,64]{1,0} parameter(1)
  %i = s32[] parameter(2)
  ROOT %f = ((bf16[16,32]{1,0}, s8[4096]{0}), bf16[16,64]{1,0}) fusion(%w, %x, %i), \
kind=kCustom, calls=%product
}
"""


def test_a_library_call_in_a_fusion_reads_slices_and_its_scratch_does_not_count():
    layer, rows, index = 2 * 64 * 32, 2 * 16 * 64, 4
    found = read(LIBRARY, "gpu")
    assert found.flops == 2 * 16 * 32 * 64
    assert found.bytes == layer + rows + index + 2 * 16 * 32 + rows
    assert not found.unknown


@pytest.mark.parametrize("old,new", [
    ("calls=%product", "calls=%elsewhere"),
    ("fusion(%w, %x, %i)", "fusion(%w, %x, %i, %w)"),
    ('_dimensions":["1"]', '_dimensions":["7"]'),
])  # fmt: skip
def test_inconsistent_text_is_refused(old, new):
    with pytest.raises(UnknownTextError):
        read(LIBRARY.replace(old, new), "gpu")
