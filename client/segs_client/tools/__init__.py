"""Tools to make, select, change, store and show SEGS.

Each is a pure function that returns new SEGS::

    from segs_client import tools

    segs = tools.from_coco(annotations, size=(480, 640), categories={1: "person"})
    largest = tools.ordered(segs, "area", descending=True, count=3)
    tools.preview_image("photo.png", tools.dilated(largest, 8)).save("preview.png")
"""

from segs_client.tools.coco import decode_rle, from_coco
from segs_client.tools.detections import from_detections, from_supervision, from_ultralytics
from segs_client.tools.impact_pack import from_impact_pack
from segs_client.tools.masks import (
    blurred,
    box_filled,
    combined_mask,
    dilated,
    dilated_in_crop,
    eroded,
    intersected,
    subtracted,
    thresholded,
)
from segs_client.tools.merging import merged, merged_into_one
from segs_client.tools.polygons import from_polygons
from segs_client.tools.preview import preview_image
from segs_client.tools.select import (
    in_range,
    ordered,
    relabelled,
    remaining,
    with_labels,
    without_empty,
)
from segs_client.tools.store import load, save
from segs_client.tools.tiling import tiles

__all__ = [
    "blurred",
    "box_filled",
    "combined_mask",
    "decode_rle",
    "dilated",
    "dilated_in_crop",
    "eroded",
    "from_coco",
    "from_detections",
    "from_impact_pack",
    "from_polygons",
    "from_supervision",
    "from_ultralytics",
    "in_range",
    "intersected",
    "load",
    "merged",
    "merged_into_one",
    "ordered",
    "preview_image",
    "relabelled",
    "remaining",
    "save",
    "subtracted",
    "thresholded",
    "tiles",
    "with_labels",
    "without_empty",
]
