"""``python -m mrnn_runtime`` is ``mrnn``."""

from mrnn_runtime.cli import main

if __name__ == "__main__":
    main()
