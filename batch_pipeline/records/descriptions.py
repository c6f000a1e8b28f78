"""Finds the description of a resource in its module.

The module imports pandera and pyarrow, which takes a second, so it is imported when its description is needed.
"""

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from batch_pipeline.records.registry import RESOURCES, check_resource

if TYPE_CHECKING:
    from batch_pipeline.records.resource import Resource


@cache
def get_resource(name: str) -> "Resource":
    """The description of the named resource. Raises RefusedError (`unknown_resource`)."""
    check_resource(name)
    resource: Resource = getattr(import_module(f"batch_pipeline.records.{name}"), name.upper())
    return resource


def all_resources() -> list["Resource"]:
    """The descriptions of all resources, in the order of the registry."""
    return [get_resource(name) for name in RESOURCES]
