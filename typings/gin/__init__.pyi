# gin-config ships no types; REQUIRED stands where a value of any type will be bound.
from collections.abc import Callable
from typing import Any, TypeVar, overload

T = TypeVar("T")
REQUIRED: Any
config: Any

@overload
def configurable(name_or_fn: str | None = None, *, module: str | None = None) -> Callable[[T], T]: ...
@overload
def configurable(name_or_fn: T) -> T: ...
def __getattr__(name: str) -> Any: ...
