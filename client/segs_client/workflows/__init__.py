"""ComfyUI workflows: which requests their detailer nodes are.

Written from what such files look like and what the nodes' inputs mean.
"""

from segs_client.workflows.convert import Conversion, convert
from segs_client.workflows.graph import WorkflowError

__all__ = ["Conversion", "WorkflowError", "convert"]
