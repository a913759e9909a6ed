"""A Ray cluster of two nodes on this machine, in a process of its own: prints its address, ends with its stdin."""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

CPUS = 2
"""Of each node: one for a worker, one for what reads and writes."""


def main() -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": CPUS, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=CPUS)
        print(cluster.address, flush=True)
        sys.stdin.read()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
