"""Reads the text of an optimised XLA program (`compiled.as_text()`): its kernels, and what they move.

Bytes are physical ones. On a TPU an array lies in tiles, as its layout says (`{1,0:T(8,128)}`), and is as
large as the tiles that it touches; what has another memory space than the main one (`S(1)`, on the chip)
moves nothing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator

WIDTHS = {"pred": 1, "token": 0, "opaque": 0, "c64": 8, "c128": 16}  # bytes; of others the name tells bits
FREE = {  # instructions that are no work
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"),
    *("partition-id", "replica-id"),
}
DATA_MOVEMENT = {  # instructions that compute nothing
    *("copy", "slice", "dynamic-slice", "dynamic-update-slice", "transpose", "reshape", "concatenate"),
    *("pad", "broadcast", "reverse"),
}
READS_A_PART = ("slice", "dynamic-slice", "gather")  # of the first operand, as much as they give
CALLED = re.compile(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%([\w.\-]+)")
BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
NAME = re.compile(r"%([\w.\-]+)")
ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](?:\{([^}]*)\})?")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%([\w.\-]+) = ")
HEADER = re.compile(r"(ENTRY )?%([\w.\-]+) .*\{$")
PALLAS = re.compile(r'custom_call_target="[^"]*(?:tpu_custom_call|triton|mosaic)')
CONDITION = re.compile(r"condition=%([\w.\-]+)")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `%name = shape opcode(%operand, …), attributes`."""

    name: str
    shape: str
    opcode: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        """Names of the instructions that it takes."""
        return NAME.findall(self.arguments)

    @property
    def kind(self) -> str:
        """The opcode; that of both halves of an asynchronous pair is that of the whole."""
        return self.opcode.removesuffix("-start").removesuffix("-done")

    @property
    def is_work(self) -> bool:
        return self.opcode not in FREE and '"ConcatBitcast"' not in self.attributes


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program: its computations by name, and the name of the one that is entered."""

    computations: dict[str, Computation]
    entry: str

    def called(self, instruction: Instruction) -> list[Computation]:
        """The computations that an instruction names, every branch included."""
        names = CALLED.findall(instruction.attributes)
        for branches in BRANCHES.findall(instruction.attributes):
            names += NAME.findall(branches)
        return [self.computations[name] for name in names]

    def instructions(self) -> Iterator[Instruction]:
        """All of the program, also those inside kernels."""
        for computation in self.computations.values():
            yield from computation.values()


@dataclasses.dataclass(frozen=True)
class Cost:
    """What one call of a program takes.

    A loop counts as often as it is known to go round, otherwise once; of a choice every branch counts.

    Attributes:
      kernels: instructions that are run, each once, however often a loop repeats it; an asynchronous pair
        is one.
      copies: those of them that only move or rearrange data.
      bytes_moved: what all kernels read and write in the main memory of the device. What a kernel only
        slices or gathers from counts as much as it takes, every other operand whole.
      flops: operations of matrix products, two for a product and its sum; those inside a kernel of Pallas
        where it states them, which only those for a TPU do.
    """

    kernels: int
    copies: int
    bytes_moved: int
    flops: int


@dataclasses.dataclass(frozen=True)
class Product:
    """A matrix product: element types of its factors, their precision, and the algorithm, if one is named."""

    name: str
    types: tuple[str, ...]
    precision: tuple[str, ...]
    algorithm: str
    flops: int

    @property
    def is_full(self) -> bool:
        """Whether it computes with all bits of its factors."""
        return self.precision == ("highest", "highest") and self.algorithm in ("", "dot_f32_f32_f32")


def read(text: str) -> Module:
    """The program that a text says."""
    computations, entry, current = {}, "", {}
    for line in text.splitlines():
        if found := HEADER.match(line):
            current = computations.setdefault(found[2], {})
            entry = found[2] if found[1] else entry
        elif found := INSTRUCTION.match(line):
            current[found[1]] = _instruction(found[1], line[found.end() :])
    return Module(computations, entry)


def cost(module: Module) -> Cost:
    """What one call takes."""
    return _cost(module, module.computations[module.entry])


def picks(module: Module, opcode: str) -> tuple[int, int]:
    """How many instructions gather (or scatter) there are, and how many of them take single numbers."""
    found = [i for i in module.instructions() if i.opcode == opcode]
    single = re.compile(r"slice_sizes=\{1(,1)*\}" if opcode == "gather" else r"update_window_dims=\{\}")
    return len(found), sum(bool(single.search(i.attributes)) for i in found)


def custom_kernels(module: Module) -> int:
    """How many kernels of Pallas there are, which the compiler did not write."""
    return sum(bool(PALLAS.search(i.attributes)) for i in module.instructions())


def products(module: Module) -> list[Product]:
    """Every matrix product of the program, those inside fusions included."""
    return [
        _product(computation, instruction)
        for computation in module.computations.values()
        for instruction in computation.values()
        if _is_product(instruction)
    ]


def size(shape: str, *, everywhere: bool = False) -> int:
    """Bytes of a shape, or of all arrays of a tuple, in the main memory, or `everywhere`."""
    return sum(_array_size(*found.groups(), everywhere) for found in ARRAY.finditer(_uncommented(shape)))


def _array_size(kind: str, dims: str, layout: str | None, everywhere: bool) -> int:
    layout = layout or ""
    if not everywhere and re.search(r"S\([1-9]", layout):
        return 0
    lengths = [int(length.strip("<=")) for length in dims.split(",") if length]
    if tile := re.search(r"T\(([\d,]+)\)", layout):
        order = [int(axis) for axis in layout.partition(":")[0].split(",") if axis]
        lengths = [lengths[axis] for axis in reversed(order)]
        tile = [int(length) for length in tile[1].split(",")]
        lengths = [1] * (len(tile) - len(lengths)) + lengths
        start = len(lengths) - len(tile)
        lengths[start:] = [-(-n // t) * t for n, t in zip(lengths[start:], tile, strict=True)]
    if kind in WIDTHS:
        return math.prod(lengths) * WIDTHS[kind]
    bits = int(re.search(r"\d+", kind)[0])  # `f32`, `s8`, `bf16`, `u4`, `f8e4m3`
    return -(-math.prod(lengths) * bits // 8)


def _instruction(name: str, rest: str) -> Instruction:
    rest = _uncommented(rest)
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    rest = rest[len(opcode) :]
    end = _closing(rest)
    return Instruction(name, shape, opcode, rest[1 : end - 1], rest[end:])


def _closing(text: str) -> int:
    """Where the parenthesis that opens the text ends."""
    depth = 0
    for found in re.finditer(r"[()]", text):
        depth += 1 if found[0] == "(" else -1
        if depth == 0:
            return found.end()
    raise ValueError(f"no closing parenthesis: {text[:80]}")


def _uncommented(text: str) -> str:
    return re.sub(r"/\*.*?\*/", "", text)


def _cost(module: Module, computation: Computation) -> Cost:
    kernels = copies = moved = flops = 0
    for instruction in filter(lambda i: i.is_work, computation.values()):
        if instruction.opcode in ("while", "call", "conditional"):
            inner = [_cost(module, called) for called in module.called(instruction)]
            trips = _trips(module, instruction)
            kernels += sum(part.kernels for part in inner)
            copies += sum(part.copies for part in inner)
            moved += trips * sum(part.bytes_moved for part in inner)
            flops += trips * sum(part.flops for part in inner)
            continue
        moved += _moved(module, computation, instruction)
        flops += _flops(module, computation, instruction)
        if not instruction.opcode.endswith("-done"):
            kernels += 1
            copies += _only_moves(module, instruction)
    return Cost(kernels, copies, moved, flops)


def _trips(module: Module, instruction: Instruction) -> int:
    """How often a loop goes round: as it says, or the number below which its condition keeps a counter."""
    if found := TRIPS.search(instruction.attributes):
        return int(found[1])
    if instruction.opcode == "while":
        condition = module.computations[CONDITION.search(instruction.attributes)[1]]
        for part in condition.values():
            if part.opcode == "compare" and "direction=LT" in part.attributes:
                limit = condition[part.operands[1]]
                return int(limit.arguments) if limit.arguments.isdigit() else 1
    return 1


def _moved(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Bytes that a kernel reads and writes in the main memory; of a pair, the start reads."""
    if instruction.opcode.endswith("-done"):
        return size(instruction.shape)
    operands = [computation[name].shape for name in instruction.operands]
    written = 0 if instruction.opcode.endswith("-start") else size(instruction.shape)
    if instruction.kind == "dynamic-update-slice":
        return 2 * size(operands[1])
    if instruction.opcode != "fusion":
        return written + sum(_read(shape, [(instruction, i)]) for i, shape in enumerate(operands))
    (inside,) = module.called(instruction)
    uses = {name: [] for name in inside}
    for user in inside.values():
        for i, name in enumerate(user.operands):
            uses[name].append((user, i))
    parameters = {int(p.arguments): p.name for p in inside.values() if p.opcode == "parameter"}
    return written + sum(_read(shape, uses[parameters[i]]) for i, shape in enumerate(operands))


def _read(shape: str, uses: list[tuple[Instruction, int]]) -> int:
    """Bytes of an operand that its uses, each an instruction and a place among its operands, take of it."""
    whole = size(shape)
    if whole and all(user.kind in READS_A_PART and place == 0 for user, place in uses):
        return min(whole, sum(_given(user) for user, _ in uses))
    return whole


def _given(instruction: Instruction) -> int:
    """Bytes of a result, wherever it lies; the start of a pair names what it takes before what it gives."""
    shapes = list(ARRAY.finditer(instruction.shape))
    result = shapes[1] if instruction.opcode.endswith("-start") else shapes[0]
    return size(result[0], everywhere=True)


def _only_moves(module: Module, instruction: Instruction) -> bool:
    """Whether a kernel computes nothing."""
    if instruction.opcode != "fusion":
        return instruction.kind in DATA_MOVEMENT
    (inside,) = module.called(instruction)
    return all(part.opcode in DATA_MOVEMENT or not part.is_work for part in inside.values())


def _flops(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Of one kernel."""
    if instruction.opcode == "fusion":
        (inside,) = module.called(instruction)
        return sum(_flops(module, inside, part) for part in inside.values())
    if _is_product(instruction):
        return _product(computation, instruction).flops
    stated = re.search(r'"cost_estimate":\{"flops":"?(\d+)', instruction.attributes)
    return int(stated[1]) if stated else 0


def _is_product(instruction: Instruction) -> bool:
    cublas = instruction.opcode == "custom-call" and '"__cublas' in instruction.attributes
    return cublas or instruction.opcode in ("dot", "convolution")


def _product(computation: Computation, instruction: Instruction) -> Product:
    shapes = [ARRAY.search(computation[name].shape) for name in instruction.operands[:2]]
    attributes = instruction.attributes
    precision = re.search(r'operand_precision"?[=:][{\[]([^}\]]*)', attributes)
    algorithm = re.search(r'\balgorithm(?:=|":"ALG_)(\w+)', attributes)
    lengths = [int(length) for length in shapes[0][2].split(",")]
    if labels := re.search(r"dim_labels=(\w+)_", attributes):  # on a TPU a product is a convolution
        summed = [lengths[labels[1].index("f")]]
    else:
        axes = re.search(r'lhs_contracting_dim\w+"?[=:][{\[]([^}\]]*)', attributes)[1]
        summed = [lengths[int(axis)] for axis in re.findall(r"\d+", axes)]
    result = [int(length) for length in ARRAY.search(instruction.shape)[2].split(",") if length]
    return Product(
        name=instruction.name,
        types=tuple(shape[1] for shape in shapes),
        precision=tuple(re.findall(r"\w+", precision[1].lower())) if precision else (),
        algorithm="" if algorithm is None else algorithm[1].lower().replace("unset", ""),
        flops=2 * math.prod(result) * math.prod(summed),
    )
