"""Cycles of kernels, from listings of their instructions."""

import pytest

from xkd_jax.planning.hlo_text import bundles
from xkd_jax.planning.hlo_text.arrays import UnknownTextError

# Two bundles, a pipelined loop of 6 iterations for 4 steps, and one of 24 in a step. The last
# bundles of a loop come after the branch to its beginning, which counts as outside of it.
LISTING = """= control target key start
LB: loop body
= control target key end

     0   :  { %s2256_s6 = smov 0 }
   0x1 LB: > { %p99_p0 = scmp.ge.s32.totalorder %s22_s6, 1  ;;  %p88_p1 = scmp.lt.s32.totalorder \
%s22_s6, 5  ;;  %s22_s6 = sphi %s2256_s6, %s11_s6 }
   0x2   : > { %p89_p2 = pnand %p99_p0, %p88_p1 } /* End region 21 */
   0x3   : > { %92 = sbr.rel (%p89_p2) target = $region24 }
   0x4   :  {} /* End region 22 */
   0x5   : > { %16204 = dma.general (%p16205_p1), /*src=*/%s78_s28 /*
base_bounds: (16, 144, 4)
strides: (2, 48, 4)
*/ }
   0x6 LB: >> { %s22_s17 = sphi %s2274_s17, %s130_s17 }
   0x7   : >> { %p127_p8 = scmp.ge.s32.totalorder %s130_s17, 24 /* loop exit test */ }
   0x8   : > { %129 = sbr.rel (!%p127_p8) target = $region69 }
   0x9   : >> { %v3915_v31 = vpack.c.f32.bf16 %v3869_v50, %v3869_v50 }
   0xa   :  {}
   0xb PF: > { %s11_s6 = sadd.s32 1, %s22_s6 }
   0xc   : > { %p8_p9 = scmp.ge.s32.totalorder %s11_s6, 6 /* loop exit test */ }
   0xd   :  { %10 = sbr.rel (!%p8_p9) target = $region80 }
"""


def test_loops_count_their_iterations_and_skipped_regions_only_those_that_run():
    outside, every_iteration, steps, inner = 2, 5, 3, 4
    assert bundles.cycles(LISTING) == outside + 6 * every_iteration + 4 * (steps + 24 * inner)


def test_exit_test_under_a_condition_counts_the_same():
    under = LISTING.replace("totalorder %s130_s17", "totalorder (!%p2_p4), %s130_s17")
    assert bundles.cycles(under) == bundles.cycles(LISTING)


def test_region_of_an_unknown_predicate_counts_in_every_iteration():
    unknown = LISTING.replace("pnand %p99_p0, %p88_p1", "por %p99_p0, %p88_p1")
    assert bundles.cycles(unknown) == 2 + 6 * (5 + 3 + 24 * 4)


@pytest.mark.parametrize("old,new,part", [
    ("LB: >>", "  : >>", "without a beginning"),
    ("24 /* loop exit test */", "24", "without an exit test"),
    ("0x", "at ", "the line 'at 1 LB: > "),
    (LISTING, "a new format", "without instructions"),
])  # fmt: skip
def test_unknown_listings_are_refused(old, new, part):
    with pytest.raises(UnknownTextError, match=part):
        bundles.cycles(LISTING.replace(old, new))
