"""Traffic read from optimised HLO: tiles, loops, fusions, collectives."""

import jax
import jax.numpy as jnp
import pytest

from hvae_jax.runtime.hlo import array_bytes, traffic

LOOP = """HloModule jit_f, is_scheduled=true, input_output_alias={ {0}: (0, {}, may-alias), {1}: (1, {}, may-alias) }

%sliced (param_0: f32[10,8,128], param_1: s32[]) -> f32[8,128] {
  %param_0 = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %param_1 = s32[] parameter(1)
  %zero = s32[] constant(0)
  %slice = f32[1,8,128]{2,1,0:T(8,128)} dynamic-slice(%param_0, %param_1, %zero, %zero), dynamic_slice_sizes={1,8,128}
  ROOT %flat = f32[8,128]{1,0:T(8,128)} bitcast(%slice)
}

%body (arg: (s32[], f32[8,128], f32[10,8,128])) -> (s32[], f32[8,128], f32[10,8,128]) {
  %arg = (s32[], f32[8,128]{1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %h = f32[8,128]{1,0:T(8,128)} get-tuple-element(%arg), index=1
  %stack = f32[10,8,128]{2,1,0:T(8,128)} get-tuple-element(%arg), index=2
  %row = f32[8,128]{1,0:T(8,128)S(1)} fusion(%stack, %i), kind=kLoop, calls=%sliced
  %sum = f32[8,128]{1,0:T(8,128)} all-reduce(%h), channel_id=1, to_apply=%add
  %copy.1 = f32[8,128]{1,0:T(8,128)} copy(%sum)
  ROOT %out = (s32[], f32[8,128]{1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}) tuple(%i, %copy.1, %stack)
}

%condition (arg.1: (s32[], f32[8,128], f32[10,8,128])) -> pred[] {
  %arg.1 = (s32[], f32[8,128]{1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=0
  %end = s32[] constant(10)
  ROOT %less = pred[] compare(%i.1, %end), direction=LT
}

ENTRY %main (h.0: f32[8,128], stack.0: f32[10,8,128]) -> f32[8,128] {
  %h.0 = f32[8,128]{1,0:T(8,128)} parameter(0)
  %stack.0 = f32[10,8,128]{2,1,0:T(8,128)} parameter(1)
  %start = s32[] constant(0)
  %state = (s32[], f32[8,128]{1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}) tuple(%start, %h.0, %stack.0)
  %loop = (s32[], f32[8,128]{1,0:T(8,128)}, f32[10,8,128]{2,1,0}) while(%state), condition=%condition, body=%body
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""
ROW = 4 * 8 * 128

STACKS = """HloModule jit_g, is_scheduled=true

%stored (param_0: f32[10,8,128], param_1: s32[], param_2: f32[8,128], param_3: f32[10,8,128]) -> (f32[8,128], f32[10,8,128], f32[10,8,128]) {
  %param_0 = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %param_1 = s32[] parameter(1)
  %param_2 = f32[8,128]{1,0:T(8,128)} parameter(2)
  %param_3 = f32[10,8,128]{2,1,0:T(8,128)} parameter(3)
  %zero = s32[] constant(0)
  %double = f32[8,128]{1,0:T(8,128)} add(%param_2, %param_2)
  %row = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%double)
  %first = f32[10,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%param_0, %row, %param_1, %zero, %zero)
  %flat = f32[10,1,8,128]{3,2,1,0:T(8,128)} bitcast(%param_3)
  %there = f32[1,1,8,128]{3,2,1,0:T(8,128)} dynamic-slice(%flat, %param_1, %zero, %zero, %zero)
  %again = f32[1,8,128]{2,1,0:T(8,128)} bitcast(%there)
  %second = f32[10,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%param_3, %again, %param_1, %zero, %zero)
  %turned = f32[10,8,128]{2,1,0:T(8,128)} bitcast(%second)
  ROOT %all = (f32[8,128]{1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}) tuple(%double, %first, %turned)
}

ENTRY %main (stack.0: f32[10,8,128], i: s32[], h: f32[8,128], stack.1: f32[10,8,128]) -> f32[8,128] {
  %stack.0 = f32[10,8,128]{2,1,0:T(8,128)} parameter(0)
  %i = s32[] parameter(1)
  %h = f32[8,128]{1,0:T(8,128)} parameter(2)
  %stack.1 = f32[10,8,128]{2,1,0:T(8,128)} parameter(3)
  %made = (f32[8,128]{1,0:T(8,128)S(1)}, f32[10,8,128]{2,1,0:T(8,128)}, f32[10,8,128]{2,1,0:T(8,128)}) fusion(%stack.0, %i, %h, %stack.1), kind=kLoop, calls=%stored
  ROOT %result = f32[8,128]{1,0:T(8,128)} get-tuple-element(%made), index=0
}
"""  # noqa: E501


def test_bytes_of_shapes() -> None:
    assert array_bytes("f32[3,5]{1,0}") == 60
    assert array_bytes("bf16[3,5]{1,0:T(8,128)(2,1)}") == 2 * 8 * 128  # a tile in full
    assert array_bytes("f32[3,5]{0,1:T(8,128)}") == 4 * 8 * 128
    assert array_bytes("(f32[8]{0}, pred[16]{0}, token[])") == 48
    assert array_bytes("f32[64,128]{1,0:T(8,128)S(1)}") == 0  # in the core's memory
    assert array_bytes("s32[]") == 4


def test_a_loop_counts_as_often_as_it_runs() -> None:
    """Of ten turns each reads a row of the stack into the core's memory, reduces h and copies the sum."""
    found = traffic(LOOP)
    assert found.loops == 1 and found.endless == 0 and found.aliased == 2
    assert found.collectives == {"all-reduce": 10} and found.collective_bytes == {"all-reduce": 10.0 * ROW}
    assert found.instructions["copy"] == 10 and found.host_transfers == 0
    index = 10 * 4  # the number of the turn, which the fusion reads
    assert found.bytes == 10 * (ROW + 2 * ROW + 2 * ROW) + index


def test_a_fusion_that_updates_several_arrays() -> None:
    """Of each stack a row is written, of the second a row is read; the first result stays in the core's memory."""
    index, h, written, read = 4, ROW, 2 * ROW, ROW
    assert traffic(STACKS).bytes == index + h + written + read
    assert traffic(STACKS.replace("S(1)", "")).bytes == index + h + written + read + ROW
    # an array that the fusion returns whole is written whole
    whole = STACKS.replace("dynamic-update-slice(%param_0, %row", "add(%param_0, %param_0")
    assert traffic(whole).bytes == index + h + (ROW + 10 * ROW) + (ROW + 10 * ROW)


def test_what_is_taken_into_the_core() -> None:
    """A slice that is fetched beside other work is read once; memory that is only given or renamed moves nothing."""
    fetched = """ENTRY %main (h: f32[64,128]) -> f32[8,128] {
  %h = f32[64,128]{1,0:T(8,128)} parameter(0)
  %room = f32[64,128]{1,0:T(8,128)} custom-call(), custom_call_target="AllocateBuffer"
  %slice-start = ((f32[64,128]{1,0:T(8,128)}), f32[8,128]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%h), slice={[0:8], [0:128]}
  %slice-done = f32[8,128]{1,0:T(8,128)S(1)} slice-done(%slice-start)
  ROOT %copy = f32[8,128]{1,0:T(8,128)} copy(%slice-done)
}
"""  # noqa: E501
    assert traffic(fetched).bytes == ROW + ROW
    assert traffic(fetched.replace("S(1)", "")).bytes == 2 * ROW + 2 * ROW
    assert traffic(fetched).instructions["slice"] == 1


def test_a_loop_without_an_end_counts_once() -> None:
    found = traffic(LOOP.replace("constant(10)", "parameter(1)"))
    assert found.endless == 1 and found.collectives == {"all-reduce": 1}


def test_known_trip_counts() -> None:
    """GPU and CPU programs say it themselves."""
    counted = 'body=%body, backend_config={"known_trip_count":{"n":"7"}}'
    assert traffic(LOOP.replace("body=%body", counted)).collectives == {"all-reduce": 7}


@pytest.mark.slow
def test_a_scan_moves_what_its_written_out_form_does() -> None:
    """XLA's own count takes the body once; this one is nearly that of the program without a loop."""

    def layers(h: jax.Array, w: jax.Array, unroll: int) -> jax.Array:
        return jax.lax.scan(lambda h, w: (jnp.tanh(h @ w), None), h, w, unroll=unroll)[0]

    h, w = jnp.ones((256, 256)), jnp.ones((8, 256, 256))
    rolled, written = (jax.jit(layers, static_argnums=2).lower(h, w, unroll).compile() for unroll in (1, 8))
    ours = [traffic(program.as_text()) for program in (rolled, written)]
    assert ours[0].loops == 1 and ours[1].loops == 0
    assert ours[0].bytes == pytest.approx(ours[1].bytes, rel=0.5)
    assert rolled.cost_analysis()["bytes accessed"] < ours[1].bytes / 2
