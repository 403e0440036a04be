"""``python -m radzero.cli``, which launchers such as torchrun need."""

from radzero.cli import main

if __name__ == "__main__":
    main()
