"""No module of any package is part of an import cycle, which no contract of import-linter checks."""

from graphlib import TopologicalSorter

import grimp

PACKAGES = ("distill", "export", "reflux", "reflux_client", "service")


def test_there_is_no_import_cycle_not_even_for_a_type():
    graph = grimp.build_graph(*PACKAGES, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert {"distill.task", "service.app"} <= imports.keys()
    TopologicalSorter(imports).prepare()  # raises CycleError, which names the modules
