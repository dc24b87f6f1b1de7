"""``python -m enchanted`` is the ``enchanted`` command."""

from enchanted.cluster.cli import main

if __name__ == "__main__":
    main()
