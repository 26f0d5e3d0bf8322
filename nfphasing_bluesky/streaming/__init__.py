"""Queues with a policy, transports, the worker and the RunEngine callback."""
