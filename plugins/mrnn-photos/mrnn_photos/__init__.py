"""What ``mrnn caption --write-metadata`` and ``--watch`` need beyond the light runtime."""
