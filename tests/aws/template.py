"""CreateLaunchTemplate with a token that works."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .world import World


def create_launch_template(world: World, response: Any, create: Any) -> Any:
    """The answer to CreateLaunchTemplate: moto's, but a repeat with the same token gives the first one's.

    Args:
        world: holds the tokens.
        response: the request, as moto has parsed it.
        create: moto's own operation.
    """
    asked = repr(response.params)  # moto adds to what it has parsed
    token = response._get_param("ClientToken")
    return world.tokens.once("CreateLaunchTemplate", response.region, token, {"asked": asked}, lambda: create(response))
