"""A profile's time is divided among operations that run at once (benchmarks/op_times.py)."""

import pytest
from op_times import by_class, class_of, opcodes, shared


def test_overlapping_operations_share_the_time():
    """a runs alone for 1 s, with b for 2 s, of which 1 s with c too; then b alone; then a pause."""
    spans = [("a", 0.0, 3.0), ("b", 1.0, 4.0), ("c", 2.0, 3.0), ("a", 9.0, 10.0)]
    expected = [("a", 1 + 1 / 2 + 1 / 3), ("b", 1 / 2 + 1 / 3 + 1), ("c", 1 / 3), ("a", 1.0)]
    seconds = shared(spans)
    assert [name for name, _ in seconds] == ["a", "b", "c", "a"]
    assert [each for _, each in seconds] == pytest.approx([each for _, each in expected])
    assert sum(each for _, each in seconds) == pytest.approx(5.0)  # the time of any operation


def test_an_operation_has_the_first_class_of_what_it_fuses():
    text = """HloModule jit_f
%fused (p: f32[2]) -> f32[2] {
  %p = f32[2] parameter(0)
  %e = f32[2] exponential(%p)
  ROOT %d = f32[2] add(%e, %p)
}
ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2] parameter(0)
  %fusion.1 = f32[2] fusion(%x), kind=kLoop, calls=%fused
  ROOT %loop = f32[2] while(%fusion.1), condition=%c, body=%b
}
"""
    codes = opcodes(text)
    assert class_of(codes["fusion.1"]) == "elementwise, transcendental"
    assert class_of(codes["loop"]) == ""


def test_classes_add_up():
    rows = [("a", 1.0), ("b", 3.0), ("a", 2.5)]
    rows = [{"class": kind, "seconds": seconds} for kind, seconds in rows]
    assert by_class(rows) == [("a", 3.5, 3.5 / 6.5), ("b", 3.0, 3.0 / 6.5)]
