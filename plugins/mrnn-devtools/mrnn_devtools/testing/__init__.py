"""The checks of what needs no torch; ``mrnn_runtime.testing.checks_for`` finds them here."""
