"""The depot: artifacts by digest and the refs of each cell, in any fsspec store that all who build can reach."""

from builder.depot.depot import Depot
from builder.depot.ref_log import LostRace, Version

__all__ = ["Depot", "LostRace", "Version"]
