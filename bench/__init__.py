"""The benchmark: a compiled load against pymq, a bare echo of its frames, and Apache RocketMQ."""
