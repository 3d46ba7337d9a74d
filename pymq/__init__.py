"""RocketMQ without the JVM."""
