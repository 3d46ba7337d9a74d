"""What the broker answers, by kind of request: each module serves some codes (`rows`)."""
