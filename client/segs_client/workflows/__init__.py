"""Converts the detailer nodes of ComfyUI workflows to requests.

Written from the form of such files and the meaning of the nodes' inputs.
"""

from segs_client.workflows.convert import Conversion, convert
from segs_client.workflows.graph import WorkflowError

__all__ = ["Conversion", "WorkflowError", "convert"]
