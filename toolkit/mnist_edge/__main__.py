"""`python -m mnist_edge` is the `mnist-edge` command."""

from mnist_edge.cli.app import main

main()
