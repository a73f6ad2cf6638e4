"""For the tests of plugins: the contracts as checks, and small models to run them on.

    import my_plugin
    from mrnn_runtime.testing import Check, plugin_checks

    @pytest.mark.parametrize("check", plugin_checks(my_plugin), ids=str)
    def test_contract(check: Check) -> None:
        check.run()

That is all a plugin needs to find out whether it fits. ``plugin_checks`` covers the hook module and
whatever it registers; ``checks_for`` covers one component. ``plugin_checks`` and the checks of
decoders, models and rerankers need mrnn-devtools, those of backbones and cells mrnn-exporters. No
test framework is imported here.
"""

from mrnn_runtime.testing.checks import Check, checks_for, plugin_checks, require, tiny_bundle
from mrnn_runtime.testing.table import TableModel, TableState, encoded_images

__all__ = [
    "Check",
    "TableModel",
    "TableState",
    "checks_for",
    "encoded_images",
    "plugin_checks",
    "require",
    "tiny_bundle",
]
