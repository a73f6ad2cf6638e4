"""What ``mrnn caption --sidecar xmp``, ``--write-metadata`` and ``--watch`` need."""
