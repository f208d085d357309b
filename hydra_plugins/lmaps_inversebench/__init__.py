"""Hydra finds this module by itself; it makes the configurations for InverseBench known to it.

`hydra_plugins` is a namespace package that many projects share: it must not get an `__init__.py`.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

__all__ = ["LMAPSInverseBench"]


class LMAPSInverseBench(SearchPathPlugin):
    """Appends the folder with group `algorithm`; what a program has of the same name stays."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See `SearchPathPlugin`."""
        search_path.append("lmaps-science", "pkg://lmaps_science.integrations.inversebench.conf")
