"""Arithmetic on vectors of float32 as LLVM writes it, for loops that numba's own translation does not keep in registers.

What every helper takes and gives are LLVM's values inside a function that is being compiled; addresses are whole numbers. LANES numbers lie in a
vector, as many as the processor's registers hold: 16 with AVX-512 (BW, which all but the first have), else 8, which LLVM cuts to what the host has.

The exponential is 2^n 2^f: n by adding 1.5 x 2^23, so that it stands in the last bits of the sum, and a polynomial of degree 6 for 2^f, |f| <= 1/2
(relative error 2e-9, before rounding). sigmoid and tanh follow with one reciprocal each, and are off by at most 1e-7 and 2e-7. They keep what is not
a number.
"""

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

WIDE, HAS_AVX2 = (bool(llvmlite.binding.get_host_cpu_features().get(name)) for name in ("avx512bw", "avx2"))
LANES = 16 if WIDE else 8
I32, I64, FLOAT = ir.IntType(32), ir.IntType(64), ir.FloatType()
VECTOR, WHOLE = ir.VectorType(FLOAT, LANES), ir.VectorType(I32, LANES)
BYTES = ir.IntType(8).as_pointer()
LOG2_E, ROUNDER, LARGEST = 1.4426950408889634, 12_582_912.0, 40.0
POWER_OF_TWO = (0.0001535335726681125, 0.0013398876213024916, 0.009618437390745098, 0.055503324654280366, 0.2402264791312803, 0.6931472028586706, 1.0)


@intrinsic
def fetch(typing, address):
    """Ask for the 64 bytes at an address, so that they are in the cache when they are wanted."""

    def code(context, builder, signature, arguments):
        prefetch(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), code


@intrinsic
def address_at(typing, address):
    """The address, int64, that lies at an address."""

    def code(context, builder, signature, arguments):
        return builder.load(pointer(builder, arguments[0], kind=I64), align=8)

    return types.int64(types.int64), code


def prefetch(builder, address) -> None:
    kind = ir.FunctionType(ir.VoidType(), [BYTES, I32, I32, I32])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    to_read, keep, data = (ir.Constant(I32, number) for number in (0, 3, 1))
    builder.call(function, [builder.inttoptr(address, BYTES), to_read, keep, data])


def constant(number: float, count: int = LANES):
    return ir.Constant(ir.VectorType(FLOAT, count), [number] * count)


def load(builder, address, offset: int = 0, kind=VECTOR):
    return builder.load(pointer(builder, address, offset, kind), align=4)


def pointer(builder, address, offset: int = 0, kind=VECTOR):
    return builder.inttoptr(builder.add(address, ir.Constant(I64, offset)) if offset else address, kind.as_pointer())


def spread(builder, number, kind=VECTOR):
    """One number in all lanes."""
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), number, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, kind.count), [0] * kind.count))


def multiply_add(builder, left, right, added):
    """left * right + added, rounded once."""
    kind = ir.FunctionType(left.type, [left.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{left.type.count}f32"), [left, right, added])


def repeat(builder, n, values, step):
    """What n (1 or more) rounds of values = step(round, values) make of some values, which stay in registers."""
    first, rounds, done = builder.block, builder.append_basic_block("rounds"), builder.append_basic_block("done")
    builder.branch(rounds)
    builder.position_at_end(rounds)
    number, now = builder.phi(I64), [builder.phi(value.type) for value in values]
    after, following = step(number, now), builder.add(number, ir.Constant(I64, 1))
    for phi, start, end in zip([number, *now], [ir.Constant(I64, 0), *values], [following, *after], strict=True):
        phi.add_incoming(start, first)
        phi.add_incoming(end, rounds)
    builder.cbranch(builder.icmp_signed("<", following, n), rounds, done)
    builder.position_at_end(done)
    return after


def choose(builder, key, numbers, code):
    """code(number) for the one of some whole numbers that the key is; nothing for another key."""
    done = builder.append_basic_block("chosen")
    choice = builder.switch(key, done)
    for number in numbers:
        block = builder.append_basic_block("choice")
        choice.add_case(ir.Constant(I64, number), block)
        builder.position_at_end(block)
        code(number)
        builder.branch(done)
    builder.position_at_end(done)


def not_below_zero(builder, value):
    return builder.select(builder.fcmp_ordered("<", value, constant(0.0)), constant(0.0), value)


def sigmoid(builder, value):
    return _reciprocal(builder, builder.fadd(constant(1.0, value.type.count), _power(builder, value, -LOG2_E)))


def tanh(builder, value):
    n = value.type.count
    both = _reciprocal(builder, builder.fadd(constant(1.0, n), _power(builder, value, 2 * LOG2_E)))
    return multiply_add(builder, both, constant(-2.0, n), constant(1.0, n))


def _reciprocal(builder, value):
    """1 / value, of 1 or more. Dividing takes AVX-512 as long as all the rest of a sigmoid: there it starts from 14 bits, and a step of Newton's
    doubles them."""
    n = value.type.count
    if not WIDE:
        return builder.fdiv(constant(1.0, n), value)
    if n > LANES:
        whole = ir.VectorType(I32, n)
        parts = [builder.shuffle_vector(value, value, ir.Constant(WHOLE, list(range(start, start + LANES)))) for start in range(0, n, LANES)]
        return builder.shuffle_vector(*(_reciprocal(builder, part) for part in parts), ir.Constant(whole, list(range(n))))
    kind = ir.FunctionType(VECTOR, [VECTOR, VECTOR, ir.IntType(16)])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.avx512.rcp14.ps.512")
    first = builder.call(function, [value, constant(0.0), ir.Constant(ir.IntType(16), -1)])
    return multiply_add(builder, first, multiply_add(builder, builder.fneg(value), first, constant(1.0)), first)


def _power(builder, value, factor: float):
    """2^(factor * value), for values as far as LARGEST from zero; beyond it the same as there."""
    n = value.type.count
    whole_numbers = ir.VectorType(I32, n)
    for bound, sign in ((LARGEST, ">"), (-LARGEST, "<")):
        value = builder.select(builder.fcmp_ordered(sign, value, constant(bound, n)), constant(bound, n), value)
    moved = multiply_add(builder, value, constant(factor, n), constant(ROUNDER, n))
    whole = builder.fsub(moved, constant(ROUNDER, n))
    rest = multiply_add(builder, value, constant(factor, n), builder.fneg(whole))
    power = constant(POWER_OF_TWO[0], n)
    for coefficient in POWER_OF_TWO[1:]:
        power = multiply_add(builder, power, rest, constant(coefficient, n))
    exponent = builder.shl(builder.bitcast(moved, whole_numbers), ir.Constant(whole_numbers, [23] * n))
    return builder.bitcast(builder.add(builder.bitcast(power, whole_numbers), exponent), value.type)
