"""What is told of requests: metrics, traces and log lines."""
