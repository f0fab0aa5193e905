"""A double of the module ``tensorrt`` that has what the real one has, and nothing else.

Built from what :mod:`tests.tensorrt.dump_api` reads from the real bindings: an attribute that they
lack is an AttributeError, an argument that they lack, or of another type, a TypeError. Calls are
recorded. What a call does and gives is a handler's; without one it gives an empty value of the
type that the real one gives.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_REQUIRED: Any = inspect.Parameter.empty
_CONTAINER = re.compile(r"(list|tuple|collections\.abc\.Sequence)(\[.*\])?")


@dataclass(frozen=True)
class Call:
    """One call of a method, or the setting of a property (the argument ``value``)."""

    name: str
    """``Class.method``."""
    owner: Any
    arguments: Mapping[str, Any]


class Double:
    """Use as the module: ``double.Builder``, ``double.BuilderFlag.REFIT``."""

    def __init__(self, api: Mapping[str, Any]) -> None:
        self.__version__ = str(api["version"])
        self.calls: list[Call] = []
        self.handlers: dict[str, Callable[..., Any]] = {}
        self._api = api["classes"]
        self._made: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name not in self._api:
            raise AttributeError(f"module 'tensorrt' has no attribute {name!r}")
        return self.kind(name)

    def called(self, name: str) -> list[Mapping[str, Any]]:
        """The arguments of every call of ``Class.method``."""
        return [call.arguments for call in self.calls if call.name == name]

    def kind(self, name: str) -> Any:
        """The class of that name."""
        if name not in self._made:
            self._made[name] = self._make(name, self._api[name])
        return self._made[name]

    def _make(self, name: str, spec: Mapping[str, Any]) -> Any:
        if "members" in spec:
            return type(name, (_Enum,), {"members": spec["members"]}).fill()  # type: ignore[attr-defined]
        bases = tuple(self.kind(base) for base in spec["bases"])
        base = (bytes,) if name == "IHostMemory" else (_Object,)
        namespace: dict[str, Any] = {"double": self, "real": spec["methods"]}
        for method, overloads in spec["methods"].items():
            namespace[method] = self._method(f"{name}.{method}", overloads)
        for field, kind in spec["properties"].items():
            namespace[field] = self._property(f"{name}.{field}", kind)
        for inner, inner_spec in spec["nested"].items():
            namespace[inner] = self._make(f"{name}.{inner}", inner_spec)
            namespace.update(getattr(namespace[inner], "__members__", {}))
            self._made[f"{name}.{inner}"] = namespace[inner]
        if "__init__" not in spec["methods"] and base == (_Object,) and not bases:
            namespace["__init__"] = _no_constructor
        return type(name, bases or base, namespace)

    def _method(self, name: str, overloads: Sequence[Mapping[str, Any]]) -> Callable[..., Any]:
        def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
            complaints = []
            for overload in overloads:
                try:
                    arguments = self._bind(name, overload["arguments"], args, kwargs)
                except TypeError as error:
                    complaints.append(str(error))
                    continue
                self.calls.append(Call(name, owner, arguments))
                if name.endswith("__init__"):
                    object.__setattr__(owner, "started", True)
                if handler := self.handlers.get(name):
                    return handler(owner, **arguments)
                return None if name.endswith("__init__") else self.empty(overload["returns"])
            raise TypeError(f"{name}: {'; '.join(complaints)}")

        return method

    def _bind(
        self,
        name: str,
        expected: Sequence[Mapping[str, Any]],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> dict[str, Any]:
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            inspect.Parameter(a["name"], kind, default=None if a["default"] else _REQUIRED)
            for a in expected
        ]
        bound = inspect.Signature(parameters).bind(*args, **kwargs)
        for argument in expected:
            if argument["name"] in bound.arguments:
                value = bound.arguments[argument["name"]]
                if not (value is None and argument["default"]):
                    self._check(f"{name}({argument['name']})", value, argument["type"])
        return dict(bound.arguments)

    def _property(self, name: str, spec: Mapping[str, Any]) -> property:
        field = name.rpartition(".")[2]

        def get(owner: Any) -> Any:
            return owner.__dict__.get(f"_{field}", self.empty(spec["type"]))

        def put(owner: Any, value: Any) -> None:
            self._check(name, value, spec["type"])
            self.calls.append(Call(name, owner, {"value": value}))
            owner.__dict__[f"_{field}"] = value

        return property(get, put if spec["settable"] else None)

    def _check(self, where: str, value: Any, kind: str) -> None:
        if not self._is(value, kind):
            raise TypeError(f"{where}: {value!r} is no {kind}")

    def _is(self, value: Any, kind: str) -> bool:
        if found := self._known(kind):
            started = not isinstance(value, _Object) or "started" in value.__dict__
            dims = found.__name__ == "Dims" and isinstance(value, tuple | list)
            return dims or (isinstance(value, found) and started)
        if _CONTAINER.fullmatch(kind):
            return isinstance(value, tuple | list)
        if kind in ("typing_extensions.Buffer", "buffer"):
            return isinstance(value, bytes | bytearray | memoryview)
        if kind in ("int", "typing.SupportsInt"):
            return hasattr(value, "__int__") and not isinstance(value, bool)
        plain = {"str": str, "bool": bool, "float": float, "typing.SupportsFloat": float}
        return isinstance(value, plain[kind])  # KeyError: a type that the double has yet to learn

    def empty(self, kind: str) -> Any:
        """A value of that type: an object where it is a class, else nothing, zero or True."""
        if found := self._known(kind):
            if issubclass(found, _Enum):
                return next(iter(found.__members__.values()))
            return self.new(found.__name__)
        if match := _CONTAINER.fullmatch(kind):
            return () if match.group(1) == "tuple" else []
        return {"None": None, "str": "", "bool": True, "float": 0.0, "object": None}.get(kind, 0)

    def new(self, kind: str, /, **fields: Any) -> Any:
        """An object as the real module would give one; ``fields`` are its properties."""
        found = self.kind(kind)
        made = found.__new__(found)
        for field, value in fields.items():
            assert isinstance(getattr(found, field), property)
            made.__dict__[f"_{field}"] = value
        made.__dict__["started"] = True
        return made

    def _known(self, kind: str) -> Any:
        """The class that an annotation means: the bindings name some by their C++ names."""
        name = kind.removeprefix("tensorrt_bindings.tensorrt.")
        if "::" in kind:
            name = kind.rpartition("::")[2]
        outer = name.partition(".")[0]
        for candidate in (outer, outer.removeprefix("I")):
            if candidate in self._api:
                made = self.kind(candidate)
                return self._made[name] if "." in name else made
        return None


def _no_constructor(self: Any, *args: Any, **kwargs: Any) -> None:
    raise TypeError(f"{type(self).__name__}: No constructor defined!")


class _Object:
    """What every class of the double descends from."""

    double: Double
    real: Mapping[str, Any]

    def __init_subclass__(cls) -> None:
        """A class of the caller's own takes what TensorRT will call its methods with."""
        if "double" in cls.__dict__:
            return
        for name, overloads in cls.real.items():
            if name in cls.__dict__ and name != "__init__":
                given = len(overloads[0]["arguments"]) + 1
                inspect.signature(cls.__dict__[name]).bind(*range(given))

    def __setattr__(self, name: str, value: Any) -> None:
        if "double" in type(self).__dict__ and not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


class _Enum:
    """A member has a name and a value and is made an int of only by asking, as pybind11's."""

    members: Mapping[str, int]
    __members__: dict[str, Any]

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value

    @classmethod
    def fill(cls) -> type[_Enum]:
        cls.__members__ = {name: cls(name, value) for name, value in cls.members.items()}
        for name, member in cls.__members__.items():
            setattr(cls, name, member)
        return cls

    def __int__(self) -> int:
        return self.value

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}>"
