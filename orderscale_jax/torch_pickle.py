"""The tensors that the pickle in a PyTorch file describes; none of the calls that it asks for is made.

`torch.save` writes a zip archive: `NAME/data.pkl` says which tensors there are, and the numbers of each
lie in a storage of their own, `NAME/data/KEY`.
"""

from __future__ import annotations

import math
import pickletools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from orderscale_jax.errors import UserError

LONGEST = 1 << 17  # bytes of a pickle, in which a layer takes two or three thousand
BFLOAT16 = "torch BFloat16Storage"  # the upper halves of float32
STORAGES = {
    "torch FloatStorage": "f4",
    "torch DoubleStorage": "f8",
    "torch HalfStorage": "f2",
    BFLOAT16: "u2",
    "torch LongStorage": "i8",
    "torch IntStorage": "i4",
    "torch ShortStorage": "i2",
    "torch CharStorage": "i1",
    "torch ByteStorage": "u1",
    "torch BoolStorage": "?",
    "torch ComplexFloatStorage": "c8",
    "torch ComplexDoubleStorage": "c16",
}
WRITTEN_OUT = (
    "BININT",
    "BININT1",
    "BININT2",
    "LONG1",
    "BINFLOAT",
    "BINUNICODE",
    "GLOBAL",
)
PARAMETERS = ("torch._utils _rebuild_parameter", "torch._utils _rebuild_parameter_with_state")
NO_PLAIN_TENSORS = {
    "torch._utils _rebuild_sparse_tensor": "is sparse, save its to_dense()",
    "torch._utils _rebuild_qtensor": "is quantised, save its dequantize()",
    "torch._utils _rebuild_meta_tensor_no_storage": "has no numbers (device meta), save it from the CPU",
    "torch._utils _rebuild_tensor_v3": "holds numbers of an unusual type, save its float()",
}


class _Call(NamedTuple):
    """A call that a pickle asks for."""

    function: Any
    arguments: Any


def tensors(members: Mapping[str, bytes], most_bytes: int, *, nested: bool = False) -> dict[str, np.ndarray]:
    """The tensors of a `state_dict` by name, floating-point ones as float32.

    Args:
      members: of the zip archive.
      most_bytes: that all arrays together may take.
      nested: a dictionary that holds more than tensors will do, too: the tensors in it, those of a
        dictionary in it as `state_dict.NAME`, and nothing else.

    Raises:
      UserError: with the reason, a part of a sentence, why they are none.
      Exception: of many types, where the pickle is damaged.
    """
    (pickle_name,) = (name for name in members if name.endswith("/data.pkl"))
    folder = pickle_name.removesuffix("data.pkl")
    order = ">" if members.get(f"{folder}byteorder") == b"big" else "<"
    if len(members[pickle_name]) > LONGEST:
        raise UserError("it describes more than a list transformer, save its state_dict alone")
    state = _unpickled(members[pickle_name])
    if nested:
        found = list(_tensors_in(state))
        state = dict(found)
        if len(state) < len(found):
            raise UserError("two of its arrays have the same name, rename one")
    if not isinstance(state, dict) or not all(isinstance(value, _Call) for value in state.values()):
        raise UserError(
            "it holds something else than a state_dict, which maps names to tensors, save model.state_dict()"
        )
    arrays = {}
    for name, value in state.items():
        if not (isinstance(name, str) and name.isprintable() and len(name) < 200):
            raise UserError("the name of an array is no short text, rename it")
        tensor = _tensor(name, value)
        arrays[name] = _array(name, tensor, members[f"{folder}data/{tensor.key}"], order)
        most_bytes -= arrays[name].nbytes
        if most_bytes < 0:
            raise UserError("its tensors share so many numbers that they would not fit, save copies of them")
    return arrays


def _tensors_in(state: Any) -> Iterator[tuple[str, _Call]]:
    """The tensors of a dictionary and of the dictionaries in it, with names of two parts."""
    if not isinstance(state, dict):
        raise UserError("it holds no dictionary of tensors, save a dictionary with a state_dict in it")
    for name, value in state.items():
        inner = value.items() if isinstance(value, dict) else ()
        yield from ((f"{name}.{key}", part) for key, part in inner if isinstance(part, _Call))
        if isinstance(value, _Call):
            yield name, value


class _Tensor(NamedTuple):
    """Where the numbers of a tensor lie; all counts are of numbers."""

    kind: str
    key: str
    n_stored: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(name: str, value: _Call) -> _Tensor:
    """The tensor that a call would make, which is not made."""
    while isinstance(value, _Call) and value.function in PARAMETERS:
        value = value.arguments[0]
    match value:
        case _Call("torch._tensor _rebuild_from_type_v2", (function, "torch Tensor", arguments, _)):
            value = _Call(function, arguments)  # a tensor to which somebody gave attributes
    match value:
        case _Call("torch._utils _rebuild_tensor_v2", (storage, offset, shape, strides, _, _, *lazily)):
            if any(lazily):
                raise UserError(f"its array {name} is negated lazily, save its resolve_neg()")
            match storage:
                case _Call("storage", ("storage", str(kind), str(key), _, n_stored)) if kind in STORAGES:
                    return _Tensor(kind, key, n_stored, offset, shape, strides)
        case _Call(str(function), _):
            reason = NO_PLAIN_TENSORS.get(function, "is no plain tensor, save its values as one")
            raise UserError(f"its array {name} {reason}")
    raise ValueError


def _array(name: str, tensor: _Tensor, storage: bytes, order: str) -> np.ndarray:
    """The numbers of a tensor, all of which must lie in its storage."""
    kind, _, n_stored, offset, shape, strides = tensor
    counts = (n_stored, offset, *shape, *strides)
    dtype = np.dtype(STORAGES[kind]).newbyteorder(order)
    if len(shape) > 8 or not all(isinstance(n, int) and 0 <= n < 1 << 40 for n in counts):
        raise ValueError
    if len(storage) != n_stored * dtype.itemsize:
        raise ValueError
    last = offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if math.prod(shape) > n_stored or (0 not in shape and last >= n_stored):
        raise UserError(
            f"its array {name} has shape {list(shape)}, for which {n_stored} stored numbers are too few, "
            "save its contiguous()"
        )
    steps = [stride * dtype.itemsize for stride in strides]
    array = np.ndarray(shape, dtype, storage, offset * dtype.itemsize, steps)
    if kind == BFLOAT16:
        array = array.astype("u4")
        array <<= 16
        return array.view("f4")
    with np.errstate(over="ignore"):  # what is too large becomes infinite
        return array.astype(np.float32 if dtype.kind == "f" else dtype.newbyteorder("="))


def _unpickled(content: bytes) -> Any:
    """What a pickle describes: dictionaries, lists, tuples, numbers, `_Call`s, and text, also for functions.

    Raises:
      Exception: of many types, where it is not of the kind that `torch.save` writes, or damaged.
    """
    memo: dict[int, Any] = {}
    stack: list[Any] = []
    outer: list[list[Any]] = []  # the stacks below each mark
    for opcode, argument, _ in pickletools.genops(content):
        match opcode.name:
            case "PROTO":
                pass
            case name if name in WRITTEN_OUT:
                stack.append(argument)
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NEWTRUE": True, "NEWFALSE": False}.get(opcode.name))
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT":
                stack.append({"EMPTY_TUPLE": (), "EMPTY_LIST": []}.get(opcode.name, {}))
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "MARK":
                outer.append(stack)
                stack = []
            case "TUPLE":
                values, stack = stack, outer.pop()
                stack.append(tuple(values))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(opcode.name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "APPEND":
                value = stack.pop()
                stack[-1].append(value)
            case "APPENDS":
                values, stack = stack, outer.pop()
                stack[-1].extend(values)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set(stack[-1], [key, value])
            case "SETITEMS":
                values, stack = stack, outer.pop()
                _set(stack[-1], values)
            case "BINPERSID":
                stack.append(_Call("storage", stack.pop()))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                if not isinstance(arguments, tuple):  # which holds nothing that was made after it
                    raise ValueError
                is_empty_dict = function == "collections OrderedDict" and not arguments
                stack.append({} if is_empty_dict else _Call(function, arguments))
            case "BUILD":
                stack.pop()  # attributes, such as the versions of modules that are kept with a state_dict
            case "STOP":
                return stack.pop()
            case _:
                raise ValueError(opcode.name)


def _set(dictionary: dict, keys_and_values: list):
    for key, value in zip(keys_and_values[::2], keys_and_values[1::2], strict=True):
        if not isinstance(key, str | int) or key in dictionary:
            raise ValueError(key)
        dictionary[key] = value
