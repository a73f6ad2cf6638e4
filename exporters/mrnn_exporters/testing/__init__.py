"""The checks of what torch trains; ``mrnn_runtime.testing.checks_for`` finds them here."""
