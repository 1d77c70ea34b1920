"""Pictures of what the stack saw: from above, in the cameras, in 3-D, and as one page."""

from perception3d.viewer.bev import draw_bev
from perception3d.viewer.cameras import draw_cameras
from perception3d.viewer.canvas import write_image
from perception3d.viewer.drawable import check_tokens
from perception3d.viewer.gradients import draw_gradients
from perception3d.viewer.page import write_page
from perception3d.viewer.scene3d import (
    SceneUnavailableError,
    has_display,
    render_scene,
    show_scene,
)
from perception3d.viewer.scene3d_arrays import scene_arrays
from perception3d.viewer.scene3d_ply import write_ply

__all__ = [
    "SceneUnavailableError",
    "check_tokens",
    "draw_bev",
    "draw_cameras",
    "draw_gradients",
    "has_display",
    "render_scene",
    "scene_arrays",
    "show_scene",
    "write_image",
    "write_page",
    "write_ply",
]
