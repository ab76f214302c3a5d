"""`python -m mnist_edge` is the `mnist-edge` command."""

from mnist_edge.cli.entry import main

main()
