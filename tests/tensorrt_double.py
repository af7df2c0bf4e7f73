"""A stand-in for TensorRT that takes only calls which the real bindings would take.

Names, parameters and types come from the signatures that the bindings carry in their docstrings, enums and the classes
that users derive from are the real ones; results are stand-ins again, of the class that the signature promises.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["Double", "tensorrt_double"]

ENTRIES = ("Builder", "OnnxParser", "Runtime")
"""Classes that are made by calling them, and would ask the libraries."""

Answers = dict[str, Callable[..., Any]]
"""``Class.name`` -> what to answer, for results that code looks at. Called with the call's arguments, less self."""


@dataclass(frozen=True)
class Parameter:
    name: str
    kind: str
    has_default: bool


class Double:
    """In the place of an object of a real class."""

    def __init__(self, real: type, world: World) -> None:
        object.__setattr__(self, "_real", real)
        object.__setattr__(self, "_world", world)
        object.__setattr__(self, "_values", {})

    def __getattr__(self, name: str) -> Any:
        real, world = self._real, self._world
        found = inspect.getattr_static(real, name)  # AttributeError where the bindings have no such name
        if not isinstance(found, property):
            return lambda *args, **kwargs: world.call(real, name, found.__doc__, args, kwargs)
        world.seen.append(f"{real.__name__}.{name}")
        if name in self._values:
            return self._values[name]
        (_, result) = signatures(found.fget.__doc__)[0]
        return world.answer(f"{real.__name__}.{name}", result, ())

    def __setattr__(self, name: str, value: Any) -> None:
        found = inspect.getattr_static(self._real, name)
        (parameters, _) = signatures(found.fset.__doc__)[0]
        assert self._world.fits(value, parameters[1].kind), f"{self._real.__name__}.{name} = {value!r}"
        self._world.seen.append(f"{self._real.__name__}.{name}=")
        self._values[name] = value

    def __bytes__(self) -> bytes:
        assert "IHostMemory" in self._real.__name__, f"{self._real.__name__} is not memory"
        return b"content"


class World:
    """What the stand-ins of one module share."""

    def __init__(self, trt: Any, answers: Answers) -> None:
        self.trt, self.answers, self.seen = trt, answers, []

    def call(self, real: type, name: str, doc: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        where = f"{real.__name__}.{name}"
        self.seen.append(where)
        refused = []
        for parameters, result in signatures(doc):
            try:
                self.check(parameters[1:], args, kwargs)  # but for self
            except TypeError as error:
                refused.append(str(error))
            else:
                return self.answer(where, result, (*args, *kwargs.values()))
        raise TypeError(f"{where}{args}{kwargs}: {'; '.join(refused)}")

    def check(self, parameters: list[Parameter], args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raises: TypeError: the arguments are not what the parameters say."""
        if len(args) > len(parameters):
            raise TypeError(f"{len(args)} arguments for {len(parameters)} parameters")
        given = dict(zip((parameter.name for parameter in parameters), args, strict=False)) | kwargs
        if unknown := set(given) - {parameter.name for parameter in parameters}:
            raise TypeError(f"no parameter {unknown}")
        for parameter in parameters:
            if parameter.name not in given:
                if not parameter.has_default:
                    raise TypeError(f"{parameter.name} is missing")
            elif not self.fits(given[parameter.name], parameter.kind):
                raise TypeError(f"{parameter.name}: {given[parameter.name]!r} is no {parameter.kind}")

    def fits(self, value: Any, kind: str) -> bool:
        """Would pybind11 turn the value into that type?"""
        simple = {"str": str, "tuple": tuple, "float": float, "int": int, "bool": bool, "object": object}
        if kind in simple:
            return isinstance(value, simple[kind])
        if kind == "typing.SupportsInt":
            return hasattr(value, "__int__") and not isinstance(value, str)
        if kind == "typing_extensions.Buffer":
            return isinstance(value, bytes | bytearray | memoryview) or hasattr(value, "__bytes__")
        if kind == "collections.abc.Sequence[str]":
            return isinstance(value, list) and all(isinstance(x, str) for x in value)
        real = self.real(kind)
        if real.__name__ == "Dims" and isinstance(value, tuple):
            return all(isinstance(x, int) for x in value)
        return isinstance(value, real) or (isinstance(value, Double) and issubclass(value._real, real))

    def real(self, kind: str) -> type:
        """The class of that name, as signatures write it."""
        found: Any = self.trt
        for part in re.split(r"\.|::", kind)[(2 if kind.startswith("tensorrt") else 1) :]:
            found = getattr(found, part, None) or getattr(
                found, part.removeprefix("I")
            )  # nvonnxparser::IParserError
        assert isinstance(found, type), f"unknown type {kind}"
        return found

    def answer(self, where: str, kind: str, args: tuple[Any, ...]) -> Any:
        if where in self.answers:
            return self.answers[where](*args)
        plain = {"None": None, "bool": True, "int": 1, "str": "text", "object": None}
        if kind in plain:
            return plain[kind]
        if kind.startswith("list["):
            return []
        if kind == "typing_extensions.CapsuleType":
            return object()
        return Double(self.real(kind), self)


def signatures(doc: str) -> list[tuple[list[Parameter], str]]:
    """Parameters and result of each overload that a docstring of pybind11 names."""
    found = re.findall(r"^(?:\d+\. )?\w*\((.*)\) -> (\S+)$", doc, re.MULTILINE)
    return [(_parameters(text), result) for text, result in found if "*args" not in text]


def _parameters(text: str) -> list[Parameter]:
    parts, depth, part = [], 0, ""
    for letter in text:
        depth += letter in "[(<"
        depth -= letter in "])>"
        if letter == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += letter
    pieces = [re.fullmatch(r"\s*(\w+): ([^=]+?)(\s*=.*)?", one) for one in [*parts, part] if one.strip()]
    return [Parameter(one[1], one[2], one[3] is not None) for one in pieces if one is not None]


def tensorrt_double(trt: Any, answers: Answers) -> tuple[Any, list[str]]:
    """A module in the place of the real bindings ``trt``, and the list of what is called in it (it grows)."""
    world = World(trt, answers)
    double = types.ModuleType("tensorrt")
    double.__dict__.update({name: getattr(trt, name) for name in dir(trt) if not name.startswith("__")})
    double.__dict__["__version__"] = trt.__version__

    def entry(real: type) -> Callable[..., Double]:
        def make(*args: Any, **kwargs: Any) -> Double:
            world.call(real, "__init__", real.__init__.__doc__ or "", args, kwargs)
            return Double(real, world)

        return make

    for name in ENTRIES:
        setattr(double, name, entry(getattr(trt, name)))
    assert trt.get_plugin_registry.__doc__.startswith("get_plugin_registry() ->")
    registry = Double(trt.IPluginRegistry, world)
    double.__dict__["get_plugin_registry"] = lambda: registry
    return double, world.seen
